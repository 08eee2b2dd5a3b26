"""Workers hired through Ray make the film that this process would make."""

from __future__ import annotations

import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from causalcine_core.distributed import serialization
from causalcine_core.distributed.ray_executor import RayExecutor
from causalcine_core.errors import InputError, WorkerLostError
from causalcine_core.memory import MemorySettings, ResolvedMemory
from causalcine_core.sampling import State, begin, rollout

from ..helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 4)
SHOTS = [0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
CHUNKS = planned(len(SHOTS), shots=SHOTS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("crew") / "net.safetensors"
    save_file(dict(tiny_net().state_dict()), path)
    return path


@pytest.fixture(scope="module")
def crew(weights):
    pytest.importorskip("ray")
    hired = RayExecutor(2, "cpu")
    hired.load(weights, TINY, dtype=torch.float32)
    yield hired
    hired.close()
    import ray

    ray.shutdown()


def run(state: State, count: int, crew: RayExecutor | None = None, planned_ahead: int = 0, **options) -> State:
    """`count` more chunks of the film, by the crew or in this process, of which some more are planned."""
    net = replace(network(tiny_net()), crew=crew)
    end = state.chunks + count
    stream = rollout(net, CHUNKS[state.chunks : end + planned_ahead], text, state, size=SIZE, **options)
    while state.chunks < end:
        state = next(stream).state
    return state


def start(crew: RayExecutor | None = None, **recipe) -> State:
    return begin(replace(network(tiny_net()), crew=crew), tiny_recipe(**recipe), MemorySettings(), size=SIZE, seed=3)


def same(one: State, two: State) -> None:
    torch.testing.assert_close(one.film(), two.film(), atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(one.records, two.records, strict=True):
        assert torch.equal(ours.routing, theirs.routing) and ours.plan == theirs.plan


def test_a_crew_makes_the_film_of_this_process_and_keeps_its_memory(crew):
    steps, asked = [], []
    first = run(start(crew), 4, crew, on_step=lambda info: steps.append((info.chunk.index, info.step, info.steps)))
    assert first.memory is None
    assert steps == [(i, step, 2) for i in range(4) for step in (1, 2)]
    ask, crew._ask = crew._ask, lambda name, *given, **kw: asked.append((name, given)) or ask(name, *given, **kw)
    try:
        forks = [run(first, n, crew) for n in (3, 2)]  # each from the workers' memory
    finally:
        del crew._ask
    jobs = [serialization.loads(given[0]) for name, given in asked if name == "begin"]
    assert all(job.known for job in jobs)
    assert all(set(job.texts) == {SHOTS[4], SHOTS[5]} for job in jobs)
    here = run(start(), 4)
    same(first, here)
    same(forks[0], run(here, 3))
    same(forks[1], run(here, 2))


def test_a_state_that_the_workers_do_not_know_is_written_anew(crew, tmp_path):
    here = run(start(), 4)
    here.save(tmp_path / "state", memory=False)
    same(run(State.load(tmp_path / "state"), 2, crew), run(here, 2))


def test_chunks_that_are_made_at_once_are_handed_on(crew):
    recipe = {"sampler": "rolling", "steps": 3}
    first = run(start(crew, **recipe), 4, crew, planned_ahead=3)
    assert [part.passes for part in first.pending] == [2, 1]
    same(run(first, 6, crew), run(start(**recipe), 10))


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_cancelled_chunk_is_lost_and_nothing_else(crew, error):
    first = run(start(crew), 1, crew)

    def cancel(info):
        if info.step == 1 and info.chunk.index == 2:
            raise error

    with pytest.raises(error):
        run(first, 3, crew, on_step=cancel)
    assert crew.at_work
    same(run(first, 3, crew), run(start(), 4))


def test_a_worker_that_dies_is_an_error_at_once_with_the_film_so_far(crew, weights):
    pids = crew._ask("pid")
    died = []

    def kill(info):
        if info.chunk.index == 2 and not died:
            os.kill(pids[1], signal.SIGKILL)
            died.append(time.monotonic())

    with pytest.raises(WorkerLostError, match="went away") as caught:
        run(start(crew), 8, crew, on_step=kill)
    assert time.monotonic() - died[0] < 10
    lost = caught.value.state
    assert 2 <= lost.chunks < 8 and not crew.at_work
    with pytest.raises(WorkerLostError, match="workers are gone"):
        run(lost, 1, crew)
    crew.load(weights, TINY, dtype=torch.float32)
    same(run(lost, 8 - lost.chunks, crew), run(start(), 8))


def test_what_a_crew_cannot_do_is_said_in_a_sentence(crew, weights, monkeypatch):
    with pytest.raises(InputError, match="3 workers cannot share 2 attention heads evenly: start 1, 2"):
        RayExecutor(3, "cpu").load(weights, TINY, dtype=torch.float32)
    with pytest.raises(InputError, match="workers is 0: at least one is needed"):
        RayExecutor(0, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="workers is 2, but there are 1 GPUs here"):
        RayExecutor(2, "cuda")
    bad = replace(start(crew), settings=ResolvedMemory(1, 2, budget=1e-9))
    with pytest.raises(InputError, match=r"memory\.budget is 1e-09 GiB"):
        run(bad, 1, crew)
    assert crew.at_work
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"several workers need Ray, which is not usable here .*: pip install ray"):
        RayExecutor(2, "cpu").load(weights, TINY, dtype=torch.float32)


def test_values_are_read_by_whatever_name_a_process_knows_this_package():
    """As ComfyUI does, which calls a pack by its folder."""
    foreign = pickle.dumps(tiny_recipe(), protocol=2).replace(b"ccausalcine_core", b"c/packs/Cine.causalcine_core")
    assert b"/packs/Cine" in foreign
    assert serialization.loads(foreign) == tiny_recipe()
