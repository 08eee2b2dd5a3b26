"""Starts the built-in VAE as a linear autoencoder, so that training begins where principal components end.

For a VAE that never resamples rows and columns (one latent position per pixel patch). Every latent frame after the
first then holds, per patch, the mean over its frames of the first principal components of a patch, and a few
components of how the rest varies; the first latent frame holds components of its one pixel frame. A large constant
channel keeps the norms nearly linear; residual branches start at zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from causalcine_core.vae import WanVAE
from causalcine_core.vae.wan import AttentionBlock, CausalConv3d, Conv3d, ResidualBlock, RMSNorm, patchify

CONSTANT = 20.0  # value of the constant channel, where the others have about unit deviation
SMALL = 0.15  # size of signals at the two output activations: small enough for SiLU to be x / 2
MOTION = 4  # latent channels that describe change within a latent frame


@dataclass(frozen=True)
class Components:
    """Principal components of patches, and of their change within one latent frame of four.

    mean [p], basis [p k], deviation [k]; motion [m 4 k]: unit vectors in deviation-weighted coefficients;
    motion_deviation [m].
    """

    mean: Tensor
    basis: Tensor
    deviation: Tensor
    motion: Tensor
    motion_deviation: Tensor


def components(video: Tensor, patch: int, count: int, static: int) -> Components:
    """From clips `[N 3 1+4n H W]` in -1..1; the first `static` components are coded as means over four frames."""
    patches = rearrange(patchify(video[:, :, 1:], patch), "n p (f t) h w -> (n f h w) t p", t=4).double()
    flat = patches.flatten(0, 1)
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    deviation, basis = values.flip(0)[:count].sqrt(), vectors.flip(1)[:, :count]
    weighted = (patches - mean) @ basis  # N 4 k
    change = weighted.clone()
    change[:, :, :static] -= weighted[:, :, :static].mean(1, keepdim=True)
    change = change.flatten(1)
    values, vectors = torch.linalg.eigh(change.T @ change / len(change))
    motion = rearrange(vectors.flip(1)[:, :MOTION], "(t k) m -> m t k", t=4)
    return Components(mean, basis, deviation, motion, values.flip(0)[:MOTION].sqrt())


@torch.no_grad()
def start_linear(vae: WanVAE, video: Tensor) -> None:
    """Sets the weights of `vae` in place, from clips `[N 3 1+4n H W]` in -1..1."""
    config = vae.config
    if any(config.spatial_downsample) or config.temporal_downsample != (True, True) or min(config.dim_mult) < 2:
        raise ValueError(f"a linear start needs two purely temporal steps and widths of 2 * dim or more, got {config}")
    one, z, k = config.dim - 1, config.z_dim, config.dim - 1  # `one` is the constant channel
    static = z - MOTION
    parts = components(video, config.patch_size, k, static)
    _neutral(vae, one, k)

    low, high = slice(0, k), slice(config.dim, config.dim + k)  # coefficients, and their change within a pair
    identity = torch.eye(k, dtype=torch.float64)
    conv = vae.encoder.conv1
    conv.weight[low, :, 2, 1, 1] = (parts.basis / parts.deviation).T.to(conv.weight)
    conv.bias[low] = -((parts.basis / parts.deviation).T @ parts.mean).to(conv.bias)
    conv.bias[one] = CONSTANT

    pair, four = (block.time_conv for block in vae.encoder.downsamples if hasattr(block, "time_conv"))
    for conv in (pair, four):
        for tap in (1, 2):
            _write(conv, low, low, tap, identity / 2)
            _write(conv, high, low, tap, identity * (tap - 1.5))
            conv.weight[one, one, tap] = 0.5
    weights = parts.motion * (parts.deviation / parts.motion_deviation[:, None, None])  # m 4 k
    for tap in (1, 2):
        first, second = weights[:, 2 * tap - 2], weights[:, 2 * tap - 1]
        _write(four, slice(static, z), low, tap, first + second)
        _write(four, slice(static, z), high, tap, second - first)
    _read_out(vae.encoder.head, one, torch.eye(z, dtype=torch.float64), torch.zeros(z))

    vae.conv1.weight[:z] = torch.eye(2 * z)[:z, :, None, None, None]
    vae.conv1.bias[z:] = -6.0
    vae.conv2.weight.copy_(torch.eye(z)[:, :, None, None, None])

    conv = vae.decoder.conv1
    conv.weight[:z, :, 2, 1, 1] = torch.eye(z)
    conv.bias[one] = CONSTANT
    four, pair = (block.time_conv for block in vae.decoder.upsamples if hasattr(block, "time_conv"))
    frames = torch.zeros(4, k, z, dtype=torch.float64)
    frames[:, :static, :static] = torch.eye(static, dtype=torch.float64)
    moved = parts.motion * (parts.motion_deviation[:, None, None] / parts.deviation)
    frames[:, :, static:] = rearrange(moved, "m t k -> t k m")
    for half in (0, 1):
        first, second = frames[2 * half], frames[2 * half + 1]
        offset = half * four.in_channels
        _write(four, slice(offset, offset + k), slice(0, z), 2, (first + second) / 2)
        _write(four, slice(offset + config.dim, offset + config.dim + k), slice(0, z), 2, (second - first) / 2)
        four.weight[offset + one, one, 2] = 1
        offset = half * pair.in_channels
        _write(pair, slice(offset, offset + k), low, 2, identity)
        _write(pair, slice(offset, offset + k), high, 2, identity * (2 * half - 1))
        pair.weight[offset + one, one, 2] = 1
    _read_out(vae.decoder.head, one, parts.basis * parts.deviation, parts.mean)


def _neutral(vae: WanVAE, one: int, k: int) -> None:
    """Residual branches that add nothing yet, shortcuts that pass, norms that see unit signals."""
    for module in vae.modules():
        if isinstance(module, Conv3d | nn.Conv2d | nn.Conv3d):
            module.bias.zero_()
        if isinstance(module, Conv3d) and not isinstance(module, CausalConv3d):
            module.weight.zero_()
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            norm, conv, _, last = module.residual.values()
            _unit_norm(norm, one, k)
            nn.init.normal_(conv.weight, std=(2 / conv.weight[0].numel()) ** 0.5)
            last.weight.zero_()
            if isinstance(module.shortcut, Conv3d):
                passed = min(module.shortcut.in_channels, module.shortcut.out_channels)
                module.shortcut.weight[:passed, :passed, 0, 0, 0] = torch.eye(passed)
        elif isinstance(module, AttentionBlock):
            _unit_norm(module.norm, one, k)
            module.proj.weight.zero_()
    for conv in (vae.encoder.conv1, vae.encoder.head[2], vae.decoder.conv1, vae.decoder.head[2]):
        conv.weight.zero_()


def _unit_norm(norm: RMSNorm, one: int, k: int) -> None:
    norm.gamma.fill_((CONSTANT**2 + k) ** 0.5 / len(norm.gamma) ** 0.5)
    norm.gamma[one] /= CONSTANT


def _write(conv: nn.Conv3d, to: slice, source: slice, tap: int, matrix: Tensor) -> None:
    conv.weight[to, source, tap, 0, 0] = matrix.to(conv.weight)


def _read_out(head: nn.ModuleList, one: int, matrix: Tensor, bias: Tensor) -> None:
    """A head whose output is `matrix @ signals + bias`."""
    norm, _, conv = head
    _unit_norm(norm, one, one)
    norm.gamma.mul_(SMALL)
    norm.gamma[one] = 0
    conv.weight[: matrix.shape[0], : matrix.shape[1], 2, 1, 1] = (matrix * 2 / SMALL).to(conv.weight)
    conv.bias[: len(bias)] = bias.to(conv.bias)
