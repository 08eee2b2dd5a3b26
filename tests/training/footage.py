"""Clips that are drawn in no time, and the shape of a codec that is small enough for them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from causalcine_core.vae import VAEConfig

CODEC: dict[str, Any] = {
    "dim": 24,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temporal_downsample": [True, True],
    "spatial_downsample": [True, False],
    "patch_size": 4,
    "flat": 1,
    "shuffle": True,
}


def codec_config() -> VAEConfig:
    return VAEConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in CODEC.items()})


def moving_spots(count: int, frames: int = 17, seed: int = 0) -> NDArray[np.uint8]:
    """Clips `[N F 32 32 3]` of a soft bright spot that moves over a slope of colour."""
    generator = np.random.default_rng(seed)
    y, x, t = np.mgrid[:32, :32, :frames].astype(np.float32)
    clips = []
    for _ in range(count):
        at, speed, tint = generator.random(2) * 32, generator.normal(size=2), generator.random(3)
        square = (x - at[0] - speed[0] * t) ** 2 + (y - at[1] - speed[1] * t) ** 2
        film = (x + y)[..., None] * 2 * tint + 120 * np.exp(-square / 60)[..., None]
        clips.append(np.clip(film, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3))
    return np.stack(clips)
