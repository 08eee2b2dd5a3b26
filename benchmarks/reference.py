"""A plain rollout in the manner of Self-Forcing and its family, to measure the engine against and to check it with.

Keys are rotated at their absolute position when they are written, into a buffer that holds the last `window` latent frames;
every pass attends to that buffer. One prompt, no routing, re-noising, then a clean pass that writes the cache. It shares no
code with the engine but the weights and the random numbers of a chunk.
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
    """Of one layer: rotated keys and values of the frames in view, and the text's keys and values."""

    keys: Tensor | None = None
    values: Tensor | None = None
    text: tuple[Tensor, Tensor] | None = None


@dataclass
class Reference:
    """net: a Wan text-to-video network, all of one dtype. window: latent frames in view, the chunk's own included."""

    net: Any
    window: int
    caches: list[Cache] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.caches = [Cache() for _ in self.net.blocks]

    def roll(
        self, text: Tensor, chunks: Sequence[int], levels: Sequence[Sequence[float]], size: tuple[int, int], seed: int
    ) -> Iterator[Tensor]:
        """Model-space latents `[1, C, c, h, w]` of chunks of these lengths; levels: noise levels of each, from 1 down."""
        start = 0
        for index, (frames, passes) in enumerate(zip(chunks, levels, strict=True)):
            generator = chunk_generator(seed, index)
            shape = (1, self.net.config.in_dim, frames, *size)
            x = torch.randn(shape, generator=generator)
            for i, level in enumerate(passes):
                clean = x - level * self.forward(x, level, text, start)
                last = i + 1 == len(passes)
                noise = None if last else torch.randn(shape, generator=generator)
                x = clean if noise is None else (1 - passes[i + 1]) * clean + passes[i + 1] * noise
            self.forward(x, 0.0, text, start, write=True)
            yield x
            start += frames

    @torch.no_grad()
    def forward(self, x: Tensor, level: float, text: Tensor, start: int, write: bool = False) -> Tensor:
        net, frames, dtype = self.net, x.shape[2], self.net.head.head.weight.dtype
        patches, text = net.patch_embedding(x.to(dtype)), text.to(dtype)
        height, width = patches.shape[-2:]
        h = patches.flatten(2).transpose(1, 2)  # 1 L dim
        time = net.time_embedding(_sinusoid(1000 * level, net.config.freq_dim)[None].to(dtype))
        modulation = net.time_projection(time).view(1, 6, -1)
        angles = _angles(net.config.head_dim, start, frames, height, width)
        for block, cache in zip(net.blocks, self.caches, strict=True):
            h = _block(
                block, cache, h, modulation, net.text_embedding, text, angles, self._kept(frames, height, width), write
            )
        shift, scale = (net.head.modulation + time[:, None]).unbind(1)
        h = net.head.head(net.head.norm(h) * (1 + scale[:, None]) + shift[:, None])
        _, ph, pw = net.config.patch_size
        h = h.view(1, frames, height, width, ph, pw, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return h.reshape(1, -1, frames, height * ph, width * pw).float()

    def _kept(self, frames: int, height: int, width: int) -> int:
        """Tokens of history that stay in view beside a chunk of `frames`."""
        return max(0, self.window - frames) * height * width


def _block(
    block: Any,
    cache: Cache,
    h: Tensor,
    modulation: Tensor,
    text_embedding: Any,
    text: Tensor,
    angles: Tensor,
    kept: int,
    write: bool,
) -> Tensor:
    shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (block.modulation + modulation).split(1, 1)
    a = block.self_attn
    y = block.norm1(h) * (1 + scale_a) + shift_a
    q, k = _rotated(_heads(a, a.norm_q(a.q(y))), angles), _rotated(_heads(a, a.norm_k(a.k(y))), angles)
    v = _heads(a, a.v(y))
    if cache.keys is not None and cache.values is not None and kept:
        keys, values = torch.cat([cache.keys[:, -kept:], k], 1), torch.cat([cache.values[:, -kept:], v], 1)
    else:
        keys, values = k, v
    if write:
        cache.keys, cache.values = keys, values
    h = h + a.o(_attention(q, keys, values)) * gate_a
    c = block.cross_attn
    if cache.text is None:
        embedded = text_embedding(text)
        cache.text = _heads(c, c.norm_k(c.k(embedded))), _heads(c, c.v(embedded))
    h = h + c.o(_attention(_heads(c, c.norm_q(c.q(block.norm3(h)))), *cache.text))
    return h + block.ffn(block.norm2(h) * (1 + scale_f) + shift_f) * gate_f


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
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)[:, None]


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    turned = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous()) * angles
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _sinusoid(timestep: float, dim: int) -> Tensor:
    half = dim // 2
    angles = timestep * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    return torch.cat([angles.cos(), angles.sin()])
