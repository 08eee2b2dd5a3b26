"""What films hold between two prompts, and who lets go of it: in each way in which either ComfyUI keeps results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import equipped
from .graphs import film, node
from .server import Server

NOTHING = {"states": 0, "stores": 0, "bytes": 0, "slots": 0}


def held(server: Server) -> dict[str, int]:
    """States, stores, their bytes and slots that are alive."""
    time.sleep(0.3)  # ComfyUI lets go of the last inputs after it has answered
    return server.get("/test_memory")


def freed(server: Server, **what: bool) -> dict[str, int]:
    """The same after Free Memory, of which ComfyUI's own caches are garbage that is to be collected yet."""
    server.post("/free", what or {"unload_models": True, "free_memory": True})
    for _ in range(20):
        time.sleep(0.5)
        count = server.get("/test_memory?collect=1")
        if not count["stores"]:
            break
    return count


def makes(server: Server, graph: dict[str, Any]) -> set[str]:
    """Runs a graph; the nodes of it that were not run again."""
    run = server.run(graph)
    assert run.status == "success", run.error
    return run.cached


def one(seed: int) -> dict[str, Any]:
    """A film that nobody saves: loader 1, shots 2, sampler 3, map 5."""
    graph = film(story="a red robot walks", seconds=1.5, seed=seed, steps=1)
    del graph["4"]
    return graph


def takes(*seeds: int) -> dict[str, Any]:
    """The same, and of its state a take of another shot for each seed: samplers 10, 11, ..."""
    graph = one(7)
    graph["6"] = node("CausalCineShot", clip=["1", 1], prompt="a blue cat sits", seconds=1.5)
    for i, seed in enumerate(seeds):
        start = graph["3"]["inputs"] | {"shots": ["6", 0], "seed": seed, "state": ["3", 1]}
        graph[str(10 + i)] = node("CausalCineSampler", **start)
        graph[str(20 + i)] = node("CausalCineMemoryMap", state=[str(10 + i), 1])
    return graph


@pytest.fixture
def empty(server: Server) -> Server:
    """The server, with nothing in its caches."""
    assert freed(server) == NOTHING
    return server


def test_two_takes_of_one_state_hold_what_is_before_them_once(empty: Server) -> None:
    makes(empty, one(7))
    before = held(empty)["bytes"]
    makes(empty, takes(1))
    first = held(empty)["bytes"]
    assert {"3", "10"} <= makes(empty, takes(1, 2))
    count = held(empty)
    assert count["stores"] == 1
    assert 0 < count["bytes"] - first < 1.3 * (first - before)


def test_a_take_that_is_dropped_gives_its_memory_back(empty: Server) -> None:
    """To the next take; or, where another film is made, to whoever wants it."""
    makes(empty, takes(1, 2))
    two = held(empty)
    assert "3" in makes(empty, takes(3))
    dropped = held(empty)
    assert dropped["slots"] < two["slots"] and dropped["bytes"] <= two["bytes"]
    makes(
        empty,
        one(7)
        | {"8": node("CausalCineSampler", **one(8)["3"]["inputs"]), "9": node("CausalCineMemoryMap", state=["8", 1])},
    )
    alone = held(empty)
    assert alone["stores"] == 2 and alone["bytes"] <= two["bytes"], "the first shrank before the second was made"


def test_free_memory_frees_states_and_the_next_film_is_the_same(empty: Server) -> None:
    """Unloading models alone does not touch them: a take goes on from them."""
    graph = takes(1)
    graph["30"] = node("CausalCineSaveVideo", samples=["10", 0], vae=["1", 2], fps=0.0, filename_prefix="free/take")
    first = empty.run(graph)
    empty.post("/free", {"unload_models": True})
    assert "3" in makes(empty, takes(2))
    assert freed(empty, free_memory=True) == NOTHING
    again = empty.run(graph)
    assert not again.cached & {"3", "10"}
    films = [empty.path(run.files("30")[0]).read_bytes() for run in (first, again)]
    assert films[0] == films[1]


def test_films_come_and_go_and_nothing_is_left_of_them(empty: Server) -> None:
    """C57: also of one that fails, whose error ComfyUI keeps."""
    for seed in range(4):
        makes(empty, one(seed))
    failing = one(5)
    failing["6"] = node("CausalCineSampler", **failing["3"]["inputs"] | {"width": 112, "state": ["3", 1]})
    failing["7"] = node("CausalCineMemoryMap", state=["6", 1])
    run = empty.run(failing)
    assert "width" in run.error
    assert len(str(run.history["status"]["messages"])) < 20_000, "a state in the message is told in a few words"
    count = held(empty)
    assert count["stores"] == 1 and count["states"] <= 2


def test_the_ram_cache_lets_go_of_states_where_a_film_needs_their_memory(empty: Server) -> None:
    """Of those that the running prompt has done with; the film that is made again is the same."""
    if empty.version.startswith("0.3."):
        pytest.skip("this ComfyUI has no such cache")
    graph = one(7)
    graph["4"] = node("CausalCineSaveVideo", samples=["3", 0], vae=["1", 2], fps=0.0, filename_prefix="short/film")
    first = empty.run(graph)
    other = graph | {
        "8": node("CausalCineSampler", **one(8)["3"]["inputs"]),
        "9": node("CausalCineMemoryMap", state=["8", 1]),
    }
    empty.post("/test_shortage", {"bytes": int(1.5 * held(empty)["bytes"])})
    try:
        run = empty.run(other)
        assert run.status == "success", run.error
        assert held(empty)["stores"] <= 1
    finally:
        empty.post("/test_shortage", {"bytes": None})
    again = empty.run(graph)
    assert "3" not in again.cached
    films = [empty.path(run.files("4")[0]).read_bytes() for run in (first, again)]
    assert films[0] == films[1]


@pytest.fixture(params=["--cache-lru 5", "--cache-none", "--cache-classic"])
def caching(request: pytest.FixtureRequest, main: Path, weights: Path, tmp_path: Path) -> Iterator[Server]:
    """A server that keeps results in one of ComfyUI's other ways."""
    running = Server(main, equipped(tmp_path, main, weights), *request.param.split())
    running.caching = request.param
    try:
        yield running
    finally:
        running.close()


def test_states_live_as_long_as_results_are_kept(caching: Server) -> None:
    for seed in range(4):
        makes(caching, one(seed))
    stores = {"--cache-none": 0, "--cache-classic": 1}.get(caching.caching, 3)
    assert held(caching)["stores"] <= stores
    if caching.caching != "--cache-none":
        assert "3" in makes(caching, one(3))
    makes(caching, takes(1))
    assert freed(caching, free_memory=True) == NOTHING
