"""What is printed for people, on whatever console there is."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..lora import loras_named, loras_of


@contextlib.contextmanager
def any_console() -> Iterator[None]:
    """What a console's encoding (cp1252, gbk, ASCII) lacks is printed as an escape such as \\u2026 instead of ending the command."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, io.TextIOWrapper)]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            if not stream.closed:
                stream.reconfigure(errors=errors)


def cut_off(text: str, most: int) -> str:
    """A text of at most so many characters; one that is longer ends in three dots."""
    return text if len(text) <= most else text[: most - 3] + "..."


def _own(shot: Mapping[str, Any]) -> list[str]:
    """What a shot has of its own beside text and length."""
    over = f" over {shot['blend']} chunks" if "blend" in shot else ""
    own = [f"{shot['cut']}{over}"] if "cut" in shot else []
    own += [f"seed {shot['seed']}"] if "seed" in shot else []
    return own + ([loras_named(loras_of(shot["lora"], "lora"))] if "lora" in shot else [])


def mib(size: int) -> str:
    """Bytes in words."""
    return f"{size / 2**20:.1f} MiB"


def say(text: str) -> None:
    """One line to whoever watches; stdout may be read by a program."""
    print(f"causalcine: {text}", file=sys.stderr)


def shot_table(shots: Sequence[Mapping[str, Any]], fps: float) -> str:
    """One line a shot of a report: where it lands, what was asked, what it says."""
    rows = []
    for shot in shots:
        (a, b), (c, d) = shot["frames"], shot["asked"]
        times = f"{a / fps:7.2f} - {b / fps:6.2f} s"
        asked = "as asked" if (a, b) == (c, d) else f"asked {c} - {d}"
        prompt = cut_off(" ".join(shot["prompt"].split()), 60)
        own = ", ".join(_own(shot))
        rows.append(
            f"  shot {shot['index'] + 1:<3} {times}  frames {a:>5} - {b:<5} {asked:<20} {prompt}{f'  [{own}]' if own else ''}"
        )
    return "\n".join(rows)
