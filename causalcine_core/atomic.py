"""Files that appear under their name only when they are whole, and whether one can be made at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from .errors import InputError


def check_output(path: str | os.PathLike[str], suffix: str) -> Path:
    """The path, if a file of that kind can be made there; `InputError` otherwise. Leaves nothing behind."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"output {path} must have a name that ends in {suffix}")
    folder = path.parent
    try:
        if not folder.exists():
            raise InputError(f"output folder {folder} does not exist")
        if not folder.is_dir():
            raise InputError(f"output folder {folder} is not a folder")
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path).st_mode  # unlike Path.is_dir, says what is wrong with a name
            if stat.S_ISDIR(mode):
                raise InputError(f"output {path} is a folder; it must be the name of a file")
            if not stat.S_ISREG(mode):  # a device or a pipe, which a rename would destroy
                raise InputError(f"output {path} is no ordinary file")
        if not os.access(folder, os.W_OK) or (os.name == "posix" and not folder.stat().st_mode & 0o222):
            raise PermissionError  # the second: root may write where everything says read-only, and should not
        trial = folder / f".{secrets.token_hex(8)}"
        try:
            trial.touch(exist_ok=False)
        finally:  # a Ctrl-C may arrive between the two
            trial.unlink(missing_ok=True)
    except PermissionError:
        raise InputError(f"output folder {folder} is not writable") from None
    except (OSError, ValueError) as error:  # a name too long, a null character, a read-only disk
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"output {path} cannot be written ({reason})") from None
    return path


def write_atomic(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Have `write` make a file under a temporary name beside `path`, then rename it.

    The file gets the mode that a plain `open` would give it, or keeps that of the file that it replaces, and is on the disk
    before it gets its name. Whatever fails, nothing half-written is left and an older file is as it was.

    Args:
        path: of the file to be made or replaced. What is there and no ordinary file (a folder, a device) is never replaced.
        write: takes the temporary path, which ends as `path` does and exists already, empty; may write into it or replace
            it.

    Raises OSError, one sentence that names `path`, where the file cannot be written; what else `write` raises passes through.
    """
    path = Path(path)
    partial = path.with_name(f".causalcine-{secrets.token_hex(6)}{path.suffix}")
    try:
        mode = _mode(path, partial)
        write(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.chmod(mode)
        os.replace(partial, path)
    except OSError as error:
        raise _named(error, path) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _mode(path: Path, partial: Path) -> int:
    """The mode of the file at `path`, or, where there is none, the one that the system gives a new file; makes `partial`."""
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        found = path.stat()
    except FileNotFoundError:
        found = partial.stat()
    if not stat.S_ISREG(found.st_mode):
        raise FileExistsError("something is there that is no ordinary file")
    return stat.S_IMODE(found.st_mode)


def _named(error: OSError, path: Path) -> OSError:
    """The same error, kind and number, in one sentence about the file that was asked for, not the temporary one."""
    named = type(error)(f"{path} cannot be written: {error.strerror or error}")
    named.errno = error.errno
    return named
