"""What the writers of all forms share: lengths as a form spells them, and texts of whole prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from ..cut import Cut
from ..errors import InputError
from ..story import Shot, Story, exact, shots_named

USUAL_FPS = 16  # where a story names no rate


def as_json(name: str, data: object) -> dict[str, str]:
    """One file of JSON that a person can read."""
    return {name: json.dumps(data, ensure_ascii=False, indent=2) + "\n"}


def prompts(story: Story) -> list[str]:
    """The whole text of each shot, for a form that knows no global text."""
    return [story.prompt(i) for i in range(len(story.shots))]


def is_soft(story: Story, shot: Shot) -> bool:
    """Whether a shot follows without a cut."""
    return Cut.parse(shot.cut or story.cut or "native").soft


def seconds(story: Story, shot: Shot) -> Fraction | None:
    """The length of a shot, exact; None: it names none. Frames count at the story's rate, or 16 a second."""
    if shot.seconds is not None:
        return exact(shot.seconds)
    return Fraction(shot.frames) / rate(story) if shot.frames is not None else None


def rate(story: Story) -> Fraction:
    """Frames per second, exact."""
    return exact(story.fps if story.fps is not None else USUAL_FPS)


def spelled(value: Fraction) -> str:
    """Seconds to the sixth decimal: `2.5`."""
    return f"{float(value):.6f}".rstrip("0").rstrip(".")


def lengths(story: Story, form: str, shots: Sequence[Shot] | None = None) -> list[Fraction]:
    """Seconds of every shot, or of some. Raises InputError that names the shots without a length."""
    found = [seconds(story, shot) for shot in (story.shots if shots is None else shots)]
    missing = [i for i, length in enumerate(found) if length is None]
    if missing:
        raise InputError(f"{form} needs the length of each shot; none is named for {shots_named(missing)}")
    return [length for length in found if length is not None]


def frame_ends(story: Story) -> list[int] | None:
    """The frames at which shots end, as far as every shot up to there names a length; None: a later shot would begin nowhere."""
    ends: list[int] = []
    total = Fraction(0)
    for i, shot in enumerate(story.shots):
        length = seconds(story, shot)
        if length is None:
            return ends if i == len(story.shots) - 1 else None
        total += length * rate(story)
        ends.append(round(total))
    return ends


def head(story: Story, **names: str) -> dict[str, Any]:
    """What holds for the whole film, where the story says it, under the names that a form gives it: `negative="negative_prompt"`."""
    given = {theirs: getattr(story, ours) for ours, theirs in names.items()}
    return {theirs: value for theirs, value in given.items() if value is not None}
