"""Workers hired through Ray make the film that this process would make."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from causalcine_core.errors import InputError, NotFiniteError, WorkerLostError
from causalcine_core.executors import Executor, Job, LocalExecutor, serialization
from causalcine_core.executors.ray_executor import RayExecutor
from causalcine_core.executors.worker import Task
from causalcine_core.memory import MemorySettings, RemoteMemory, ResolvedMemory
from causalcine_core.references import reference
from causalcine_core.sampling import State, begin

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


def here() -> LocalExecutor:
    """This process."""
    return LocalExecutor(network(tiny_net()))


def run(state: State, count: int, executor: Executor, planned_ahead: int = 0, on_step=None) -> State:
    """`count` more chunks of the film, of which some more are planned."""
    end = state.chunks + count
    job = Job(replace(state, planned=tuple(CHUNKS[state.chunks : end + planned_ahead])), text)
    stream = executor.run(job, on_step)
    while state.chunks < end:
        state = next(stream).state
    return state


def start(**recipe) -> State:
    return begin(here().runner, tiny_recipe(**recipe), MemorySettings(), size=SIZE, seed=3, here=False)


def same(one: State, two: State) -> None:
    torch.testing.assert_close(one.film(), two.film(), atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(one.records, two.records, strict=True):
        assert torch.equal(ours.routing, theirs.routing) and ours.plan == theirs.plan


@contextlib.contextmanager
def told(crew: RayExecutor) -> Iterator[list[Task]]:
    """What the workers are given to make."""
    tasks, ask = [], crew._ask

    def asked(name, *given, **named):
        if name == "begin":
            tasks.append(serialization.loads(given[0]))
        return ask(name, *given, **named)

    crew._ask = asked
    try:
        yield tasks
    finally:
        del crew._ask


def test_a_crew_makes_the_film_of_this_process_and_its_memory_is_found_by_its_id(crew, tmp_path):
    """Again and again, from one state or several, and from a file that was written of it."""
    steps = []
    first = run(start(), 4, crew, on_step=lambda info: steps.append((info.chunk.index, info.step, info.steps)))
    assert isinstance(first.memory, RemoteMemory) and crew.holds(first.memory.id)
    assert steps == [(i, step, 2) for i in range(4) for step in (1, 2)]
    first.save(tmp_path / "state")
    read = State.load(tmp_path / "state")
    assert read.memory == first.memory
    with told(crew) as tasks:
        forks = [run(state, n, crew) for state, n in ((first, 3), (first, 2), (read, 2))]
    assert all(task.state.memory == first.memory for task in tasks)
    assert all(
        set(task.texts) == {SHOTS[4], SHOTS[5]} for task in tasks
    )  # the newest chunk's, which is not written yet
    alone = run(start(), 4, here())
    same(first, alone)
    for fork in forks:
        same(fork, run(alone, fork.chunks - 4, here()))
    assert len({fork.memory for fork in forks}) == 3 and all(crew.holds(fork.memory.id) for fork in forks)


def test_a_cast_is_remembered_by_the_crew(crew):
    """From the first chunk, and of somebody who comes later."""
    pictures = [torch.randn(1, 16, 1, *SIZE, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    cast = tuple(reference(f"who {i}", picture) for i, picture in enumerate(pictures))
    begun = replace(start(top_k=9), references=cast[:1])
    films = []
    for executor in (crew, here()):
        first = run(begun, 3, executor)
        films.append(run(replace(first, references=cast), 2, executor))
    same(*films)
    assert {-2, -3} <= {int(number) for number in films[0].records[-1].recalled.flatten()}


def test_a_memory_that_is_not_here_is_written_anew(crew, tmp_path):
    """That of this process, of a file without one, of a crew that is gone; and one of the crew, in this process."""
    alone = run(start(), 4, here())
    alone.save(tmp_path / "state", memory=False)
    forgotten = replace(alone, memory=RemoteMemory.new())
    assert not crew.holds(forgotten.memory.id)
    expected = run(alone, 2, here())
    for state in (alone, State.load(tmp_path / "state"), forgotten):
        same(run(state, 2, crew), expected)
    same(run(run(start(), 4, crew), 2, here()), expected)


def test_two_takes_at_once_take_turns(crew):
    first = run(start(), 2, crew)
    seeds, films = (5, 6), {}

    def make(seed: int) -> None:
        films[seed] = run(replace(first, seed=seed), 4, crew)

    threads = [threading.Thread(target=make, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        same(films[seed], run(replace(run(start(), 2, here()), seed=seed), 4, here()))


def test_chunks_that_are_made_at_once_are_handed_on(crew):
    recipe = {"sampler": "rolling", "steps": 3}
    first = run(start(**recipe), 4, crew, planned_ahead=3)
    assert [part.passes for part in first.pending] == [2, 1]
    same(run(first, 6, crew), run(start(**recipe), 10, here()))


def test_under_a_budget_what_a_film_goes_on_from_is_not_held_beside_it(crew):
    settings = ResolvedMemory(1, 2, budget=30 * 3 * 2 * 96 * 4 * 4 / 2**30)
    state = run(replace(start(), settings=settings), 3, crew)
    after = run(state, 3, crew)
    assert crew.holds(after.memory.id) and not crew.holds(state.memory.id)
    same(after, run(replace(start(), settings=settings), 6, here()))


def test_numbers_that_are_none_end_the_film_and_not_the_crew(crew):
    first = run(start(), 2, crew)
    with pytest.raises(NotFiniteError, match=r"chunk 2 .*holds numbers that are none") as caught:
        run(replace(first, memory=None, latents=(first.latents[0], first.latents[1] * float("nan"))), 2, crew)
    assert caught.value.state.chunks == 2 and crew.at_work


@pytest.mark.parametrize("error", [KeyboardInterrupt, InputError])
def test_a_cancelled_chunk_is_lost_and_nothing_else(crew, error):
    first = run(start(), 1, crew)

    def cancel(info):
        if info.step == 1 and info.chunk.index == 2:
            raise error

    with pytest.raises(error):
        run(first, 3, crew, on_step=cancel)
    assert crew.at_work
    same(run(first, 3, crew), run(start(), 4, here()))


def test_a_worker_that_dies_is_an_error_at_once_with_the_film_so_far(crew, weights):
    pids = crew._ask("pid")
    died = []

    def kill(info):
        if info.chunk.index == 2 and not died:
            os.kill(pids[1], signal.SIGKILL)
            died.append(time.monotonic())

    with pytest.raises(WorkerLostError, match="went away") as caught:
        run(start(), 8, crew, on_step=kill)
    assert time.monotonic() - died[0] < 10
    lost = caught.value.state
    assert 2 <= lost.chunks < 8 and not crew.at_work and not crew.holds(lost.memory.id)
    with pytest.raises(WorkerLostError, match="workers are gone"):
        run(lost, 1, crew)
    crew.load(weights, TINY, dtype=torch.float32)
    same(run(lost, 8 - lost.chunks, crew), run(start(), 8, here()))


def test_what_a_crew_cannot_do_is_said_in_a_sentence(crew, weights, monkeypatch):
    with pytest.raises(InputError, match="3 workers cannot share 2 attention heads evenly: start 1, 2"):
        RayExecutor(3, "cpu").load(weights, TINY, dtype=torch.float32)
    with pytest.raises(InputError, match="workers is 0: at least one is needed"):
        RayExecutor(0, "cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="workers is 2, but there are 1 GPUs here"):
        RayExecutor(2, "cuda")
    bad = replace(start(), settings=ResolvedMemory(1, 2, budget=1e-9))
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
