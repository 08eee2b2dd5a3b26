"""The causal video VAEs of Wan2.1 and Wan2.2, with their streaming state as a value.

Layers look only back in time, so a film can be encoded and decoded piece by piece: what each layer must remember
goes in and comes out as a `VAEState`, and nothing is kept inside the module. Parameter names and shapes are those
of the published files (`encoder.downsamples.0.residual.2.weight`, ...).

Axes: B batch, C channels, F frames, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from .. import checks
from ..errors import InputError
from ..threads import one_thread
from .state import Tape, VAEState

PIECE_PIXELS = 4 * 480 * 832  # pixels run through the network at once: bounds memory, whatever the film's length


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


def middle(width: int) -> nn.ModuleList:
    return nn.ModuleList([ResidualBlock(width, width), AttentionBlock(width), ResidualBlock(width, width)])


def head(width: int, width_out: int, span: int = 3) -> nn.ModuleList:
    return nn.ModuleList([RMSNorm(width, 3), nn.SiLU(), CausalConv3d(width, width_out, span)])


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that always takes oneDNN on a CPU: by itself torch has a slower loop, threefold, for small inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        pads = self.padding
        assert not isinstance(pads, str)
        if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
            return torch.mkldnn_convolution(x, weight, self.bias, pads, self.stride, self.dilation, self.groups)
        return F.conv3d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class CausalConv3d(Conv3d):
    """A 3x3x3 convolution over the current frame and the two before it; before a film there is zero.

    span: 1 for a 1x3x3 convolution, which sees the current frame only and remembers nothing.
    """

    def __init__(self, width_in: int, width_out: int, span: int = 3):
        super().__init__(width_in, width_out, kernel_size=(span, 3, 3), padding=(0, 1, 1))
        self.span = span

    def forward(self, x: Tensor, tape: Tape) -> Tensor:  # type: ignore[override]  # a causal layer takes its past
        if self.span == 1:
            return super().forward(x)
        past = tape.read(x, 2)
        film = torch.cat([zero_frames(x, 2) if past is None else past, x], dim=2)
        tape.write(film[:, :, -2:])
        if past is None and x.shape[2] == 1:  # a still: two thirds of the kernel would see only zero
            return self.convolve(x, self.weight[:, :, 2:])
        return super().forward(film)


class RMSNorm(nn.Module):
    """Scales the channel vector of every position to unit mean square; `axes` axes follow the channel."""

    def __init__(self, width: int, axes: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *[1] * axes))

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype.itemsize >= 4 else x.float()
        square = wide.square().mean(dim=1, keepdim=True)
        return x * torch.rsqrt(square + 1e-24).to(x.dtype) * self.gamma  # 1e-24: only so that zero stays zero


class ResidualBlock(nn.Module):
    """Two causal convolutions and a shortcut. span: frames that each convolution sees, 1 or 3."""

    def __init__(self, width_in: int, width_out: int, span: int = 3):
        super().__init__()
        self.residual = nn.ModuleDict(  # keys are the positions in the published file; the activations have no weights
            {
                "0": RMSNorm(width_in, 3),
                "2": CausalConv3d(width_in, width_out, span),
                "3": RMSNorm(width_out, 3),
                "6": CausalConv3d(width_out, width_out, span),
            }
        )
        self.shortcut = Conv3d(width_in, width_out, 1) if width_in != width_out else nn.Identity()

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        norm1, conv1, norm2, conv2 = self.residual.values()
        hidden = conv1(F.silu(norm1(x)), tape)
        hidden = conv2(F.silu(norm2(hidden)), tape)
        result: Tensor = hidden + self.shortcut(x)
        return result


class AttentionBlock(nn.Module):
    """Single-head self-attention among the positions of one frame."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = RMSNorm(width, 2)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        return x + each_frame(self._attend, x)

    def _attend(self, x: Tensor) -> Tensor:
        height = x.shape[-2]
        with one_thread(x.device):  # more give other bits
            together = self.to_qkv(self.norm(x))
        query, key, value = rearrange(together, "n (three c) h w -> three n 1 (h w) c", three=3)
        mixed = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(rearrange(mixed, "n 1 (h w) c -> n c h w", h=height))
        return result


class Downsample(nn.Module):
    """Halves rows and columns if `halve_size`, and frames if `halve_frames`; a film's first frame stays by itself."""

    def __init__(self, width: int, halve_size: bool, halve_frames: bool):
        super().__init__()
        self.resample = nn.ModuleDict({"1": nn.Conv2d(width, width, 3, stride=2)}) if halve_size else None
        self.time_conv = Conv3d(width, width, (3, 1, 1), stride=(2, 1, 1)) if halve_frames else None

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        if self.resample is not None:
            conv = self.resample["1"]
            x = each_frame(lambda frames: conv(F.pad(frames, (0, 1, 0, 1))), x)
        return x if self.time_conv is None else self._halve_frames(x, tape)

    def _halve_frames(self, x: Tensor, tape: Tape) -> Tensor:
        assert self.time_conv is not None
        past = tape.read(x, 1)
        tape.write(x[:, :, -1:])
        if past is not None:
            result: Tensor = self.time_conv(torch.cat([past, x], dim=2))
            return result
        first = x[:, :, :1]
        return first if x.shape[2] == 1 else torch.cat([first, self.time_conv(x)], dim=2)


