"""Films made by workers of Ray, where the ComfyUI has it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file, save_file

from .checkpoint import lora_into, write_gguf
from .conftest import equipped
from .graphs import film, find, node, without_film
from .server import Server, inside, install

TOLERANCE = 1e-4  # of a picture's values, which are the same to 2e-6 (in bfloat16, where rounding adds up, to 1e-2)


@pytest.fixture(scope="module")
def server(main: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own: Ray belongs to the process that began it. In float32, where the order of sums hardly tells."""
    if inside(main, "import ray").returncode:
        pytest.skip(f"WORKERS ARE NOT TESTED in {main.parent}: pip install ray into its environment")
    running = Server(main, equipped(tmp_path_factory.mktemp("workers"), main, weights), "--fp32-unet")
    yield running
    hands = workers(running)
    running.close()
    gone, left = psutil.wait_procs(hands, timeout=30)
    assert not left


def workers(server: Server) -> list[psutil.Process]:
    """The processes of the crew that a server hired."""
    found = []
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # one that has just ended, zombies too
            if "ray::WorkerActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def with_workers(graph: dict[str, Any], count: int = 2) -> dict[str, Any]:
    """The same film, its sampler 3 over a Workers node 10."""
    sampler = graph["3"]["inputs"]
    graph["10"] = node("CausalCineWorkers", model=sampler["model"], workers=count)
    sampler["model"] = ["10", 0]
    return graph


def compared(graph: dict[str, Any], other: str) -> dict[str, Any]:
    """Both films decoded and compared by node 23; sampler 20 is the other one's."""
    graph["20"] = node("CausalCineSampler", **(graph["3"]["inputs"] | {"model": [other, 0]}))
    graph["21"] = node("CausalCineStreamingDecode", samples=["3", 0], vae=["1", 2])
    graph["22"] = node("CausalCineStreamingDecode", samples=["20", 0], vae=["1", 2])
    graph["23"] = node("TestCompareImages", a=["21", 0], b=["22", 0])
    return graph


def test_two_workers_make_the_film_of_one_process_and_stay_for_the_next(server: Server, weights: Path) -> None:
    """With previews; for a LoRA that comes after the node too; and a chain goes on from the workers' memory."""
    run = server.run(compared(with_workers(film()), "1"))
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["23"]["text"][0]) < TOLERANCE
    assert len(run.previews) >= 2
    hands = {process.pid for process in workers(server)}
    assert len(hands) == 2

    held = load_file(weights / "checkpoints/random.safetensors").items()
    network = {name.removeprefix("model.diffusion_model."): tensor for name, tensor in held}
    save_file(lora_into(network), weights / "loras/crew.safetensors")
    graph = with_workers(film())
    for key, source in (("11", "10"), ("12", "1")):
        graph[key] = node("LoraLoaderModelOnly", model=[source, 0], lora_name="crew.safetensors", strength_model=1.0)
    graph["3"]["inputs"]["model"] = ["11", 0]
    run = server.run(compared(graph, "12"))
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["23"]["text"][0]) < TOLERANCE
    assert {process.pid for process in workers(server)} == hands


def test_a_film_of_workers_goes_on_without_them(server: Server) -> None:
    """Its state has no memory, which the next sampler writes anew: as a film that one process made goes on."""
    graph = with_workers(film(seconds=2, seed=11))
    graph["20"] = node("CausalCineSampler", **(graph["3"]["inputs"] | {"model": ["1", 0]}))
    for key, before in (("30", "3"), ("31", "20")):
        graph[key] = node("CausalCineSampler", **(graph["20"]["inputs"] | {"state": [before, 1]}))
        graph[f"{key}.frames"] = node("CausalCineStreamingDecode", samples=[key, 0], vae=["1", 2])
    graph["23"] = node("TestCompareImages", a=["30.frames", 0], b=["31.frames", 0])
    run = server.run(graph)
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["23"]["text"][0]) < TOLERANCE


def test_a_cancel_stops_the_workers_and_they_go_on_with_the_next(server: Server) -> None:
    with server.client() as client:
        prompt = client.queue(with_workers(film(seconds=60, seed=8)))
        next(data for kind, data in client.listen(prompt) if kind == "progress")
        server.post("/interrupt", {})
        assert client.finish(prompt).of("execution_interrupted")
    run = server.run(with_workers(film(seed=9)))
    assert run.status == "success", run.error


