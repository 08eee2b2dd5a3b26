"""Reads a VAE from safetensors, whichever of the public layouts it was saved in, and writes ours."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError, about
from ..weights.checkpoint import check_weights
from ..weights.header import Shape
from ..weights.int8 import SCALE, expand
from ..weights.tensors import read_tensors, write_tensors
from .config import VAEConfig
from .wan import WanVAE

Weights = dict[str, Tensor]

PREFIXES = ("first_stage_model.", "vae.")  # where all-in-one ComfyUI files keep their VAE

# diffusers' names on the left; down and up blocks need arithmetic and follow below
DIFFUSERS_NAMES = (
    (r"^quant_conv\.", "conv1."),
    (r"^post_quant_conv\.", "conv2."),
    (r"\.conv_in\.", ".conv1."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
)
_ENCODER_LAYER = re.compile(r"encoder\.downsamples\.(\d+)\.(?:downsamples\.(\d+)\.)?")
DIFFUSERS_RESIDUAL_NAMES = (
    (r"(\.\d+)\.norm1\.", r"\1.residual.0."),
    (r"(\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"(\.\d+)\.norm2\.", r"\1.residual.3."),
    (r"(\.\d+)\.conv2\.", r"\1.residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def load_vae(path: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> WanVAE:
    """A VAE from a safetensors file in Wan's, ComfyUI's or diffusers' layout, in eval mode.

    Its shape is read off the weights. dtype: by default as in the file, float32 where that has several. Raises
    InputError when the file holds no Wan VAE.
    """
    weights, _ = read_tensors(path, "VAE file")
    return vae_from_weights(weights, f"VAE file {path}").to(device=device, dtype=dtype)


def vae_from_weights(weights: Weights, source: str = "VAE") -> WanVAE:
    """A VAE from the tensors of a file, which may hold other models too. source: the file, for the sentence of an InputError."""
    with about(source):
        weights = original_names(weights)
        if any(name.endswith(SCALE) for name in weights):  # of an all-in-one file
            weights = {name: tensor.float() for name, tensor in expand(weights).items()}
        config = infer_config(weights)
    with torch.device("meta"):
        vae = WanVAE(config)
    own = {name: weights[name] for name in vae.state_dict() if name in weights}
    check_weights(vae, own, source)
    kinds = {tensor.dtype for tensor in own.values()}
    if len(kinds) > 1 or min(kind.itemsize for kind in kinds) == 1:  # no layer computes in two types, or in eight bits
        own = {name: tensor.float() for name, tensor in own.items()}
    vae.load_state_dict(own, assign=True)
    return vae.eval()


def save_vae(vae: WanVAE, path: str | Path, metadata: dict[str, object] | None = None) -> None:
    """Writes the weights under their original names; `metadata` goes into the header as text or JSON.

    The file appears under its name only when it is whole; raises OSError as `write_atomic` does.
    """
    header = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (metadata or {}).items()}
    write_tensors(path, vae.state_dict(), header)


def original_names(weights: Weights) -> Weights:
    """The VAE's part of the tensors, under the names of the published Wan2.1 file."""
    for prefix in PREFIXES:
        inner = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        if inner:
            weights = inner
            break
    return from_diffusers_keys(weights) if "encoder.conv_in.weight" in weights else weights


def from_diffusers_keys(weights: Weights) -> Weights:
    """Renames the tensors of diffusers' `AutoencoderKLWan` to the original names."""
    resnets = {int(found[1]) for name in weights if (found := re.search(r"up_blocks\.0\.resnets\.(\d+)\.", name))}
    blocks_per_stage = len(resnets) + 1  # residual blocks, then the upsampler
    staged = any(".downsampler." in name for name in weights)  # Wan2.2: stages are modules

    def in_stage(found: re.Match[str]) -> str:
        stage, kind, index = found[2], found[3], found[4]
        blocks = len(resnets) - (found[1] == "down")
        return f".{found[1]}samples.{stage}.{found[1]}samples.{index if kind == 'resnets' else blocks}."

    def up_block(found: re.Match[str]) -> str:
        stage, kind, index = int(found[1]), found[2], int(found[3])
        inside = index if kind == "resnets" else len(resnets)
        return f".upsamples.{stage * blocks_per_stage + inside}."

    renamed = {}
    for name, tensor in weights.items():
        if staged:
            name = re.sub(r"\.(down|up)_blocks\.(\d+)\.(resnets|\1sampler)\.(?:(?<=resnets\.)(\d+)\.)?", in_stage, name)
        name = re.sub(r"\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", up_block, name)
        for pattern, replacement in (*DIFFUSERS_NAMES, *DIFFUSERS_RESIDUAL_NAMES):
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def infer_config(weights: Weights) -> VAEConfig:
    """The shape of the VAE, read off tensors under the original names. Raises InputError."""
    dim, image_channels = _shape(weights, "encoder.conv1.weight", 5)[:2]
    blocks, widths, spans = [0], [0], [3]  # per stage, walking down the encoder
    temporal: list[bool] = []
    spatial: list[bool] = []
    found = {match[0]: match for name in weights if (match := _ENCODER_LAYER.match(name))}
    for prefix in sorted(found, key=lambda prefix: (int(found[prefix][1]), int(found[prefix][2] or 0))):
        if f"{prefix}residual.6.weight" in weights:
            blocks[-1] += 1
            shape = _shape(weights, f"{prefix}residual.6.weight", 5)
            widths[-1], spans[-1] = shape[0], shape[2]
        else:
            temporal.append(f"{prefix}time_conv.weight" in weights)
            spatial.append(f"{prefix}resample.1.weight" in weights)
            blocks.append(0)
            widths.append(0)
            spans.append(3)
    if 0 in blocks or len(set(blocks)) != 1:
        raise InputError(f"the encoder has {blocks} residual blocks per stage; a Wan VAE has the same number in each")
    if any(width % dim for width in widths):
        raise InputError(f"the encoder is {widths} wide; a Wan VAE is so many times as wide as its first layer ({dim})")
    return VAEConfig(
        dim=dim,
        z_dim=_shape(weights, "conv2.weight", 5)[0],
        dim_mult=tuple(width // dim for width in widths),
        num_res_blocks=blocks[0],
        temporal_downsample=tuple(temporal),
        spatial_downsample=tuple(spatial),
        decoder_dim=max(1, _shape(weights, "decoder.head.0.gamma")[0] // (widths[0] // dim)),
        residual=any(match[2] for match in found.values()),
        patch_size=max(1, math.isqrt(image_channels // 3)),
        flat=spans.count(1),
        shuffle=any(
            _shape(weights, name, 4)[0] > weights[name].shape[1]
            for name in weights
            if name.startswith("decoder.upsamples.") and name.endswith("resample.1.weight")
        ),
    )


def _shape(weights: Weights, name: str, rank: int | None = None) -> Shape:
    """Of a tensor that must be there, with as many axes and none of them empty."""
    if name not in weights:
        raise InputError(f"there is no tensor {name!r}, so it is no Wan VAE")
    shape = tuple(weights[name].shape)
    if not shape or 0 in shape or (rank is not None and len(shape) != rank):
        raise InputError(f"{name} has the shape {list(shape)}, so it is no Wan VAE")
    return shape
