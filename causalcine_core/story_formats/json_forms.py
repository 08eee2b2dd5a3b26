"""Stories in JSON: our own fields, HoloCine's prompt with the frames of its cuts, texts by first frame."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .. import checks
from ..errors import InputError
from ..story import MAX_FRAMES, MAX_SHOTS, SHOT_FIELDS, Shot, Story, check_count, checked_prompt
from .form import Form, noted
from .tagged import split_tagged
from .tags import has_tags

LONG = 60  # seconds: a shot whose length nobody wrote down, but follows from frame numbers, is said from here on
_USUAL_FPS = 16

_STORY_FIELDS = ("global", "fps", "width", "height", "seed", "negative", "cut", "shots")
_TAGGED_FIELDS = ("prompt", "shot_cut_frames", "num_frames", "fps", "width", "height", "seed", "negative")


def decoded(text: str, *, column: int = 0) -> Any:
    """What JSON text holds. Raises InputError that says where it is broken. column: added to the column there, of the first line."""
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        at = error.colno + (column if error.lineno == 1 else 0)
        raise InputError(f"this is not valid JSON: {error.msg} at line {error.lineno}, column {at}") from error
    except RecursionError as error:
        raise InputError("this is not a story: the JSON is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"this is not valid JSON: {error}") from error


def story_from_dict(data: object) -> Story:
    """A story from decoded JSON, in any of `JSON_FORMS`; what is none of them is read as our own, and refused by name."""
    if not isinstance(data, dict):
        raise InputError(f'a JSON story must be an object such as {{"shots": [...]}}, got {checks.show(data)}')
    return next((form for form in JSON_FORMS if form.detect(data)), _OURS).read(data)


def story_to_dict(story: Story) -> dict[str, Any]:
    """The story as its JSON file would hold it; `story_from_dict` reads it back to an equal story."""
    fields = {
        "global": story.global_prompt or None,
        "fps": story.fps,
        "width": story.width,
        "height": story.height,
        "seed": story.seed,
        "negative": story.negative,
        "cut": story.cut,
    }
    known = {name: value for name, value in fields.items() if value is not None}
    return known | {"shots": [shot.to_dict() for shot in story.shots]}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise InputError(f"the field {checks.show(name)} is given twice")
        data[name] = value
    return data


def _common(data: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold for the whole film; JSON null means "not given"."""
    names = {"global": "global_prompt"} | {name: name for name in ("fps", "width", "height", "seed", "negative", "cut")}
    return {ours: data[name] for name, ours in names.items() if data.get(name) is not None}


# --- our own


def _read_ours(data: dict[str, Any]) -> Story:
    checks.fields(data, "the story", _STORY_FIELDS)
    if "shots" not in data:
        raise InputError('the story has no "shots"; it needs a list of {"prompt": "...", "seconds": 3}')
    items = data["shots"]
    if not isinstance(items, list):
        raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {checks.show(items)}")
    check_count(len(items))
    shots = [_shot(item, f"shots[{i}]") for i, item in enumerate(items)]
    return noted(Story(shots=shots, **_common(data)), f'JSON, {len(shots)} in the list "shots"')


def _shot(item: object, name: str) -> Shot:
    if not isinstance(item, dict):
        raise InputError(f'{name} must be an object such as {{"prompt": "...", "seconds": 3}}, got {checks.show(item)}')
    checks.fields(item, name, SHOT_FIELDS)
    if "prompt" not in item:
        raise InputError(f'{name} has no "prompt"; every shot needs one')
    return Shot(**{field: item[field] for field in SHOT_FIELDS if item.get(field) is not None or field == "prompt"})


# --- texts by first frame


def _has_frame_keys(data: dict[str, Any]) -> bool:
    return bool(data) and all(re.fullmatch(r"\d{1,9}", str(key)) for key in data)


