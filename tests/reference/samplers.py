"""From noise to clean latents, along a shifted schedule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .story import Settings


def levels(settings: Settings, n: int) -> list[float]:
    """Noise levels of chunk n, from the first down to 0; of a schedule as float32 has them, as schedulers keep their sigmas."""
    given = settings.first_levels if n == 0 and settings.first_levels else settings.levels
    if given:
        return [timestep / 1000 for timestep in given] + [0.0]
    even = torch.linspace(1, 0, settings.steps + 1)
    return (settings.shift * even / (1 + (settings.shift - 1) * even)).tolist()


def sample(
    x: Tensor,
    velocity: Callable[[Tensor, float], Tensor],
    levels: Sequence[float],
    noise: Callable[[], Tensor],
    sampler: str,
    exit_step: int | None = None,
) -> Tensor:
    """From noise to clean latents; where an exit step is named, what it says, with its gradients alone. UniPC: order 2, variant bh2,
    of clean latents (arXiv:2302.04867, Alg. 5 to 8)."""
    known: list[tuple[float, Tensor, Tensor]] = []  # level, corrected x and clean latents there
    for step, (level, following) in enumerate(pairwise(levels)):
        with torch.set_grad_enabled(torch.is_grad_enabled() and exit_step in (None, step)):
            v = velocity(x, level)
            clean = x - level * v
        if following == 0 or step == exit_step:
            break
        if sampler == "euler":
            x = x + (following - level) * v
        elif sampler == "renoise":
            x = (1 - following) * clean + following * noise()
        else:
            corrected = unipc(known, level, clean) if known else x
            known.append((level, corrected, clean))
            x = unipc(known, following)
    return clean


def unipc(known: Sequence[tuple[float, Tensor, Tensor]], level: float, clean: Tensor | None = None) -> Tensor:
    """From the newest known level to another. clean: a first estimate there, which corrects."""

    def log_ratio(s: float) -> float:
        return math.log((1 - min(s, 1 - 1e-6)) / min(s, 1 - 1e-6))

    start, x, newest = known[-1]
    h = log_ratio(level) - log_ratio(start)
    b = math.expm1(-h)
    ratios, differences = [], []
    for older, _, then in known[-2:-1]:
        ratios.append((log_ratio(older) - log_ratio(start)) / h)
        differences.append((then - newest) / ratios[-1])
    if clean is None:
        weights = [0.5] * len(differences)
    else:
        ratios.append(1.0)
        differences.append(clean - newest)
        phi_2, phi_3 = b / -h - 1, (b / -h - 1) / -h - 0.5
        system = torch.tensor([[ratio**power for ratio in ratios] for power in range(len(ratios))]).double()
        right = torch.tensor([phi_2 / b, 2 * phi_3 / b]).double()[: len(ratios)]
        weights = [0.5] if len(ratios) == 1 else torch.linalg.solve(system, right).tolist()
    moved = newest + sum(weight * difference for weight, difference in zip(weights, differences, strict=True))
    return level / start * x - (1 - level) * b * moved
