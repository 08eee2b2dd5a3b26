"""Files of text as stories come in: of any name, and never more than is sensible."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError

MAX_BYTES = 32 * 2**20  # of a story file


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 of at most 32 MiB. Raises InputError where there is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)  # of a pipe or a device too no more than this
    except FileNotFoundError:
        raise InputError("there is no such story file") from None
    except OSError as error:
        raise InputError(f"the story file cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name with a null character
        raise InputError(f"the story file cannot be read ({error})") from None
    if len(raw) > MAX_BYTES:
        raise InputError(f"a story file may hold at most {MAX_BYTES:,} bytes, this one has more")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the story file is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None