def _read_frame_keys(data: dict[str, Any]) -> Story:
    """`{"0": "a", "24": "b"}`: each text begins at its frame; the last one has the usual length."""
    check_count(len(data))
    by_frame = {int(key): (key, value) for key, value in data.items()}
    if len(by_frame) < len(data):
        raise InputError("two texts begin at the same frame; every frame number may stand once")
    if 0 not in by_frame:
        raise InputError(f'texts by first frame must begin with "0", the first here is "{min(by_frame)}"')
    starts = sorted(by_frame)
    if starts[-1] > MAX_FRAMES:
        raise InputError(
            f'the frame "{by_frame[starts[-1]][0]}" is too late: a film may have at most {MAX_FRAMES:,} frames'
        )
    lengths = [b - a for a, b in pairwise(starts)] + [None]
    texts = [checked_prompt(by_frame[start][1], f'the text at frame "{by_frame[start][0]}"') for start in starts]
    shots = [Shot(text, frames=length) for text, length in zip(texts, lengths, strict=True)]
    long = _long(lengths, [f'the frame "{by_frame[start][0]}"' for start in starts[1:]], _USUAL_FPS)
    return noted(Story(shots), "JSON, one text for each first frame; the last has the usual length", *long)


def _long(lengths: Sequence[int | None], ends: Sequence[str], fps: float) -> list[str]:
    """Notes on shots that are longer than a shot usually is, because of the frame that ends them."""
    return [
        f"{end} ends a shot of {length:,} frames, {length / fps:,.0f} s at {fps:g} fps"
        for length, end in zip(lengths, ends, strict=False)
        if length is not None and length > LONG * fps
    ][:3]


# --- HoloCine's


def _read_tagged(data: dict[str, Any]) -> Story:
    """One tagged string, and the frames at which shots 2, 3, ... begin."""
    checks.fields(data, "the story", _TAGGED_FIELDS)
    text = checked_prompt(data["prompt"], "prompt")
    shared, prompts, hints = split_tagged(text) if has_tags(text) else ("", [text], [])
    lengths, ends = _lengths(data.get("shot_cut_frames"), data.get("num_frames"), len(prompts))
    shots = [Shot(prompt, frames=length) for prompt, length in zip(prompts, lengths, strict=True)]
    story = Story(shots, **{**_common(data), "global_prompt": shared})
    how = "JSON with [shot cut] tags" if len(shots) > 1 else "JSON with one prompt"
    return noted(story, how, *hints, *_long(lengths, ends, story.fps or _USUAL_FPS))


def _lengths(cuts: object, total: object, shots: int) -> tuple[list[int | None], list[str]]:
    """Frames of each shot (None: the usual length), and the fields that say where they end."""
    if cuts is None:
        if total is None:
            return [None] * shots, []
        end = checks.whole(total, "num_frames", shots, MAX_FRAMES)
        return [end * (i + 1) // shots - end * i // shots for i in range(shots)], ["num_frames"] * shots
    if not isinstance(cuts, list) or len(cuts) != shots - 1:
        raise InputError(
            f"shot_cut_frames must be a list of {shots - 1} frames, one fewer than the {shots} shots of the prompt, got "
            f"{checks.show(cuts)}"
        )
    names = [f"shot_cut_frames[{i}]" for i in range(len(cuts))]
    ends = [*cuts, total] if total is not None else cuts
    names += ["num_frames"] if total is not None else []
    lengths: list[int | None] = [None] * shots
    begin = 0
    for i, (end, name) in enumerate(zip(ends, names, strict=True)):
        lengths[i] = checks.whole(end, name, begin + 1, MAX_FRAMES) - begin
        begin = end
    return lengths, [f"{name} = {end}" for end, name in zip(ends, names, strict=True)]


_FRAME_KEYS: Form[dict[str, Any]] = Form(
    "texts by first frame", '{"0": "...", "24": "..."} by first frame', _has_frame_keys, _read_frame_keys
)
_TAGGED: Form[dict[str, Any]] = Form(
    "HoloCine's prompt and cuts",
    '{"prompt": "... [shot cut] ...", "shot_cut_frames": [37]}',
    lambda data: "prompt" in data and "shots" not in data,
    _read_tagged,
)
_OURS: Form[dict[str, Any]] = Form(
    "shots",
    '{"shots": [{"prompt": "...", "seconds": 3}, ...]}',
    lambda data: "shots" in data,
    _read_ours,
    story_to_dict,
)
JSON_FORMS: tuple[Form[dict[str, Any]], ...] = (_OURS, _TAGGED, _FRAME_KEYS)
