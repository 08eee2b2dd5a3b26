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
from .commands.console import any_console
from .distributed.launch import is_first_rank, wait_for_first_rank
from .errors import FilmStoppedError, InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    with any_console():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    try:
        args, rest = build_parser().parse_known_args(argv)
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
    except (OSError, FilmStoppedError) as error:
        return _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        where = _without_memory(error)
        if where is None:
            raise
        return _fail(
            f"the {where} has no memory left: lower width, height, the window or top_k; inspect says what is needed", 1
        )


def _without_memory(error: Exception) -> str | None:
    """Whose memory is full, where that is what an error says. PyTorch, which is not imported here, has a type for GPUs only."""
    if type(error).__name__ == "OutOfMemoryError":
        return "GPU"
    return "machine" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else None


def _fail(error: object, code: int) -> int:
    if not is_first_rank():
        wait_for_first_rank()  # it says the same, once; what is said after that is wrong with this rank alone
    print("causalcine: " + " ".join(str(error).split()), file=sys.stderr)
    return code


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill and a terminal that is closed end like Ctrl-C, so that nothing half-written stays. What this process was told
    to ignore (nohup, a job in the background) it ignores."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):
            sign = getattr(signal, name, None)  # Windows lacks the second
            with contextlib.suppress(ValueError):  # not the main thread
                if sign is not None and signal.getsignal(sign) != signal.SIG_IGN:
                    stack.callback(signal.signal, sign, signal.signal(sign, stop))
        yield


if __name__ == "__main__":
    raise SystemExit(main())
