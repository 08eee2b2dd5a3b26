"""Every layout that public checkpoints come in: written by the test, read, and equal; wrong files are named."""

from __future__ import annotations

import copy
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from causalcine_core import InputError, cli
from causalcine_core.memory import FrameStore, KVMemory, ResolvedMemory, RolloutView
from causalcine_core.model import (
    CausalWanTransformer,
    TextKV,
    WanConfig,
    load_checkpoint,
    load_transformer,
    project_text,
    read_network,
)
from causalcine_core.model.rope import Rope
from causalcine_core.weights.int8 import compact
from causalcine_core.weights.layouts import find_layout, wan_name
from causalcine_core.weights.lora import merge_lora

from ..helpers import tiny_net

CONFIG = WanConfig(dim=256, ffn_dim=320, num_heads=2, num_layers=2, freq_dim=32, text_dim=24)
WEIGHTS = {name: tensor.clone() for name, tensor in tiny_net(3, CONFIG).state_dict().items()}
OTHER = {name: tensor.clone() for name, tensor in tiny_net(4, CONFIG).state_dict().items()}
TO_DIFFUSERS = {
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    ".modulation": ".scale_shift_table",
    "self_attn": "attn1",
    "cross_attn": "attn2",
    ".q.": ".to_q.",
    ".k.": ".to_k.",
    ".v.": ".to_v.",
    ".o.": ".to_out.0.",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}


def diffusers_name(name: str) -> str:
    for ours, theirs in TO_DIFFUSERS.items():
        name = name.replace(ours, theirs)
    return name


def prefixed(prefix: str, weights: dict[str, Tensor] = WEIGHTS) -> dict[str, Tensor]:
    return {prefix + name: tensor.clone() for name, tensor in weights.items()}


def wrapped(name: str) -> str:
    """As FSDP over blocks and torch.compile over attention leave a name."""
    parts = name.split(".")
    if parts[0] == "blocks":
        parts.insert(2, "_fsdp_wrapped_module")
        if parts[3].endswith("attn"):
            parts.insert(4, "_orig_mod")
    return "model._fsdp_wrapped_module." + ".".join(parts)


def folder(path: Path, weights: dict[str, Tensor], config: dict, shards: int = 1) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(weights, path / "diffusion_pytorch_model.safetensors")
        return path
    names = sorted(weights)
    where = {}
    for i in range(shards):
        file = f"diffusion_pytorch_model-{i + 1:05}-of-{shards:05}.safetensors"
        where |= dict.fromkeys(names[i::shards], file)
        save_file({name: weights[name] for name in names[i::shards]}, path / file)
    (path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return path


DIFFUSERS = {
    "_class_name": "WanTransformer3DModel",
    "num_attention_heads": 2,
    "attention_head_dim": 128,
    "num_layers": 2,
    "eps": 1e-6,
}


def one_file(make: Callable[[], dict[str, Tensor]]) -> Callable[[Path], Path]:
    def write(root: Path) -> Path:
        save_file(make(), root / "x.safetensors")
        return root / "x.safetensors"

    return write


def sharded(root: Path) -> Path:
    weights = {diffusers_name(name): tensor for name, tensor in prefixed("").items()}
    return folder(root / "x", weights, DIFFUSERS, 3)


LAYOUTS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "Wan": (one_file(lambda: prefixed("")), "Wan", ""),
    "ComfyUI": (one_file(lambda: prefixed("model.diffusion_model.")), "ComfyUI", ""),
    "ComfyUI, short": (one_file(lambda: prefixed("diffusion_model.")), "ComfyUI", ""),
    "diffusers, one file": (one_file(lambda: {diffusers_name(n): t for n, t in prefixed("").items()}), "diffusers", ""),
    "diffusers, shards": (sharded, "diffusers", ""),
    "diffusers, a shard": (lambda root: sorted(sharded(root).glob("*-00002-*"))[0], "diffusers", ""),
    "diffusers, pipeline": (
        lambda root: (
            folder(root / "p/transformer", {diffusers_name(n): t for n, t in WEIGHTS.items()}, DIFFUSERS).parent
        ),
        "diffusers",
        "",
    ),
    "Wan release, shards": (lambda root: folder(root / "w", prefixed(""), {"dim": 256, "num_heads": 2}, 2), "Wan", ""),
    "model.": (one_file(lambda: prefixed("model.")), "training", ""),
    "generator": (one_file(lambda: prefixed("generator.model.")), "training", "generator"),
    "FSDP": (one_file(lambda: {f"generator.{wrapped(n)}": t for n, t in WEIGHTS.items()}), "training", "generator"),
    "compiled": (one_file(lambda: prefixed("_orig_mod.module.")), "training", ""),
    "stack": (
        one_file(lambda: prefixed("generator_ema.module._fsdp_wrapped_module._orig_mod.model.")),
        "training",
        "generator_ema",
    ),
    "EMA beside": (
        one_file(lambda: prefixed("generator_ema.model.") | prefixed("generator.model.", OTHER)),
        "training",
        "generator_ema",
    ),
    "critic beside": (
        one_file(lambda: prefixed("critic.model.", OTHER) | prefixed("generator.model.")),
        "training",
        "generator",
    ),
}