def test_a_worker_that_dies_ends_the_run_and_the_film_goes_on_when_it_is_queued_again(server: Server) -> None:
    graph = with_workers(film(seconds=12, seed=10))
    with server.client() as client:
        prompt = client.queue(graph)
        next(data for kind, data in client.listen(prompt) if kind == "progress")
        time.sleep(2)
        os.kill(workers(server)[1].pid, signal.SIGKILL)
        killed = time.monotonic()
        run = client.finish(prompt)
    assert time.monotonic() - killed < 10
    assert run.status == "error"
    assert re.search(
        r"chunks are kept as CausalCine_\d+_.state \[temp\]: queue the same again and it goes on from there", run.error
    )
    run = server.run(compared(graph, "1"))
    assert run.status == "success", run.error
    assert any("chunks that were made before" in text for text in run.texts)
    assert float(run.history["outputs"]["23"]["text"][0]) < TOLERANCE


@pytest.mark.parametrize("kind", ["fp8", "stock fp8", "gguf"])
def test_workers_take_weights_of_every_kind(
    server: Server, main: Path, weights: Path, graph: dict[str, Any], kind: str
) -> None:
    """Of our loader and of stock ones. Those of GGUF files, which only their own layers can read, are refused by name."""
    name, loader = "causal_wan_1.3b.safetensors", graph[find(graph, "CausalCineModelLoader")]
    if kind == "gguf":
        if not (main.parent / "custom_nodes/ComfyUI-GGUF").is_dir():
            pytest.skip("ComfyUI-GGUF is not installed there")
        write_gguf(main, weights / "diffusion_models/workers.gguf", weights / f"diffusion_models/{name}")
        loader |= node("UnetLoaderGGUF", unet_name="workers.gguf")
    elif kind == "fp8":
        loader["inputs"]["dtype"] = "fp8_e4m3fn"
    else:
        loader |= node("UNETLoader", unet_name=name, weight_dtype="fp8_e4m3fn")
    sampler = graph[find(graph, "CausalCineSampler")]
    graph["80"] = node("CausalCineWorkers", model=sampler["inputs"]["model"], workers=2)
    graph["81"] = node("CausalCineSampler", **(sampler["inputs"] | {"model": ["80", 0]}))
    for key, source in (("82", find(graph, "CausalCineSampler")), ("83", "81")):
        graph[key] = node("CausalCineStreamingDecode", samples=[source, 0], vae=sampler["inputs"]["vae"])
    graph["84"] = node("TestCompareImages", a=["82", 0], b=["83", 0])
    run = server.run(without_film(graph))
    if kind == "gguf":
        assert "GGUF" in run.error, run.error
    else:
        assert run.status == "success", run.error
        assert float(run.history["outputs"]["84"]["text"][0]) < TOLERANCE


def test_workers_go_when_comfyui_is_asked_to_free_its_memory(server: Server) -> None:
    """And come back with the next film."""
    graph = with_workers(film(seed=11))
    assert server.run(graph).status == "success"
    hands = workers(server)
    assert len(hands) == 2
    server.post("/free", {"unload_models": True, "free_memory": True})
    gone, left = psutil.wait_procs(hands, timeout=30)
    assert not left
    graph["3"]["inputs"]["seed"] = 12
    assert server.run(graph).status == "success"


def test_more_workers_than_heads_divide_by_are_refused(server: Server) -> None:
    run = server.run(with_workers(film(), count=3))
    assert "3 workers cannot share 2 attention heads evenly: start 1, 2" in run.error


def test_without_ray_the_error_says_what_to_install(main: Path, tmp_path: Path) -> None:
    pack = install(tmp_path)
    code = f"""
import asyncio, sys
import utils.extra_config, nodes
sys.modules["ray"] = None
asyncio.run(nodes.load_custom_node({str(pack)!r}))
crew = next(module for name, module in sys.modules.items() if name.endswith("executors.ray_executor"))
config = next(module for name, module in sys.modules.items() if name.endswith("causalcine_core.model")).WanConfig
import torch
try:
    crew.RayExecutor(2, "cpu").load("none", config(dim=256, ffn_dim=256, num_heads=2, num_layers=1), dtype=torch.float32)
except ValueError as error:
    print("SAID", error)
"""
    ran = inside(main, code)
    assert "SAID several workers need Ray, which is not usable here" in ran.stdout, ran.stderr[-2000:]
    assert "pip install ray" in ran.stdout
