"""Stories as other tools keep them in JSON: ShotStream, StoryMem, Scope, LongLive.

Each was read off that tool's own files; none of them knows all that a story of ours may say.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

from .. import checks
from ..errors import InputError
from ..story import MAX_FRAMES, MAX_SECONDS, Shot, Story, check_count, checked_prompt
from .fields import Fields, decoded, film_fields
from .form import Form, noted
from .shot_lists import listed_items
from .times import Times
from .writing import as_json, frame_ends, is_soft, lengths, prompts

# --- ShotStream: {"global_caption": "...", "shot1": "...", "shot2": "..."}

_SHOT_KEY = re.compile(r"shot(\d{1,5})")


def _read_shotstream(data: Any) -> Story:
    numbers: dict[int, str] = {}
    for key in data:
        if mark := _SHOT_KEY.fullmatch(key):
            if int(mark[1]) in numbers:
                raise InputError(f'"{numbers[int(mark[1])]}" and "{key}" are the same shot')
            numbers[int(mark[1])] = key
    check_count(len(numbers))
    first = 0 if 0 in numbers else 1
    gap = next((n for n in range(first, first + len(numbers)) if n not in numbers), None)
    if gap is not None:
        raise InputError(f'"shot{gap}" is missing: shots are numbered from shot1 without a gap')
    fields = Fields()
    told = fields.of(
        {key: value for key, value in data.items() if not _SHOT_KEY.fullmatch(key)}, "the story", film_fields()
    )
    shots = [Shot(checked_prompt(data[numbers[n]], numbers[n])) for n in sorted(numbers)]
    return noted(Story(shots, **told), 'JSON of ShotStream, "shot1", "shot2", ...', ignored=fields.ignored)


def shotstream_fields(story: Story) -> dict[str, str]:
    """A story as ShotStream's object of captions."""
    return {"global_caption": story.global_prompt} | {f"shot{i + 1}": shot.prompt for i, shot in enumerate(story.shots)}


SHOTSTREAM: Form[Any] = Form(
    "shotstream",
    '{"global_caption": "...", "shot1": "...", "shot2": "..."}',
    lambda data: isinstance(data, dict) and any(_SHOT_KEY.fullmatch(key) for key in data),
    _read_shotstream,
    lambda story, name: as_json(name, shotstream_fields(story)),
)

# --- StoryMem: {"scenes": [{"video_prompts": ["...", "..."], "cut": [true, false]}]}


def _is_storymem(data: Any) -> bool:
    scenes = data.get("scenes") if isinstance(data, dict) else None
    return isinstance(scenes, list) and any(isinstance(scene, dict) and "video_prompts" in scene for scene in scenes)


def _read_storymem(data: Any) -> Story:
    fields, shots = Fields(), list[Shot]()
    told = fields.of(data, "the story", film_fields("scenes"))
    for i, scene in enumerate(listed_items(told.pop("scenes"), "scenes")):
        name = f"scenes[{i}]"
        given = fields.of(scene, name, {"prompts": ("video_prompts",), "cut": ("cut",)})
        texts = listed_items(given.get("prompts"), f"{name}.video_prompts")
        cuts = given.get("cut", [True] * len(texts))
        if not isinstance(cuts, list) or len(cuts) != len(texts):
            raise InputError(
                f"{name}.cut must be a list of true or false for each of its {len(texts)} prompts, got {checks.show(cuts)}"
            )
        for j, (text, cut) in enumerate(zip(texts, cuts, strict=True)):
            prompt = checked_prompt(text, f"{name}.video_prompts[{j}]")
            soft = not checks.truth(cut, f"{name}.cut[{j}]") and bool(shots)
            shots.append(Shot(prompt, cut="soft" if soft else None))
        check_count(len(shots))
    goes_over = (
        '; where cut is false the text goes over without one ("soft")' if any(shot.cut for shot in shots) else ""
    )
    how = f"JSON of StoryMem, the video_prompts of its scenes{goes_over}"
    return noted(Story(shots, **told), how, ignored=fields.ignored)


def _write_storymem(story: Story, name: str) -> dict[str, str]:
    cuts = [i == 0 or not is_soft(story, shot) for i, shot in enumerate(story.shots)]
    scene = {"scene_num": 1, "video_prompts": prompts(story), "cut": cuts}
    return as_json(
        name, {"story_name": name.rsplit(".", 1)[0], "story_overview": story.global_prompt, "scenes": [scene]}
    )


STORYMEM: Form[Any] = Form(
    "storymem",
    '{"scenes": [{"video_prompts": ["...", ...], "cut": [true, ...]}]}',
    _is_storymem,
    _read_storymem,
    _write_storymem,
)

# --- Scope: {"prompts": [{"startTime": 0, "endTime": 5, "prompts": [{"text": "...", "weight": 100}]}]}

_SCOPE = {
    "begin": ("startTime",),
    "end": ("endTime",),
    "prompts": ("prompts",),
    "text": ("text",),
    "blend": ("transitionSteps",),
}


def _is_scope(data: Any) -> bool:
    items = data.get("prompts") if isinstance(data, dict) else None
    return isinstance(items, list) and any(isinstance(item, dict) and "startTime" in item for item in items)


