"""What single shots have of their own in ComfyUI: a seed and a LoRA, by a node's fields and by a story's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from .graphs import node
from .server import Refused, Server

TEXTS = ("a red robot walks", "a blue cat jumps", "the red robot waves")
LAYERS = {"blocks.0.self_attn.q": (96, 96), "blocks.1.cross_attn.v": (96, 96), "blocks.1.ffn.0": (128, 96)}


@pytest.fixture
def loras(weights: Path) -> Path:
    """Among ComfyUI's LoRAs `snow.safetensors`, and `wide.safetensors` and `else.safetensors`, which do not fit."""
    folder, draw = weights / "loras", torch.Generator().manual_seed(0)

    def write(name: str, layers: dict[str, tuple[int, int]]) -> None:
        tensors = {}
        for layer, (rows, columns) in layers.items():
            tensors[f"diffusion_model.{layer}.lora_A.weight"] = torch.randn(2, columns, generator=draw)
            tensors[f"diffusion_model.{layer}.lora_B.weight"] = torch.randn(rows, 2, generator=draw)
        save_file(tensors, folder / f"{name}.safetensors")

    write("snow", LAYERS)
    write("wide", {"blocks.0.self_attn.q": (96, 64)})
    write("else", {"blocks.9.self_attn.q": (96, 96)})
    return folder


def sampler(model: str, shots: str, **given: Any) -> dict[str, Any]:
    return node("CausalCineSampler", model=[model, 0], shots=[shots, 0], width=0, height=0, seed=7, steps=0, **given)


def listed(last: str, **fields: dict[str, Any]) -> dict[str, Any]:
    """Three shots in a list; the node of the last is called `last`. fields: of shots, by `shot0`, `shot1`, `shot2`."""
    graph: dict[str, Any] = {}
    names = [f"{last}.0", f"{last}.1", last]
    for i, (name, text) in enumerate(zip(names, TEXTS, strict=True)):
        before = {"shots": [names[i - 1], 0]} if i else {}
        graph[name] = node(
            "CausalCineShot", clip=["1", 1], prompt=text, seconds=0.75, **before, **fields.get(f"shot{i}", {})
        )
    return graph


def difference(server: Server, graph: dict[str, Any], a: str, b: str) -> float:
    """How much the films of two samplers differ, in 0..1 at most a pixel."""
    graph = graph | {
        "a": node("VAEDecode", samples=[a, 0], vae=["1", 2]),
        "b": node("VAEDecode", samples=[b, 0], vae=["1", 2]),
        "c": node("TestCompareImages", a=["a", 0], b=["b", 0]),
    }
    run = server.run(graph)
    assert run.status == "success", run.error
    return float(run.history["outputs"]["c"]["text"][0])


def test_a_shots_lora_is_that_of_a_sampler_of_its_own(server: Server, loras: Path) -> None:
    """A chain of samplers, each with a MODEL of its own, is the film of one sampler whose shots name the LoRAs."""
    graph = {"1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")}
    graph["2"] = node("LoraLoaderModelOnly", model=["1", 0], lora_name="snow.safetensors", strength_model=0.5)
    state: dict[str, Any] = {}
    for i, text in enumerate(TEXTS):
        graph[f"shot{i}"] = node("CausalCineShot", clip=["1", 1], prompt=text, seconds=0.75)
        graph[f"chain{i}"] = sampler("2" if i == 1 else "1", f"shot{i}", **state)
        state = {"state": [f"chain{i}", 1]}
    own = {"lora": "snow.safetensors", "lora_strength": 0.5}
    graph |= listed("own", shot1=own) | {"film": sampler("1", "own")}
    assert difference(server, graph, "chain2", "film") == 0
    shots = [{"prompt": text, "seconds": 0.75} for text in TEXTS]
    shots[1]["lora"] = {"name": "snow.safetensors", "strength": 0.5}
    told = node("CausalCineShotList", clip=["1", 1], story=json.dumps(shots), global_text="", seconds=3.0)
    graph |= {"told": told, "again": sampler("1", "told")}
    assert difference(server, graph, "again", "film") == 0
    graph |= listed("plain") | {"without": sampler("1", "plain")}
    assert difference(server, graph, "without", "film") > 0.02
    assert "lora key not loaded" not in server.log_text()


def test_a_seed_of_a_shot_makes_another_take_of_it(server: Server) -> None:
    graph = {"1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")}
    for name, seed in (("none", -1), ("same", 7), ("other", 8)):
        graph |= listed(name, shot1={"shot_seed": seed}) | {f"film-{name}": sampler("1", name)}
    assert difference(server, graph, "film-none", "film-same") == 0
    assert difference(server, graph, "film-none", "film-other") > 0.02


def test_a_lora_that_is_not_there_is_refused_before_anything_runs(server: Server, loras: Path) -> None:
    graph = {"1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")}
    story = json.dumps([TEXTS[0], {"prompt": TEXTS[1], "lora": "no.safetensors"}])
    told = node("CausalCineShotList", clip=["1", 1], story=story, global_text="", seconds=0.75)
    for shots in (
        {"s": told},
        {"s": node("CausalCineShot", clip=["1", 1], prompt="a", seconds=0.75, lora="no.safetensors")},
    ):
        film = graph | shots | {"3": sampler("1", "s"), "4": node("CausalCineMemoryMap", state=["3", 1])}
        with pytest.raises(Refused) as refused:
            server.run(film)
        assert "lora" in str(refused.value) and "no.safetensors" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [("wide", "changes blocks.0.self_attn.q.weight by [96, 64]"), ("else", "none of its modules is in the model")],
)
def test_a_lora_that_does_not_fit_is_named_before_sampling(server: Server, loras: Path, name: str, says: str) -> None:
    graph = {"1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")}
    graph |= listed("s", shot2={"lora": f"{name}.safetensors"})
    run = server.run(graph | {"3": sampler("1", "s"), "4": node("CausalCineMemoryMap", state=["3", 1])})
    assert run.status == "error"
    assert f"shots[2].lora: LoRA {name}.safetensors" in str(run.error) and says in str(run.error)
    assert not run.of("progress")
