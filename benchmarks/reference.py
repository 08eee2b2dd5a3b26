"""A plain rollout in the manner of Self-Forcing and its family, to measure the engine against and to check it with.

As their code does it: keys are rotated at their absolute position, in float64, and written in every pass into a buffer that
holds the last `window` latent frames and is moved along by copying; each frame has a modulation of its own; the text is
embedded in every pass, its keys and values are kept. One prompt, no routing, re-noising, then a clean pass that leaves the
chunk in the buffer. It shares no code with the engine but the weights and the random numbers of a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from causalcine_core.sampling import chunk_generator


@dataclass
class Cache:
    """Of one layer: rotated keys and values of the frames in view `[1, L, H, D]`, of which the first `filled` tokens are
    history, and the text's keys and values."""

    keys: Tensor
    values: Tensor
    filled: int = 0
    text: tuple[Tensor, Tensor] | None = None

    def write(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put a chunk's keys and values behind the history; gives all that is in view."""
        new = k.shape[1]
        gone = max(0, self.filled + new - self.keys.shape[1])
        if gone:
            for buffer in (self.keys, self.values):
                buffer[:, : self.filled - gone] = buffer[:, gone : self.filled].clone()
            self.filled -= gone
        end = self.filled + new
        self.keys[:, self.filled : end], self.values[:, self.filled : end] = k, v
        return self.keys[:, :end], self.values[:, :end]


@dataclass
class Reference:
    """net: a Wan text-to-video network, all of one dtype. window: latent frames in view, the chunk's own included."""

    net: Any
    window: int
    caches: list[Cache] = field(default_factory=list)

    def roll(
        self, text: Tensor, chunks: Sequence[int], levels: Sequence[Sequence[float]], size: tuple[int, int], seed: int
    ) -> Iterator[Tensor]:
        """Model-space latents `[1, C, c, h, w]` of chunks of these lengths; levels: noise levels of each, from 1 down."""
        start = 0
        self.clear(size)
        for index, (frames, passes) in enumerate(zip(chunks, levels, strict=True)):
            x = self.denoise(frames, passes, text, start, size, chunk_generator(seed, index))
            self.keep(x, text, start)
            yield x
            start += frames

    def clear(self, size: tuple[int, int]) -> None:
        """Begin with empty buffers."""
        config, patch = self.net.config, self.net.config.patch_size
        tokens = self.window * (size[0] // patch[1]) * (size[1] // patch[2])
        like = self.net.head.head.weight
        room = [like.new_zeros(2, 1, tokens, config.num_heads, config.head_dim) for _ in self.net.blocks]
        self.caches = [Cache(keys, values) for keys, values in room]

    def denoise(
        self,
        frames: int,
        passes: Sequence[float],
        text: Tensor,
        start: int,
        size: tuple[int, int],
        generator: torch.Generator,
    ) -> Tensor:
        """A chunk that begins at frame `start`, seeing what was kept."""
        shape = (1, self.net.config.in_dim, frames, *size)
        x = torch.randn(shape, generator=generator)
        for i, level in enumerate(passes):
            clean = x - level * self.forward(x, level, text, start)
            last = i + 1 == len(passes)
            noise = None if last else torch.randn(shape, generator=generator)
            x = clean if noise is None else (1 - passes[i + 1]) * clean + passes[i + 1] * noise
        return x

    def keep(self, x: Tensor, text: Tensor, start: int) -> None:
        """The clean pass, which leaves a chunk in the buffers."""
        self.forward(x, 0.0, text, start)
        _, ph, pw = self.net.config.patch_size
        for cache in self.caches:
            cache.filled += x.shape[2] * (x.shape[3] // ph) * (x.shape[4] // pw)

    @torch.no_grad()
    def forward(self, x: Tensor, level: float | Sequence[float], text: Tensor, start: int) -> Tensor:
        """Velocity of frames that begin at frame `start`. level: of all, or of every frame."""
        net, frames, dtype = self.net, x.shape[2], self.net.head.head.weight.dtype
        patches = net.patch_embedding(x.to(dtype))
        height, width = patches.shape[-2:]
        h = patches.flatten(2).transpose(1, 2)  # 1 L dim
        times = 1000 * torch.tensor(level).expand(frames)
        time = net.time_embedding(_sinusoid(times, net.config.freq_dim).to(dtype))[None]  # 1 F dim
        modulation = net.time_projection(time).unflatten(2, (6, -1))
        context = net.text_embedding(text.to(dtype))
        angles = _angles(net.config.head_dim, start, frames, height, width)
        for block, cache in zip(net.blocks, self.caches, strict=True):
            h = _block(block, cache, h, modulation, context, angles)
        shift, scale = (net.head.modulation.unsqueeze(1) + time.unsqueeze(2)).chunk(2, 2)
        h = net.head.head(_modulated(net.head.norm(h), shift, scale))
        _, ph, pw = net.config.patch_size
        h = h.view(1, frames, height, width, ph, pw, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return h.reshape(1, -1, frames, height * ph, width * pw).float()


def _block(block: Any, cache: Cache, h: Tensor, modulation: Tensor, context: Tensor, angles: Tensor) -> Tensor:
    """modulation: `[1, F, 6, dim]`; context: embedded text."""
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (block.modulation.unsqueeze(1) + modulation).chunk(6, 2)
    a = block.self_attn
    y = _modulated(block.norm1(h), shift_a, scale_a)
    q, k = _rotated(_heads(a, a.norm_q(a.q(y))), angles), _rotated(_heads(a, a.norm_k(a.k(y))), angles)
    h = h + _gated(a.o(_attention(q, *cache.write(k, _heads(a, a.v(y))))), gate_a)
    c = block.cross_attn
    if cache.text is None:
        cache.text = _heads(c, c.norm_k(c.k(context))), _heads(c, c.v(context))
    h = h + c.o(_attention(_heads(c, c.norm_q(c.q(block.norm3(h)))), *cache.text))
    return h + _gated(block.ffn(_modulated(block.norm2(h), shift_f, scale_f)), gate_f)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Tokens `[1, L, dim]` under their frame's shift and scale `[1, F, 1, dim]`."""
    return (x.unflatten(1, (shift.shape[1], -1)) * (1 + scale) + shift).flatten(1, 2)


def _gated(x: Tensor, gate: Tensor) -> Tensor:
    return (x.unflatten(1, (gate.shape[1], -1)) * gate).flatten(1, 2)


def _heads(attention: Any, x: Tensor) -> Tensor:
    return x.unflatten(-1, (attention.num_heads, -1))


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _angles(head_dim: int, start: int, frames: int, height: int, width: int) -> Tensor:
    """Complex rotations `[L, 1, D/2]` of absolute positions, as Wan2.1 splits them over time, height and width."""
    side = 2 * (head_dim // 6)
    axes = []
    for dim, positions, shape in (
        (head_dim - 2 * side, torch.arange(start, start + frames), (-1, 1, 1)),
        (side, torch.arange(height), (1, -1, 1)),
        (side, torch.arange(width), (1, 1, -1)),
    ):
        frequencies = 1 / 10000 ** (torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angle = positions.double()[:, None] * frequencies
        axes.append(angle.view(*shape, dim // 2).expand(frames, height, width, -1))
    angle = torch.cat(axes, -1).flatten(0, 2)
    return torch.polar(torch.ones_like(angle), angle)[:, None]


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous()) * angles
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = timesteps[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)
