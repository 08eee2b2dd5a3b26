"""Flow matching: the velocity `noise - clean` at a noise level, and the levels that are drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from causalcine_core.sampling import shifted


def draw_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Levels `[count]` in 0..1 to train at: logit-normal, shifted; a tenth uniform so that no level is left out."""
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.1, uniform, normal)
    return shifted(chosen, shift).clamp(1e-3, 1.0)


def by_chunk(velocity: Tensor, target: Tensor, chunks: Sequence[int]) -> Tensor:
    """Mean square error `[B, N]` of each chunk. velocity, target: `[B, C, F, h, w]`. chunks: frames of each, F in all."""
    error = (velocity - target).square().mean((1, 3, 4))  # B F
    return torch.stack([part.mean(1) for part in error.split(list(chunks), 1)], 1)
