"""Starts a codec as a linear one, so that training begins where principal components end.

For a VAE of the kind that `training/recipes/codec.yaml` describes: patches, one stage in rows and columns only whose step
halves rows, columns and frames, one whose step halves frames, and a last one. A picture is then held as the first
principal components of squares twice as large as the patches, a group of four frames as their means and a few
components of how they change; a first latent frame as components of its one pixel frame. Latents and the strongest
signals have unit deviation. A constant channel keeps the norms nearly linear: the larger, the more so, but what a step
of an optimizer does to it is felt everywhere. Residual branches add nothing yet.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from causalcine_core.errors import InputError
from causalcine_core.vae import VAEConfig, WanVAE
from causalcine_core.vae.layers import AttentionBlock, CausalConv3d, Conv3d, ResidualBlock, RMSNorm
from causalcine_core.vae.wan import patchify

CONSTANT = 5.0  # value of the constant channel, where the strongest others have unit deviation
FLOOR = 0.3  # of the largest deviation: components that are weaker stay weaker, or their noise would count as much
SMALL = 0.2  # size of signals at the two output activations: small enough for SiLU to be x / 2
MOTION = 4  # latent channels that describe change within a latent frame

_PLACES = [(0, 0), (0, 1), (1, 0), (1, 1)]  # row and column of a patch in its square


def check_layout(config: VAEConfig) -> None:
    """Raises InputError where a VAE cannot start as a linear codec."""
    found = (config.spatial_downsample, config.temporal_downsample, config.shuffle, config.residual)
    if found != ((True, False), (True, True), True, False) or config.dim_mult[0] != 1:
        raise InputError("linear_start must be 0 for this model: it needs the layout of training/recipes/codec.yaml")


@torch.no_grad()
def start_linear(vae: WanVAE, video: Tensor) -> None:
    """Sets the weights of `vae` in place, from clips `[N 3 1+4n H W]` in -1..1."""
    config = vae.config
    check_layout(config)
    one, k, z = config.dim - 1, config.dim - 1, config.z_dim  # `one` is the constant channel, below it are signals
    still, static = 2 * k // 3, z - MOTION  # signals of a pair that are means, and of a latent frame
    patches = _patches(video, config.patch_size)  # groups, 4 frames, 4 places of a square, pixels
    mean = patches.mean((0, 1, 2))
    small, small_dev = _principal((patches - mean).flatten(0, 2), min(k, patches.shape[-1]))
    n = small.shape[1]
    squares = ((patches - mean) @ small).flatten(2)
    large, large_dev = _principal(squares.flatten(0, 1), k)
    motion, motion_dev = _motion(squares @ large, static, still, k - still)
    energy = _energy(
        squares.unflatten(2, (4, n)) / small_dev
    )  # of all signals of a patch, of a square of a latent frame
    latent_energy = _energy((squares @ large / large_dev)[..., :still]) + MOTION
    _neutral(vae, one)

    conv = vae.encoder.conv1
    conv.weight[:n, :, -1, 1, 1] = (small / small_dev).T.to(conv.weight)
    conv.bias[:n] = -((small / small_dev).T @ mean).to(conv.bias)
    conv.bias[one] = CONSTANT
    steps = [block for block in vae.encoder.downsamples if hasattr(block, "time_conv")]
    conv = steps[0].resample["1"]
    large = large.unflatten(0, (4, n))
    for place, (row, column) in enumerate(_PLACES):
        matrix = (small_dev[:, None] * large[place] / large_dev).T
        conv.weight[:k, :n, row, column] = matrix.to(conv.weight)
        conv.weight[one, one, row, column] = 0.25
    pair, four = (block.time_conv for block in steps)
    for tap in (1, 2):
        for index in range(k):  # means of the first signals, then half differences of the first ones again
            moved = index >= still
            pair.weight[index, index - still if moved else index, tap] = (tap - 1.5) if moved else 0.5
        four.weight[:still, :still, tap] = torch.eye(still)[:, :, None, None] / 2
        pair.weight[one, one, tap] = four.weight[one, one, tap] = 0.5
    # motion: `[m 4 k]` over deviation-weighted signals, seen as means and half differences of two pairs
    seen = motion * (large_dev / motion_dev[:, None, None])
    for tap in (1, 2):
        first, second = seen[:, 2 * tap - 2], seen[:, 2 * tap - 1]
        matrix = torch.cat([(first + second)[:, :still], (second - first)[:, : k - still]], 1)
        four.weight[static:z, :, tap] = 0
        four.weight[static:z, :k, tap, 0, 0] = matrix.to(four.weight)
    _read_out(
        vae.encoder.head, one, latent_energy, torch.eye(z, dtype=torch.float64), torch.zeros(z, dtype=torch.float64)
    )
    vae.conv1.weight[:z] = torch.eye(2 * z)[:z, :, None, None, None]
    vae.conv1.bias[z:] = -6.0
    vae.conv2.weight.copy_(torch.eye(z)[:, :, None, None, None])

    conv = vae.decoder.conv1
    conv.weight[:z, :, -1, 1, 1] = torch.eye(z)
    conv.bias[one] = CONSTANT
    steps = [block for block in vae.decoder.upsamples if hasattr(block, "time_conv")]
    four, pair = (block.time_conv for block in steps)
    frames = torch.zeros(4, k, z, dtype=torch.float64)  # signals of the four frames out of a latent
    frames[:, :static, :static] = torch.eye(static, dtype=torch.float64)
    frames[:, :, static:] = rearrange(motion * (motion_dev[:, None, None] / large_dev), "m t k -> t k m")
    for half in (0, 1):
        first, second = frames[2 * half], frames[2 * half + 1]
        _write(four, half * four.in_channels, (first + second) / 2)
        _write(four, half * four.in_channels + k + 1, (second - first) / 2)
        four.weight[half * four.in_channels + one, one, 2] = 1
        identity = torch.eye(k, dtype=torch.float64)
        change = torch.zeros(k, 2 * k + 1, dtype=torch.float64)
        change[:, :k], change[:, k + 1 :] = identity, identity * (2 * half - 1)
        _write(pair, half * pair.in_channels, change)
        pair.weight[half * pair.in_channels + one, one, 2] = 1
    conv = steps[1].resample["1"]
    for place in range(4):
        matrix = large[place] * large_dev / small_dev[:, None]
        conv.weight[place : 4 * n : 4, :k, 1, 1] = matrix.to(conv.weight)
        conv.weight[4 * one + place, one, 1, 1] = 1
    _read_out(vae.decoder.head, one, energy, small * small_dev, mean)
    spread = vae.encode(video[:16])[0].std((0, 2, 3, 4))  # of the latents, which come to have 1
    vae.conv1.weight[:z] /= spread.view(-1, 1, 1, 1, 1)
    vae.conv2.weight *= spread.view(1, -1, 1, 1, 1)


def _patches(video: Tensor, size: int) -> Tensor:
    """`[N 3 1+4n H W]` to patches of groups of four frames, by their places in squares of two by two: `[G 4 4 p]`."""
    folded = patchify(video[:, :, 1:], size).double()
    return rearrange(folded, "n p (f t) (h a) (w b) -> (n f h w) t (a b) p", t=4, a=2, b=2)


def _principal(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` principal directions `[p count]` of rows around zero, and their deviations `[count]`."""
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    deviation = values.flip(0)[:count].clamp_min(0).sqrt()
    return vectors.flip(1)[:, :count], deviation.clamp_min(FLOOR * deviation[0])


