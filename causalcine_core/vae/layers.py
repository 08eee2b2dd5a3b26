"""Layers of the causal Wan VAEs: they look only back in time, and what each must remember goes through a `Tape`.

Parameter names are those of the published files. Axes: B batch, C channels, F frames, H and W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ..threads import one_thread
from .state import Tape


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
