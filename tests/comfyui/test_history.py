"""A film that begins with a clip, a picture or another film's LATENT, over the HTTP API."""

from __future__ import annotations

from typing import Any

import imageio_ffmpeg
import pytest
from PIL import Image

from .graphs import film, node
from .server import Server

SIZE = {"upscale_method": "bilinear", "width": 64, "height": 48, "crop": "center"}


def begun(*history: Any, **sampler: Any) -> dict[str, Any]:
    """One shot of two chunks after a history."""
    graph = film(story="a red robot walks", seconds=1.5, **sampler)
    del graph["5"]
    graph["3"]["inputs"]["history"] = list(history)
    return graph


def frames_of(server: Server, run: Any) -> int:
    return imageio_ffmpeg.count_frames_and_secs(str(server.path(run.files("4")[0])))[0]


def test_a_film_goes_on_from_a_latent_as_from_its_own_state(server: Server) -> None:
    """The other film brings its words: what comes after it is what comes after its state."""
    graph = begun("6", 0)
    before = film(story="a blue cat sits\n\na blue cat jumps")
    graph["7"], graph["6"] = before["2"], before["3"]
    graph["6"]["inputs"] |= {"shots": ["7", 0]}
    with_state = {key: value for key, value in graph["3"]["inputs"].items() if key != "history"} | {"state": ["6", 1]}
    graph["8"] = node("CausalCineSampler", **with_state)
    graph["10"] = node("VAEDecode", samples=["3", 0], vae=["1", 2])
    graph["11"] = node("VAEDecode", samples=["8", 0], vae=["1", 2])
    graph["12"] = node("TestCompareImages", a=["10", 0], b=["11", 0])
    run = server.run(graph)
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["12"]["text"][0]) < 1e-4, (
        "but for rounding: a state's newest chunk is written with the next one"
    )
    assert run.history["outputs"]["12"]["text"][3] == "45", "two chunks were given, two made"
    assert frames_of(server, run) == 45


def test_a_clip_and_a_picture_of_any_kind_begin_a_film(server: Server) -> None:
    """VAE Encode of 22 pictures gives 6 latent frames, of one picture one, which is held; the film takes their size."""
    graph = begun("8", 0)
    Image.linear_gradient("L").convert("RGB").save(server.base / "input/gradient.png")
    graph["6"] = node("LoadImage", image="gradient.png")
    graph["7"] = node("ImageScale", image=["6", 0], **SIZE)
    graph["9"] = node("RepeatImageBatch", image=["7", 0], amount=22)
    graph["8"] = node("VAEEncode", pixels=["9", 0], vae=["1", 2])
    run = server.run(graph)
    assert run.status == "success", run.error
    assert frames_of(server, run) == 21 + 24
    assert "history is remembered under the first shot's text: a red robot walks" in str(run.history["outputs"]["3"])
    width, height = imageio_ffmpeg.read_frames(str(server.path(run.files("4")[0]))).__next__()["size"]
    assert (width, height) == (64, 48)
    graph["8"]["inputs"]["pixels"] = ["7", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    assert frames_of(server, run) == 9 + 24
    assert "history is one picture: it is held for 9 frames" in str(run.history["outputs"]["3"])


@pytest.mark.parametrize(
    ("latent", "why"),
    [
        ({"frames": 2}, "history has 2 latent frames (5 pixel frames), but the model's first chunk has 3"),
        ({"channels": 48}, "history has 48 latent channels and the model 16"),
        ({"size": 7}, "history: size 56x56 does not fit"),
        ({"batch": 2}, "history must be the latent of one clip"),
    ],
)
def test_what_is_no_history_is_refused_at_the_sampler(server: Server, latent: dict[str, int], why: str) -> None:
    graph = begun("6", 0)
    graph["6"] = node("TestLatent", **({"frames": 3, "size": 12, "batch": 1} | latent))
    assert why in server.run(graph).error


def test_a_history_and_a_state_at_once_are_refused(server: Server) -> None:
    graph = begun("6", 0)
    graph["6"] = node("TestLatent", frames=3, size=12, batch=1)
    graph["7"] = film(story="one")["3"]
    graph["3"]["inputs"]["state"] = ["7", 1]
    assert "history and state are both what a film goes on from: give one of the two" in server.run(graph).error


def test_a_video_is_made_anew_and_at_strength_1_nothing_is_left_of_it(server: Server) -> None:
    graph = film(story="a red robot walks", seconds=1.5, steps=4)
    del graph["4"], graph["5"]
    for key, strength in (("7", 1.0), ("8", 0.9)):
        graph[key] = node("CausalCineSampler", **(graph["3"]["inputs"] | {"video": ["6", 0], "strength": strength}))
        graph[f"1{key}"] = node("VAEDecode", samples=[key, 0], vae=["1", 2])
        graph[f"2{key}"] = node("TestCompareImages", a=["10", 0], b=[f"1{key}", 0])
    graph["6"] = node("TestLatent", frames=6, size=12, batch=1)
    graph["10"] = node("VAEDecode", samples=["3", 0], vae=["1", 2])
    run = server.run(graph)
    assert run.status == "success", run.error
    outputs = run.history["outputs"]
    assert outputs["27"]["text"][0] == "0.0" and float(outputs["28"]["text"][0]) > 0.01
    assert "video: at strength 0.9 chunks begin at noise level" in str(outputs["8"])
    graph["8"]["inputs"]["strength"] = 0.0
    assert "strength must be a number above 0 and up to 1" in server.run(graph).error
    graph["8"]["inputs"]["strength"] = 0.01
    assert "strength 0.01 leaves no denoising pass" in server.run(graph).error
