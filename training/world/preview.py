"""Films of the world by a model that is being trained, from fixed seeds and their stories alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from causalcine_core import Pipeline, Story
from causalcine_core.memory import MemorySettings
from causalcine_core.runner import describe_network
from causalcine_core.sampling import Recipe
from causalcine_core.vae import load_vae

from ..model import Model
from . import make_film


@dataclass(frozen=True)
class Preview:
    """What is looked at. vae: file of the decoder; none: nothing is shown. seeds: of the films, whose stories are made. seconds,
    size: of each; width and height in pixels. steps, guidance, sampler: that they are made with."""

    vae: str = ""
    seeds: tuple[int, ...] = (50_000_000, 50_000_001)
    seconds: float = 15.0
    size: tuple[int, int] = (96, 96)
    steps: int = 10
    guidance: float = 3.0
    sampler: Literal["unipc", "euler", "renoise"] = "unipc"


@torch.no_grad()
def films(
    model: Model, preview: Preview, *, shift: float, window: int, top_k: int, routing: str = "every_step"
) -> list[NDArray[np.uint8]]:
    """Frames `[F, H, W, 3]` of each film, by a model as its weights are now. shift, window, top_k, routing: of its training."""
    if not preview.vae:
        return []
    width, height = preview.size
    recipe = Recipe.of(
        steps=preview.steps,
        sampler=preview.sampler,
        shift=shift,
        guidance=preview.guidance,
        window=window,
        top_k=top_k,
        width=width,
        height=height,
    )
    runner = replace(describe_network(model.net, "in training"), dtype=model.dtype, compute=model.compute)
    text: Any = model.text  # whatever encodes
    pipe = Pipeline(runner, text, load_vae(preview.vae).to(runner.device), recipe)
    out, memory = [], MemorySettings(routing=routing)
    with model.computing():
        for seed in preview.seeds:
            story = Story.from_dict(make_film(seed, preview.seconds, size=preview.size).story())
            out.append(np.concatenate([chunk.frames for chunk in pipe.stream(story, seed=seed, memory=memory)]))
    return out
