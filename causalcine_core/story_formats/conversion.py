"""A story written in another form: whole or not at all, read again, and what the form cannot hold is said."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic import check_output, write_atomic
from ..errors import InputError
from ..story import Story, listed, shots_named
from . import FILE_FORMS, JSON_FORMS, TEXT_FORMS, Form, load_story
from .files import FOLDERS
from .peers import LONGLIVE
from .tables import HELIOS, TABLE
from .writing import USUAL_FPS, seconds


def _suffix(form: Form[Any]) -> str:
    """How the name of a file of this form ends."""
    if form in JSON_FORMS:
        return ".json"
    if form in FOLDERS:
        return ""
    return {LONGLIVE.name: ".jsonl", TABLE.name: ".csv", HELIOS.name: ".csv"}.get(form.name, ".txt")


WRITTEN: Mapping[str, Form[Any]] = {
    form.name: form for form in (*JSON_FORMS, *FILE_FORMS, *TEXT_FORMS) if form.write is not None
}
"""The forms that can be written, by name."""
_BY_SUFFIX = {".json": "json", ".jsonl": LONGLIVE.name, ".csv": TABLE.name, ".txt": "numbers"}


@dataclass(frozen=True)
class Converted:
    """A story in another form. story: as it is read again; lost: what the form cannot hold, in one sentence, or nothing."""

    path: Path
    form: str
    story: Story
    lost: str


def convert_story(story: Story, output: Path, form: str | None = None) -> Converted:
    """Writes a story to a file, or a folder, in the form of that name; None: as the end of the file's name says.

    Raises InputError where the form cannot hold the story's texts, and OSError where it cannot be written; nothing is left then.
    """
    name = form if form is not None else _BY_SUFFIX.get(output.suffix.lower(), "")
    if name not in WRITTEN:
        raise InputError(
            f"--to must be one of {', '.join(WRITTEN)}, got {form}"
            if form is not None
            else f"the form of {output} is not clear from its name; end it in {', '.join(_BY_SUFFIX)}, or say --to with one of "
            f"{', '.join(WRITTEN)}"
        )
    to = WRITTEN[name]
    if to in FOLDERS and os.path.lexists(output):
        raise InputError(f"output {output} is there already; a folder is never replaced")
    check_output(output, output.suffix.lower() if to in FOLDERS else _suffix(to))
    assert to.write is not None
    files = to.write(story, output.name)
    for beside in files:
        if to not in FOLDERS:
            check_output(output.with_name(beside), Path(beside).suffix)
    trial = Path(tempfile.mkdtemp(prefix=".causalcine-", dir=output.parent))
    try:
        for beside, text in files.items():
            (trial / beside).parent.mkdir(parents=True, exist_ok=True)
            (trial / beside).write_text(text, encoding="utf-8", newline="\n")
        again = _read_again(trial / output.name, story, name)
        if to in FOLDERS:
            os.replace(trial / output.name, output)
        else:
            _place(trial, output, list(files))
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return Converted(output, name, again, lost_in(story, again, name))


def _place(trial: Path, output: Path, names: list[str]) -> None:
    """Moves files to where they belong, the one that was asked for last; where that fails, the new ones are taken away again."""
    new = [output.with_name(name) for name in names if not output.with_name(name).exists()]
    try:
        for name in names:
            write_atomic(output.with_name(name), functools.partial(os.replace, trial / name))
    except BaseException:
        for path in new:
            path.unlink(missing_ok=True)
        raise


def _read_again(path: Path, story: Story, form: str) -> Story:
    """What was written, read. Raises InputError where a shot is not the same shot any more."""
    try:
        again = load_story(path)
    except InputError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise InputError(f"{form} cannot hold this story: {reason}; choose another form, such as json") from None
    texts, others = ([" ".join(one.prompt(i).split()) for i in range(len(one.shots))] for one in (story, again))
    if texts != others:
        at = next(
            (i for i, (a, b) in enumerate(zip(texts, others, strict=False)) if a != b), min(len(texts), len(others)) - 1
        )
        raise InputError(
            f"{form} cannot hold this story: {shots_named([at])} would be read back as another text; choose another form, such as json"
        )
    return again


def lost_in(story: Story, again: Story, form: str) -> str:
    """What differs between a story and what was read again, in one sentence; nothing where they are equal."""
    left, other = list[str](), list[str]()
    for field in ("fps", "width", "height", "seed", "negative"):
        if getattr(story, field) != getattr(again, field):
            (left if getattr(again, field) is None else other).append(field)
    for what, of in _PER_SHOT.items():
        pairs = [(of(story, i), of(again, i)) for i in range(len(story.shots))]
        gone = [i for i, (a, b) in enumerate(pairs) if a is not None and b is None]
        changed = [i for i, (a, b) in enumerate(pairs) if a != b and b is not None]
        left += [f"the {what} of {shots_named(gone)}"] if gone else []
        other += [f"the {what} of {shots_named(changed)}"] if changed else []
    for unit, instead in (("seconds", "frames"), ("frames", "seconds")):
        if any(getattr(a, unit) and getattr(b, instead) for a, b in zip(story.shots, again.shots, strict=True)):
            other.append(f"{unit}, now {instead} at {story.fps or USUAL_FPS:g} fps")
    if story.global_prompt != again.global_prompt:
        other.append("the global text, now part of each prompt")
    elif [shot.prompt for shot in story.shots] != [shot.prompt for shot in again.shots]:
        other.append("the line breaks in prompts, now blanks")
    parts = [f"{form} cannot hold {listed(left)}"] if left else []
    return "; ".join(parts + ([f"changed: {listed(other)}"] if other else []))


def _length(story: Story, i: int) -> float | None:
    length = seconds(story, story.shots[i])
    return None if length is None else round(float(length), 5)


def _cut(story: Story, i: int) -> str | None:
    """How a shot follows; of the first one only what it says itself."""
    return story.shots[i].cut or (story.cut if i else None)


_PER_SHOT: Mapping[str, Callable[[Story, int], object]] = {
    "length": _length,
    "seed": lambda story, i: story.shots[i].seed,
    "cut": _cut,
    "blend": lambda story, i: story.shots[i].blend,
    "LoRA": lambda story, i: story.shots[i].lora or None,
}
