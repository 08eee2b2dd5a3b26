"""A cast in ComfyUI: pictures by name, through the sampler into the film's memory."""

from __future__ import annotations

import pytest
from PIL import Image

from .graphs import film, node
from .server import Refused, Server

OTHER = 3 * 2**16 + 99  # a colour


def with_cast(**sampler) -> dict:
    """Two pictures, 11 and 13, of two sizes; the cast of both, 14; a film 3 and its map 5."""
    graph = film(**sampler)
    graph["11"] = node("EmptyImage", width=80, height=40, batch_size=2, color=OTHER)
    graph["12"] = node("CausalCineCast", image=["11", 0], vae=["1", 2], name="robot", caption="")
    graph["13"] = node("EmptyImage", width=30, height=70, batch_size=1, color=255)
    graph["14"] = node(
        "CausalCineCast", image=["13", 0], vae=["1", 2], name="cat", caption="a blue cat", cast=["12", 0]
    )
    graph["3"]["inputs"]["cast"] = ["14", 0]
    graph["5"]["inputs"]["vae"] = ["1", 2]
    return graph


def test_a_film_with_a_cast_is_another_film_and_its_map_shows_it(server: Server) -> None:
    sizes = []
    for graph in (film(), with_cast()):
        del graph["4"]
        run = server.run(graph)
        assert run.status == "success", run.error
        with Image.open(server.path(run.files("5")[0])) as shown:
            sizes.append(shown.height)
    assert sizes[1] - sizes[0] > 3 * 40, "three pictures, each with a row"


def test_a_chain_keeps_its_cast_and_takes_somebody_new(server: Server) -> None:
    graph = with_cast()
    del graph["4"]
    more = {"model": ["1", 0], "shots": ["2", 0], "seed": 1, "width": 0, "height": 0, "steps": 0, "state": ["3", 1]}
    graph["3"]["inputs"]["cast"] = ["12", 0]
    graph["6"] = node("CausalCineSampler", **more, cast=["14", 0])
    graph["7"] = node("CausalCineSampler", **(more | {"state": ["6", 1]}))
    graph["5"]["inputs"]["state"] = ["7", 1]
    run = server.run(graph)
    assert run.status == "success", run.error
    graph["7"]["inputs"]["cast"] = ["12", 0]  # one is missing
    run = server.run(graph)
    assert run.status == "error"
    assert "the film to continue was made with robot, cat" in run.error


def test_what_is_no_cast_is_refused_in_a_sentence(server: Server) -> None:
    graph = with_cast()
    graph["12"]["inputs"]["name"] = " "
    with pytest.raises(Refused) as refused:
        server.run(graph)
    assert "cast: name is empty" in str(refused.value)
    graph = with_cast()
    graph["14"]["inputs"]["name"] = "robot"
    run = server.run(graph)
    assert run.status == "error"
    assert 'robot has the captions "robot" and "a blue cat"' in run.error


def test_the_template_recalls_its_picture(server: Server, api) -> None:
    graph = api("cast")
    del graph["9"]
    graph["7"]["inputs"]["seconds"] = 0.75
    run = server.run(graph)
    assert run.status == "success", run.error
    assert run.files("10"), "the memory map is shown"
