"""Merging a LoRA into a transformer's weights: `W + strength * alpha / rank * B A`.

Read are PEFT's names (`lora_A`, `lora_B`), kohya's (`lora_down`, `lora_up`, also with underscores for dots) and
whole differences (`diff` of a weight, `diff_b` of a bias, `diff_m` of a modulation), over Wan's or diffusers' modules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .header import Shape
from .layouts import LORA_PART, STEMS, rank, unwrapped, wan_name
from .tensors import check_numbers

_KINDS = {"lora_A": "A", "lora_down": "A", "lora.down": "A", "lora_B": "B", "lora_up": "B", "lora.up": "B"}
_TARGETS = {"diff": "weight", "diff_b": "bias", "diff_m": "modulation"}


@dataclass(frozen=True)
class Merged:
    """Weights with a LoRA in them. applied of total: its changes, one a weight. unmatched: modules the base lacks."""

    weights: dict[str, Tensor]
    applied: int
    total: int
    unmatched: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.applied} of {self.total} applied"
        if not self.unmatched:
            return text
        more = f" and {len(self.unmatched) - 1} more" if len(self.unmatched) > 1 else ""
        return f"{text}; no place for {self.unmatched[0]}{more}"


@dataclass(frozen=True)
class _Change:
    """Of the weight `name`. make: gives it, in float32, of `shape` or as many numbers; large, so after the shape was checked."""

    name: str
    shape: Shape
    make: Callable[[], Tensor]


def merge_lora(
    weights: Mapping[str, Tensor],
    lora: Mapping[str, Tensor],
    *,
    strength: float = 1.0,
    alpha: float | None = None,
    source: str = "LoRA",
) -> Merged:
    """Merge the tensors of a LoRA file into weights under Wan's names; other weights are passed on as they are.

    alpha: of a file that names none; the rank by default, which makes the factor 1. Raises InputError where nothing fits,
    a half is missing, shapes disagree, or a part holds not-a-number or infinity.
    """
    out = dict(weights)
    applied, total = 0, 0
    unmatched = []
    for module, parts in _modules(lora, weights).items():
        check_numbers({f"{kind} of {module}": part for kind, part in parts.items()}, source)
        for change in _changes(module, parts, alpha, source):
            total += 1
            if change.name not in weights:
                unmatched.append(module)
                continue
            base = out[change.name]
            if change.shape[:1] != base.shape[:1] or math.prod(change.shape) != base.numel():
                raise InputError(
                    f"{source} changes {change.name} by {list(change.shape)}, but it is {list(base.shape)}: it was trained on "
                    "another base"
                )
            out[change.name] = (base.float() + strength * change.make().view(base.shape)).to(base.dtype)
            applied += 1
    if not applied:
        first = f", such as {unmatched[0]}" if unmatched else ""
        raise InputError(f"{source}: 0 of {total} applied: none of its modules is in the model{first}")
    return Merged(out, applied, total, tuple(dict.fromkeys(unmatched)))


def _modules(lora: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Parts `A`, `B`, `alpha`, `diff`, ... by Wan's module name. Of several LoRAs the averaged, else the trained."""
    flat = {name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in weights}
    groups: dict[str, dict[str, dict[str, Tensor]]] = {}
    for key, tensor in lora.items():
        found = LORA_PART.match(unwrapped(key))
        if found is None:
            continue
        prefix, module = _split(found["module"], flat)
        kind = _KINDS.get(found["kind"] or "", found["other"] or "")
        groups.setdefault(prefix, {}).setdefault(module, {})[kind] = tensor
    if not groups:
        return {}
    best = max(map(rank, groups))
    if best < 0:
        return {}
    out: dict[str, dict[str, Tensor]] = {}
    for prefix, group in groups.items():
        if rank(prefix) == best:
            for module, parts in group.items():
                out.setdefault(module, {}).update(parts)
    return out


def _split(module: str, flat: Mapping[str, str]) -> tuple[str, str]:
    """What stands before a module's name, and the name under Wan's own."""
    segments = module.split(".")
    at = next((i for i, segment in enumerate(segments) if segment in STEMS), None)
    if at is not None:
        return ".".join(segments[:at]), wan_name(".".join(segments[at:]))
    for prefix in ("lora_unet_", "lora_transformer_", "lora_"):
        name = segments[-1].removeprefix(prefix)
        if name != segments[-1] and name in flat:
            return prefix, flat[name]
    return "", module


def _changes(module: str, parts: Mapping[str, Tensor], alpha: float | None, source: str) -> list[_Change]:
    """Weights that a module's parts change, and by how much."""
    for kind in parts:
        if kind.startswith(("dora", "lora_mid", "lora_magnitude")):
            raise InputError(
                f"{source} holds {kind} of {module}: only plain LoRA, without DoRA or LoCon, can be merged"
            )
    out = [
        _Change(f"{module}.{target}", tuple(parts[kind].shape), parts[kind].float)
        for kind, target in _TARGETS.items()
        if kind in parts
    ]
    if ("A" in parts) != ("B" in parts):
        raise InputError(
            f"{source} has only one half of {module} ({'A' if 'A' in parts else 'B'}): it looks incomplete"
        )
    if "A" in parts:
        down, up = parts["A"], parts["B"]
        size = down.shape[0] if down.ndim else 0
        if up.ndim < 2 or down.ndim < 2 or math.prod(up.shape[1:]) != size or size == 0:
            raise InputError(
                f"{source} has halves of {module} that do not fit: {list(down.shape)} and {list(up.shape)}"
            )
        own = parts.get("alpha")
        if own is not None and own.numel() != 1:
            raise InputError(f"{source} has an alpha of {module} that is no single number: {list(own.shape)}")
        factor = (float(own) if own is not None else alpha if alpha is not None else size) / size
        out.append(_Change(f"{module}.weight", (len(up), *down.shape[1:]), lambda: factor * _product(up, down)))
    return out


def _product(up: Tensor, down: Tensor) -> Tensor:
    return torch.matmul(up.float().flatten(1), down.float().flatten(1))
