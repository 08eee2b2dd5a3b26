"""The causal video VAEs of Wan2.1 and Wan2.2, with their streaming state as a value.

Layers look only back in time, so a film can be encoded and decoded piece by piece: what each layer must remember
goes in and comes out as a `VAEState`, and nothing is kept inside the module. Parameter names and shapes are those
of the published files (`encoder.downsamples.0.residual.2.weight`, ...).

Axes: B batch, C channels, F frames, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError
from .config import VAEConfig
from .layers import CausalConv3d, Downsample, DownStage, ResidualBlock, Upsample, UpStage, head, middle
from .state import Tape, VAEState

PIECE_PIXELS = 4 * 480 * 832  # pixels run through the network at once: bounds memory, whatever the film's length


class WanVAE(nn.Module):
    """Encoder and decoder between pixels and raw latents (`latent.normalize` leads on to model space)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.conv1 = nn.Conv3d(2 * config.z_dim, 2 * config.z_dim, 1)
        self.conv2 = nn.Conv3d(config.z_dim, config.z_dim, 1)
        self.decoder = Decoder(config)

    def encode(self, video: Tensor, state: VAEState | None = None) -> tuple[Tensor, VAEState]:
        """The posterior mean of a piece of film.

        video: `[B 3 F H W]` in -1..1. A film begins (state None) with 1 + s*n frames and goes on with s*n, where s is
        `config.temporal_stride`. Returns the latent `[B z f h w]` and the state to continue from.
        Raises InputError when frames, rows or columns do not fit the strides.
        """
        mean, _, state = self.encode_moments(video, state)
        return mean, state

    def encode_moments(self, video: Tensor, state: VAEState | None = None) -> tuple[Tensor, Tensor, VAEState]:
        """As `encode`, but mean and log variance of the posterior, for training."""
        self._check_video(video, begins=state is None)
        patches = patchify(video, self.config.patch_size)
        first = 1 if state is None else 0
        step = self.config.temporal_stride * self._latent_frames_at_once(video.shape[-2] * video.shape[-1])
        outputs = []
        for piece in pieces(patches, first, step):
            tape = Tape(state)
            outputs.append(self.conv1(self.encoder(piece, tape)))
            state = tape.state()
        mean, logvar = torch.cat(outputs, dim=2).chunk(2, dim=1)
        assert state is not None  # of at least one piece
        return mean, logvar, state

    def decode(self, latent: Tensor, state: VAEState | None = None, *, clamp: bool = True) -> tuple[Tensor, VAEState]:
        """The pixels of a piece of film, of any length.

        latent: `[B z f h w]`. Returns the video `[B 3 F H W]`, cut to -1..1 unless `clamp` is off, and the state to
        continue from. The first latent frame of a film (state None) is one pixel frame, every other one
        `config.temporal_stride`. Raises InputError when the latent has another shape.
        """
        if latent.ndim != 5 or latent.shape[1] != self.config.z_dim or 0 in latent.shape:
            raise InputError(f"latent must be [B {self.config.z_dim} F H W], got {list(latent.shape)}.")
        step = self._latent_frames_at_once(latent.shape[-2] * latent.shape[-1] * self.config.spatial_stride**2)
        outputs = []
        for piece in pieces(latent, 0, step):
            tape = Tape(state)
            outputs.append(unpatchify(self.decoder(self.conv2(piece), tape), self.config.patch_size))
            state = tape.state()
        video = torch.cat(outputs, dim=2)
        assert state is not None  # of at least one piece
        return (video.clamp(-1, 1) if clamp else video), state

    def _latent_frames_at_once(self, pixels: int) -> int:
        return max(1, PIECE_PIXELS // (pixels * self.config.temporal_stride))

    def _check_video(self, video: Tensor, begins: bool) -> None:
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise InputError(f"video must be [B 3 F H W], got {list(video.shape)}.")
        frames, height, width = video.shape[2:]
        time, space = self.config.temporal_stride, self.config.spatial_stride
        if height % space or width % space:
            raise InputError(f"video height and width must be multiples of {space}, got {height} x {width}.")
        if begins and (frames - 1) % time:
            raise InputError(f"a film must begin with 1 + {time}n frames, got {frames}.")
        if not begins and frames % time:
            raise InputError(f"a film must be continued with a multiple of {time} frames, got {frames}.")


class Encoder(nn.Module):
    """Pixels (patches) to the unquantised moments."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.dim * mult for mult in config.dim_mult]
        spans = [1 if i < config.flat else 3 for i in range(len(widths))]  # frames that the convolutions see, by stage
        self.conv1 = CausalConv3d(config.image_channels, config.dim, spans[0])
        self.downsamples = nn.ModuleList()
        width_in = config.dim
        steps = [*zip(config.spatial, config.temporal_downsample, strict=True), None]
        for width, step, span in zip(widths, steps, spans, strict=True):
            layers: list[nn.Module] = [
                ResidualBlock(width if i else width_in, width, span) for i in range(config.num_res_blocks)
            ]
            if step is not None:
                layers.append(Downsample(width, *step))
            self.downsamples.extend([DownStage(layers, width, step)] if config.residual else layers)
            width_in = width
        self.middle = middle(widths[-1])
        self.head = head(widths[-1], 2 * config.z_dim)

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        x = self.conv1(x, tape)
        for block in (*self.downsamples, *self.middle):
            x = block(x, tape)
        norm, activation, conv = self.head
        result: Tensor = conv(activation(norm(x)), tape)
        return result


class Decoder(nn.Module):
    """Latents to pixels (patches)."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths = [config.decoder_width * mult for mult in reversed(config.dim_mult)]
        spans = [1 if i < config.flat else 3 for i in reversed(range(len(widths)))]
        self.conv1 = CausalConv3d(config.z_dim, widths[0])
        self.middle = middle(widths[0])
        self.upsamples = nn.ModuleList()
        width_in = widths[0]
        steps = [*zip(reversed(config.spatial), reversed(config.temporal_downsample), strict=True), None]
        for width, step, span in zip(widths, steps, spans, strict=True):
            layers: list[nn.Module] = [
                ResidualBlock(width if i else width_in, width, span) for i in range(config.num_res_blocks + 1)
            ]
            width_in = width
            if step is not None:
                width_in = width if config.residual or not step[0] else width // 2
                layers.append(Upsample(width, width_in, *step, config.shuffle))
            self.upsamples.extend([UpStage(layers, width, step)] if config.residual else layers)
        self.head = head(widths[-1], config.image_channels, spans[-1])

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        x = self.conv1(x, tape)
        for block in (*self.middle, *self.upsamples):
            x = block(x, tape)
        norm, activation, conv = self.head
        result: Tensor = conv(activation(norm(x)), tape)
        return result


def patchify(video: Tensor, size: int) -> Tensor:
    """Folds squares of size x size pixels into channels, Wan2.2's order."""
    return video if size == 1 else rearrange(video, "b c f (h q) (w r) -> b (c r q) f h w", q=size, r=size)


def unpatchify(patches: Tensor, size: int) -> Tensor:
    """The inverse of `patchify`."""
    return patches if size == 1 else rearrange(patches, "b (c r q) f h w -> b c f (h q) (w r)", q=size, r=size)


def pieces(x: Tensor, first: int, step: int) -> Iterator[Tensor]:
    """Cuts `[B C F H W]` in time: the first piece is `first + step` frames long, later ones `step`."""
    start, stop = 0, first + step
    while start < x.shape[2]:
        yield x[:, :, start:stop]
        start, stop = stop, stop + step
