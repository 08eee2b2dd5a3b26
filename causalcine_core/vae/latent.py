"""Between the VAE's latents and the model's: one fixed scale and shift per channel.

Files, LATENT wires and `WanVAE` speak VAE space; the transformer sees model space, where every channel has
about zero mean and unit deviation. The constants are those published with Wan2.1.
"""

from __future__ import annotations

from torch import Tensor

# fmt: off
WAN21_MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
              0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
WAN21_STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
             3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
# fmt: on


def normalize(latent: Tensor) -> Tensor:
    """VAE space to model space, `[B 16 F H W]`."""
    return (latent - _per_channel(WAN21_MEAN, latent)) / _per_channel(WAN21_STD, latent)


def denormalize(latent: Tensor) -> Tensor:
    """Model space to VAE space, `[B 16 F H W]`."""
    return latent * _per_channel(WAN21_STD, latent) + _per_channel(WAN21_MEAN, latent)


def _per_channel(values: tuple[float, ...], like: Tensor) -> Tensor:
    if like.ndim != 5 or like.shape[1] != len(values):
        raise ValueError(f"expected a latent [B {len(values)} F H W], got {list(like.shape)}")
    return like.new_tensor(values).view(1, -1, 1, 1, 1)
