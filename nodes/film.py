"""What a LATENT of ours says of its film, beside its samples. Stock nodes pass it on or drop it; both are fine."""

from __future__ import annotations

from typing import Any

from ..causalcine_core.sampling import State

KEY = "causalcine"
FPS = 16.0  # of Wan 2.1, where a LATENT does not say


def latent_of(state: State) -> dict[str, Any]:
    """The film so far as a LATENT, in VAE space."""
    return {"samples": state.film(), KEY: {"fps": float(state.recipe.timeline.fps)}}


def fps_of(samples: dict[str, Any]) -> float:
    """The frame rate that a LATENT was made for."""
    return samples.get(KEY, {}).get("fps", FPS)
