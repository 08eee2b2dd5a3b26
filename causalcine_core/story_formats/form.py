"""What a written form is, and what the readers of all forms share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from .. import checks
from ..errors import InputError
from ..story import Shot, Story, check_count, checked_prompt, listed
from .tags import nearly_tags

T = TypeVar("T")


@dataclass(frozen=True)
class Form(Generic[T]):
    """One written form of a story, of text, of decoded JSON or of files.

    name: as `story check` and `story convert --to` call it. syntax: as one writes it, for help; empty where there is nothing to
    learn. detect: whether a text has this form. read: the story in it. write: a story in this form, where it can be written so:
    the texts of its files by their names, given the name of the first. stories: of a form whose file may hold several, each
    in a text of its own.
    """

    name: str
    syntax: str
    detect: Callable[[T], bool]
    read: Callable[[T], Story]
    write: Callable[[Story, str], dict[str, str]] | None = None
    stories: Callable[[T], list[T]] | None = None

    def read_one(self, value: T, number: int | None = None) -> Story:
        """The story, or of several the one of that number, from 1. Raises InputError where it is not clear which one is meant."""
        given = self.stories(value) if self.stories is not None else [value]
        count = f"{len(given) or 'no'} {'story' if len(given) == 1 else 'stories'}"
        if not given:
            raise InputError(f"this holds {count}")
        if number is None and len(given) > 1:
            raise InputError(f"this holds {count}; name one of them behind the file's name: #1 to #{len(given)}")
        if number is not None and not 1 <= number <= len(given):
            raise InputError(f"this holds {count}, and none of number {number}")
        return replace(self.read(given[(number or 1) - 1]), form=self.name)


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


def noted(story: Story, how: str, *hints: str, ignored: Iterable[str] = ()) -> Story:
    """The story with notes: how many shots were read and why, then hints, then what was left out and what is kept as text though it
    looks like more. ignored: names of fields that have no meaning here."""
    n, ignored = len(story.shots), tuple(dict.fromkeys(ignored))
    notes = [f"read {n} shot{'s' * (n > 1)}: {how}", *hints]
    if ignored:
        notes.append(f"not understood and left out: {listed(ignored)}")
    if any("|" in shot.prompt for shot in story.shots):
        notes.append(
            "| is kept as text here; it separates shots only in a single paragraph of plain text, outside brackets"
        )
    notes += nearly_tags(shot.prompt for shot in story.shots)
    return replace(story, notes=tuple(dict.fromkeys(notes)), ignored=ignored)
