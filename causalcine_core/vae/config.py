"""Shape of a causal Wan VAE, with named presets."""

from __future__ import annotations

from dataclasses import dataclass

from .. import checks
from ..errors import InputError


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the VAE. The defaults are Wan2.1's.

    dim: channels at full resolution; stage i has `dim * dim_mult[i]`. decoder_dim: the same of the decoder (None: as
    `dim`). Every stage but the last ends in a step down
    that halves frames where `temporal_downsample` says so, and rows and columns where `spatial_downsample` does
    (None: everywhere, as Wan). patch_size: pixels are first folded into channels as squares of this size (1: not at
    all), as Wan2.2 does. residual: what enters a stage is added, resampled, to what leaves it, as in Wan2.2. flat: how
    many of the first stages convolve in rows and columns only (1 x 3 x 3), not in time; Wan has none. shuffle: rows and
    columns are doubled by a convolution of the small picture whose channels become places, instead of one of the picture
    enlarged. Raises InputError that names the field.
    """

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    patch_size: int = 1
    spatial_downsample: tuple[bool, ...] | None = None
    decoder_dim: int | None = None
    residual: bool = False
    flat: int = 0
    shuffle: bool = False

    def __post_init__(self) -> None:
        steps = len(checks.wholes(self.dim_mult, "vae.dim_mult", 1, 64, least=1, most=8)) - 1
        if self.spatial_downsample is None:
            object.__setattr__(self, "spatial_downsample", (True,) * steps)
        if self.decoder_dim is None:
            object.__setattr__(self, "decoder_dim", self.dim)
        for name, most in (
            ("dim", 4096),
            ("decoder_dim", 4096),
            ("z_dim", 4096),
            ("num_res_blocks", 16),
            ("patch_size", 64),
        ):
            checks.whole(getattr(self, name), f"vae.{name}", 1, most)
        for name in ("temporal_downsample", "spatial_downsample"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or len(value) != steps or not all(isinstance(one, bool) for one in value):
                raise InputError(
                    f"vae.{name} must be a list of {steps} of true and false, one fewer than dim_mult has, got {checks.show(value)}"
                )
        checks.truth(self.residual, "vae.residual")
        checks.truth(self.shuffle, "vae.shuffle")
        checks.whole(self.flat, "vae.flat", 0, len(self.dim_mult))

    @classmethod
    def preset(cls, name: str) -> VAEConfig:
        """A config by name: 'wan2.1', 'wan2.2' or 'nano'."""
        return PRESETS[checks.choice(name, "VAE preset", PRESETS)]

    @property
    def spatial(self) -> tuple[bool, ...]:
        """`spatial_downsample`, filled in."""
        return self.spatial_downsample or (True,) * len(self.temporal_downsample)

    @property
    def decoder_width(self) -> int:
        """`decoder_dim`, filled in."""
        return self.decoder_dim or self.dim

    @property
    def image_channels(self) -> int:
        return 3 * self.patch_size**2

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent row and column."""
        result: int = self.patch_size * 2 ** sum(self.spatial)
        return result

    @property
    def temporal_stride(self) -> int:
        """Pixel frames per latent frame, after the first, which is one pixel frame."""
        result: int = 2 ** sum(self.temporal_downsample)
        return result

    def pixel_frames(self, latent_frames: int) -> int:
        """Length in pixel frames of a film of so many latent frames."""
        return 1 + self.temporal_stride * (latent_frames - 1)


PRESETS = {
    "wan2.1": VAEConfig(),
    "wan2.2": VAEConfig(dim=160, decoder_dim=256, z_dim=48, patch_size=2, residual=True),
    "nano": VAEConfig(  # one latent position per patch of 8 x 8: only frames are resampled
        dim=32,
        dim_mult=(2, 3, 4),
        num_res_blocks=1,
        temporal_downsample=(True, True),
        spatial_downsample=(False, False),
        patch_size=8,
    ),
}


def published_vae(channels: int) -> VAEConfig:
    """Shape of the public VAE whose latents have so many channels. Raises InputError where there is none."""
    for config in (VAEConfig.preset("wan2.1"), VAEConfig.preset("wan2.2")):
        if config.z_dim == channels:
            return config
    raise InputError(f"no public Wan VAE has {channels} latent channels; Wan2.1's has 16, Wan2.2's has 48")
