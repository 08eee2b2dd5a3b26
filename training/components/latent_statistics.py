"""Mean and deviation of a VAE's latents, and how to bring them to those of Wan2.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causalcine_core.vae import WAN21_MEAN, WAN21_STD, WanVAE

from ..data.footage import to_video


@torch.no_grad()
def latent_statistics(vae: WanVAE, films: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel of the latents of films, uint8 `[F H W 3]`."""
    latents = [vae.encode(to_video(torch.from_numpy(np.array(film))[None]))[0][0].flatten(1) for film in films]
    values = torch.cat(latents, dim=1).double()
    return values.mean(1), values.std(1)


@torch.no_grad()
def fold_statistics(vae: WanVAE, mean: Tensor, std: Tensor) -> None:
    """Rescales the latents from `mean` and `std` per channel to Wan2.1's, in place, without changing any picture.

    Exact, because both convolutions next to the latent are 1x1x1 and pad nothing.
    """
    gain = torch.tensor(WAN21_STD, dtype=torch.float64) / std.double()
    shift = torch.tensor(WAN21_MEAN, dtype=torch.float64) - mean.double() * gain
    into, out = vae.conv1, vae.conv2
    size = len(gain)
    weight, bias = into.weight.double(), into.bias.double()
    weight[:size] *= gain.view(-1, 1, 1, 1, 1)
    bias[:size] = bias[:size] * gain + shift
    bias[size:] += 2 * gain.log()  # the log variances
    into.weight.copy_(weight)
    into.bias.copy_(bias)
    weight = out.weight.double() / gain.view(1, -1, 1, 1, 1)
    out.bias.copy_(out.bias.double() - weight[:, :, 0, 0, 0] @ shift)
    out.weight.copy_(weight)
