"""Mean and deviation of a VAE's latents, and how to bring them to others, such as those of Wan2.1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causalcine_core.vae import WanVAE

from ..data.footage import to_video

Statistics = tuple[Tensor, Tensor]  # mean and deviation of each channel


@torch.no_grad()
def latent_statistics(vae: WanVAE, films: Sequence[NDArray[np.uint8]]) -> Statistics:
    """Of the latents of films, uint8 `[F H W 3]`, in float64."""
    like = vae.conv1.weight
    videos = (to_video(torch.from_numpy(np.array(film))[None]).to(like) for film in films)
    values = torch.cat([vae.encode(video)[0][0].flatten(1) for video in videos], dim=1).double()
    return values.mean(1), values.std(1)


@torch.no_grad()
def fold_statistics(vae: WanVAE, found: Statistics, wanted: Statistics) -> None:
    """Rescales the latents from the statistics that were found to those that are wanted, in place, changing no picture.

    Exact, because both convolutions next to the latent are 1x1x1 and pad nothing.
    """
    (mean, std), (new_mean, new_std) = (
        [part.to(vae.conv1.weight.device).double() for part in one] for one in (found, wanted)
    )
    gain = new_std / std
    shift = new_mean - mean * gain
    into, out = vae.conv1, vae.conv2
    assert into.bias is not None and out.bias is not None
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
