"""The engine against the plain rollout of `reference.py`: same weights' shapes, same frames in view, chunk by chunk in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch

from causalcine_core.memory import MemorySettings
from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.plan import PlannedChunk, Timeline, plan
from causalcine_core.runner import pick_dtype, prepare_network
from causalcine_core.sampling import Chunk, Recipe, State, begin, rollout, sampling_levels
from causalcine_core.story import Shot, Story

from .progress import watched
from .reference import Reference

SHAPES = {  # side of the latent, and the chunk that is called late
    "8M, 64 tokens a frame": (
        WanConfig(dim=256, ffn_dim=768, num_heads=4, num_layers=8, text_dim=256, text_len=56),
        16,
        400,
    ),
    "38M, 256 tokens a frame": (
        WanConfig(dim=512, ffn_dim=1536, num_heads=8, num_layers=10, text_dim=256, text_len=56),
        32,
        60,
    ),
}
WINDOW, TOP_K, CHUNK = 3, 5, 3
RECIPE = Recipe.of(steps=4, sampler="renoise", window=WINDOW, top_k=TOP_K)


def against_reference(chunks: int = 16, warm: int = 8, quick: bool = False) -> Iterator[tuple[str, dict[str, float]]]:
    """For each of SHAPES, by name: median seconds of a chunk once all that is to be seen is there, four steps and the writing
    pass, unguided.

    Both in float32 and, where the engine would choose another dtype here, in that one too. `as_run` compares what each
    does on its own: the engine in the dtype that it chooses, the plain rollout in float32. `late_over_early` is of the engine as
    run: a chunk late in a long film over the one after chunk 10; quick: without it.
    """
    for name, (config, side, late) in SHAPES.items():
        out = _compare(config, side, chunks, warm)
        yield name, out if quick else out | {"late": late, "late_over_early": _late_over_early(config, side, late)}


def long_film(chunks: int) -> Sequence[PlannedChunk]:
    """One shot of so many chunks."""
    return plan(Story([Shot("film", frames=Timeline(CHUNK, CHUNK).frames(chunks))])).chunks


def in_turns(make: Callable[[State], Iterator[Chunk]], states: Sequence[State], turns: int = 15) -> list[float]:
    """Median seconds of a chunk from each state, in turns: a machine's moods then touch all alike. The first chunk from a state,
    which also reads the text and gathers what it sees, does not count."""
    times: list[list[float]] = [[] for _ in states]
    for _ in watched(range(turns), "turns"):
        for state, seconds in zip(states, times, strict=True):
            seconds.append([chunk.seconds for chunk in islice(make(state), 2)][1])
    return [statistics.median(seconds) for seconds in times]


def _late_over_early(config: WanConfig, side: int, late: int, early: int = 10) -> float:
    text, network = _text(config), prepare_network(_net(config, pick_dtype(torch.device("cpu"))), "random")
    film = long_film(late + 2)
    make = partial(rollout, network, text_of=lambda shot: text, size=(side, side))
    start = begin(network, RECIPE, MemorySettings(), size=(side, side), seed=0)
    made = watched(make(film[:late], state=start), "a long film", late)
    states = [chunk.state for chunk in made if chunk.index + 1 in (early, late)]
    first, last = in_turns(lambda state: make(film[state.chunks :], state=state), states)
    return round(last / first, 3)


def _compare(config: WanConfig, side: int, chunks: int, warm: int) -> dict[str, float]:
    chosen = pick_dtype(torch.device("cpu"))
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, chosen)}
    streams: dict[str, Iterator[object]] = {}
    for name, dtype in dtypes.items():
        streams[f"engine_{name}"] = _engine(config, side, chunks, dtype)
        streams[f"plain_{name}"] = _plain(config, side, chunks, dtype)
    seconds: dict[str, list[float]] = {name: [] for name in streams}
    for n in watched(range(chunks), "chunks of both"):
        for name, stream in streams.items():
            began = time.perf_counter()
            next(stream)
            if n >= warm:
                seconds[name].append(time.perf_counter() - began)
    out = {name: round(statistics.median(values), 4) for name, values in seconds.items()}
    ratios = {f"times_as_fast_{name}": round(out[f"plain_{name}"] / out[f"engine_{name}"], 2) for name in dtypes}
    return out | ratios | {"times_as_fast_as_run": round(out["plain_float32"] / out[f"engine_{list(dtypes)[-1]}"], 2)}


def _net(config: WanConfig, dtype: torch.dtype) -> CausalWanTransformer:
    torch.manual_seed(0)
    net = CausalWanTransformer(config, dtype=dtype).initialize().eval()
    return net.requires_grad_(False)


def _text(config: WanConfig) -> torch.Tensor:
    return torch.randn(1, config.text_len, config.text_dim, generator=torch.Generator().manual_seed(0))


def _engine(config: WanConfig, side: int, chunks: int, dtype: torch.dtype) -> Iterator[object]:
    text = _text(config)
    network = prepare_network(_net(config, dtype), "random")
    state = begin(network, RECIPE, MemorySettings(), size=(side, side), seed=0)
    return rollout(network, long_film(chunks), lambda shot: text, state, size=(side, side))


def _plain(config: WanConfig, side: int, chunks: int, dtype: torch.dtype) -> Iterator[object]:
    levels = sampling_levels(RECIPE).tolist()[:-1]
    reference = Reference(_net(config, dtype).to(dtype), TOP_K + (WINDOW + 1) * CHUNK)
    return reference.roll(_text(config), [CHUNK] * chunks, [levels] * chunks, (side, side), 0)