class Upsample(nn.Module):
    """Doubles frames if `double_frames`, all but a film's first; doubles rows and columns if `double_size`, and then
    has `width_out` channels. shuffle: as in `VAEConfig`; the published files have no such layer."""

    def __init__(self, width: int, width_out: int, double_size: bool, double_frames: bool, shuffle: bool = False):
        super().__init__()
        self.shuffle = shuffle
        places = 4 if shuffle else 1
        conv = nn.Conv2d(width, places * width_out, 3, padding=1)
        self.resample = nn.ModuleDict({"1": conv}) if double_size else None
        self.time_conv = Conv3d(width, 2 * width, (3, 1, 1)) if double_frames else None

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, tape)
        if self.resample is None:
            return x
        return each_frame(self._double_size, x)

    def _double_size(self, frames: Tensor) -> Tensor:
        assert self.resample is not None
        if self.shuffle:
            return F.pixel_shuffle(self.resample["1"](frames), 2)
        result: Tensor = self.resample["1"](F.interpolate(frames, scale_factor=2, mode="nearest"))
        return result

    def _double_frames(self, x: Tensor, tape: Tape) -> Tensor:
        assert self.time_conv is not None
        past, first = tape.read(x, 2), None
        if past is None:  # the first frame passes as it is, and the convolution never sees it
            first, x, past = x[:, :, :1], x[:, :, 1:], zero_frames(x, 2)
        x = torch.cat([past, x], dim=2)
        tape.write(x[:, :, -2:])
        if first is not None and x.shape[2] == 2:
            return first
        doubled = rearrange(self.time_conv(x), "b (two c) f h w -> b c (f two) h w", two=2)
        return doubled if first is None else torch.cat([first, doubled], dim=2)


class DownStage(nn.Module):
    """A stage of Wan2.2's encoder: beside its layers go means over what enters, folded to the size of what leaves.

    Where that has fewer channels than leave, which is never so in Wan2.2, each is taken several times instead.
    step: whether it halves rows and columns, and whether frames; None for the last stage, which halves neither.
    """

    def __init__(self, layers: list[nn.Module], width: int, step: tuple[bool, bool] | None):
        super().__init__()
        self.downsamples = nn.ModuleList(layers)
        self.width, (self.space, self.time) = width, _factors(step)

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        entered = torch.cat([zero_frames(x, self.time - 1), x], 2) if tape.begins else x
        for layer in self.downsamples:
            x = layer(x, tape)
        fold = "b c (t f) (h p) (w q) -> b (c f p q) t h w"
        folded = rearrange(entered, fold, f=self.time, p=self.space, q=self.space)
        if folded.shape[1] < self.width:
            return x + folded.repeat_interleave(self.width // folded.shape[1], 1)
        return x + reduce(folded, "b (c n) t h w -> b c t h w", "mean", c=self.width)


class UpStage(nn.Module):
    """A stage of Wan2.2's decoder: beside its layers go copies of what enters, unfolded to the size of what leaves.

    step: whether it doubles rows and columns, and whether frames; None for the last stage, which has no such way.
    """

    def __init__(self, layers: list[nn.Module], width: int, step: tuple[bool, bool] | None):
        super().__init__()
        self.upsamples = nn.ModuleList(layers)
        self.width, (self.space, self.time), self.last = width, _factors(step), step is None

    def forward(self, x: Tensor, tape: Tape) -> Tensor:
        entered = x
        for layer in self.upsamples:
            x = layer(x, tape)
        if self.last:
            return x
        copies = self.width * self.time * self.space**2 // entered.shape[1]
        unfold = "b (c f p q) t h w -> b c (t f) (h p) (w q)"
        wide = rearrange(entered.repeat_interleave(copies, 1), unfold, f=self.time, p=self.space, q=self.space)
        return x + (wide[:, :, self.time - 1 :] if tape.begins else wide)


def _factors(step: tuple[bool, bool] | None) -> tuple[int, int]:
    space, time = step or (False, False)
    return 1 + space, 1 + time


def zero_frames(like: Tensor, frames: int) -> Tensor:
    """`[B C frames H W]` of zeros."""
    return like.new_zeros(*like.shape[:2], frames, *like.shape[3:])


def each_frame(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a function of pictures `[N C H W]` to every frame of `[B C F H W]`, in one call."""
    frames = function(rearrange(x, "b c f h w -> (b f) c h w"))
    return rearrange(frames, "(b f) c h w -> b c f h w", b=x.shape[0])


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
