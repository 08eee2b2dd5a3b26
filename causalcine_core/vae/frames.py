"""Between the VAE's video tensor (float, -1..1) and picture frames (uint8)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def frames_to_uint8(video: Tensor) -> Tensor:
    """`[1 3 F H W]` or `[3 F H W]` in -1..1 to uint8 `[F H W 3]`; values outside are clipped."""
    if video.ndim == 5:
        if video.shape[0] != 1:
            raise ValueError(f"expected one video, got a batch of {video.shape[0]}")
        video = video[0]
    levels = (video.float() + 1) * 127.5
    return rearrange(levels.round().clamp(0, 255).to(torch.uint8), "c f h w -> f h w c").contiguous()


def uint8_to_frames(frames: Tensor) -> Tensor:
    """uint8 `[F H W 3]` to float32 `[1 3 F H W]` in -1..1."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"expected uint8 [F H W 3], got {frames.dtype} {list(frames.shape)}")
    return rearrange(frames.float() / 127.5 - 1, "f h w c -> 1 c f h w").contiguous()
