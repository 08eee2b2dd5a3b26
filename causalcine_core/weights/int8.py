"""Weights on disk in 8 bits: int8 with one scale per output channel. Small files; in memory they are float again."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

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
    """The inverse of `compact`, in float32; weights that were never compacted come through unchanged."""
    out = {}
    for name, t in weights.items():
        if name.endswith(SCALE):
            continue
        scale = weights.get(name + SCALE)
        out[name] = t if scale is None else t.float() * _column(scale, t)
    return out


def _column(scale: Tensor, like: Tensor) -> Tensor:
    return scale.view(-1, *([1] * (like.ndim - 1)))
