"""Lists of shots in JSON: our own form, and the like as people and language models write it."""

from __future__ import annotations

import json
import re
from typing import Any

from .. import checks
from ..errors import InputError
from ..lora import loras_of
from ..story import MAX_SECONDS, MAX_SHOTS, MIN_SECONDS, SHOT_FIELDS, Shot, Story, check_count, checked_prompt, listed
from .fields import Fields, film_fields
from .form import Form, noted
from .times import ONE_TIME, seconds_of

_LISTS = ("shots", "scenes", "prompts")
_NAMES = {"prompt": ("prompt", "description", "text", "caption"), "seconds": ("seconds", "duration")}
_SHOT = {name: _NAMES.get(name, (name,)) for name in SHOT_FIELDS}


def story_to_dict(story: Story) -> dict[str, Any]:
    """The story as its JSON file would hold it; `Story.from_dict` reads it back to an equal story."""
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


def _read(data: Any) -> Story:
    fields = Fields()
    key = "shots" if isinstance(data, list) else next((name for name in _LISTS if name in data), None)
    if key is None:
        raise InputError('the story has no "shots"; it needs a list of {"prompt": "...", "seconds": 3}')
    head = {} if isinstance(data, list) else fields.of(data, "the story", film_fields(key))
    items = data if isinstance(data, list) else head.pop(key, None)
    shots = [_shot(item, f"{key}[{i}]", fields) for i, item in enumerate(listed_items(items, key))]
    where = "one list" if isinstance(data, list) else f'the list "{key}"'
    return noted(Story(shots, **head), f"JSON, {len(shots)} in {where}{_renamed(fields)}", ignored=fields.ignored)


def listed_items(items: object, name: str) -> list[Any]:
    """A list of shots as it stands in a file. Raises InputError where it is none, or too long."""
    if not isinstance(items, list) or not items:
        raise InputError(f"{name} must be a list of 1 to {MAX_SHOTS:,} shots, got {checks.show(items)}")
    check_count(len(items))
    return items


def _shot(item: object, name: str, fields: Fields) -> Shot:
    """A shot that is an object, or its prompt alone."""
    if isinstance(item, str):
        return Shot(checked_prompt(item, name))
    if not isinstance(item, dict):
        raise InputError(
            f'{name} must be an object such as {{"prompt": "...", "seconds": 3}}, or a text, got {checks.show(item)}'
        )
    told = fields.of(item, name, _SHOT)
    if "prompt" not in told:
        raise InputError(f'{name} has no "prompt"; every shot needs one')
    if "seconds" in told and "seconds" not in item:
        told["seconds"] = _duration(told["seconds"], f"{name}.duration")
    if "lora" in told:
        told["lora"] = loras_of(told["lora"], f"{name}.lora")
    return Shot(**told)


def _duration(value: object, name: str) -> float:
    """Seconds: a number, or a text such as `5s`, `5 seconds` or `0:05`."""
    if isinstance(value, str) and re.fullmatch(ONE_TIME, value.strip(), re.IGNORECASE):
        return float(seconds_of(value, name))
    return checks.number(value, name, MIN_SECONDS, MAX_SECONDS)


def _renamed(fields: Fields) -> str:
    """Which names were read as which of ours, as a clause."""
    as_ours = [f'"{theirs}" as {ours.split("_")[0]}' for ours, theirs in fields.renamed.items()]
    return f", with {listed(as_ours)}" if as_ours else ""


def _write(story: Story, name: str) -> dict[str, str]:
    return {name: json.dumps(story_to_dict(story), ensure_ascii=False, indent=2) + "\n"}


def is_shot_list(data: Any) -> bool:
    return isinstance(data, list) or any(name in data for name in _LISTS)


SHOT_LIST: Form[Any] = Form("json", '{"shots": [{"prompt": "...", "seconds": 3}, ...]}', is_shot_list, _read, _write)
"""Our own form, which alone holds everything. Also read: a list alone, texts in place of objects, `scenes` or `prompts` as `shots`."""
