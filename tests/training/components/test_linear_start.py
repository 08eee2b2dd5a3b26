"""A codec that begins as a linear one."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.vae import VAEConfig, WanVAE
from training.components.linear_start import start_linear
from training.data.footage import to_video

from ..footage import codec_config, moving_spots


@torch.no_grad()
def psnr(vae: WanVAE, video: torch.Tensor) -> float:
    output = vae.decode(vae.encode(video)[0])[0]
    return -10 * float(torch.log10((output - video).square().mean() / 4))


def test_the_linear_start_already_reconstructs():
    torch.manual_seed(0)
    vae = WanVAE(codec_config()).eval().requires_grad_(False)
    clips = torch.from_numpy(moving_spots(24))
    video, unseen = to_video(clips[:20]), to_video(clips[20:])
    assert psnr(vae, unseen) < 15
    start_linear(vae, video)
    assert psnr(vae, unseen) > 22
    std = vae.encode(unseen)[0].std((0, 2, 3, 4))
    assert std.min() > 0.3 and std.max() < 3


def test_the_linear_start_refuses_another_layout():
    with pytest.raises(InputError, match="linear_start must be 0 for this model"):
        start_linear(WanVAE(VAEConfig(dim=4)), torch.zeros(1, 3, 5, 32, 32))
