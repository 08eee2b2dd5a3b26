"""The `causalcine` command.

Bad input is one plain sentence on stderr and exit code 2, before anything is made; a failure of the machine (a full
disk) is one sentence and 1; Ctrl-C is 130. Files appear under their names only when they are whole. What is heavy
to import is imported by the command that needs it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import NoReturn

from .commands.arguments import build_parser
from .commands.console import any_console, is_first
from .errors import InputError, WorkerLostError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    with any_console():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args, rest = build_parser().parse_known_args(argv)
        if rest and not args.passes_on:
            raise InputError(f"unknown argument {rest[0]}; see causalcine {args.command} --help")
        args.rest = rest
        with _terminable():
            importlib.import_module(f".commands.{args.module}", __package__).run(args)
        sys.stdout.flush()
        return 0
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped; no file was left half-written", 130)
    except BrokenPipeError:  # the reader of our output went away: not a fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, WorkerLostError) as error:
        return _fail(error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's; this file does not import it
            raise
        return _fail(
            "the GPU has no memory left: lower width, height, the window or top_k; inspect says what is needed", 1
        )


def _fail(error: object, code: int) -> int:
    if is_first():
        print("causalcine: " + " ".join(str(error).split()), file=sys.stderr)
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill ends like Ctrl-C, so that nothing half-written stays."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
