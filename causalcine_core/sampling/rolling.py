"""Several chunks at once, each a pass behind the one before it, and one more joins in every pass (Rolling Forcing,
arXiv:2509.25161)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..plan import PlannedChunk
from .chunk import Made, Making
from .denoise import guided_velocity
from .prefill import Filled
from .schedule import add_noise, predict_clean, sampling_levels
from .state import Pending, State
from .texts import joined, spread


@torch.no_grad()
def make_jointly(making: Making, chunks: Sequence[PlannedChunk], state: State, filled: Filled) -> Made:
    """The first of these chunks, together with those after it, as many as there are passes."""
    passes, recipe, memory = making.passes, making.passes.recipe, filled.memory
    levels, chunk, steps = sampling_levels(recipe).tolist(), recipe.timeline.chunk, recipe.schedule.steps
    device = passes.runner.device
    under_way = [replace(part, x=part.x.to(device)) for part in state.pending[: len(chunks)]]
    done = under_way[0].passes if under_way else 0
    for step in range(done, steps):
        if len(under_way) < len(chunks):
            joins = chunks[len(under_way)]
            under_way.append(Pending(passes.noise(making.seed(joins), joins)(), 0))
        view = passes.view(memory, chunks[0], state.shot_numbers, len(under_way))
        level = [levels[part.passes] for part in under_way]
        x = torch.cat([part.x for part in under_way], 2)
        text = joined([making.texts.of(one, passes.runner) for one in chunks[: len(under_way)]], chunk)
        watched = making.check.watched(view)
        velocity = guided_velocity(passes.runner, x, level, text, watched, recipe.guidance.scale)
        clean = predict_clean(x, velocity, spread(level, chunk, device)[0, :, None, None])
        under_way = [
            Pending(_renoised(making, one, part, part_clean, levels), part.passes + 1)
            for one, part, part_clean in zip(chunks, under_way, clean.split(chunk, 2), strict=False)
        ]
        making.tell(step - done, steps - done, clean[:, :, :chunk])
    return Made(under_way[0].x, memory, view, tuple(replace(part, x=part.x.cpu()) for part in under_way[1:]))


def _renoised(making: Making, chunk: PlannedChunk, part: Pending, clean: Tensor, levels: Sequence[float]) -> Tensor:
    """A chunk as its next pass is to see it. Its noise is a function of the pass, so that a film goes on from a file alike."""
    passes = part.passes + 1
    if passes == len(levels) - 1:
        return clean
    noise = making.passes.noise(making.seed(chunk), chunk, f"pass {passes}")()
    return add_noise(clean, noise, levels[passes])
