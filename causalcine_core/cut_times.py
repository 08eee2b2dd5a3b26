"""Cuts at given times: the lengths of shots that name none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from . import checks
from .errors import InputError
from .story import MAX_SECONDS, Story, exact, shots_named

_LIST = re.compile(r"[\s,;]*\d[\d.,;\s]*")
_MOST = 1 << 20  # bytes of a file


def read_times(text: str) -> list[float]:
    """Seconds, `2.5,4,9.1`, or those in a text file of that name. Raises InputError where it is neither."""
    if not _LIST.fullmatch(text):
        path = Path(text)
        if not path.is_file():
            raise InputError(
                f"cut times must be seconds such as 2.5,4,9.1, or a text file with them, got {checks.show(text)}"
            )
        with path.open("rb") as file:
            text = file.read(_MOST).decode("utf-8", "replace")
    try:
        return [float(part) for part in re.split(r"[\s,;]+", text.strip(" \t\r\n,;")) if part]
    except ValueError:
        raise InputError(f"cut times must be seconds such as 2.5,4,9.1, got {checks.show(text)}") from None


def cut_at(story: Story, times: Sequence[float], begin: float = 0) -> Story:
    """The story with its shots cut at these times, seconds of the film, of which `begin` is where its first shot begins.

    The times are those at which shots 2, 3, ... begin, and, if there is one more, at which the last one ends; else that has the usual
    length. Raises InputError where they do not rise or do not fit the shots, or where a shot names a length.
    """
    named = [i for i, shot in enumerate(story.shots) if shot.seconds is not None or shot.frames is not None]
    if named:
        raise InputError(
            f"{shots_named(named)} of the story names a length of its own: leave that out, or the cut times"
        )
    shots = len(story.shots)
    if len(times) not in (shots - 1, shots):
        raise InputError(
            f"{len(times)} cut times do not fit {shots} shots: give {shots - 1}, where shots begin after the first, or {shots}, "
            "where the last one ends too"
        )
    for i, time in enumerate(times):
        checks.number(time, f"cut_times[{i}]", 0, MAX_SECONDS)
    at = [exact(time) for time in (begin, *times)]
    for i, (before, after) in enumerate(pairwise(at)):
        if after <= before:
            raise InputError(
                f"cut times must rise, and begin after {float(at[0]):g} s, got {float(after):g} in place {i + 1}"
            )
    lengths = [float(after - before) for before, after in pairwise(at)]
    timed = [replace(shot, seconds=length) for shot, length in zip(story.shots, lengths, strict=False)]
    return replace(story, shots=[*timed, *story.shots[len(timed) :]])
