"""What goes wrong outside a film is one sentence that names it, at the time when it can first be known."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from safetensors.torch import save_file

from .graphs import film, node, saved
from .server import Refused, Server, inside, install


def whole(server: Server) -> dict[str, Any]:
    """A graph with each of our nodes; the film of graphs.film among them."""
    graph = film()
    graph["6"] = node("CausalCineShot", clip=["1", 1], prompt="a red robot", seconds=1.0)
    graph["7"] = node("CausalCineMemory", window=-1, top_k=-1)
    graph["8"] = node("CausalCineRecipe", model=["1", 0], family="as the model", chunk=0, steps=0, shift=0.0, sampler="as the model",
                      guidance=-1.0, window=-1, top_k=-1, negative="")  # fmt: skip
    graph["9"] = node("CausalCineWorkers", model=["8", 0], workers=0)
    graph["10"] = node(
        "CausalCineSampler", **graph["3"]["inputs"] | {"model": ["9", 0], "shots": ["6", 0], "memory": ["7", 0]}
    )
    graph["11"] = node("CausalCineStreamingDecode", samples=["10", 0], vae=["1", 2])
    graph["12"] = node("PreviewImage", images=["11", 0])
    name = "causal_wan_1.3b.safetensors"
    graph["13"] = node("CausalCineModelLoader", model_name=name, dtype="default", attention="auto")
    graph["14"] = node("CausalCineSampler", **graph["3"]["inputs"] | {"model": ["13", 0]})
    graph["15"] = node("CausalCineMemoryMap", state=["14", 1])
    return graph


def only(graph: dict[str, Any], key: str) -> dict[str, Any]:
    """What a node needs, and the outputs that need it: without others, of which ComfyUI would run what it can."""

    def needs(start: str) -> set[str]:
        links = [value[0] for value in graph[start]["inputs"].values() if isinstance(value, list)]
        return {start}.union(*map(needs, links))

    outputs = [out for out in ("4", "5", "12", "15") if key in needs(out)]
    kept = set().union(*map(needs, outputs))
    return {name: entry for name, entry in graph.items() if name in kept}


def refused(server: Server, graph: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The errors of each node of a graph that is not queued."""
    with pytest.raises(Refused) as answer:
        server.run(graph)
    return {key: entry["errors"] for key, entry in answer.value.answer["node_errors"].items()}


@pytest.mark.parametrize("key", ["1", "2", "3", "4", "5", "6", "7", "8", "9", "11", "13"])
def test_a_link_into_an_input_that_is_no_more_is_named_before_anything_runs(server: Server, key: str) -> None:
    graph = whole(server)
    graph[key]["inputs"]["gone"] = ["16", 0]
    graph["16"] = node("TestLatent", frames=1, size=12, batch=1)
    errors = refused(server, only(graph, key))[key]
    sentence = "gone is no input of this version's CausalCine "
    assert all(sentence in error["details"] for error in errors)
    assert "gone" in {error["extra_info"]["input_name"] for error in errors} and len(errors) <= 5
    assert "CausalCine" in errors[0]["details"] and "Traceback" not in errors[0]["details"]


@pytest.mark.parametrize(
    ("key", "field", "value"),
    [
        ("1", "checkpoint", 5),
        ("13", "model_name", 5),
        ("13", "attention", 3.0),
        ("13", "dtype", "fp12"),
        ("13", "family", 0),
        ("8", "sampler", "zzz"),
        ("8", "cut", 4),
        ("8", "chunk", "euler"),
        ("7", "storage", 1),
        ("7", "window", "every_step"),
        ("3", "width", 123456),
        ("3", "height", -16),
        ("3", "seed", "fixed"),
        ("4", "fps", "video"),
        ("4", "fps", 5000),
        ("2", "seconds", -1),
        ("6", "seconds", "native"),
    ],
)
def test_values_of_other_fields_are_named_before_anything_runs(
    server: Server, key: str, field: str, value: object
) -> None:
    graph = whole(server)
    graph[key]["inputs"][field] = value
    errors = refused(server, only(graph, key))[key]
    for error in errors:
        assert error["type"] != "exception_during_inner_validation"
        assert field in error["details"], error
        assert len(error["details"]) < 900, "one sentence, at most with every choice there is"


