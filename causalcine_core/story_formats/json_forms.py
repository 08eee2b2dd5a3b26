"""Stories in JSON: the table of forms, and those whose shots are told by frame numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from .. import checks
from ..errors import InputError
from ..story import MAX_FRAMES, Shot, Story, check_count, checked_prompt
from .fields import Fields, film_fields
from .form import Form, noted
from .peers import SCOPE, SHOTSTREAM, STORYMEM
from .shot_lists import SHOT_LIST, listed_items
from .tagged import split_tagged, tagged
from .tags import has_tags
from .timelines import ECHOSHOT, LTX
from .writing import USUAL_FPS, as_json, frame_ends, head, lengths

LONG = 60  # seconds: a shot whose length nobody wrote down, but follows from frame numbers, is said from here on

_CUTS = ("shot_cut_frames", "num_frames")


def story_from_dict(data: object, number: int | None = None) -> Story:
    """A story from decoded JSON, in any of `JSON_FORMS`; what is none of them is read as our own, and refused by name. number: as of
    `Form.read_one`."""
    if not isinstance(data, dict | list):
        raise InputError(
            f'a JSON story must be an object such as {{"shots": [...]}}, or a list, got {checks.show(data)}'
        )
    return next((form for form in JSON_FORMS if form.detect(data)), SHOT_LIST).read_one(data, number)


# --- texts by first frame


def _has_frame_keys(data: Any) -> bool:
    return isinstance(data, dict) and bool(data) and all(re.fullmatch(r"\d{1,9}", str(key)) for key in data)


def _read_frame_keys(data: Any) -> Story:
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
    frames = [b - a for a, b in pairwise(starts)] + [None]
    texts = [checked_prompt(by_frame[start][1], f'the text at frame "{by_frame[start][0]}"') for start in starts]
    shots = [Shot(text, frames=length) for text, length in zip(texts, frames, strict=True)]
    long = _long(frames, [f'the frame "{by_frame[start][0]}"' for start in starts[1:]], USUAL_FPS)
    return noted(Story(shots), "JSON, one text for each first frame; the last has the usual length", *long)


def _write_frame_keys(story: Story, name: str) -> dict[str, str]:
    lengths(story, "by-frame", story.shots[:-1])
    starts = [0, *(frame_ends(story) or [])]
    return as_json(name, {str(start): story.prompt(i) for i, start in enumerate(starts[: len(story.shots)])})


def _long(lengths: Sequence[int | None], ends: Sequence[str], fps: float) -> list[str]:
    """Notes on shots that are longer than a shot usually is, because of the frame that ends them."""
    return [
        f"{end} ends a shot of {length:,} frames, {length / fps:,.0f} s at {fps:g} fps"
        for length, end in zip(lengths, ends, strict=False)
        if length is not None and length > LONG * fps
    ][:3]


# --- HoloCine's


def _read_tagged(data: Any) -> Story:
    """One tagged string, and the frames at which shots 2, 3, ... begin."""
    fields = Fields()
    told = fields.of(data, "the story", film_fields("prompt", *_CUTS))
    text = checked_prompt(told.pop("prompt", None), "prompt")
    shared, texts, hints = split_tagged(text) if has_tags(text) else ("", [text], [])
    if shared and "global_prompt" in told:
        raise InputError(
            "the story has a global text twice, in its prompt and in a field of its own; give one of the two"
        )
    how = "JSON with [shot cut] tags" if len(texts) > 1 else "JSON with one prompt"
    return _at_cuts(texts, {"global_prompt": shared, **told}, how, hints, fields.ignored)


def _read_captions(data: Any) -> Story:
    """`global_caption`, `shot_captions`, and where the cuts lie."""
    fields = Fields()
    told = fields.of(data, "the story", film_fields("shot_captions", *_CUTS))
    captions = listed_items(told.pop("shot_captions", None), "shot_captions")
    texts = [checked_prompt(text, f"shot_captions[{i}]") for i, text in enumerate(captions)]
    return _at_cuts(texts, told, 'JSON, one for each of "shot_captions"', [], fields.ignored)


def _at_cuts(
    texts: Sequence[str], told: dict[str, Any], how: str, hints: Sequence[str], ignored: Iterable[str]
) -> Story:
    """A story of texts and of the frames that `told` has of their cuts."""
    frames, ends = _lengths(told.pop("shot_cut_frames", None), told.pop("num_frames", None), len(texts))
    story = Story([Shot(text, frames=length) for text, length in zip(texts, frames, strict=True)], **told)
    return noted(story, how, *hints, *_long(frames, ends, story.fps or USUAL_FPS), ignored=ignored)


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
    frames: list[int | None] = [None] * shots
    begin = 0
    for i, (end, name) in enumerate(zip(ends, names, strict=True)):
        frames[i] = checks.whole(end, name, begin + 1, MAX_FRAMES) - begin
        begin = end
    return frames, [f"{name} = {end}" for end, name in zip(ends, names, strict=True)]


def _cuts_of(story: Story) -> dict[str, Any]:
    """`shot_cut_frames` and `num_frames`, as far as the story names lengths."""
    ends, cuts = frame_ends(story), len(story.shots) - 1
    if ends is None:
        return {}
    return {"shot_cut_frames": ends[:cuts]} | ({"num_frames": ends[cuts]} if len(ends) > cuts else {})


_HELD = {name: name for name in ("fps", "width", "height", "seed", "negative", "cut")}


def _write_tagged(story: Story, name: str) -> dict[str, str]:
    return as_json(name, {"prompt": tagged(story)} | _cuts_of(story) | head(story, **_HELD))


def _write_captions(story: Story, name: str) -> dict[str, str]:
    captions = {"global_caption": story.global_prompt, "shot_captions": [shot.prompt for shot in story.shots]}
    return as_json(name, captions | _cuts_of(story) | head(story, **_HELD))


_FRAME_KEYS: Form[Any] = Form(
    "by-frame", '{"0": "...", "24": "..."} by first frame', _has_frame_keys, _read_frame_keys, _write_frame_keys
)
_TAGGED: Form[Any] = Form(
    "holocine-json",
    '{"prompt": "... [shot cut] ...", "shot_cut_frames": [37]}',
    lambda data: "prompt" in data,
    _read_tagged,
    _write_tagged,
)
_CAPTIONS: Form[Any] = Form(
    "captions",
    '{"global_caption": "...", "shot_captions": ["...", ...]}',
    lambda data: "shot_captions" in data,
    _read_captions,
    _write_captions,
)
JSON_FORMS: tuple[Form[Any], ...] = (
    SCOPE,
    STORYMEM,
    LTX,
    ECHOSHOT,
    SHOT_LIST,
    _CAPTIONS,
    SHOTSTREAM,
    _TAGGED,
    _FRAME_KEYS,
)
