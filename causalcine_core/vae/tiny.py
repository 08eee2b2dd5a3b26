"""The tiny decoder of the public `taew2_1`/`taew2_2` files (TAEHV): a picture at a hundredth of the Wan VAE's cost, for previews.

Its layers carry the names of those files. Every block that looks back sees one frame of its own past, so a film can be decoded
piece by piece from an explicit state.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..weights.checkpoint import assign

WIDTHS = (256, 128, 64, 64)
TinyState = tuple[Tensor, ...]  # the last frame that each block saw, [B, C, H, W]


class _Block(nn.Module):
    """A residual block over a frame and the one before it."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        """Frames `[B, F, C, H, W]`, and the frame before the first `[B, C, H, W]`."""
        before = torch.cat([past[:, None], x[:, :-1]], 1)
        y = self.conv(torch.cat([x, before], 2).flatten(0, 1)).unflatten(0, x.shape[:2])
        return torch.relu(y + x)


class _Grow(nn.Module):
    """One frame becomes `times`."""

    def __init__(self, width: int, times: int):
        super().__init__()
        self.times, self.conv = times, nn.Conv2d(width, times * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N * times, C, H, W]`."""
        result: Tensor = self.conv(x).unflatten(1, (self.times, -1)).flatten(0, 1)
        return result


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class TinyDecoder(nn.Module):
    """channels: of the latent. patch: pixels that an output position holds, to a side (1 for Wan 2.1, 2 for Wan 2.2)."""

    def __init__(self, channels: int = 16, patch: int = 1):
        super().__init__()
        self.patch = patch
        layers: list[nn.Module] = [_Clamp(), _conv(channels, WIDTHS[0]), nn.ReLU()]
        for width, following, times in zip(WIDTHS[:-1], WIDTHS[1:], (1, 2, 2), strict=True):
            layers += [_Block(width), _Block(width), _Block(width), nn.Upsample(scale_factor=2)]
            layers += [_Grow(width, times), _conv(width, following, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.ReLU(), _conv(WIDTHS[-1], 3 * patch**2))

    @classmethod
    def from_weights(cls, weights: Mapping[str, Tensor], source: str) -> TinyDecoder:
        """Weights under the public files' names; what belongs to the encoder is left out. source: the file, for an InputError."""
        kept = {name: t for name, t in weights.items() if name.startswith("decoder.")}
        first, last = kept.get("decoder.1.weight"), kept.get("decoder.22.bias")
        if first is None or last is None or first.ndim != 4 or last.ndim != 1 or 0 in first.shape:
            raise InputError(f"{source} is no tiny decoder for Wan: it has no decoder.1 and decoder.22")
        tiny = cls(first.shape[1], max(1, round((len(last) / 3) ** 0.5)))
        assign(tiny, kept, source)
        return tiny.eval().requires_grad_(False)

    @torch.no_grad()
    def decode(self, latent: Tensor, state: TinyState | None = None) -> tuple[Tensor, TinyState]:
        """Frames of a film's next latents.

        Args:
            latent: `[B, C, F, h, w]`, of the space that the file was trained on.
            state: after the latents before; None at the beginning of a film.

        Returns: `[B, 3, n, H, W]`, about 0..1, n = 4 F, at the beginning 4 F - 3; and the state after it.
        """
        batch, x = latent.shape[0], latent.transpose(1, 2).flatten(0, 1)
        seen: list[Tensor] = []
        for layer in self.decoder:
            if not isinstance(layer, _Block):
                x = layer(x)
                continue
            frames = x.unflatten(0, (batch, -1))
            past = torch.zeros_like(frames[:, 0]) if state is None else state[len(seen)]
            seen.append(frames[:, -1])
            x = layer(frames, past).flatten(0, 1)
        x = nn.functional.pixel_shuffle(x, self.patch).unflatten(0, (batch, -1)).transpose(1, 2)
        return (x[:, :, 3:] if state is None else x), tuple(seen)


def _conv(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)