def test_a_checkpoint_and_a_model_may_come_by_a_link(server: Server) -> None:
    graph = film(story="a red robot walks")
    graph["6"] = node("TestChoice", value="random.safetensors")
    graph["1"]["inputs"]["checkpoint"] = ["6", 0]
    graph["7"] = node("TestChoice", value="wan/tiny.safetensors")
    graph["8"] = node("CausalCineModelLoader", model_name=["7", 0], dtype="default", attention="auto")
    graph["9"] = node("TestTextEncoder")
    graph["10"] = node("CausalCineShot", clip=["9", 0], prompt="a red robot", seconds=0.5)
    small = {"model": ["8", 0], "shots": ["10", 0], "width": 32, "height": 32, "steps": 1}
    graph["11"] = node("CausalCineSampler", **graph["3"]["inputs"] | small)
    graph["12"] = node("CausalCineMemoryMap", state=["11", 1])
    run = server.run(graph)
    assert run.status == "success", run.error
    graph["6"]["inputs"]["value"] = "gone.safetensors"
    assert "checkpoint 'gone.safetensors' is not in models/checkpoints" in server.run(graph).error


def test_a_film_whose_file_was_deleted_is_written_again(server: Server) -> None:
    """And nothing is made again for it; while the file is there, nothing at all."""
    graph = film(story="a red robot walks", seed=18)
    graph["4"]["inputs"]["filename_prefix"] = "video/deleted"
    graph["6"] = copy.deepcopy(graph["4"])
    graph["6"]["inputs"]["fps"] = 24.0  # another file of the same name
    first = server.run(graph)
    assert first.status == "success", first.error
    assert {"3", "4", "6"} <= server.run(graph).cached
    for _ in range(2):
        (file,) = server.run(graph).files("4")
        server.path(file).unlink()
        again = server.run(graph)
        assert again.status == "success", again.error
        assert {"1", "2", "3", "6"} <= again.cached and "4" not in again.cached
        assert server.path(again.files("4")[0]).is_file()
        assert {"3", "4", "6"} <= server.run(graph).cached


def test_an_encoder_that_is_missing_is_named_before_anything_runs(server: Server) -> None:
    server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": "/nowhere/ffmpeg"})
    try:
        (error,) = refused(server, saved("video/mine"))["3"]
    finally:
        server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": ""})
    assert "filename_prefix 'video/mine' cannot be written: ffmpeg" in error["details"]
    assert "/nowhere/ffmpeg" in error["details"] and "pip install imageio-ffmpeg" in error["details"]
    assert server.run(saved("video/mine")).status == "success"


def test_a_cancel_reaches_an_encoder_that_hangs(server: Server, tmp_path: Path) -> None:
    """It passes its trial, and takes no frame of the film."""
    program = tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f'#!/bin/sh\ncase "$*" in *trial.mp4) exec {real} "$@";; esac\nexec sleep 600\n')
    program.chmod(0o755)
    server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": str(program)})
    try:
        with server.client() as client:
            run = client.queue(saved("hang/film", frames=400))
            for kind, data in client.listen(run, timeout=120):
                if kind == "executing" and data["node"] == "3":
                    server.post("/interrupt", {})
            assert run.events[-1][0] == "execution_interrupted"
    finally:
        server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": ""})
    assert not list(server.base.glob("output/hang/*"))


@pytest.mark.parametrize("place", ["shots", "negative"])
def test_a_cancel_comes_between_two_prompts(server: Server, place: str) -> None:
    """Of sixty that are encoded one after another, most are not."""
    graph = film(story="\n\n".join(f"a red robot {i}" for i in range(60)))
    graph["6"] = node("TestTextEncoder", seconds=0.2)
    graph["2"]["inputs"]["clip"] = ["6", 0]
    before = server.log_text().count("a prompt was encoded")
    with server.client() as client:
        run = client.queue(graph)
        for kind, data in client.listen(run, timeout=120):
            if kind == "executing" and data["node"] == "2":
                server.post("/interrupt", {})
        assert run.events[-1][0] == "execution_interrupted"
    assert server.log_text().count("a prompt was encoded") - before < 30


