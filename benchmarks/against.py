"""The engine against the plain rollout of `reference.py`: same weights' shapes, same frames in view, chunk by chunk in turns."""

from __future__ import annotations

import statistics
import time

import torch

from causalcine_core.memory import MemorySettings
from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.pipeline import describe_network
from causalcine_core.sampling import Recipe, begin, rollout, sampling_levels
from causalcine_core.story import Shot, Story, Timeline, plan

from .reference import Reference

SHAPES = {
    "8M, 64 tokens a frame": (
        WanConfig(dim=256, ffn_dim=768, num_heads=4, num_layers=8, text_dim=256, text_len=56),
        16,
    ),
    "38M, 256 tokens a frame": (
        WanConfig(dim=512, ffn_dim=1536, num_heads=8, num_layers=10, text_dim=256, text_len=56),
        32,
    ),
}
WINDOW, TOP_K, CHUNK = 3, 5, 3


def against_reference(chunks: int = 16, warm: int = 8) -> dict[str, dict[str, float]]:
    """Median seconds of a chunk once all that is to be seen is there: four steps and the writing pass, unguided."""
    return {name: _compare(config, side, chunks, warm) for name, (config, side) in SHAPES.items()}


def _compare(config: WanConfig, side: int, chunks: int, warm: int) -> dict[str, float]:
    torch.manual_seed(0)
    net = CausalWanTransformer(config).initialize().eval().requires_grad_(False)
    text = torch.randn(1, config.text_len, config.text_dim)
    recipe = Recipe(steps=4, sampler="renoise", window=WINDOW, top_k=TOP_K)
    network = describe_network(net, "random")
    film = plan(Story([Shot("film", frames=Timeline(CHUNK, CHUNK).frames(chunks))]))
    state = begin(network, recipe, MemorySettings(), size=(side, side), seed=0)
    ours = rollout(network, film.chunks, lambda shot: text, state, size=(side, side))
    levels = sampling_levels(recipe).tolist()[:-1]
    span = TOP_K + (WINDOW + 1) * CHUNK
    theirs = Reference(net, span).roll(text, [CHUNK] * chunks, [levels] * chunks, (side, side), 0)
    seconds: dict[str, list[float]] = {"engine": [], "reference": []}
    for n in range(chunks):
        for name, stream in (("engine", ours), ("reference", theirs)):
            began = time.perf_counter()
            next(stream)
            if n >= warm:
                seconds[name].append(time.perf_counter() - began)
    medians = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    return medians | {"times_as_fast": round(medians["reference"] / medians["engine"], 2)}
