"""Weights on disk in 8 bits: int8 with one scale per output channel. Small files; in memory they are float again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import InputError

SCALE = ".int8_scale"
_SMALL = 4096  # tensors of fewer numbers are kept as they are, in half precision


def compact(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """int8 and a scale `[rows]` for every large tensor of two or more axes, float16 for the rest."""
    out = {}
    for name, t in weights.items():
        if t.ndim < 2 or t.numel() < _SMALL:
            out[name] = t.half()
            continue
        scale = t.float().flatten(1).abs().amax(1).clamp(min=1e-12) / 127
        out[name] = (t.float() / _column(scale, t)).round().to(torch.int8)
        out[name + SCALE] = scale
    return out


def expand(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `compact`, in float32; weights that were never compacted come through unchanged.

    Raises InputError where a scale does not fit its weight.
    """
    return {name: scaled(name, t, weights.get(name + SCALE)) for name, t in weights.items() if not name.endswith(SCALE)}


def scaled(name: str, weight: Tensor, scale: Tensor | None) -> Tensor:
    """A quantised weight as float32: times one scale, or one for each of its rows. Without a scale as it is."""
    if scale is None:
        return weight
    rows = weight.shape[0] if weight.ndim else 1
    if scale.numel() not in (1, rows) or not scale.is_floating_point():
        raise InputError(f"the scale of {name} must be one number or {rows}, got {list(scale.shape)}")
    return weight.float() * _column(scale.float(), weight)


def _column(scale: Tensor, like: Tensor) -> Tensor:
    return scale.reshape(-1, *([1] * (like.ndim - 1))) if like.ndim else scale.reshape(())
