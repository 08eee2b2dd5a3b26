"""Stories as an editor and a multi-shot model keep them in JSON: LTX Director's timeline, EchoShot's lists.

Each was read off that tool's own files; neither knows all that a story of ours may say.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from .. import checks
from ..errors import InputError
from ..story import MAX_FPS, MAX_FRAMES, MIN_FPS, Shot, Story, checked_prompt, exact, listed
from .fields import Fields, film_fields
from .form import Form, noted
from .shot_lists import listed_items
from .writing import as_json, lengths

# --- LTX Director: {"global_prompt": "...", "segments": [{"start": 0, "length": 60, "prompt": "..."}]}

_LTX_FPS = 24  # its timeline counts frames, and does not say of which rate
_SEGMENT = {"start": ("start",), "length": ("length",), "prompt": ("prompt",)}


def _is_ltx(data: Any) -> bool:
    items = data.get("segments") if isinstance(data, dict) else None
    return isinstance(items, list) and any(isinstance(item, dict) and "length" in item for item in items)


def _read_ltx(data: Any) -> Story:
    fields, segments = Fields(), list[tuple[int, int, str]]()
    told = fields.of(data, "the story", film_fields("segments", "frame_rate"))
    items = listed_items(told.pop("segments"), "segments")
    fps = checks.number(told.pop("frame_rate", _LTX_FPS), "frame_rate", MIN_FPS, MAX_FPS)
    for i, item in enumerate(items):
        name = f"segments[{i}]"
        given = fields.of(item, name, _SEGMENT)
        start = checks.whole(given.get("start"), f"{name}.start", 0, MAX_FRAMES)
        length = checks.whole(given.get("length"), f"{name}.length", 1, MAX_FRAMES)
        segments.append((start, length, checked_prompt(given.get("prompt"), f"{name}.prompt")))
    segments.sort(key=lambda segment: segment[0])
    rate = exact(fps)
    shots = [Shot(prompt, seconds=float(length / rate)) for _, length, prompt in segments]
    how = f"JSON of LTX Director, a timeline at {fps:g} fps whose texts go over without cuts"
    return noted(Story(shots, **{"cut": "soft", **told}), how, *_apart(segments), ignored=fields.ignored)


def _apart(segments: Sequence[tuple[int, int, str]]) -> list[str]:
    """A note on segments that do not begin where the one before ends."""
    ends = [0, *(start + length for start, length, _ in segments)]
    odd = [
        f"frame {start} begins where {end} was expected"
        for (start, _, _), end in zip(segments, ends, strict=False)
        if start != end
    ]
    return [f"each shot is as long as its own segment: {listed(odd, 5)}"] if odd else []


def _write_ltx(story: Story, name: str) -> dict[str, str]:
    ends, total = [0], Fraction(0)
    for length in lengths(story, "ltx-director"):
        total += length * _LTX_FPS
        ends.append(max(round(total), ends[-1] + 1))
    segments = [
        {"start": a, "length": b - a, "prompt": shot.prompt, "type": "text"}
        for shot, (a, b) in zip(story.shots, pairwise(ends), strict=True)
    ]
    shared = {"global_prompt": story.global_prompt} if story.global_prompt else {}
    return as_json(name, shared | {"segments": segments, "audioSegments": []})


LTX: Form[Any] = Form(
    "ltx-director",
    '{"segments": [{"start": 0, "length": 60, "prompt": "..."}]}',
    _is_ltx,
    _read_ltx,
    _write_ltx,
)

# --- EchoShot: {"inner_t": [[7, 8, 9]], "cap_list": [["...", "...", "..."]]}


def _echoshot_stories(data: Any) -> list[Any]:
    """The file's stories, each as a file of one."""
    captions = listed_items(data.get("cap_list"), "cap_list")
    counts = data.get("inner_t")
    if counts is not None and (not isinstance(counts, list) or len(counts) != len(captions)):
        raise InputError(
            f"inner_t must be a list of {len(captions)} lists of latent frames, one for each of cap_list, got {checks.show(counts)}"
        )
    lists = [None] * len(captions) if counts is None else counts
    return [data | {"cap_list": [texts], "inner_t": [n]} for texts, n in zip(captions, lists, strict=True)]


def _read_echoshot(data: Any) -> Story:
    fields = Fields()
    told = fields.of(data, "the story", film_fields("cap_list", "inner_t"))
    (texts,), (counts,) = told.pop("cap_list"), told.pop("inner_t")
    texts = listed_items(texts, "each of cap_list")
    prompts = [checked_prompt(text, f"text {i + 1} of cap_list") for i, text in enumerate(texts)]
    frames: list[int | None] = [None] * len(prompts)
    if counts is not None:
        n = len(prompts)
        latents = checks.wholes(counts, "each of inner_t", 1, MAX_FRAMES // 4, least=n, most=n)
        frames = [4 * count - 3 * (i == 0) for i, count in enumerate(latents)]
    shots = [Shot(text, frames=length) for text, length in zip(prompts, frames, strict=True)]
    return noted(Story(shots, **told), "JSON of EchoShot, one for each text of cap_list", ignored=fields.ignored)


def _write_echoshot(story: Story, name: str) -> dict[str, str]:
    captions = {"cap_list": [[story.prompt(i) for i in range(len(story.shots))]]}
    if any(shot.seconds is None and shot.frames is None for shot in story.shots):
        return as_json(name, captions)
    ends, total = [0], Fraction(0)
    for length in lengths(story, "echoshot"):
        total += length * 16
        ends.append(max(1 + round((total - 1) / 4), ends[-1] + 1))
    return as_json(name, {"inner_t": [[b - a for a, b in pairwise(ends)]]} | captions)


ECHOSHOT: Form[Any] = Form(
    "echoshot",
    '{"cap_list": [["...", "..."]], "inner_t": [[7, 8]]}',
    lambda data: isinstance(data, dict) and "cap_list" in data,
    _read_echoshot,
    _write_echoshot,
    stories=_echoshot_stories,
)