def test_previews_are_made_for_somebody_who_wants_them(main: Path, tmp_path: Path) -> None:
    code = f"""
import asyncio
from types import SimpleNamespace
sys.argv += ["--preview-method", "none"]
import utils.extra_config, nodes, server
from comfy.cli_args import LatentPreviewMethod, args
asyncio.run(nodes.load_custom_node({str(install(tmp_path))!r}))
progress = next(module for name, module in sys.modules.items() if name.endswith(".nodes.adapt.progress"))
server.PromptServer.instance = SimpleNamespace(client_id="me", sockets={{"me": 1}})
told = lambda: progress._method_of_command_line.cache_clear() or progress.previews_are_seen()
print("NONE", told())
del sys.argv[-2:]
print("UNSAID", told())
server.PromptServer.instance.sockets = {{"another": 1}}
print("GONE", told())
server.PromptServer.instance.client_id = None
print("ANYBODY", told())
server.PromptServer.instance.sockets = {{}}
print("NOBODY", told())
"""
    done = inside(main, code)
    said = [line for line in done.stdout.splitlines() if line.endswith(("True", "False"))]
    assert said == ["NONE False", "UNSAID True", "GONE False", "ANYBODY True", "NOBODY False"], done.stderr[-3000:]


def test_none_of_the_page_is_none(server: Server) -> None:
    """0.33 lets each prompt choose."""
    if server.version.startswith("0.3."):
        pytest.skip("this ComfyUI chooses when it is started")
    assert not server.run(film(seed=160), extra_data={"preview_method": "none"}).previews
    assert server.run(film(seed=161)).previews


def test_text_of_two_prompts_at_once_is_named(server: Server) -> None:
    graph = film(story="a red robot walks")
    graph["6"] = node("TestTextEncoder", batch=2)
    graph["2"]["inputs"]["clip"] = ["6", 0]
    assert "clip gives text of shape [2, 512, 4096] for one prompt" in server.run(graph).error


def test_a_state_in_the_cache_counts_in_a_budget(server: Server) -> None:
    """A chain that a budget does not pay for is refused before its second sampler makes a chunk."""
    graph = film(story="a red robot walks", seconds=4, seed=3)
    memory = {"window": 1, "top_k": 2, "routing": "every_step", "storage": "full"}
    graph["3"]["inputs"]["memory"] = ["6", 0]
    graph["6"] = node("CausalCineMemory", budget=0.0001, **memory)
    refused = server.run(graph).error  # names the least, which is twice as much where a machine computes in float32
    least = re.search(r"need at least ([\d.]+) GiB", refused)
    assert least is not None
    budget = round(1.7 * float(least[1]), 5)
    graph["6"] = node("CausalCineMemory", budget=budget, **memory)
    graph["7"] = node("CausalCineSampler", **graph["3"]["inputs"] | {"state": ["3", 1]})
    graph["4"]["inputs"]["samples"] = ["7", 0]
    run = server.run(graph)
    assert f"memory.budget is {budget:g} GiB: the state that this film goes on from stays" in run.error
    assert not [data for data in run.of("progress") if data["node"] == "7" and data["value"]]


def test_not_a_number_stops_the_film_by_name(server: Server, weights: Path) -> None:
    key = "diffusion_model.blocks.0.self_attn.q"
    lora = {f"{key}.lora_A.weight": torch.full((4, 96), torch.nan), f"{key}.lora_B.weight": torch.ones(96, 4)}
    save_file(lora, weights / "loras/broken.safetensors")
    graph = film(seed=22)
    graph["6"] = node("LoraLoaderModelOnly", model=["1", 0], lora_name="broken.safetensors", strength_model=1.0)
    graph["3"]["inputs"]["model"] = ["6", 0]
    run = server.run(graph)
    assert run.status == "error" and "chunk 0 (shot 1) holds numbers that are none (NaN or infinity)" in run.error
    assert "a damaged checkpoint or LoRA" in run.error and "4" not in run.history["outputs"]


def test_a_recipe_that_changes_in_a_chain_is_in_force_or_refused_by_name(server: Server) -> None:
    keep = {
        "family": "as the model",
        "shift": 0.0,
        "sampler": "as the model",
        "guidance": -1.0,
        "window": -1,
        "top_k": -1,
    }
    graph = film(story="a red robot walks", seed=6)
    graph["6"] = node("CausalCineRecipe", model=["1", 0], chunk=0, steps=1, negative="", **keep)
    graph["7"] = node("CausalCineSampler", **graph["3"]["inputs"] | {"model": ["6", 0], "state": ["3", 1]})
    graph["4"]["inputs"]["samples"] = ["7", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    passes = {key: max(data["max"] for data in run.of("progress") if data["node"] == key) for key in ("3", "7")}
    assert passes["7"] < passes["3"], "one pass a chunk instead of four"
    graph["6"]["inputs"] |= {"negative": "a cat"}
    assert 'negative of the recipe is "a cat", but the film to continue was begun with' in server.run(graph).error
