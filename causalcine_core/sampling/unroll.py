"""A rollout that training goes through: chunks made as in inference, with the memory and routing of inference, and gradients within
each chunk (paper, Sec. 3.4; Self-Forcing, arXiv:2506.08009)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..memory import KVMemory, RolloutView
from ..model.transformer import TextKV, project_text
from ..plan import PlannedChunk
from .denoise import ChunkVelocity, denoise
from .passes import Passes
from .schedule import sampling_levels
from .solvers import SOLVERS


@dataclass(frozen=True)
class Unrolled:
    """One chunk of a rollout in training. clean: what it is predicted to be at the exit step, model space `[B, C, c, h, w]`. view:
    what it saw. memory: of all chunks before it."""

    chunk: PlannedChunk
    clean: Tensor
    view: RolloutView
    memory: KVMemory


def unroll(
    passes: Passes,
    chunks: Sequence[PlannedChunk],
    text_of: Callable[[int], Tensor],
    *,
    seed: int,
    exit_step: int | None = None,
    memory: KVMemory | None = None,
    shots: Sequence[int] = (),
) -> Iterator[Unrolled]:
    """Make chunks one by one, recording gradients where the caller does.

    Args:
        passes: network, recipe, memory settings and size; unguided.
        chunks: what to make.
        text_of: text `[B, text_len, text_dim]` of a shot; gradients reach it and the network's text layers.
        seed: of the noise, as in `rollout`.
        exit_step: the one pass of every chunk that records gradients, from 0; nothing after it is run, and what it says is what is
            remembered. None: all passes are run and recorded.
        memory: of the chunks before these; None: there are none.
        shots: of each chunk before these.

    History is a value: no gradient of a chunk reaches an earlier one, with activation checkpointing (`Compute.checkpointed`) or
    without. The last chunk is not written: a rollout that lives on across updates hands on what `remembered` gives for it.
    """
    memory, made = memory or passes.blank(), list(shots)
    one: Unrolled | None = None
    for chunk in chunks:
        if one is not None:
            memory = remembered(passes, one, text_of, seed)
        layers = project_text(passes.runner.net, text_of(chunk.shot).to(passes.runner.device, passes.runner.dtype))
        view, noise = passes.view(memory, chunk, made), passes.noise(seed, chunk)
        clean = denoise(
            ChunkVelocity(passes.runner, TextKV(layers), view),
            noise(),
            sampling_levels(passes.recipe, first=chunk.index == 0).tolist(),
            SOLVERS[passes.recipe.schedule.sampler](),
            noise,
            exit_step=exit_step,
        )
        one = Unrolled(chunk, clean, view, memory)
        made.append(chunk.shot)
        yield one


def remembered(passes: Passes, one: Unrolled, text_of: Callable[[int], Tensor], seed: int) -> KVMemory:
    """The memory with a chunk written, as a value without gradient."""
    text = text_of(one.chunk.shot).detach().to(passes.runner.device, passes.runner.dtype)
    context = passes.context(one.clean.detach(), seed, one.chunk)
    return passes.write(context, project_text(passes.runner.net, text), one.view, one.view.recalled())
