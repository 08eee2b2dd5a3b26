"""Not-a-number and infinity do not get into files that we write: they are refused where they are read, by tensor and cause."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from causalcine_core import cli
from causalcine_core.errors import InputError
from causalcine_core.weights.int8 import expand
from causalcine_core.weights.lora import merge_lora
from causalcine_core.weights.tensors import check_numbers
from tests.helpers import TINY, tiny_net

NAN, INFINITY = float("nan"), float("inf")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return dict(tiny_net().state_dict())


def lora(weights, module: str = "blocks.0.self_attn.q") -> dict[str, torch.Tensor]:
    rows, columns = weights[f"{module}.weight"].shape
    return {
        f"{module}.lora_A.weight": torch.ones(2, columns),
        f"{module}.lora_B.weight": torch.ones(rows, 2),
        f"{module}.alpha": torch.tensor(1.0),
        f"{module}.diff_b": torch.ones(rows),
    }


def spoiled(tensor: torch.Tensor, number: float) -> torch.Tensor:
    """One number of many replaced."""
    out = tensor.clone()
    out.view(-1)[out.numel() // 2] = number
    return out


def convert(tmp_path, weights, capsys, *args) -> str:
    """Runs `convert` on weights in a file, which must be refused; gives the sentence."""
    path, out = tmp_path / "model.safetensors", tmp_path / "out.safetensors"
    save_file(weights, path, metadata={"causalcine": '{"kind": "network", "model": ' + TINY_CONFIG + "}"})
    assert cli.main(["convert", str(path), str(out), *map(str, args)]) == 2
    assert not out.exists()
    (line,) = capsys.readouterr().err.splitlines()
    return line


TINY_CONFIG = str(TINY.to_dict()).replace("'", '"').replace("(", "[").replace(")", "]")


@pytest.mark.parametrize("number", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("dtype", FLOATS)
def test_one_bad_number_is_found_in_every_type(dtype, number):
    tensor = spoiled(torch.ones(7, 5), number).to(dtype)
    if not tensor.float().isfinite().all():  # float8_e4m3fn has no infinity
        with pytest.raises(InputError, match=r"^LoRA x holds (not-a-number|infinity) in a\.b: usually"):
            check_numbers({"good": torch.ones(3), "a.b": tensor}, "LoRA x")


def test_large_numbers_whole_numbers_and_nothing_pass():
    largest = {
        str(dtype): torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).min], dtype=torch.float64).to(dtype)
        for dtype in FLOATS
    }
    check_numbers(largest | {"none": torch.empty(0, 3), "whole": torch.arange(3)}, "x")


@pytest.mark.parametrize("number", [NAN, INFINITY])
@pytest.mark.parametrize("part", ["lora_A.weight", "lora_B.weight", "alpha", "diff_b"])
def test_a_lora_with_a_bad_number_is_not_merged(tmp_path, capsys, weights, part, number):
    tensors = lora(weights)
    tensors[f"blocks.0.self_attn.q.{part}"] = spoiled(tensors[f"blocks.0.self_attn.q.{part}"], number)
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    line = convert(tmp_path, weights, capsys, "--lora", path)
    found = "not-a-number" if number != number else "infinity"
    kind = part.removesuffix(".weight").replace("lora_", "")
    assert f"LoRA {path} holds {found} in {kind} of blocks.0.self_attn.q: usually" in line
    assert "half precision" in line


@pytest.mark.parametrize("number", [NAN, INFINITY])
def test_a_checkpoint_with_a_bad_number_is_not_converted(tmp_path, capsys, weights, number):
    name = "blocks.1.ffn.2.weight"
    line = convert(tmp_path, weights | {name: spoiled(weights[name], number)}, capsys)
    assert name in line and "half precision" in line


def test_what_becomes_too_large_by_a_lora_or_a_smaller_type_is_not_written(tmp_path, capsys, weights):
    name = "blocks.0.self_attn.q"
    half = {key: tensor.half() for key, tensor in weights.items()}
    huge = lora(weights) | {f"{name}.lora_A.weight": torch.full((2, TINY.dim), 1e5)}
    save_file(huge, tmp_path / "lora.safetensors")
    line = convert(tmp_path, half, capsys, "--lora", tmp_path / "lora.safetensors")
    assert "with its LoRA holds infinity in " + name in line
    line = convert(
        tmp_path, weights | {f"{name}.weight": weights[f"{name}.weight"] + 1e6}, capsys, "--dtype", "float16"
    )
    assert "cast to float16, holds infinity in " + name in line


def test_what_is_no_float_is_no_weight(tmp_path, capsys, weights):
    name = "blocks.0.self_attn.q.weight"
    assert f"another type of number for {name}" in convert(tmp_path, weights | {name: weights[name].int()}, capsys)


SHAPES = {
    "alpha of two numbers": {"alpha": torch.ones(2)},
    "rank 0": {"lora_A.weight": torch.ones(0, 96), "lora_B.weight": torch.ones(96, 0)},
    "no rows": {"lora_B.weight": torch.ones(0, 2)},
    "halves of one axis": {"lora_A.weight": torch.ones(2)},
    "halves of another rank": {"lora_B.weight": torch.ones(96, 3)},
    "a difference without axes": {"diff": torch.tensor(1.0)},
    "a product of terabytes": {"lora_A.weight": torch.ones(2, 1_000_000), "lora_B.weight": torch.ones(1_000_000, 2)},
    "complex": {"diff_b": torch.ones(96, dtype=torch.complex64)},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_lora_of_odd_shapes_is_refused_by_module(weights, kind):
    module = "blocks.0.self_attn.q"
    with pytest.raises(InputError, match=rf"^LoRA.*{module}"):
        merge_lora(weights, lora(weights) | {f"{module}.{part}": tensor for part, tensor in SHAPES[kind].items()})


@pytest.mark.parametrize("scale", [torch.ones(2), torch.ones(3, 3), torch.ones(3, dtype=torch.int8), torch.ones(0)])
def test_a_scale_that_does_not_fit_its_weight_is_refused(scale):
    with pytest.raises(InputError, match="the scale of a must be one number or 3"):
        expand({"a": torch.ones(3, 3, dtype=torch.int8), "a.int8_scale": scale})


def test_scales_of_rows_are_of_rows_also_where_the_weight_is_square(tmp_path, weights):
    """fp8 files have one scale a weight, or one for each row."""
    from causalcine_core.model.load import read_network

    name, rows = "blocks.0.self_attn.q.weight", torch.linspace(1, 2, TINY.dim)
    held = weights | {name: weights[name].to(torch.float8_e4m3fn), "blocks.0.self_attn.q.weight_scale": rows}
    path = tmp_path / "a.safetensors"
    save_file(held, path)
    made = read_network(path, config=TINY).weights[name]
    assert torch.equal(made, load_file(path)[name].float() * rows[:, None])
