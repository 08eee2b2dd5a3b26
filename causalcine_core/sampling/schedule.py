"""Noise levels of rectified flow (arXiv:2210.02747), shifted as in Stable Diffusion 3 (arXiv:2403.03206), and their steps.

`x_s = (1 - s) x_0 + s e`, velocity `v = e - x_0`; a timestep is `1000 s`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from .recipe import Recipe


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Warp levels in 0..1 towards noise: `m s / (1 + (m - 1) s)`."""
    return shift * levels / (1 + (shift - 1) * levels)


def warped(timesteps: Iterable[float], shift: float) -> tuple[float, ...]:
    """Timesteps 0..1000 of an even schedule, as they are once it is shifted: 750 at shift 5 is 937.5."""
    return tuple(1000 * shift * t / (1000 + (shift - 1) * t) for t in timesteps)


def reshifted(timesteps: Iterable[float], shift: float, new: float) -> tuple[float, ...]:
    """Timesteps that were shifted by `shift`, as they are at the shift `new`."""
    return warped(timesteps, new / shift)


def sampling_levels(recipe: Recipe, first: bool = False) -> Tensor:
    """Levels `s` that a chunk passes, from noise to 0: float32 `[steps + 1]`. first: of the film's first chunk."""
    schedule = recipe.schedule
    timesteps = schedule.first_timesteps if first and schedule.first_timesteps is not None else schedule.timesteps
    if timesteps is not None:
        return torch.tensor([*timesteps, 0.0]) / 1000
    return shifted(torch.linspace(1, 0, schedule.steps + 1), schedule.shift)


def add_noise(clean: Tensor, noise: Tensor, level: Tensor | float) -> Tensor:
    return (1 - level) * clean + level * noise


def predict_clean(noisy: Tensor, velocity: Tensor, level: Tensor | float) -> Tensor:
    return noisy - level * velocity


def chunk_generator(seed: int, chunk: int, use: str = "") -> torch.Generator:
    """Randomness of one chunk: a function of the seed (0 .. 2**64 - 1), the chunk's place in the film, and what it is for
    ("": its making), no more."""
    digest = hashlib.sha256(f"{seed}/{chunk}{use and f'/{use}'}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
