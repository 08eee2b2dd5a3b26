"""One chunk from noise to clean latents: the steps that the rollout, ODE initialisation and self-forcing share (paper, Sec. 3.4).

Plain functions of tensors. Whether gradients are recorded is the caller's choice; nothing here turns them off but before an
exit step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..model.transformer import TextKV, View
from ..runner import Runner
from .schedule import predict_clean
from .solvers import Solver
from .texts import spread


class Velocity(Protocol):
    """What the network says of noisy latents `x [B, C, F, h, w]` at a level in 0..1: their velocity, in the same shape."""

    def __call__(self, x: Tensor, level: float) -> Tensor: ...


def branch_velocity(
    runner: Runner, x: Tensor, levels: Sequence[float], text: TextKV, view: View, branches: int
) -> Tensor:
    """A pass of all branches over the same latents.

    Args:
        runner: the network.
        x: `[B, C, F, h, w]`.
        levels: noise level 0..1 of each of the chunks in this pass, of which x has as many, equally long.
        text, view: of all branches.
        branches: guided and unguided films together, a multiple of B.

    Returns: `[branches, C, F, h, w]`.
    """
    each = x.shape[2] // len(levels) if len(levels) > 1 else 1
    timesteps = spread([1000 * level for level in levels], each, x.device)
    wide = x.to(runner.dtype).repeat(branches // x.shape[0], 1, 1, 1, 1)
    return runner.velocity(wide, timesteps, text, view)


def guided_velocity(
    runner: Runner, x: Tensor, levels: Sequence[float], text: TextKV, view: View, scale: float
) -> Tensor:
    """The same with its branches put together, `[B, C, F, h, w]`: unguided + scale * (guided - unguided); at scale 1 there is one
    branch."""
    if scale == 1:
        return branch_velocity(runner, x, levels, text, view, x.shape[0])
    guided, unguided = branch_velocity(runner, x, levels, text, view, 2 * x.shape[0]).chunk(2)
    return unguided + scale * (guided - unguided)


@dataclass(frozen=True)
class ChunkVelocity:
    """The `Velocity` of one chunk: its text, what it sees, and how strongly it is guided."""

    runner: Runner
    text: TextKV
    view: View
    scale: float = 1.0

    def __call__(self, x: Tensor, level: float) -> Tensor:
        return guided_velocity(self.runner, x, [level], self.text, self.view, self.scale)


def denoise(
    velocity: Velocity,
    x: Tensor,
    levels: Sequence[float],
    solver: Solver,
    noise: Callable[[], Tensor],
    *,
    first: Velocity | None = None,
    exit_step: int | None = None,
    on_clean: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Clean latents of one chunk.

    Args:
        velocity: of the network.
        x: noise `[B, C, c, h, w]`, on the network's device, where everything stays.
        levels: noise levels 0..1 from the noisiest down, then 0.
        solver: leads from one level to the next; a fresh one.
        noise: fresh noise, call by call, for solvers that need any.
        first: gives the first pass's velocity instead, such as one that also writes the chunk before into memory.
        exit_step: number of the last pass that is run, from 0. What it says is the result, and the passes before it record no
            gradients: only one level is trained at a time. None: all passes are run, as the caller records.
        on_clean: called after every pass with its number and what the chunk is predicted to be; it may raise.

    Returns: `[B, C, c, h, w]`. Raises IndexError for an exit step that is no pass.
    """
    passes = len(levels) - 1
    last = passes - 1 if exit_step is None else range(passes)[exit_step]
    clean = x
    for step, (level, following) in enumerate(zip(levels, levels[1:], strict=False)):
        with torch.no_grad() if exit_step is not None and step < last else contextlib.nullcontext():
            ask = first if first is not None and step == 0 else velocity
            clean = predict_clean(x, ask(x, level), level)
            if on_clean is not None:
                on_clean(step, clean)
            if step == last:
                break
            x = solver.step(x, clean, level, following, noise)
    return clean
