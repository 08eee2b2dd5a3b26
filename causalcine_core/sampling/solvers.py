"""One step of a chunk from a noise level to the next: the samplers that a recipe can name.

A solver is made for every chunk. The step to level 0 is the same for all, the clean latents, and not theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from .schedule import add_noise


class Solver(Protocol):
    def step(self, x: Tensor, clean: Tensor, level: float, following: float, noise: Callable[[], Tensor]) -> Tensor:
        """`x` at `level` to the level `following`, above 0. clean: what the network says `x` is without noise."""


class Euler:
    """Along the velocity."""

    def step(self, x: Tensor, clean: Tensor, level: float, following: float, noise: Callable[[], Tensor]) -> Tensor:
        return x + (following - level) / level * (x - clean)


class Renoise:
    """The clean latents under fresh noise: for students of few steps (Self-Forcing, arXiv:2506.08009)."""

    def step(self, x: Tensor, clean: Tensor, level: float, following: float, noise: Callable[[], Tensor]) -> Tensor:
        return add_noise(clean, noise(), following)


class UniPC:
    """Predictor and corrector of second order, variant bh2 (UniPC, arXiv:2302.04867), on rectified flow: with
    `t = log((1 - s) / s)`, the exact solution for clean latents that are linear in `t`."""

    def __init__(self) -> None:
        self._known: list[tuple[float, Tensor]] = []  # level and clean latents, newest last
        self._x: Tensor | None = None  # at the newest of these levels, corrected

    def step(self, x: Tensor, clean: Tensor, level: float, following: float, noise: Callable[[], Tensor]) -> Tensor:
        if self._x is not None:
            x = self._solve(self._x, level, clean)
        self._known = [*self._known[-1:], (level, clean)]
        self._x = x
        return self._solve(x, following)

    def _solve(self, x: Tensor, level: float, clean: Tensor | None = None) -> Tensor:
        """From `x` at the newest known level to `level`; corrected where the clean latents there are known too."""
        (begin, newest), older = self._known[-1], self._known[:-1]
        step = _log_ratio(level) - _log_ratio(begin)
        grown = math.expm1(-step)
        slopes, weights = [], []
        ratio = 0.0
        if older:
            ratio = (_log_ratio(older[0][0]) - _log_ratio(begin)) / step
            slopes.append((older[0][1] - newest) / ratio)
            weights.append(0.5)
        if clean is not None:
            slopes.append(clean - newest)
            phi = grown / -step - 1  # of exponential integrators, times the step
            first, second = phi / grown, 2 * (phi / -step - 0.5) / grown
            weights = [0.5] if not older else [(first - second) / (1 - ratio), (second - ratio * first) / (1 - ratio)]
        moved = newest
        for slope, weight in zip(slopes, weights, strict=True):
            moved = moved + weight * slope
        return level / begin * x - (1 - level) * grown * moved


def _log_ratio(level: float) -> float:
    """Of signal to noise at a level; finite at pure noise."""
    level = min(level, 1 - 1e-6)
    return math.log((1 - level) / level)


SOLVERS: dict[str, Callable[[], Solver]] = {"euler": Euler, "renoise": Renoise, "unipc": UniPC}
