"""On a GPU, as far as that can be told without one: see `gpu.py`."""

from __future__ import annotations

import gc
import mmap
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from benchmarks.shapes import DECODERS, measure_shape
from causalcine_core import MemorySettings, Pipeline, Shot, State, Story
from causalcine_core.memory import STORAGES
from causalcine_core.runner import Runner
from causalcine_core.sampling import begin, rollout

from ..gpu import GPU, pretended_gpu
from ..helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 4)
SETTINGS = MemorySettings(1, 2)
VARIANTS = {
    "plain": (SETTINGS, {}),
    "8bit": (replace(SETTINGS, storage="8bit"), {}),
    "host": (replace(SETTINGS, storage="host"), {}),
    "host_8bit": (replace(SETTINGS, storage="host_8bit"), {}),
    "budget": (replace(SETTINGS, storage="host", budget=0.0005), {}),
    "first step": (replace(SETTINGS, routing="first_step"), {}),
    "one choice": (replace(SETTINGS, routing="rag", storage="8bit"), {}),
    "by place": (replace(SETTINGS, routing="even", storage="host"), {}),
    "no memory": (MemorySettings(1, 0), {}),
    "guided": (SETTINGS, {"guidance": 3.0}),
    "unipc": (SETTINGS, {"sampler": "unipc"}),
    "rolling": (SETTINGS, {"sampler": "rolling"}),
    "recomputed": (SETTINGS, {"recompute": True}),
    "turned": (SETTINGS, {"shot_angle": 0.2, "sink": 1}),
    "cut": (SETTINGS, {"cut": "flush+rope_jump+pinned"}),
}


def made(maker: Runner, settings: MemorySettings, chunks: int = 8, state: State | None = None, **recipe) -> State:
    """A film of two-chunk shots, or the rest of it."""
    state = state or begin(maker, tiny_recipe(**recipe), settings, size=SIZE, seed=1)
    film = planned(chunks, shots=[i // 2 for i in range(chunks)])[state.chunks :]
    film = [replace(chunk, cut=state.recipe.cut.mode, take=chunk.index // 2 * 2) for chunk in film]
    for chunk in rollout(maker, film, text, state, size=SIZE, negative=text(99)):
        state = chunk.state
    return state


def largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max())


def on_gpu(layers: int = TINY.num_layers) -> Runner:
    return network(tiny_net(config=replace(TINY, num_layers=layers)).to(GPU))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_film_of_a_gpu_is_that_of_a_cpu(variant):
    """Nothing of another device is in any operation, and nothing is read before it has arrived."""
    settings, recipe = VARIANTS[variant]
    expected = made(network(tiny_net()), settings, **recipe)
    with pretended_gpu():
        state = made(on_gpu(), settings, **recipe)
    assert largest(state.film() - expected.film()) < 1e-3
    assert all(
        torch.equal(*(one.routing for one in both)) for both in zip(state.records, expected.records, strict=True)
    )


@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if name not in ("host", "host_8bit", "budget", "rolling")]
)
def test_no_pass_is_waited_for(variant):
    """Between the first pass of a chunk and its last the host only hands out work: neither steps nor layers add a wait."""
    settings, recipe = VARIANTS[variant]

    def waits(steps: int, layers: int) -> int:
        with pretended_gpu() as gpu:
            maker = on_gpu(layers)
            gpu.waits.clear()
            made(maker, settings, steps=steps, **recipe)
        return gpu.waits.total()

    few = waits(4, 2)
    assert 0 < few == waits(8, 2) == waits(4, 3)


def test_pinned_memory_is_whole_pages_and_is_let_go_of():
    """Pages of its own: one that is locked twice is refused. What the driver refuses is used as it is."""
    settings, _ = VARIANTS["host"]
    expected = made(network(tiny_net()), settings).film()
    with pretended_gpu() as gpu:
        state = made(on_gpu(), settings)
        locked = [call.args for call in gpu.driver.cudaHostRegister.call_args_list]
        assert len(locked) == 2 * TINY.num_layers
        assert all(start % mmap.PAGESIZE == size % mmap.PAGESIZE == 0 for start, size, _ in locked)
        assert all(end <= start for (_, end), (start, _) in pairwise(sorted((a, a + n) for a, n, _ in locked)))
        assert not gpu.driver.cudaHostUnregister.called
        del state
        gc.collect()
        assert {call.args[0] for call in gpu.driver.cudaHostUnregister.call_args_list} == {
            start for start, *_ in locked
        }

        gpu.driver.cudaHostRegister.return_value = 712  # already registered
        gpu.driver.cudaHostUnregister.reset_mock()
        assert largest(made(on_gpu(), settings).film() - expected) < 1e-3
        gc.collect()
        assert not gpu.driver.cudaHostUnregister.called


@pytest.mark.parametrize("storage", STORAGES)
def test_a_film_goes_on_from_a_file_on_another_device(storage, tmp_path):
    """Begun on a GPU, kept, and continued on a CPU; and the other way round."""
    settings = replace(SETTINGS, storage=storage)
    whole = made(network(tiny_net()), settings, chunks=8).film()

    def half(maker: Runner, name: str) -> None:
        made(maker, settings, chunks=5).save(tmp_path / name)

    def rest(maker: Runner, name: str) -> torch.Tensor:
        return made(maker, settings, chunks=8, state=State.load(tmp_path / name, device=maker.device)).film()

    half(network(tiny_net()), "cpu")
    with pretended_gpu():
        half(on_gpu(), "gpu")
        assert largest(rest(on_gpu(), "cpu") - whole) < 1e-3
    assert largest(rest(network(tiny_net()), "gpu") - whole) < 1e-3


def test_a_pipeline_on_a_gpu_writes_the_same_film(checkpoint, tmp_path):
    """Text, network and VAE; each chunk is decoded beside the next one."""
    story = Story([Shot("a fox runs", seconds=2.0), Shot("in the snow", seconds=2.0)])
    films = []
    for device in ("cpu", "cuda"):
        with pretended_gpu() if device == "cuda" else nullcontext():
            pipe = Pipeline.from_pretrained(checkpoint, device=device, dtype=torch.float32, attention="sdpa")
            video = pipe.generate(story, seed=3, output=tmp_path / f"{device}.mp4")
            chunks = list(pipe.stream(story, seed=3, overlap=device == "cuda"))
        assert video.report["frames"] == sum(len(chunk.frames) for chunk in chunks)
        films.append(np.concatenate([chunk.frames for chunk in chunks]))
    there, here = (film.astype(int) for film in films)
    assert largest(torch.from_numpy(there - here)) <= 1


@pytest.mark.parametrize(
    ("decoder", "storage"), [(DECODERS[0], "full"), (DECODERS[0], "host_8bit"), (DECODERS[1], "host")]
)
def test_real_shapes_can_be_measured(decoder, storage):
    """The command of docs/performance.md, with few layers and a small picture: every decoder, frames on the device and on the host. It
    is a network 1,536 wide, so that a case takes half a minute."""
    with pretended_gpu():
        out = measure_shape(
            "1.3b",
            device="cuda",
            dtype=torch.float32,
            attention="sdpa",
            decoder=decoder,
            size=(32, 32),
            chunks=6,
            layers=1,
            memory=MemorySettings(storage=storage),
        )
    assert out["device"] == "a pretended GPU"
    assert out["peak_device_gib"] == 0