def output(net: CausalWanTransformer, dtype: torch.dtype = torch.float32, level: float = 937.5) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(1, 16, 3, 8, 8, generator=generator).to(dtype)
    prompt = torch.randn(1, 8, 24, generator=generator).to(dtype)
    store = FrameStore(net.config.num_layers, 1, (16, 2, 128), dtype, torch.device("cpu"))
    view = RolloutView(KVMemory(store), ResolvedMemory(1, 0), Rope(128, (4, 4), "cpu"), 3)
    text = TextKV(project_text(net, prompt), torch.zeros(1, 3, dtype=torch.long), 3)
    with torch.no_grad():
        return net(latents, torch.full((1, 3), level), text, view)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_output(tmp_path, layout):
    write, name, part = LAYOUTS[layout]
    path = write(tmp_path)
    file = read_network(path)
    assert (file.layout, file.part, file.matched, file.total) == (name, part, len(WEIGHTS), len(WEIGHTS))
    assert (file.config.dim, file.config.num_heads, file.config.num_layers, file.config.text_len) == (256, 2, 2, 512)
    net = CausalWanTransformer(CONFIG)
    net.load_state_dict(WEIGHTS)
    assert (output(load_transformer(path)) - output(net)).abs().max() < 1e-5


def test_diffusers_names_are_all_known():
    with torch.device("meta"):
        theirs = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=128, text_dim=24, freq_dim=32, ffn_dim=320, num_layers=2
        )
    shapes = {wan_name(name): tensor.shape for name, tensor in theirs.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in WEIGHTS.items()}


def test_what_was_taken_is_said_and_can_be_chosen(tmp_path):
    path = LAYOUTS["EMA beside"][0](tmp_path)
    file = read_network(path)
    assert "took generator_ema; the file also holds generator" in str(file)
    assert torch.equal(file.weights["head.head.weight"], WEIGHTS["head.head.weight"])
    raw = read_network(path, part="generator")
    assert torch.equal(raw.weights["head.head.weight"], OTHER["head.head.weight"])
    with pytest.raises(InputError, match="part is 'best': the file holds generator, generator_ema"):
        read_network(path, part="best")


