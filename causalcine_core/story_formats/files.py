"""Stories that are more than one text: tables, LongLive 2.0's folders, a film that carries its story."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from .. import checks
from ..errors import InputError
from ..story import Shot, Story, check_count, checked_prompt, listed
from .fields import Fields, decoded
from .film import FILM_SUFFIXES, story_text
from .form import Form, noted
from .json_forms import story_from_dict
from .reading import read_text
from .tables import HELIOS, TABLE, StoryFile, is_file
from .writing import as_json, prompts, seconds

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


# --- LongLive 2.0 with first pictures: prompts/NAME.txt, a line for each shot, and images/NAME.png


def _texts_beside_pictures(folder: Path) -> list[Path]:
    return sorted(path for path, _ in zip((folder / "prompts").glob("*.txt"), range(_MOST_LOOKED_AT), strict=False))


def _has_prompts(folder: Path) -> bool:
    return (folder / "prompts").is_dir() and not (folder / "0.json").exists()


def _read_lines(file: StoryFile) -> Story:
    texts = _texts_beside_pictures(file.path)
    lines = [line for line in read_text(texts[file.row]).splitlines() if not checks.is_blank(line)]
    check_count(len(lines))
    shots = [Shot(checked_prompt(line, f"line {i + 1} of {texts[file.row].name}")) for i, line in enumerate(lines)]
    if not shots:
        raise InputError(f"{texts[file.row].name} in prompts is empty; it needs a line for each shot")
    others = {entry.name for entry, _ in zip(file.path.iterdir(), range(_MOST_LOOKED_AT), strict=False)} - {"prompts"}
    how = f"a folder of LongLive 2.0, one in each line of prompts/{texts[file.row].name}"
    return noted(Story(shots), how, ignored=sorted(others))


def _write_lines(story: Story, name: str) -> dict[str, str]:
    return {f"{name}/prompts/{name}.txt": "".join(" ".join(text.split()) + "\n" for text in prompts(story))}


# --- a film


def _read_film(file: StoryFile) -> Story:
    text = story_text(file.path)
    try:
        story = story_from_dict(decoded(text))
    except InputError as error:
        raise InputError(f"the story in this film: {error}") from None
    return noted(story, "the story that this film carries", *story.notes[1:], ignored=story.ignored)


FOLDER: Form[StoryFile] = Form(
    "longlive2", "one with 0.json, 1.json, ...", lambda file: file.path.is_dir(), _read_folder, _write_folder
)
PICTURES: Form[StoryFile] = Form(
    "longlive2-images",
    "a folder of LongLive 2.0 with prompts and images",
    lambda file: _has_prompts(file.path),
    _read_lines,
    _write_lines,
    stories=lambda file: [StoryFile(file.path, n) for n in range(len(_texts_beside_pictures(file.path)))],
)
FOLDERS = (PICTURES, FOLDER)
FILM: Form[StoryFile] = Form(
    "film", "a film (.mp4) that carries its story", lambda file: is_file(file.path, FILM_SUFFIXES), _read_film
)
FILE_FORMS: tuple[Form[StoryFile], ...] = (TABLE, HELIOS, PICTURES, FOLDER, FILM)
