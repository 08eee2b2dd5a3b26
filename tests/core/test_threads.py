"""Passes take one thread or all, whichever is faster just now, and no film shows which."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from causalcine_core import Pipeline, Shot, Story
from causalcine_core.model.kernels import sdpa
from causalcine_core.model.transformer import Compute
from causalcine_core.threads import LONG, Choice, Threads, one_thread

MANY = 2
STORY = Story([Shot("a fox runs", frames=21), Shot("in the snow", frames=24)])


@pytest.fixture(autouse=True)
def many_threads(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(MANY)
    yield
    assert torch.get_num_threads() == MANY  # as whoever uses us had set it
    torch.set_num_threads(before)


# --- the choice


PIECE = 1 / 8  # of a pass: what is measured


def cost(choice: Choice, seconds: Callable[[int, int], float], passes: int, kinds: int = 1) -> float:
    """Of so many passes, each `seconds(number, threads)`; kinds take turns and are longer each."""
    whole = 0.0
    for i in range(passes):
        kind = i % kinds

        def measured(count: int, i: int = i) -> float:
            nonlocal whole
            spent = PIECE * seconds(i, count)
            whole += spent
            return spent

        if choice.due:
            choice.settle(measured)
        spent = (1 + kind) * seconds(i, choice.count)
        choice.note(kind, spent)
        whole += spent
    return whole


IDLE = {8: 1.0, 1: 1.34}
BUSY = {8: 3.8, 1: 1.0}
TIMES = {
    "idle": IDLE,
    "busy": BUSY,
    "many cores": {8: 1.0, 1: 6.0},
    "very busy": {8: 20.0, 1: 1.0},
    "alike": {8: 1.0, 1: 1.0},
}


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("passes", [20, 200, 2_000])
def test_no_film_takes_more_than_1_3_of_the_better_way(name, passes, kinds):
    times = TIMES[name]
    best = sum(1 + i % kinds for i in range(passes)) * min(times.values())
    assert cost(Choice(8), lambda _, count: times[count], passes, kinds) <= 1.3 * best


@pytest.mark.parametrize(("first", "then"), [(IDLE, BUSY), (BUSY, IDLE)], ids=["comes", "goes"])
def test_a_neighbour_that_comes_or_goes_is_noticed(first, then):
    choice = Choice(8)
    cost(choice, lambda _, count: first[count], 200)
    assert choice.count == min(first, key=lambda count: first[count])
    cost(choice, lambda _, count: then[count] * 1.1, 50)
    assert choice.count == min(then, key=lambda count: then[count])


def test_one_slow_moment_decides_nothing():
    """The system may take the processor away while something is measured."""
    times = iter([1.3, 1.3, 1.9, 1.3, 1.0, 2.9, 1.0])
    choice = Choice(8)
    choice.settle(lambda count: next(times))
    assert choice.count == 8


# --- the films


@contextmanager
def by_turns(pipe: Pipeline, ways: list[int]):
    """Passes of this pipeline by so many threads, in turns. Gives what was chosen."""

    class Turns(Choice):
        def note(self, kind: object, seconds: float) -> None:
            taken.append(self.count)
            self.count = ways[len(taken) % len(ways)]

        def settle(self, seconds: object) -> None:
            self._cost = 1e9

    taken: list[int] = []
    threads = Threads()
    threads._choices[MANY] = Turns(MANY, ways[0])
    yield replace_threads(pipe, threads), taken


def replace_threads(pipe: Pipeline, threads: Threads) -> Pipeline:
    return Pipeline(replace(pipe.network, threads=threads), pipe.text, pipe.vae, pipe.recipe, pipe.name)


@pytest.mark.parametrize("source", ["tiny", "nano"])
def test_no_film_shows_how_many_threads_made_it(pipe, source):
    """Same seed, same settings, same machine: the same film, whatever else the machine had to do."""
    pipe = pipe if source == "tiny" else Pipeline.from_pretrained("nano", dtype=torch.float32)
    story = STORY if source == "tiny" else Story([Shot("a red fox", frames=21)])
    films = []
    for ways in ([1], [MANY, 1, 1]):
        with by_turns(pipe, ways) as (made_by, taken):
            chunks = list(made_by.stream(story, steps=2, seed=3))
        assert set(taken) == set(ways)
        films.append([(chunk.latent, torch.from_numpy(chunk.frames), chunk.routing) for chunk in chunks])
    if source == "nano":  # nor what PyTorch is set to, where everything is the same for any number
        torch.set_num_threads(1)
        films.append([(c.latent, torch.from_numpy(c.frames), c.routing) for c in pipe.stream(story, steps=2, seed=3)])
        torch.set_num_threads(MANY)
    for film in films[1:]:
        for chunk, expected in zip(film, films[0], strict=True):
            assert all(torch.equal(*both) for both in zip(chunk, expected, strict=True))


def test_where_it_would_show_the_number_stays_as_it_is_set(pipe):
    """A kernel whose sums depend on the number of threads: another processor may have one."""

    def kernel(q, keys, values, mask=None):
        seen.append(torch.get_num_threads())
        return sdpa(q, keys, values, mask) * (1 + 1e-6 * torch.get_num_threads())

    seen: list[int] = []
    network = replace(pipe.network, compute=Compute(kernel), threads=Threads(), fingerprint="another")
    list(Pipeline(network, pipe.text, pipe.vae, pipe.recipe).stream(STORY, seed=3))
    tried = 4 * 2 * 2  # attentions of a first block, by one thread and by all, for each of two or three shapes
    assert seen.count(1) <= tried
    assert set(seen[-20:]) == {MANY}


def test_it_is_tried_once_a_machine(pipe):
    """Beside a busy neighbour a trial takes long."""

    def trial() -> torch.Tensor:
        tried.append(torch.get_num_threads())
        return torch.ones(1)

    tried: list[int] = []
    for _ in range(2):  # as in a new process
        with Threads().followed("x", 0.0, trial):
            pass
    assert tried == [1, MANY]


# --- where it does not meddle


def test_the_setting_is_left_alone(pipe):
    """Between chunks, after an error in a pass, and where the work is long."""
    threads = Threads()
    made_by = replace_threads(pipe, threads)

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    for chunk in made_by.stream(STORY, seed=3):
        assert torch.get_num_threads() == MANY, chunk.index
    with pytest.raises(KeyboardInterrupt):
        list(made_by.stream(STORY, seed=3, on_step=fail))
    assert torch.get_num_threads() == MANY
    with threads.timed("long", 2 * LONG, lambda: pytest.fail("tried")):
        assert torch.get_num_threads() == MANY
    with pytest.raises(ZeroDivisionError), one_thread(torch.device("cpu")):
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    with one_thread(torch.device("cuda")):
        assert torch.get_num_threads() == MANY


@pytest.mark.parametrize(
    "network",
    [
        lambda network: replace(network, threads=Threads(fixed=True)),
        lambda network: replace(network, compute=network.compute.compiled(backend="eager")),
    ],
    ids=["fixed", "compiled"],
)
def test_some_networks_keep_to_the_setting(pipe, network):
    runner = network(replace(pipe.network, threads=Threads()))
    list(Pipeline(runner, pipe.text, pipe.vae, pipe.recipe).stream(Story([Shot("a fox", frames=21)]), seed=3))
    assert not runner.threads._choices


def test_films_side_by_side_leave_the_setting_alone(pipe):
    """PyTorch keeps a part of it for each thread: none may take another one's number for what was set."""
    made, settings = {}, []

    def make(number: int) -> None:
        with by_turns(pipe, [1, MANY] if number else [MANY, 1]) as (made_by, _):
            made[number] = torch.cat([chunk.latent for chunk in made_by.stream(STORY, seed=3)], 2)
        settings.append(torch.get_num_threads())

    workers = [threading.Thread(target=make, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert settings == [MANY] * 3
    assert torch.equal(made[0], made[1])
    assert torch.equal(made[0], made[2])


def test_one_core_has_nothing_to_choose(pipe):
    torch.set_num_threads(1)
    made_by = replace_threads(pipe, Threads())
    list(made_by.stream(Story([Shot("a fox", frames=9)]), seed=3))
    torch.set_num_threads(MANY)
    assert not made_by.network.threads._choices
    assert os.cpu_count()
