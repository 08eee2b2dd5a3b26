"""Stories that are more than one text: ShotStream's table, LongLive 2.0's folders, a film that carries its story."""

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
from ..story import MAX_FRAMES, Shot, Story, check_count, checked_prompt, listed
from .fields import Fields, decoded
from .film import FILM_SUFFIXES, story_text
from .form import Form, noted
from .json_forms import story_from_dict
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


def _table(path: Path) -> list[dict[str, str]] | None:
    """The rows of a table, by the names of its columns; None where it is none of ShotStream's."""
    try:
        rows = list(csv.reader(io.StringIO(read_text(path), newline="")))
    except csv.Error as error:
        raise InputError(f"this table cannot be read: {error}") from None
    if not rows or "json_path" not in rows[0]:
        return None
    return [dict(zip(rows[0], row, strict=False)) for row in rows[1:] if any(row)]


def _read_table(file: StoryFile) -> Story:
    row, name = (_table(file.path) or [])[file.row], f"row {file.row + 1}"
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


def _beside(table: Path, told: str, name: str) -> Path:
    """The file that a table names: from the table's folder, or one of those that it lies in."""
    if not told.strip():
        raise InputError(f"json_path of {name} is empty")
    try:
        for folder in table.resolve().parents:
            if (folder / told).is_file():
                return folder / told
    except (OSError, ValueError):  # a name too long, a null character
        pass
    raise InputError(
        f"json_path of {name} names no file: {checks.show(told)}, sought from {table.resolve().parent} upwards"
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


# --- LongLive 2.0: a folder of 0.json, 1.json, ... of {"caption": "..."}, and shot_durations.txt

_CHUNK = Fraction(32, 24)  # seconds: 8 latent frames of 4 pixel frames at 24 a second
_DURATIONS = "shot_durations.txt"
_MOST_LOOKED_AT = 10_000  # entries of a folder


def _read_folder(file: StoryFile) -> Story:
    folder = file.path
    entries = sorted(entry.name for entry, _ in zip(folder.iterdir(), range(_MOST_LOOKED_AT), strict=False))
    numbers = sorted(int(name[:-5]) for name in entries if re.fullmatch(r"\d{1,5}\.json", name))
    if not numbers:
        raise InputError(_no_story(folder))
    check_count(len(numbers))
    if numbers != list(range(len(numbers))):
        missing = next(n for n in range(numbers[-1] + 1) if n not in set(numbers))
        raise InputError(f"{missing}.json is missing: a folder of LongLive 2.0 has a file for each shot, from 0.json")
    fields, texts = Fields(), list[str]()
    for n in numbers:
        told = fields.of(decoded(read_text(folder / f"{n}.json")), f"[{n}].json", {"prompt": ("caption",)})
        texts.append(checked_prompt(told.get("prompt"), f"caption in {n}.json"))
    known = {_DURATIONS, *(f"{n}.json" for n in numbers)}
    ignored = [*(field.replace("[].", "*.", 1) for field in fields.ignored), *(set(entries) - known)]
    lengths = _durations(folder / _DURATIONS, len(texts)) if _DURATIONS in entries else [None] * len(texts)
    shots = [Shot(text, seconds=length) for text, length in zip(texts, lengths, strict=True)]
    return noted(Story(shots), "a folder of LongLive 2.0, one in each file", ignored=sorted(ignored))


def _no_story(folder: Path) -> str:
    """What is wrong with a folder without shots: it may hold folders that have some."""
    inner = folder / "caption" if (folder / "caption").is_dir() else folder
    found = sorted(entry.parent.name for entry, _ in zip(inner.glob("*/0.json"), range(_MOST_LOOKED_AT), strict=False))
    if found:
        return f"this folder holds {len(found):,} stories; name one of them: {listed([str(inner / name) for name in found], 3)}"
    return 'this folder holds no story: one of LongLive 2.0 has 0.json, 1.json, ... with {"caption": "..."} each'


def _durations(path: Path, shots: int) -> list[float | None]:
    """Seconds of each shot by its number of chunks."""
    words = re.split(r"[\s,]+", read_text(path).strip())
    if len(words) != shots or not all(re.fullmatch(r"[1-9]\d{0,4}", word) for word in words):
        raise InputError(f"{_DURATIONS} must hold {shots} whole numbers of chunks, got {checks.show(' '.join(words))}")
    return [float(int(word) * _CHUNK) for word in words]


def _write_folder(story: Story, name: str) -> dict[str, str]:
    files: dict[str, str] = {}
    for i, text in enumerate(prompts(story)):
        files |= as_json(f"{name}/{i}.json", {"caption": text})
    lengths = [seconds(story, shot) for shot in story.shots]
    if all(length is not None for length in lengths):
        chunks = [max(1, round((length or 0) / _CHUNK)) for length in lengths]
        files[f"{name}/{_DURATIONS}"] = " ".join(map(str, chunks)) + "\n"
    return files


# --- a film


def _read_film(file: StoryFile) -> Story:
    text = story_text(file.path)
    try:
        story = story_from_dict(decoded(text))
    except InputError as error:
        raise InputError(f"the story in this film: {error}") from None
    return noted(story, "the story that this film carries", *story.notes[1:], ignored=story.ignored)


def _files(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes and path.is_file()


TABLE: Form[StoryFile] = Form(
    "shotstream-csv",
    "ShotStream's .csv",
    lambda file: _files(file.path, (".csv",)) and _table(file.path) is not None,
    _read_table,
    _write_table,
    stories=lambda file: [StoryFile(file.path, row) for row in range(len(_table(file.path) or []))],
)
FOLDER: Form[StoryFile] = Form(
    "longlive2", "a folder of LongLive 2.0", lambda file: file.path.is_dir(), _read_folder, _write_folder
)
FILM: Form[StoryFile] = Form(
    "film", "a film (.mp4) that carries its story", lambda file: _files(file.path, FILM_SUFFIXES), _read_film
)
FILE_FORMS: tuple[Form[StoryFile], ...] = (TABLE, FOLDER, FILM)
