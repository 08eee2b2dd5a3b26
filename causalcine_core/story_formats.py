"""Every written form of a story, in and out.

`SHOT_SYNTAX` names the forms: JSON, HoloCine's tagged string, plain text. Whatever cannot be read raises `InputError`,
whose sentence names the field.
"""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

from . import checks
from .errors import InputError
from .story import MAX_FRAMES, MAX_SHOTS, SHOT_FIELDS, Shot, Story, checked_prompt

MAX_BYTES = 32 * 2**20  # of a story file

SHOT_SYNTAX = (
    'JSON ({"shots": [{"prompt": "...", "seconds": 3}, ...]} or {"0": "...", "24": "..."} by first frame), '
    "[global caption] ... [per shot caption] ... [shot cut] ..., or plain text with one kind of separator: "
    "lines of ---, numbers (Shot 1: ... Shot 2: ..., or 1) ... 2) ...), blank lines, or | in one paragraph"
)

_STORY_FIELDS = ("global", "fps", "width", "height", "seed", "negative", "cut", "shots")
_TAGGED_FIELDS = ("prompt", "shot_cut_frames", "num_frames", "fps", "width", "height", "seed", "negative")


def load_story(path: Path) -> Story:
    """Reads a story file: UTF-8 text of at most 32 MiB. A name that ends in .json must hold JSON."""
    try:
        text = _read_text(path)
        return _from_json(text) if path.suffix.lower() == ".json" else parse_story(text)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_story(text: str) -> Story:
    """Reads a story from text in any form of `SHOT_SYNTAX`; the result's `notes` say which it was."""
    text = checks.text(text, "story").removeprefix("\ufeff").strip()
    if not text:
        raise InputError("the story is empty; it needs at least one shot")
    if re.match(r'\{|\[\s*([\[{"\]\d-]|null|true|false)', text):
        return _from_json(text)
    if re.match(r'"\d+"\s*:', text):
        return _from_json("{" + text.rstrip(",") + "}")
    if text.startswith('"') and text.endswith('"'):
        try:
            inner = json.loads(text)
        except ValueError:
            inner = None  # a paragraph that begins and ends with speech
        if isinstance(inner, str):
            return parse_story(inner)
    return _from_text(text)


