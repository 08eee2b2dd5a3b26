"""Wan's causal video VAE: pixels to latents and back, piece by piece."""

from .config import VAEConfig, published_vae
from .frames import frames_to_uint8, uint8_to_frames
from .latent import SCALES, WAN21_MEAN, WAN21_STD, denormalize, normalize
from .load import load_vae, save_vae, vae_from_weights
from .state import VAEState
from .tiny import TinyDecoder
from .wan import WanVAE

__all__ = [
    "SCALES",
    "WAN21_MEAN",
    "WAN21_STD",
    "TinyDecoder",
    "VAEConfig",
    "VAEState",
    "WanVAE",
    "denormalize",
    "frames_to_uint8",
    "load_vae",
    "normalize",
    "published_vae",
    "save_vae",
    "uint8_to_frames",
    "vae_from_weights",
]