def test_buffers_are_named_and_harmless(tmp_path):
    save_file(prefixed("model.") | {"model.freqs": torch.zeros(4), "step": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert "1 buffers left out, such as freqs" in str(read_network(tmp_path / "x.safetensors"))


def test_quantised_files_are_read(tmp_path):
    save_file(compact(WEIGHTS), tmp_path / "int8.safetensors")
    fp8 = {}
    for name, tensor in WEIGHTS.items():
        if name.endswith("self_attn.q.weight"):
            scale = tensor.abs().max() / 448
            fp8[name] = (tensor / scale).to(torch.float8_e4m3fn)
            fp8[name.replace("weight", "scale_weight")] = scale
        else:
            fp8[name] = tensor
    save_file(fp8 | {"scaled_fp8": torch.zeros(0, dtype=torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    for file, error in (("int8.safetensors", 0.01), ("fp8.safetensors", 0.07)):
        read = read_network(tmp_path / file)
        for name, tensor in WEIGHTS.items():
            assert (read.weights[name].float() - tensor).abs().max() <= error * tensor.abs().max()


def test_sizes_are_told_from_shapes(tmp_path):
    """1.3B, 5B and 14B, as a header alone: no tensor is read."""
    from causalcine_core.model.config import PRESETS
    from causalcine_core.model.load import infer_config

    for name in ("1.3b", "5b", "14b"):
        net = CausalWanTransformer(PRESETS[name], device="meta")
        shapes = {key: tuple(tensor.shape) for key, tensor in net.state_dict().items()}
        assert infer_config(shapes, "x") == PRESETS[name]


def test_the_network_of_an_all_in_one_file_is_read(checkpoint, pipe):
    file = read_network(checkpoint)
    assert (file.layout, file.config) == ("ComfyUI", pipe.network.net.config)
    net = load_transformer(checkpoint)
    assert all(torch.equal(t, pipe.network.net.state_dict()[name]) for name, t in net.state_dict().items())


# --- LoRA


def lora(names: list[str], rank: int = 4, style: tuple[str, str] = ("lora_A", "lora_B")) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    out = {}
    for name in names:
        rows, columns = WEIGHTS[f"{name}.weight"].shape
        out[f"{name}.{style[0]}.weight"] = torch.randn(rank, columns, generator=generator)
        out[f"{name}.{style[1]}.weight"] = torch.randn(rows, rank, generator=generator)
    return out


MODULES = [f"blocks.{i}.{part}" for i in range(2) for part in ("self_attn.q", "cross_attn.o", "ffn.0")]


def expected(name: str, parts: dict[str, Tensor], factor: float = 1.0) -> Tensor:
    return WEIGHTS[f"{name}.weight"] + factor * parts[f"{name}.lora_B.weight"] @ parts[f"{name}.lora_A.weight"]


PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "module.",
    "_fsdp_wrapped_module.",
    "_orig_mod.",
    "model.",
    "net.",
)


@pytest.mark.parametrize("inner", ["", *PREFIXES])
@pytest.mark.parametrize("outer", PREFIXES)
def test_c53_prefixes_are_taken_off_alone_and_stacked(outer, inner):
    layout = find_layout({f"{outer}{inner}{name}": tuple(tensor.shape) for name, tensor in WEIGHTS.items()})
    assert layout is not None
    assert layout.sources == {name: f"{outer}{inner}{name}" for name in WEIGHTS}


@pytest.mark.parametrize(
    ("rename", "alpha", "factor"),
    [
        (lambda key: f"base_model.model.{key}", None, 1.0),
        (lambda key: f"generator_lora.base_model.model.{key}".replace(".weight", ".default.weight"), None, 1.0),
        (lambda key: f"diffusion_model.{key}".replace("lora_A", "lora_down").replace("lora_B", "lora_up"), None, 1.0),
        (lambda key: f"transformer.{diffusers_name(key)}", None, 1.0),
        (lambda key: f"model._fsdp_wrapped_module.{key}", 2.0, 0.5),
        (
            lambda key: (
                "lora_unet_"
                + key.rpartition(".lora")[0].replace(".", "_")
                + (".lora_down.weight" if "lora_A" in key else ".lora_up.weight")
            ),
            8.0,
            2.0,
        ),
    ],
)
def test_a_lora_merges_as_w_plus_ba_in_every_spelling(rename, alpha, factor):
    parts = lora(MODULES)
    merged = merge_lora(WEIGHTS, {rename(key): tensor for key, tensor in parts.items()}, alpha=alpha)
    assert (merged.applied, merged.total, merged.unmatched) == (6, 6, ())
    for name in WEIGHTS:
        module = name.removesuffix(".weight")
        want = expected(module, parts, factor) if module in MODULES else WEIGHTS[name]
        torch.testing.assert_close(merged.weights[name], want)


def test_c52_a_lora_says_how_much_of_it_was_applied():
    parts = lora(MODULES)
    strange = {key.replace("blocks.", "blocks.9"): tensor for key, tensor in lora(MODULES[:2]).items()}
    merged = merge_lora(WEIGHTS, parts | strange)
    assert str(merged) == "6 of 8 applied; no place for blocks.90.self_attn.q and 1 more"
    with pytest.raises(InputError, match=r"0 of 2 applied: none of its modules is in the model, such as blocks.90"):
        merge_lora(WEIGHTS, strange)
    with pytest.raises(InputError, match=r"only one half of blocks.0.self_attn.q"):
        merge_lora(WEIGHTS, dict(list(parts.items())[1:]))
    with pytest.raises(InputError, match=r"changes blocks.0.self_attn.q.weight by \[8, 256\]"):
        merge_lora(WEIGHTS, parts | {"blocks.0.self_attn.q.lora_B.weight": torch.zeros(8, 4)})


def test_c52_alphas_and_differences_count():
    parts = lora(MODULES)
    more = {"blocks.0.self_attn.q.alpha": torch.tensor(2.0)}  # one of many: the others keep their rank
    more |= {"blocks.0.norm3.diff": torch.ones(256), "blocks.0.norm3.diff_b": torch.ones(256)}
    more |= {"blocks.1.diff_m": torch.ones(1, 6, 256), "head.head.diff": torch.ones(64, 256)}
    merged = merge_lora(WEIGHTS, {f"diffusion_model.{key}": tensor for key, tensor in (parts | more).items()})
    assert (merged.applied, merged.total) == (10, 10)
    torch.testing.assert_close(merged.weights["blocks.0.self_attn.q.weight"], expected(MODULES[0], parts, 0.5))
    torch.testing.assert_close(merged.weights["blocks.1.ffn.0.weight"], expected("blocks.1.ffn.0", parts))
    for name in ("blocks.0.norm3.weight", "blocks.0.norm3.bias", "blocks.1.modulation", "head.head.weight"):
        torch.testing.assert_close(merged.weights[name], WEIGHTS[name] + 1)


def test_a_lora_inside_the_file_is_merged(tmp_path):
    """As a training run that wraps the network in PEFT leaves it, a critic's LoRA beside."""
    parts = lora(MODULES)
    held = {f"generator.{name}": tensor for name, tensor in WEIGHTS.items()}
    held |= {f"generator_lora.base_model.model.{key}": tensor for key, tensor in parts.items()}
    held |= {f"critic_lora.base_model.model.{key}": 9 * tensor for key, tensor in parts.items()}
    save_file(held, tmp_path / "x.safetensors")
    file = read_network(tmp_path / "x.safetensors")
    assert "the LoRA that the file holds: 6 of 6 applied" in str(file)
    torch.testing.assert_close(file.weights["blocks.0.ffn.0.weight"], expected("blocks.0.ffn.0", parts))
    peft = {}
    for name, tensor in WEIGHTS.items():
        module, _, last = name.rpartition(".")
        peft[f"generator.base_model.model.{module}.base_layer.{last}" if module in MODULES else f"generator.{name}"] = (
            tensor
        )
    peft = {
        key if "base_model" in key else key.replace("generator.", "generator.base_model.model."): t
        for key, t in peft.items()
    }
    save_file(peft | {f"generator.base_model.model.{k}": t for k, t in parts.items()}, tmp_path / "peft.safetensors")
    file = read_network(tmp_path / "peft.safetensors")
    torch.testing.assert_close(file.weights["blocks.0.ffn.0.weight"], expected("blocks.0.ffn.0", parts))


# --- files that are none


def without(*pieces: str) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in WEIGHTS.items() if not any(piece in name for piece in pieces)}


def with_patch(channels: int) -> dict[str, Tensor]:
    return prefixed("") | {"patch_embedding.weight": torch.zeros(256, channels, 1, 2, 2)}


TOTAL = len(WEIGHTS)
WRONG: dict[str, tuple[dict[str, Tensor], list[str]]] = {
    "one weight short": (without("blocks.1.ffn.2.bias"), ["lacks blocks.1.ffn.2.bias", f"{TOTAL - 1} of {TOTAL}", "incomplete"]),
    "a block short": (without("blocks.0."), ["lacks blocks.0.", "and 26 more", "incomplete"]),
    "first part of two": (without("head.", "blocks.1."), ["lacks head.", "one part of several"]),
    "last part of two": (without("patch", "text", "time", "blocks.0."), ["lacks patch_embedding.weight", "one part of several"]),
    "image-to-video": (with_patch(36) | {"img_emb.proj.0.weight": torch.zeros(4)}, ["image-to-video"]),
    "image-to-video by shape": (with_patch(36), ["image-to-video model (36 channels in, 16 out)"]),
    "control": (with_patch(32), ["control or inpainting model (32 channels in, 16 out)"]),
    "VACE": (prefixed("") | {"vace_patch_embedding.weight": torch.zeros(256, 96, 1, 2, 2)}, ["VACE"]),
    "NVFP4": (prefixed("") | {"blocks.0.self_attn.q.quantized_weight_x": torch.zeros(4)}, ["NVFP4"]),
    "SkyReels": (prefixed("") | {"fps_embedding.weight": torch.zeros(2, 4)}, ["SkyReels"]),
    "unknown extra": (prefixed("") | {"blocks.0.gate.bias": torch.zeros(4)}, ["unknown blocks.0.gate.bias", "architecture"]),
    "misshapen": (prefixed("") | {"blocks.1.ffn.0.bias": torch.zeros(9)}, ["another shape for blocks.1.ffn.0.bias", "[9]", "[320]"]),
    "a LoRA alone": (lora(MODULES), ["a LoRA alone", "causalcine convert BASE OUT --lora"]),
    "a VAE": ({"decoder.conv1.weight": torch.zeros(4), "encoder.conv1.weight": torch.zeros(4)}, ["a VAE"]),
    "a text encoder": ({"encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight": torch.zeros(4)}, ["a text encoder"]),
    "CLIP vision": ({"visual.patch_embedding.weight": torch.zeros(4, 3, 2, 2)}, ["CLIP vision"]),
    "Flux": ({"double_blocks.0.img_attn.qkv.weight": torch.zeros(4)}, ["HunyuanVideo or Flux"]),
    "something": ({"unet.conv.weight": torch.zeros(4)}, ["another architecture", "unet.conv.weight"]),
    "odd width": ({n: t[:96].clone() for n, t in WEIGHTS.items()}, ["96 wide", "128"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_files_are_named_with_the_likely_cause(tmp_path, capsys, kind):
    tensors, says = WRONG[kind]
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    with pytest.raises(InputError) as error:
        load_transformer(path)
    for text in (str(path), *says):
        assert text in str(error.value)
    assert cli.main(["convert", str(path), str(tmp_path / "out.safetensors")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says[0] in lines[0]
    assert cli.main(["inspect", str(path)]) == 0
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors"]


def test_a_known_size_with_fewer_blocks_is_incomplete():
    """A cut file is no smaller model."""
    from causalcine_core.model.config import PRESETS
    from causalcine_core.model.load import infer_config

    shapes = {n: tuple(t.shape) for n, t in CausalWanTransformer(PRESETS["1.3b"], device="meta").state_dict().items()}
    cut = {name: shape for name, shape in shapes.items() if not name.startswith(("blocks.28.", "blocks.29."))}
    assert infer_config(cut, "x").num_layers == 30


def test_a_gguf_is_told_from_a_broken_file(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(InputError, match=r"is a GGUF file: .* GGUF loader"):
        load_transformer(tmp_path / "x.gguf")


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_a_header_whose_length_looks_like_a_pickle_is_none(tmp_path, length):
    """Its first two bytes are those of a pickle of protocol 2 to 5."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + header.ljust(length) + bytes(4))
    with pytest.raises(InputError, match="its first key is a"):
        load_transformer(path)


def test_wrong_folders_are_named(tmp_path):
    path = sharded(tmp_path)
    (path / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"diffusion_pytorch_model-00002-of-00003.safetensors of 3 parts is missing"):
        load_transformer(path)
    two = tmp_path / "a14b"
    for name in ("transformer", "transformer_2"):
        folder(two / name, prefixed(""), {})
    with pytest.raises(InputError, match=r"two experts .* Wan 2.2 A14B"):
        load_transformer(two)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="folder with no safetensors file"):
        load_transformer(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        load_transformer(tmp_path / "gone")


def test_two_networks_without_names_are_no_trouble(tmp_path):
    layout = find_layout({f"{p}.{n}": tuple(t.shape) for p in ("a", "b") for n, t in WEIGHTS.items()})
    assert layout is not None and "took a" in layout.notes[0]


# --- convert


def run(capsys, *args) -> tuple[int, str, list[str]]:
    code = cli.main([str(arg) for arg in args])
    said = capsys.readouterr()
    return code, said.out, said.err.splitlines()


@pytest.mark.parametrize("zipped", [True, False])
def test_convert_reads_a_training_file(tmp_path, capsys, zipped):
    path, out = tmp_path / "self_forcing_dmd.pt", tmp_path / "out.safetensors"
    data = {
        "generator": {f"model.{n}": t for n, t in OTHER.items()},
        "generator_ema": {wrapped(n): t for n, t in WEIGHTS.items()},
        "critic": {f"model.{n}": t for n, t in OTHER.items()},
        "step": 600,
    }
    torch.save(data, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="causalcine convert"):
        load_transformer(path)
    code, said, err = run(capsys, "convert", path, out)
    assert (code, err) == (0, [])
    assert f"{TOTAL} of {TOTAL} weights matched (training layout, generator_ema)" in said
    assert "took generator_ema" in said and "Self-Forcing: the keys are plain Wan" in said
    assert sorted(os.listdir(tmp_path)) == ["out.safetensors", "self_forcing_dmd.pt"]
    written = load_file(out)
    assert written.keys() == WEIGHTS.keys()
    assert all(torch.equal(written[name], WEIGHTS[name]) for name in WEIGHTS)
    assert "training" in run(capsys, "inspect", path)[1]
    facts = json.loads(run(capsys, "inspect", out, "--json")[1].splitlines()[-1])
    assert facts["matched"] == f"{TOTAL} of {TOTAL} weights" and facts["recipe"]["sampler"] == "renoise"
    with pytest.raises(InputError, match="without text encoder and VAE"):
        load_checkpoint(out)


def test_convert_merges_a_lora_and_writes_the_recipe(tmp_path, capsys):
    parts = lora(MODULES)
    torch.save({"generator": {f"model.{n}": t for n, t in WEIGHTS.items()}}, tmp_path / "base.pt")
    torch.save({"generator_lora": {f"base_model.model.{k}": t for k, t in parts.items()}}, tmp_path / "lora.pt")
    out = tmp_path / "longlive.safetensors"
    args = ("convert", tmp_path / "base.pt", out, "--lora", tmp_path / "lora.pt")
    code, said, _ = run(capsys, *args, "--family", "longlive-1", "--dtype", "bfloat16")
    assert code == 0 and "LoRA lora.pt: 6 of 6 applied" in said
    file = read_network(out)
    assert file.header["family"] == "longlive-1" and file.header["recipe"]["sink"] == 3
    assert file.header["source"] == {"layout": "training", "part": "generator", "file": "base.pt", "lora": "lora.pt"}
    assert file.weights["blocks.0.ffn.0.weight"].dtype == torch.bfloat16
    assert file.weights["blocks.0.norm3.weight"].dtype == torch.float32
    want = expected("blocks.0.ffn.0", parts)
    assert (file.weights["blocks.0.ffn.0.weight"].float() - want).abs().max() <= 0.004 * want.abs().max()
    code, _, _ = run(capsys, *args, "--alpha", "8")
    torch.testing.assert_close(
        read_network(out).weights["blocks.0.ffn.0.weight"], expected("blocks.0.ffn.0", parts, 2.0)
    )


class Evil:
    def __reduce__(self):
        return (os.system, ("touch evil-was-run",))


def bad_pickles(root: Path) -> dict[str, tuple[Path, str]]:
    torch.save({"generator": WEIGHTS, "config": Evil()}, root / "evil.pt")
    torch.save({"generator": WEIGHTS}, root / "whole.pt")
    (root / "cut.pt").write_bytes((root / "whole.pt").read_bytes()[:5000])
    torch.save({"step": 3}, root / "empty.pt")
    (root / "plain.pt").write_bytes(pickle.dumps({"a": 1}))
    (root / "named.safetensors").write_bytes((root / "whole.pt").read_bytes())
    says = {
        "evil.pt": "pickle of more than tensors, such as posix.system",
        "cut.pt": "incomplete",
        "empty.pt": "no tensors",
        "plain.pt": "pickle of more than tensors",
        "named.safetensors": "rename it to .pt",
    }
    return {name: (root / name, text) for name, text in says.items()}


def test_convert_refuses_in_one_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    good = LAYOUTS["Wan"][0](tmp_path)
    (tmp_path / "no.safetensors").write_bytes(b"")
    cases = {name: ((path, "out.safetensors"), text) for name, (path, text) in bad_pickles(tmp_path).items()}
    cases |= {
        "no such file": (("gone.pt", "out.safetensors"), "does not exist"),
        "empty": (("no.safetensors", "out.safetensors"), "empty"),
        "other suffix": ((good, "out.pt"), "must have a name that ends in .safetensors"),
        "no folder": ((good, "gone/out.safetensors"), "does not exist"),
        "onto itself": ((good, good), "choose another name"),
        "family": ((good, "out.safetensors", "--family", "sora"), "family must be one of self-forcing, causal-forcing"),
        "part": ((good, "out.safetensors", "--part", "ema"), "part is 'ema'"),
        "no LoRA": ((good, "out.safetensors", "--lora", good), "holds no LoRA"),
        "alpha": ((good, "out.safetensors", "--alpha", "x"), 'alpha must be a number above 0, got "x"'),
        "alpha 0": ((good, "out.safetensors", "--alpha", "0"), "alpha must be a number above 0, got 0"),
        "dtype": ((good, "out.safetensors", "--dtype", "int4"), "--dtype"),
    }
    before = sorted(os.listdir())
    for name, (args, says) in cases.items():
        code, out, err = run(capsys, "convert", *args)
        assert (code, out, len(err)) == (2, "", 1), (name, err)
        assert says in err[0], (name, err)
        assert sorted(os.listdir()) == before


def test_a_stopped_convert_leaves_the_old_file(tmp_path, capsys, monkeypatch):
    good, out = LAYOUTS["Wan"][0](tmp_path), tmp_path / "out.safetensors"
    out.write_bytes(b"old")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("causalcine_core.weights.tensors.save_file", full)
    assert run(capsys, "convert", good, out)[0] == 1
    assert out.read_bytes() == b"old" and sorted(os.listdir(tmp_path)) == ["out.safetensors", "x.safetensors"]


# --- C56: number types


def test_c56_bf16_keeps_what_must_not_be_rounded(tmp_path):
    config = WanConfig(dim=256, ffn_dim=512, num_heads=2, num_layers=12, text_dim=24)
    exact = tiny_net(0, config).to(torch.bfloat16).float()  # a file in bf16
    save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in exact.state_dict().items()}, tmp_path / "x.safetensors"
    )
    loaded = load_transformer(tmp_path / "x.safetensors", dtype=torch.bfloat16)
    fine = {name for name, parameter in loaded.named_parameters() if parameter.dtype == torch.float32}
    assert {
        "blocks.0.modulation",
        "blocks.0.norm3.weight",
        "blocks.0.self_attn.norm_q.weight",
        "head.modulation",
    } <= fine
    assert loaded.blocks[0].self_attn.q.weight.dtype == loaded.blocks[0].ffn[0].weight.dtype == torch.bfloat16

    theirs = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=128, text_dim=24, ffn_dim=512, num_layers=12
    ).requires_grad_(False)
    theirs.load_state_dict({diffusers_name(name): tensor for name, tensor in exact.state_dict().items()})
    naive = copy.deepcopy(theirs).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(5)
    latents, prompt = torch.randn(1, 16, 3, 8, 8, generator=generator), torch.randn(1, 8, 24, generator=generator)
    errors = []
    for level in (1000.0, 937.5, 833.33, 625.0):
        reference = output(exact, level=level)
        time = torch.tensor([level])
        torch.testing.assert_close(theirs(latents, time, prompt, return_dict=False)[0], reference, atol=1e-4, rtol=1e-4)
        rounded = naive(latents.bfloat16(), time, prompt.bfloat16(), return_dict=False)[0].float()
        ours = output(loaded, torch.bfloat16, level)
        errors.append([float((x - reference).square().mean().sqrt()) for x in (ours, rounded)])
    ours, rounded = torch.tensor(errors).mean(0)
    assert rounded > 2 * ours
