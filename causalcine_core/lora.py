"""The LoRAs of a shot, as a story names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import checks
from .errors import InputError

MAX_STRENGTH = 100.0
MAX_LORAS = 16  # of one shot


@dataclass(frozen=True)
class LoRA:
    """A file of small changes to the network's weights. name: of the file, from the folder where such files are sought, or its whole
    path. strength: -100 to 100; the file's own is 1. `loras_of` checks both."""

    name: str
    strength: float = 1.0


def loras_of(value: object, name: str) -> tuple[LoRA, ...]:
    """What a file says: `"style.safetensors"`, `{"name": "style.safetensors", "strength": 0.8}`, or a list of those; or LoRAs. An
    InputError that begins with `name` where it is none of these."""
    items = value if isinstance(value, list | tuple) else [value]
    if len(items) > MAX_LORAS:
        raise InputError(f"{name} may name at most {MAX_LORAS} LoRAs, got {len(items):,}")
    several = isinstance(value, list | tuple)
    return tuple(_lora(item, f"{name}[{i}]" if several else name) for i, item in enumerate(items))


def _lora(item: object, name: str) -> LoRA:
    if isinstance(item, LoRA):
        item = {"name": item.name, "strength": item.strength}
    if isinstance(item, str):
        item = {"name": item}
    if not isinstance(item, dict):
        raise InputError(
            f'{name} must be the name of a LoRA file, {{"name": "...", "strength": 0.8}}, or a list of those, got {checks.show(item)}'
        )
    given = checks.fields(item, name, ("name", "strength"), needed=("name",))
    file = checks.text(given["name"], f"{name}.name", empty="it needs the name of a file")
    strength = given.get("strength")
    strength = 1.0 if strength is None else checks.number(strength, f"{name}.strength", -MAX_STRENGTH, MAX_STRENGTH)
    return LoRA(file.strip(), float(strength))


def loras_to_json(loras: Sequence[LoRA]) -> Any:
    """As a file says it; `loras_of` reads it back."""
    told = [lora.name if lora.strength == 1 else {"name": lora.name, "strength": lora.strength} for lora in loras]
    return told[0] if len(told) == 1 else told


def loras_named(loras: Sequence[LoRA]) -> str:
    """For people: `style.safetensors x 0.8 + film.safetensors`."""
    return " + ".join(lora.name if lora.strength == 1 else f"{lora.name} x {lora.strength:g}" for lora in loras)
