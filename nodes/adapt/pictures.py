"""Latents as small pictures: by a VAE, by a tiny decoder, or by a format's factors of red, green and blue."""

from __future__ import annotations

import io
from typing import Any

import comfy.latent_formats
import torch
from PIL import Image
from torch import Tensor

from ...causalcine_core.sampling.label import MOST_PICTURE
from ...causalcine_core.vae import denormalize, normalize
from . import vae as vaes

FORMATS = {16: comfy.latent_formats.Wan21, 48: comfy.latent_formats.Wan22}  # by latent channels
SIDE = 256  # pixels of a thumbnail's longer side


def still(latent: Tensor, vae: Any, tiny: vaes.TinyPreview | None, latent_format: Any) -> Image.Image:
    """One latent frame `[1 C 1 h w]` in the model's space, by the first of these that there is. A VAE must be loaded."""
    if vae is not None:
        pixels = vaes.still(vae, denormalize(latent))
    elif tiny is not None:
        pixels = tiny.still(latent)
    else:
        pixels = rough(latent, latent_format)
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())


def rough(latent: Tensor, latent_format: Any) -> Tensor:
    """One latent frame `[1 C 1 h w]` in the model's space as a picture `[h w 3]` around 0..1."""
    factors = latent.new_tensor(latent_format.latent_rgb_factors)
    bias = latent.new_tensor(latent_format.latent_rgb_factors_bias)
    return (latent[0, :, 0].movedim(0, -1) @ factors + bias + 1) / 2


def thumbnail(latent: Tensor, vae: Any = None) -> bytes:
    """One latent frame `[1 C 1 h w]` in VAE space as a JPEG small enough for a state file. A VAE must be loaded; without one its
    colours are rough."""
    picture = still(normalize(latent.float()), vae, None, FORMATS[latent.shape[1]]())
    scale = SIDE / max(picture.size) if vae is None else min(1, SIDE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    for quality in (88, 75, 60, 40, 20):
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        if file.tell() <= MOST_PICTURE:
            return file.getvalue()
    return b""
