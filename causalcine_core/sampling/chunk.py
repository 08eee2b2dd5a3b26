"""Making one chunk: how the rollout asks `denoise` for it, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..memory import KVMemory, RolloutView
from ..model.transformer import TextKV
from ..plan import PlannedChunk
from ..vae import normalize
from .denoise import ChunkVelocity, denoise
from .finite import FiniteCheck
from .passes import Passes
from .prefill import Filled
from .restyle import levels_from
from .schedule import add_noise, sampling_levels
from .solvers import SOLVERS
from .state import Pending, State
from .texts import Texts


@dataclass(frozen=True)
class StepInfo:
    """Progress inside a chunk: pass `step` of `steps` is done. clean: the prediction of the chunk, model space
    `[B, C, c, h, w]`."""

    chunk: PlannedChunk
    step: int
    steps: int
    clean: Tensor


@dataclass(frozen=True)
class Making:
    """What the making of a chunk needs beside its film's state. seed: of the noise of a chunk."""

    passes: Passes
    texts: Texts
    check: FiniteCheck
    seed: Callable[[PlannedChunk], int]
    on_step: Callable[[StepInfo], None] | None = None

    def tell(self, step: int, steps: int, clean: Tensor) -> None:
        """Pass number `step` of `steps`, counted from 0, gave this."""
        self.check.note(clean)
        if self.on_step is not None:
            self.on_step(StepInfo(self.check.chunk, step + 1, steps, clean))


@dataclass(frozen=True)
class Made:
    """A finished chunk. clean: model space, on the network's device. memory: of all that was made before it. view: what it saw.
    pending: what is half made of those after it."""

    clean: Tensor
    memory: KVMemory
    view: RolloutView
    pending: tuple[Pending, ...] = ()


@torch.no_grad()
def make_chunk(making: Making, chunks: Sequence[PlannedChunk], state: State, filled: Filled) -> Made:
    """The first of these chunks."""
    passes, chunk, memory = making.passes, chunks[0], filled.memory
    recipe, text = passes.recipe, making.texts.of(chunk, passes.runner)
    view = passes.view(memory, chunk, state.shot_numbers)
    noise = passes.noise(making.seed(chunk), chunk)
    levels, x = sampling_levels(recipe, first=chunk.index == 0).tolist(), noise()
    clip = state.restyle.of(chunk) if state.restyle else None
    if state.restyle is not None and clip is not None:
        levels = levels_from(levels, state.restyle.strength)
        x = add_noise(normalize(clip.to(x)), x, levels[0])
    watched = making.check.watched(view)
    clean = denoise(
        ChunkVelocity(passes.runner, TextKV(text), watched, recipe.guidance.scale),
        x,
        levels,
        SOLVERS[recipe.schedule.sampler](),
        noise,
        first=filled.fused.velocity(text, watched) if filled.fused else None,
        on_clean=lambda step, clean: making.tell(step, len(levels) - 1, clean),
    )
    return Made(clean, memory, view)