def story_from_dict(data: object) -> Story:
    """A story from decoded JSON: our fields, HoloCine's `prompt` and `shot_cut_frames`, or texts by
    frame."""
    if not isinstance(data, dict):
        raise InputError(f'a JSON story must be an object such as {{"shots": [...]}}, got {checks.show(data)}')
    if data and all(re.fullmatch(r"\d{1,9}", str(key)) for key in data):
        return _from_frame_keys(data)
    if "prompt" in data and "shots" not in data:
        return _from_tagged_dict(data)
    checks.fields(data, "the story", _STORY_FIELDS)
    if "shots" not in data:
        raise InputError('the story has no "shots"; it needs a list of {"prompt": "...", "seconds": 3}')
    items = data["shots"]
    if not isinstance(items, list):
        raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {checks.show(items)}")
    shots = [_shot_from_dict(item, f"shots[{i}]") for i, item in enumerate(items[: MAX_SHOTS + 1])]
    if len(items) > MAX_SHOTS:
        raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {len(items):,} of them")
    return _noted(Story(shots=shots, **_common(data)), f'JSON, {len(shots)} in the list "shots"')


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError("this is a folder; a story is a file")
        if size > MAX_BYTES:
            raise InputError(f"a story file may hold at most {MAX_BYTES:,} bytes, this one has {size:,}")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such story file") from None
    except OSError as error:
        raise InputError(f"the story file cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name with a null character
        raise InputError(f"the story file cannot be read ({error})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the story file is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None


def _from_json(text: str) -> Story:
    try:
        return story_from_dict(json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"this is not valid JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InputError("this is not a story: the JSON is nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"this is not valid JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the field {checks.show(next(n for n in names if names.count(n) > 1))} is given twice")
    return data


def _common(data: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold for the whole film; JSON null means "not given"."""
    names = {"global": "global_prompt"} | {name: name for name in ("fps", "width", "height", "seed", "negative", "cut")}
    return {ours: data[name] for name, ours in names.items() if data.get(name) is not None}


def _shot_from_dict(item: object, name: str) -> Shot:
    if not isinstance(item, dict):
        raise InputError(f'{name} must be an object such as {{"prompt": "...", "seconds": 3}}, got {checks.show(item)}')
    checks.fields(item, name, SHOT_FIELDS)
    if "prompt" not in item:
        raise InputError(f'{name} has no "prompt"; every shot needs one')
    return Shot(**{field: item[field] for field in SHOT_FIELDS if item.get(field) is not None or field == "prompt"})


def _from_frame_keys(data: dict[str, Any]) -> Story:
    """`{"0": "a", "24": "b"}`: each text begins at its frame; the last one has the usual length."""
    by_frame = {int(key): (key, value) for key, value in data.items()}
    if len(by_frame) < len(data):
        raise InputError("two texts begin at the same frame; every frame number may stand once")
    if 0 not in by_frame:
        raise InputError(f'texts by first frame must begin with "0", the first here is "{min(by_frame)}"')
    starts = sorted(by_frame)
    lengths = [b - a for a, b in pairwise(starts)] + [None]
    texts = [checked_prompt(by_frame[start][1], f'the text at frame "{by_frame[start][0]}"') for start in starts]
    shots = [Shot(text, frames=length) for text, length in zip(texts, lengths, strict=True)]
    return _noted(Story(shots), "JSON, one text for each first frame; the last has the usual length")


_TAG = re.compile(r"\[\s*(global caption|per shot caption|shot cut)\s*\]", re.IGNORECASE)


def _from_tagged_dict(data: dict[str, Any]) -> Story:
    """HoloCine's form: one tagged string, and the frames at which shots 2, 3, ... begin."""
    checks.fields(data, "the story", _TAGGED_FIELDS)
    text = checked_prompt(data["prompt"], "prompt")
    global_prompt, prompts = _split_tagged(text) if _TAG.search(text) else ("", [text])
    cuts, end = data.get("shot_cut_frames"), data.get("num_frames")
    lengths: list[int | None] = [None] * len(prompts)
    if cuts is not None:
        if not isinstance(cuts, list) or len(cuts) != len(prompts) - 1:
            raise InputError(
                f"shot_cut_frames must be a list of {len(prompts) - 1} frames, one fewer than the "
                f"{len(prompts)} shots of the prompt, got {checks.show(cuts)}"
            )
        ends = [*cuts, end] if end is not None else cuts
        begin = 0
        for i, cut in enumerate(ends):
            name = f"shot_cut_frames[{i}]" if i < len(cuts) else "num_frames"
            lengths[i] = checks.whole(cut, name, begin + 1, MAX_FRAMES) - begin
            begin = cut
    elif end is not None:
        total, n = checks.whole(end, "num_frames", len(prompts), MAX_FRAMES), len(prompts)
        lengths = [total * (i + 1) // n - total * i // n for i in range(n)]
    shots = [Shot(prompt, frames=length) for prompt, length in zip(prompts, lengths, strict=True)]
    how = "JSON with [shot cut] tags" if len(shots) > 1 else "JSON with one prompt"
    return _noted(Story(shots, **{**_common(data), "global_prompt": global_prompt}), how)


def _split_tagged(text: str) -> tuple[str, list[str]]:
    """The global text and the shots of `[global caption] ... [per shot caption] ... [shot cut] ...`."""
    parts = _TAG.split(text)
    before, tags, texts = parts[0].strip(), [tag.lower() for tag in parts[1::2]], parts[2::2]
    for tag in ("global caption", "per shot caption"):
        if tags.count(tag) > 1:
            raise InputError(f"the tag [{tag}] stands {tags.count(tag)} times; it may stand once")
    if "global caption" in tags and tags[:2] != ["global caption", "per shot caption"]:
        raise InputError("after [global caption] ... the text needs [per shot caption] ... with the first shot")
    if tags[0] == "shot cut" and "per shot caption" not in tags:  # a [shot cut] b
        return "", [_one_line(t, f"shot {i + 1}") for i, t in enumerate([before, *texts])]
    if "shot cut" in tags[: tags.index("per shot caption")]:
        raise InputError("[shot cut] may only stand after [per shot caption]")
    first = tags.index("per shot caption")
    shared = " ".join(" ".join([before, *texts[:first]]).split())
    return shared, [_one_line(t, f"shot {i + 1}") for i, t in enumerate(texts[first:])]


def _one_line(text: str, name: str) -> str:
    return " ".join(checked_prompt(text, f"the text of {name}").split())


_DASHES = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_SHOT_MARK = re.compile(
    r"(?<!\w)\*{0,2}\[?\s*(?:shot|scene)\s*\#?\s*(?P<n>\d{1,5})\s*(?:\(\s*(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:ond)?s?)?\.?\s*\)\s*)?"
    r"\*{0,2}(?:\]\s*:?|[:.)\uff1a]|\s[-\u2013\u2014]\s)\*{0,2}",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"(?:^[ \t]*(?P<n>\d{1,5})[.):](?=\s)|(?<=\s)(?P<m>\d{1,5})\)(?=\s))", re.MULTILINE)
_ODD = re.compile(r"(?<!\w)(?:shot|scene|clip)\s*#?\d|^\s*\d+(?:\s*-\s*\d+)?\s*[:.)]", re.IGNORECASE | re.MULTILINE)


def _from_text(text: str) -> Story:
    """Plain text: exactly one kind of separator counts, the first that occurs in `SHOT_SYNTAX`'s order."""
    text = re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text)
    if _TAG.search(text):
        global_prompt, prompts = _split_tagged(text)
        return _noted(Story([Shot(p) for p in prompts], global_prompt), "split at [shot cut] tags")
    if _DASHES.search(text):
        return _noted(Story(_pieces(_DASHES, text)), "split at lines of ---")
    numbered = _numbered(text)
    if numbered is not None:
        return numbered
    shots = _pieces(_BLANK, text)
    if len(shots) > 1:
        return _noted(Story(shots), "one per paragraph")
    if "|" in text:
        return _noted(Story(_pieces(re.compile(r"\|"), text)), "split at every | of a single paragraph")
    if text.count("\n") or _ODD.search(text):
        hint = f"if more were meant, separate shots by a blank line; all forms: {SHOT_SYNTAX}"
        return _noted(Story(shots), "one paragraph", hint)
    return _noted(Story(shots), "one paragraph")


def _pieces(separator: re.Pattern[str], text: str) -> list[Shot]:
    pieces = (" ".join(piece.split()) for piece in separator.split(text))
    shots = [Shot(piece) for piece in pieces if piece]
    if not shots:
        raise InputError("the story holds separators but no text; it needs at least one shot")
    return shots


def _numbered(text: str) -> Story | None:
    """`Shot 1: a Shot 2: b` (text before it is global) or `1) a 2) b`; None unless numbers run 1, 2, 3,
    ..."""
    for marks, what in (
        (list(_SHOT_MARK.finditer(text)), "Shot 1:"),
        (list(_LIST_MARK.finditer(text)), "1)"),
    ):
        numbers = [int(mark["n"] or mark["m"]) for mark in marks]
        before = " ".join(text[: marks[0].start()].split()) if marks else ""
        if not marks or numbers != list(range(1, len(marks) + 1)) or (before and what == "1)"):
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        shots = [
            Shot(
                _one_line(text[mark.end() : end].strip("*"), f"shot {number}"),
                seconds=float(mark["s"]) if what == "Shot 1:" and mark["s"] else None,
            )
            for mark, end, number in zip(marks, ends, numbers, strict=True)
        ]
        how = f"numbered like {what}" + ("; the text before it is global" if before else "")
        return _noted(Story(shots, before), how)
    return None


def _noted(story: Story, how: str, *hints: str) -> Story:
    """The story with notes: how many shots were read and why, then hints."""
    n = len(story.shots)
    notes = [f"read {n} shot{'s' * (n > 1)}: {how}", *hints]
    if any("|" in shot.prompt for shot in story.shots):
        notes.append("| is kept as text here; it separates shots only in a single paragraph of plain text")
    object.__setattr__(story, "notes", tuple(notes))
    return story