def _read_scope(data: Any) -> Story:
    fields, times, mixed, shots = Fields(), Times(), False, list[Shot]()
    told = fields.of(data, "the story", film_fields("prompts"))
    for i, item in enumerate(listed_items(told.pop("prompts"), "prompts")):
        name = f"prompts[{i}]"
        given = fields.of(item, name, _SCOPE)
        ends = [
            Decimal(repr(float(checks.number(given.get(key), f"{name}.{theirs}", 0, MAX_SECONDS))))
            for key, theirs in (("begin", "startTime"), ("end", "endTime"))
        ]
        texts = _weighted(given, name, fields)
        mixed = mixed or len(texts) > 1
        prompt = max(texts, key=lambda text: text[1])[0]
        length = times.between(ends[0], ends[1], f"shot {i + 1}", f"{ends[0]} to {ends[1]} s")
        shots.append(Shot(prompt, seconds=length, blend=given.get("blend") or None))
    hints = ["of several weighted texts at one time the heaviest is read"] if mixed else []
    story = Story(shots, **{"cut": "soft", **told})
    how = "JSON of Scope, a timeline whose texts go over without cuts"
    return noted(story, how, *times.notes(), *hints, ignored=fields.ignored)


def _weighted(given: dict[str, Any], name: str, fields: Fields) -> list[tuple[str, float]]:
    """The texts of one time with their weights; where there is no list of them, the one text."""
    if "prompts" not in given:
        return [(checked_prompt(given.get("text"), f"{name}.text"), 1.0)]
    texts = []
    for j, item in enumerate(listed_items(given["prompts"], f"{name}.prompts")):
        place = f"{name}.prompts[{j}]"
        told = fields.of(item, place, {"text": ("text",), "weight": ("weight",)})
        weight = checks.number(told.get("weight", 1), f"{place}.weight", 0, 1e6)
        texts.append((checked_prompt(told.get("text"), f"{place}.text"), weight))
    return texts


def _write_scope(story: Story, name: str) -> dict[str, str]:
    items: list[dict[str, Any]] = []
    end = Decimal(0)
    for shot, text, length in zip(story.shots, prompts(story), lengths(story, "scope"), strict=True):
        begin, end = end, end + Decimal(length.numerator) / Decimal(length.denominator)
        blend = {"transitionSteps": shot.blend} if shot.blend else {}
        times = {"startTime": float(begin), "endTime": float(end)}
        items.append(times | {"prompts": [{"text": text, "weight": 100}]} | blend)
    return as_json(name, {"prompts": items})


SCOPE: Form[Any] = Form(
    "scope",
    '{"prompts": [{"startTime": 0, "endTime": 5, "text": "..."}]}',
    _is_scope,
    _read_scope,
    _write_scope,
)

# --- LongLive: a line {"prompts": ["...", ...]} for each story


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _is_longlive(text: str) -> bool:
    """Two lines or more, each of them a whole object; a single one is an ordinary list of prompts unless its file says otherwise."""
    lines = _lines(text)
    if len(lines) < 2 or not text.lstrip().startswith("{"):
        return False
    try:
        return all(isinstance(item := json.loads(line), dict) and "prompts" in item for line in lines)
    except (ValueError, RecursionError):
        return False


def _read_longlive(line: str) -> Story:
    """The text changes without a cut, and what was seen is written anew under the new one, as LongLive does."""
    fields = Fields()
    names = ("prompts", "switch_frame_indices")
    told = fields.of(decoded(line), "the story", film_fields(*names))
    items, switches = (told.pop(name, None) for name in names)
    texts = [checked_prompt(text, f"prompts[{i}]") for i, text in enumerate(listed_items(items, "prompts"))]
    frames = _switched(switches, len(texts))
    shots = [Shot(text, frames=length) for text, length in zip(texts, frames, strict=True)]
    how = 'a line of LongLive\'s JSON; texts change without a cut ("soft+rewrite")'
    return noted(Story(shots, **{"cut": "soft+rewrite", **told}), how, ignored=fields.ignored)


def _switched(switches: object, shots: int) -> list[int | None]:
    """Pixel frames of each shot by the latent frames at which texts change, a list or `"40, 80"`; the last has the usual length."""
    if switches is None:
        return [None] * shots
    if isinstance(switches, str) and re.fullmatch(r"[\d\s,]*", switches):
        switches = [int(number) for number in re.findall(r"\d{1,9}", switches)]
    at = checks.wholes(switches, "switch_frame_indices", 1, MAX_FRAMES // 4, least=shots - 1, most=shots - 1)
    begin, frames = 0, list[int | None]()
    for i, latent in enumerate(at):
        end = 1 + (latent - 1) * 4
        checks.whole(latent, f"switch_frame_indices[{i}]", (begin + 3) // 4 + 1, MAX_FRAMES // 4)
        frames.append(end - begin)
        begin = end
    return [*frames, None]


def _write_longlive(story: Story, name: str) -> dict[str, str]:
    ends = (frame_ends(story) or [])[: len(story.shots) - 1]
    switches = [1 + round((end - 1) / 4) for end in ends]
    rising = all(a < b for a, b in zip([0, *switches], switches, strict=False))
    at = {"switch_frame_indices": switches} if switches and rising else {}
    return {name: json.dumps({"prompts": prompts(story)} | at, ensure_ascii=False) + "\n"}


LONGLIVE: Form[str] = Form(
    "longlive",
    'lines of {"prompts": ["...", ...]}, a story each',
    _is_longlive,
    _read_longlive,
    _write_longlive,
    stories=_lines,
)