def _motion(signals: Tensor, static: int, still: int, moving: int) -> tuple[Tensor, Tensor]:
    """How signals `[G 4 k]` change within a group: directions `[m 4 k]` of what the means of the first `static` leave,
    and their deviations `[m]`. Known are the means of pairs of the first `still`, and differences of the first `moving`."""
    pairs = signals.unflatten(1, (2, 2))
    middle, index = pairs.mean(2, keepdim=True), torch.arange(signals.shape[2])
    change = (middle * (index < still) + (pairs - middle) * (index < moving)).flatten(1, 2)
    change[:, :, :static] -= change[:, :, :static].mean(1, keepdim=True)
    flat = change.flatten(1)
    directions, deviation = _principal(flat, MOTION)
    return rearrange(directions, "(t k) m -> m t k", t=4), deviation


def _neutral(vae: WanVAE, one: int) -> None:
    """Residual branches that add nothing yet, shortcuts that pass, norms that see unit signals, all else zero."""
    for module in vae.modules():
        if isinstance(module, Conv3d | nn.Conv2d | nn.Conv3d):
            module.bias.zero_()
        if (isinstance(module, Conv3d) and not isinstance(module, CausalConv3d)) or isinstance(module, nn.Conv2d):
            module.weight.zero_()
    for module in vae.modules():
        if isinstance(module, ResidualBlock):
            norm, conv, _, last = module.residual.values()
            _unit_norm(norm, one, one)
            nn.init.normal_(conv.weight, std=(2 / conv.weight[0].numel()) ** 0.5)
            last.weight.zero_()
            if isinstance(module.shortcut, Conv3d):
                passed = min(module.shortcut.in_channels, module.shortcut.out_channels)
                module.shortcut.weight[:passed, :passed, 0, 0, 0] = torch.eye(passed)
        elif isinstance(module, AttentionBlock):
            _unit_norm(module.norm, one, one)
            nn.init.normal_(module.to_qkv.weight, std=module.to_qkv.in_channels**-0.5)
            module.proj.weight.zero_()
    for conv in (vae.encoder.conv1, vae.encoder.head[2], vae.decoder.conv1, vae.decoder.head[2]):
        conv.weight.zero_()


def _energy(signals: Tensor) -> float:
    """Mean over places of the sum of the squares of signals `[... k]`."""
    return float(signals.square().sum(-1).mean())


def _unit_norm(norm: RMSNorm, one: int, energy: float) -> None:
    """A norm that passes signals of this energy as they are, and the constant channel as 1."""
    norm.gamma.fill_((CONSTANT**2 + energy) ** 0.5 / len(norm.gamma) ** 0.5)
    norm.gamma[one] /= CONSTANT


def _write(conv: nn.Conv3d, at: int, matrix: Tensor) -> None:
    """Output channels from `at` on are `matrix @ signals` of the current frame."""
    conv.weight[at : at + matrix.shape[0], : matrix.shape[1], 2, 0, 0] = matrix.to(conv.weight)


def _read_out(head: nn.ModuleList, one: int, energy: float, matrix: Tensor, bias: Tensor) -> None:
    """A head whose output is `matrix @ signals + bias`."""
    norm, _, conv = head
    _unit_norm(norm, one, energy)
    norm.gamma.mul_(SMALL)
    norm.gamma[one] = 0
    conv.weight[: matrix.shape[0], : matrix.shape[1], -1, 1, 1] = (matrix * 2 / SMALL).to(conv.weight)
    conv.bias[: len(bias)] = bias.to(conv.bias)
