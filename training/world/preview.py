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
    size: of each; width and height in pixels."""

    vae: str = ""
    seeds: tuple[int, ...] = (50_000_000, 50_000_001)
    seconds: float = 15.0
    size: tuple[int, int] = (96, 96)


@dataclass(frozen=True)
class ManySteps(Preview):
    """The same by a model of many steps. steps, guidance, sampler: that films are made with."""

    steps: int = 10
    guidance: float = 3.0
    sampler: Literal["unipc", "euler", "renoise"] = "unipc"

    def recipe(self, *, shift: float, window: int, top_k: int) -> Recipe:
        """How they are made. shift, window, top_k: of the model's training."""
        how = {"steps": self.steps, "guidance": self.guidance, "sampler": self.sampler}
        return Recipe.of(shift=shift, window=window, top_k=top_k, **how)


@torch.no_grad()
def films(model: Model, preview: Preview, recipe: Recipe, routing: str = "every_step") -> list[NDArray[np.uint8]]:
    """Frames `[F, H, W, 3]` of each film, by a model as its weights are now, made as a recipe says. routing: of its training."""
    if not preview.vae:
        return []
    width, height = preview.size
    recipe = recipe.changed(width=width, height=height)
    runner = replace(describe_network(model.net, "in training"), dtype=model.dtype, compute=model.compute)
    text: Any = model.text  # whatever encodes
    pipe = Pipeline(runner, text, load_vae(preview.vae).to(runner.device), recipe)
    out, memory = [], MemorySettings(routing=routing)
    with model.computing():
        for seed in preview.seeds:
            story = Story.from_dict(make_film(seed, preview.seconds, size=preview.size).story())
            out.append(np.concatenate([chunk.frames for chunk in pipe.stream(story, seed=seed, memory=memory)]))
    return out
