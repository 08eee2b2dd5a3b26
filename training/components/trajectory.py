"""Trajectories of a many-step model: its probability-flow ODE from noise, for every chunk of a film at once, over the film's own
history (causal ODE initialisation; CausalCine, arXiv, May 2026, Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.sampling import Recipe, denoise, sampling_levels, shifted
from causalcine_core.sampling.denoise import Velocity
from causalcine_core.sampling.solvers import Euler

from ..model import Model
from .packed import Answers, PackedPass
from .student import Teacher

MOST_STEPS = 1000
SAME = 2e-7  # levels that are closer than this are one, but for the rounding of float32


def solver_levels(student: Recipe, steps: int) -> list[float]:
    """The levels of a solver of so many steps, from noise (1) to 0: even before the shift of the student's schedule. All levels of the
    student are among them, those of its first chunk too, as exactly the same numbers.

    Raises InputError where one of them is not.
    """
    shift = student.schedule.shift
    wanted = {*sampling_levels(student).tolist(), *sampling_levels(student, first=True).tolist()}
    for level in sorted(wanted, reverse=True):
        if not _passes(level, steps, shift):
            raise InputError(
                f"solver_steps {steps} at shift {shift:g} pass no timestep {1000 * level:.6g}, at which the student takes a step: all "
                f"of its timesteps must be among the solver's, {_advice(wanted, steps, shift)}"
            )
    grid: list[float] = shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()
    for level in wanted:
        grid[_nearest(level, steps, shift)] = level
    return grid


def _nearest(level: float, steps: int, shift: float) -> int:
    """The number of the step that begins nearest to a level, counted before the shift."""
    return round(steps * (1 - level / (shift - (shift - 1) * level)))


def _passes(level: float, steps: int, shift: float) -> bool:
    even = 1 - _nearest(level, steps, shift) / steps
    return abs(shift * even / (1 + (shift - 1) * even) - level) < SAME


def _advice(wanted: set[float], steps: int, shift: float) -> str:
    for more in range(steps + 1, MOST_STEPS + 1):
        if all(_passes(level, more, shift) for level in wanted):
            return f"such as those of {more} steps"
    return f"but no even schedule of up to {MOST_STEPS} steps has them at this shift"


@torch.no_grad()
def solve(velocity: Velocity, noise: Tensor, levels: Sequence[float], kept: Sequence[float]) -> Tensor:
    """Euler steps from `noise` at the first of the falling `levels` to the last, which is 0. Gives the states at the levels `kept`, in
    the order of `levels`, and then the end: `[len(kept) + 1, *noise.shape]`."""
    states: list[Tensor] = []

    def noting(x: Tensor, level: float) -> Tensor:
        if level in kept:
            states.append(x)
        return velocity(x, level)

    end = denoise(noting, noise, levels, Euler(), noise.clone)
    return torch.stack([*states, end])


@dataclass(frozen=True)
class Trajectory:
    """The trajectories of a batch of samples, solved when they are first asked for.

    teacher: frozen, guided as `how` says. clean: the films, `[B, C, all, h, w]`. noise: where they begin, of the
    denoised frames `[B, C, F, h, w]`. prompts: of each sample, what the teacher reads for each chunk. levels, kept: as in
    `solve`.
    """

    teacher: Model
    how: Teacher
    layout: PackedPass
    clean: Tensor
    noise: Tensor
    prompts: Sequence[Sequence[str]]
    levels: Sequence[float]
    kept: Sequence[float]

    @cached_property
    def states(self) -> Tensor:
        """At the levels `kept`, then the end: `[len(kept) + 1, B, C, F, h, w]`."""
        answers = Answers(self.layout, self.teacher, self.clean, self.prompts, self.how.guidance, self.how.negative)
        of_samples = self.noise.new_ones(len(self.noise))
        return solve(lambda x, level: answers(x, level * of_samples), self.noise, self.levels, self.kept)
