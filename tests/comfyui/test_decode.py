"""C16: our decode against ComfyUI's, for the built-in kind of VAE and for Wan 2.1's."""

from __future__ import annotations

import pytest

from .graphs import compared, film, node
from .server import Server

OURS = node("CausalCineCheckpointLoader", checkpoint="random.safetensors"), 2
WAN = node("VAELoader", vae_name="wan_2.1_vae.safetensors"), 0
TILES = {"kind": "VAEDecodeTiled", "tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}


def difference(server: Server, graph: dict) -> list[float]:
    run = server.run(graph)
    assert run.status == "success", run.error
    text = run.history["outputs"]["5"]["text"]
    assert not text[0].startswith("shapes"), text
    return [float(value) for value in text]


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_streaming_decode_is_whole_decode(server: Server, frames: int) -> None:
    largest, _, _, count = difference(server, compared(node("TestLatent", frames=frames, size=12, batch=1), *OURS))
    assert largest < 1 / 255 and count == 4 * frames - 3


@pytest.mark.parametrize("frames", [1, 2, 5, 6])
def test_streaming_decode_of_wan_is_comfyuis(server: Server, frames: int) -> None:
    largest, _, _, count = difference(server, compared(node("TestLatent", frames=frames, size=2, batch=1), *WAN))
    assert largest < 1 / 255 and count == 4 * frames - 3


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_streaming_decode_of_wan22_is_comfyuis(server: Server, frames: int) -> None:
    latent = node("TestLatent", frames=frames, size=2, batch=1, channels=48)
    largest, mean, level, count = difference(server, compared(latent, node("TestWan22VAE"), 0))
    assert largest < 1 / 255 and count == 4 * frames - 3 and 0 < level < 1


def test_a_vae_of_other_latents_is_named(server: Server) -> None:
    graph = film(story="a red robot walks")
    graph["6"] = node("TestLatent", frames=2, size=2, batch=1, channels=48)
    graph["4"]["inputs"]["samples"] = ["6", 0]
    assert "load Wan 2.2's VAE" in server.run(graph).error


def test_a_batch_is_decoded_film_by_film(server: Server) -> None:
    largest, *_, count = difference(server, compared(node("TestLatent", frames=3, size=4, batch=2), *OURS))
    assert largest < 1 / 255 and count == 18


def test_stock_tiled_decode_gives_all_frames(server: Server) -> None:
    graph = compared(node("TestLatent", frames=18, size=8, batch=1), *OURS, **TILES)
    *_, count = difference(server, graph)
    assert count == 69


def test_vae_encode_and_back(server: Server) -> None:
    graph = compared(node("TestLatent", frames=3, size=12, batch=1), *OURS)
    graph["6"] = node("VAEEncode", pixels=["3", 0], vae=["2", 2])
    graph["7"] = node("CausalCineStreamingDecode", samples=["6", 0], vae=["2", 2])
    graph["5"]["inputs"]["b"] = ["7", 0]
    *_, count = difference(server, graph)
    assert count == 9


def test_a_vae_of_another_kind_is_named(server: Server) -> None:
    graph = film(story="a red robot walks")
    graph["6"] = node("EmptyLatentImage", width=96, height=96, batch_size=1)
    graph["4"]["inputs"]["samples"] = ["6", 0]
    error = server.run(graph).error
    assert "CausalCine Sampler" in error and "samples" in error
