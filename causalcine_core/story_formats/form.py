"""What a written form is, and what the readers of all forms share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .. import checks
from ..errors import InputError
from ..story import Shot, Story, check_count, checked_prompt
from .tags import nearly_tags

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """One written form of a story, of text or of decoded JSON.

    name: as it is called. syntax: as one writes it, for help; empty where there is nothing to learn. detect: whether a
    text has this form. read: the story in it. write: a story in this form, where it can be written so.
    """

    name: str
    syntax: str
    detect: Callable[[T], bool]
    read: Callable[[T], Story]
    write: Callable[[Story], T] | None = None


def one_line(text: str, name: str) -> str:
    """A prompt on one line. Raises InputError, which calls it the text of `name`, where it is blank."""
    return " ".join(checked_prompt(text, f"the text of {name}").split())


def pieces(texts: Sequence[str]) -> list[Shot]:
    """A shot of each text that is not blank."""
    filled = [text for text in texts if not checks.is_blank(text)]
    if not filled:
        raise InputError("the story holds separators but no text; it needs at least one shot")
    check_count(len(filled))
    return [Shot(" ".join(text.split())) for text in filled]


def sections(text: str, marks: Sequence[re.Match[str]]) -> tuple[str, list[str]]:
    """The text before the first mark, on one line, and the text behind each."""
    check_count(len(marks))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    before = " ".join(text[: marks[0].start()].split())
    return before, [text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)]


def noted(story: Story, how: str, *hints: str) -> Story:
    """The story with notes: how many shots were read and why, then hints, then what is kept as text though it looks like more."""
    n = len(story.shots)
    notes = [f"read {n} shot{'s' * (n > 1)}: {how}", *hints]
    if any("|" in shot.prompt for shot in story.shots):
        notes.append(
            "| is kept as text here; it separates shots only in a single paragraph of plain text, outside brackets"
        )
    return replace(story, notes=(*notes, *nearly_tags(shot.prompt for shot in story.shots)))
