"""Adapters: they alone learn, and what they learned is a plain network again, or a LoRA file as ComfyUI reads it."""

from __future__ import annotations

import sys

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.memory import ResolvedMemory
from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.weights.lora import merge_lora
from causalcine_core.weights.tensors import read_tensors, write_torch
from training import export
from training.components.checkpoint import read_state
from training.components.lora import Lora, add_adapters, merged
from training.components.packed import PackedPass
from training.components.student import make_student
from training.components.text import Text
from training.model import Model, averaged
from training.recipe import Run
from training.stages.teacher_forcing import main

from ..conftest import RECIPE, WORDS
from ..test_trainer import assert_same

CONFIG = WanConfig.from_dict(RECIPE["model"])
LORA = {"rank": 2, "alpha": 3.0}
PLAIN = {"learning_rate": 1e-2, "muon_learning_rate": 0}
DIFFERENT = ("lora_A", "lora_B")


def adapted(lora: Lora, precision: str = "fp32") -> tuple[Model, Model]:
    """A student with adapters that change something, and its frozen teacher without."""
    run = Run(steps=1, device="cpu", precision=precision)
    student, teacher = make_student(CONFIG, Text(heads=2, layers=1), run, WORDS, torch.device("cpu"), lora)
    with torch.no_grad():
        torch.nn.init.xavier_uniform_(student.net.head.head.weight)
        for name, parameter in student.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(len(name)))
    return student, teacher


def answer(model: Model) -> torch.Tensor:
    layout = PackedPass(model, (3, 3), (4, 4), ResolvedMemory(1, 2), first=0)
    films = [torch.randn(1, 16, 6, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    with model.computing():
        return layout.velocity(model, *films, torch.tensor([0.7]), [["a red cat", "a cat"]])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("layers", ["attention", "all"])
def test_a_plain_model_of_the_merged_weights_answers_alike(precision, layers):
    student, teacher = adapted(Lora(**LORA, layers=layers), precision)
    before = answer(student)
    teacher.take(student.weights())
    error = (answer(teacher) - before).abs().max() / before.abs().max()
    assert error < (1e-5 if precision == "fp32" else 0.05)
    assert set(student.weights()) == set(teacher.state_dict())
    many = sum("lora_A" in name for name in student.state_dict())
    assert many == CONFIG.num_layers * (8 if layers == "attention" else 10)


def test_the_merged_weight_is_that_of_the_paper():
    net = CausalWanTransformer(CONFIG).initialize()
    add_adapters(net, Lora(**LORA))
    layer = net.get_submodule("blocks.1.self_attn.k")
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    down, up = (getattr(layer, name)["default"].weight for name in DIFFERENT)
    expected = layer.base_layer.weight + 3.0 / 2 * up @ down
    torch.testing.assert_close(merged(net.state_dict(), Lora(**LORA))["blocks.1.self_attn.k.weight"], expected)


def train(recipe, shards, work, *options):
    main([str(recipe), "--data", str(shards), "--work", str(work), *options])
    return read_state(work / "state.pt")


@pytest.fixture
def runs(recipe_file, shards, tmp_path):
    """A run of all weights, and a run of adapters that begins with it."""
    first = train(recipe_file(run={"steps": 1}), shards, tmp_path / "first")
    recipe = recipe_file(run={"steps": 4}, lora=LORA, optimizer=PLAIN)
    return first, recipe, train(recipe, shards, tmp_path / "second", "--start-from", str(tmp_path / "first/state.pt"))


def test_a_run_trains_the_adapters_alone_and_its_file_is_a_lora(runs, shards, tmp_path):
    first, recipe, second = runs
    weights, begun = second["parts"]["model"]["weights"], averaged(first)
    assert all(("lora_" in name) for name in second["parts"]["model"]["average"])
    for name, weight in begun.items():
        kept = weights.get(name, weights.get(name.replace(".weight", ".base_layer.weight")))
        kept = kept if kept is not None else weights[name.replace(".bias", ".base_layer.bias")]
        assert torch.equal(kept, weight), name
    learned = [name for name, weight in averaged(second).items() if not torch.equal(weight, begun[name])]
    assert learned and all(name.startswith("net.blocks.") for name in learned)
    file = tmp_path / "lora.safetensors"
    export.main(["--work", str(tmp_path / "second"), "--lora", "--out", str(file)])
    tensors, _ = read_tensors(file)
    assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in tensors
    net = {name.removeprefix("net."): weight for name, weight in begun.items() if name.startswith("net.")}
    found = merge_lora(net, tensors)
    assert found.applied == CONFIG.num_layers * 10 and not found.unmatched
    for name in learned:
        torch.testing.assert_close(found.weights[name.removeprefix("net.")], averaged(second)[name])
    third = train(
        recipe, shards, tmp_path / "third", "--start-from", str(tmp_path / "second/state.pt"), "--set", "run.steps=1"
    )
    for name, weight in averaged(second).items():
        base = third["parts"]["model"]["weights"]
        torch.testing.assert_close(
            base.get(name, base.get(name.replace(".weight", ".base_layer.weight"), weight)), weight
        )


def test_a_run_of_adapters_goes_on_bit_for_bit(runs, shards, tmp_path):
    _, recipe, whole = runs
    start = ("--start-from", str(tmp_path / "first/state.pt"))
    train(recipe, shards, tmp_path / "parts", "--set", "run.max_seconds=1e-9", *start)
    assert_same(train(recipe, shards, tmp_path / "parts", "--resume"), whole)
    with pytest.raises(InputError, match=r"lora.rank is 2 in .* and cannot be changed to 4 in a run that goes on"):
        train(recipe, shards, tmp_path / "parts", "--resume", "--set", "lora.rank=4")


def test_a_state_of_before_there_were_adapters_goes_on(recipe_file, shards, tmp_path):
    state = train(recipe_file(run={"steps": 1}), shards, tmp_path / "w")
    del state["recipe"]["lora"]
    write_torch(tmp_path / "w/state.pt", state)
    assert train(recipe_file(run={"steps": 2}), shards, tmp_path / "w", "--resume")["step"] == 2


def test_what_adapters_cannot_be_is_said(recipe_file, shards, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"optimizer.muon_learning_rate must be 0 with lora.rank 2"):
        train(recipe_file(lora=LORA), shards, tmp_path / "w")
    with pytest.raises(InputError, match=r"lora: rank must be|lora.rank must be"):
        train(recipe_file(lora={"rank": -1}), shards, tmp_path / "w")
    train(recipe_file(run={"steps": 1}), shards, tmp_path / "w")
    with pytest.raises(InputError, match=r"with lora.rank 0 has no adapters: leave --lora out"):
        export.main(["--work", str(tmp_path / "w"), "--lora", "--out", str(tmp_path / "lora")])
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"lora.rank needs the package peft"):
        train(recipe_file(lora=LORA, optimizer=PLAIN), shards, tmp_path / "x")
