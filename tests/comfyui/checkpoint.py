"""Makes small checkpoint files of the real architectures with random weights, for servers to load."""

from __future__ import annotations

import subprocess
from pathlib import Path

import torch
from safetensors.torch import save_file

from causalcine_core.model import CausalWanTransformer, WanConfig, save_checkpoint
from causalcine_core.pipeline import Pipeline
from causalcine_core.sampling import Recipe
from causalcine_core.vae import VAEConfig, WanVAE
from causalcine_core.weights.int8 import compact

from .server import python_of

VOCABULARY = (
    "a the red blue robot cat with yellow scarf walks through snowy forest in morning sits on beach at sunset waves "
    "jumps close shot wide night . ,"
)
WORDS = tuple(VOCABULARY.split())


def random_checkpoint(path: Path, *, seed: int = 0, vocabulary: tuple[str, ...] = WORDS, **recipe: object) -> Path:
    """An all-in-one file: 96 x 96, untrained, quick. `recipe` overrides its recipe."""
    base = Recipe.of(steps=4, width=96, height=96, window=1, top_k=2, guidance=3.0, seconds=1.5)
    pipe = Pipeline.random(seed=seed, recipe=base.changed(**recipe), vocabulary=vocabulary, text_len=48)
    net = pipe.network.net
    header = {
        "model": net.config.to_dict(),
        "text": pipe.text.config.to_dict(),
        "recipe": pipe.recipe.to_dict(),
        "card": {"name": "random"},
    }
    parts = {"model": net.state_dict(), "text": pipe.text.state_dict(), "vae": pipe.vae.state_dict()}
    save_checkpoint(path, header, **{name: compact(weights) for name, weights in parts.items()})  # as nano is shipped
    return path


def random_wan(path: Path, *, dim: int = 256, layers: int = 2, seed: int = 0, channels: int = 16) -> Path:
    """A bare network with Wan 1.3B's (48 channels: Wan 2.2 5B's) names and text, but narrow."""
    torch.manual_seed(seed)
    shape = {"dim": dim, "ffn_dim": 512, "num_heads": dim // 128, "num_layers": layers}
    net = CausalWanTransformer(WanConfig(**shape, in_dim=channels, out_dim=channels)).initialize()
    torch.nn.init.xavier_uniform_(net.head.head.weight)
    save_file({name: tensor.contiguous() for name, tensor in net.state_dict().items()}, path)
    return path


def random_wan_vae(path: Path, *, seed: int = 0) -> Path:
    """A VAE of Wan 2.1's full width (ComfyUI 0.3.64 knows no other), with random weights."""
    torch.manual_seed(seed)
    vae = WanVAE(VAEConfig.preset("wan2.1")).to(torch.bfloat16)
    save_file({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, path)
    return path


def lora_into(merged: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A small LoRA on three layers, merged into the weights that are given."""
    generator, lora = torch.Generator().manual_seed(0), {}
    for name in ("blocks.0.self_attn.q", "blocks.1.self_attn.o", "blocks.0.ffn.0"):
        weight = merged[f"{name}.weight"]
        down = torch.randn(4, weight.shape[1], generator=generator) * 0.3
        up = torch.randn(weight.shape[0], 4, generator=generator) * 0.3
        lora |= {f"diffusion_model.{name}.lora_A.weight": down, f"diffusion_model.{name}.lora_B.weight": up}
        merged[f"{name}.weight"] = (weight.float() + up @ down).to(weight.dtype)
    return lora


GGUF = """
import sys, gguf, numpy
from safetensors.numpy import load_file, save_file
source, target, plain = sys.argv[1:]
writer, kept = gguf.GGUFWriter(target, "wan"), {}
for name, data in load_file(source).items():
    data = data.astype(numpy.float32)
    kept[name] = data
    if data.ndim > 4:
        writer.add_array("comfy.gguf.orig_shape." + name, [int(side) for side in data.shape])
        data = data.reshape(len(data), -1)
    elif data.ndim == 2 and data.shape[1] % 32 == 0 and name.startswith("blocks."):
        kind = gguf.GGMLQuantizationType.Q8_0
        data = gguf.quants.quantize(data, kind)
        kept[name] = gguf.quants.dequantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        continue
    writer.add_tensor(name, data)
writer.write_header_to_file(), writer.write_kv_data_to_file(), writer.write_tensors_to_file(), writer.close()
save_file(kept, plain)
"""


def write_gguf(main: Path, target: Path, source: Path) -> Path:
    """A network's blocks in 8 bits, as a GGUF file; gives a safetensors file beside it of what they then stand for."""
    plain = target.with_suffix(".plain.safetensors")
    subprocess.run([python_of(main), "-c", GGUF, source, target, plain], check=True, timeout=100)
    return plain
