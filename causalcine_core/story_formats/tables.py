"""Stories in tables: ShotStream's, whose rows name files of captions, and Helios's, whose rows are texts."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from .. import checks
from ..errors import InputError
from ..story import MAX_FRAMES, Shot, Story, checked_prompt
from .fields import decoded
from .form import Form, noted
from .peers import SHOTSTREAM, shotstream_fields
from .reading import read_text
from .writing import as_json, prompts, rate, seconds


@dataclass(frozen=True)
class StoryFile:
    """A file or folder, and of a table the row that is meant, from 0."""

    path: Path
    row: int = 0


# --- ShotStream's table: shot_num_from_caption,json_path,frame_number

_SHOTSTREAM_FRAMES = 81  # of a shot, where nobody says


def _rows(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(read_text(path), newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise InputError(f"this table cannot be read: {error}") from None


def _columns(path: Path) -> set[str]:
    """The names in a table's first row."""
    return {name.strip() for row in _rows(path)[:1] for name in row}


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a table, by the names of its columns."""
    head, *rows = _rows(path) or [[]]
    return [dict(zip((name.strip() for name in head), row, strict=False)) for row in rows if any(row)]


def _read_table(file: StoryFile) -> Story:
    row, name = table(file.path)[file.row], f"row {file.row + 1}"
    captions = _beside(file.path, row.get("json_path", ""), name)
    data = decoded(read_text(captions))
    if not SHOTSTREAM.detect(data):
        raise InputError(f'{captions.name} of {name} has no "shot1", "shot2", ...')
    story = SHOTSTREAM.read(data)
    count = row.get("shot_num_from_caption", "").strip()
    if count and count != str(len(story.shots)):
        raise InputError(
            f"shot_num_from_caption of {name} is {checks.show(count)}, but {captions.name} has {len(story.shots)} shots"
        )
    shots = [
        replace(shot, frames=frames)
        for shot, frames in zip(story.shots, _ranges(row, name, len(story.shots)), strict=True)
    ]
    known = ("shot_num_from_caption", "json_path", "frame_number")
    ignored = [*story.ignored, *(column for column in row if column not in known)]
    return noted(replace(story, shots=shots), f"ShotStream's table, {captions.name}", ignored=ignored)


def _beside(path: Path, told: str, name: str) -> Path:
    """The file that a table names: from the table's folder, or one of those that it lies in."""
    if not told.strip():
        raise InputError(f"json_path of {name} is empty")
    try:
        for folder in path.resolve().parents:
            if (folder / told).is_file():
                return folder / told
    except (OSError, ValueError):  # a name too long, a null character
        pass
    raise InputError(
        f"json_path of {name} names no file: {checks.show(told)}, sought from {path.resolve().parent} upwards"
    )


def _ranges(row: dict[str, str], name: str, shots: int) -> list[int | None]:
    """Frames of each shot by `[[0, 81], [81, 162]]`."""
    told = row.get("frame_number", "").strip()
    if not told:
        return [None] * shots
    pairs = decoded(told)
    if not isinstance(pairs, list) or len(pairs) != shots:
        raise InputError(
            f"frame_number of {name} must be a list of {shots} pairs [first, end], got {checks.show(pairs)}"
        )
    frames: list[int | None] = []
    for i, pair in enumerate(pairs):
        begin, end = checks.wholes(pair, f"frame_number[{i}] of {name}", 0, MAX_FRAMES, least=2, most=2)
        frames.append(checks.whole(end, f"the end of frame_number[{i}] of {name}", begin + 1, MAX_FRAMES) - begin)
    return frames


def _write_table(story: Story, name: str) -> dict[str, str]:
    captions = f"{name.rsplit('.', 1)[0]}.shots.json"
    ends, total = list[list[int]](), Fraction(0)
    for shot in story.shots:
        length, begin = seconds(story, shot), round(total)
        total += _SHOTSTREAM_FRAMES if length is None else length * rate(story)
        ends.append([begin, round(total)])
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("shot_num_from_caption", "json_path", "frame_number"))
    rows.writerow((len(story.shots), captions, json.dumps(ends)))
    return as_json(captions, shotstream_fields(story)) | {name: text.getvalue()}


# --- Helios's: id,prompt_index,prompt, a row for each text of a story

_HELIOS = ("id", "prompt_index", "prompt")


def _helios_stories(path: Path) -> list[list[tuple[str, dict[str, str]]]]:
    """The rows of each story, by their `id`, each with its place in the table."""
    stories: dict[str, list[tuple[str, dict[str, str]]]] = {}
    for i, row in enumerate(table(path)):
        stories.setdefault(row.get("id", "").strip(), []).append((f"row {i + 1}", row))
    return list(stories.values())


def _read_helios(file: StoryFile) -> Story:
    rows: dict[int, tuple[str, str]] = {}
    of_story = _helios_stories(file.path)[file.row]
    for name, row in of_story:
        told = row.get("prompt_index", "").strip()
        index = int(told) if re.fullmatch(r"[0-9]{1,9}", told) else told
        number = checks.whole(index, f"prompt_index of {name}", 0, MAX_FRAMES)
        if number in rows:
            raise InputError(
                f"prompt_index of {name} is {number}, and so is that of {rows[number][0]} with the same id"
            )
        rows[number] = name, checked_prompt(row.get("prompt", ""), f"prompt of {name}")
    first = 0 if 0 in rows else 1
    gap = next((n for n in range(first, first + len(rows)) if n not in rows), None)
    if gap is not None:
        raise InputError(
            f"prompt_index {gap} is missing beside {of_story[0][0]}: texts are numbered from 0 or 1 without a gap"
        )
    ignored = [column for column in of_story[0][1] if column not in _HELIOS]
    how = 'Helios\'s table; the text goes over without cuts ("soft")'
    return noted(Story([Shot(rows[n][1]) for n in sorted(rows)], cut="soft"), how, ignored=ignored)


def _write_helios(story: Story, name: str) -> dict[str, str]:
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(_HELIOS)
    rows.writerows((0, i, prompt) for i, prompt in enumerate(prompts(story)))
    return {name: text.getvalue()}


def is_file(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and path.is_file()


TABLE: Form[StoryFile] = Form(
    "shotstream-csv",
    "ShotStream's .csv",
    lambda file: is_file(file.path, (".csv",)) and "json_path" in _columns(file.path),
    _read_table,
    _write_table,
    stories=lambda file: [StoryFile(file.path, row) for row in range(len(table(file.path)))],
)
HELIOS: Form[StoryFile] = Form(
    "helios-csv",
    "Helios's .csv",
    lambda file: is_file(file.path, (".csv",)) and {"prompt_index", "prompt"} <= _columns(file.path),
    _read_helios,
    _write_helios,
    stories=lambda file: [StoryFile(file.path, row) for row in range(len(_helios_stories(file.path)))],
)
