"""Wan2.1's text-to-video transformer (Wan, arXiv:2503.20314), its weights under their published names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, q, k, v


@dataclass(frozen=True)
class Network:
    weights: dict[str, Tensor]
    heads: int
    layers: int

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].flatten(1).T + self.weights[f"{name}.bias"]

    def projected(self, x: Tensor, name: str, norm: str = "") -> Tensor:
        """`[..., dim]` to `[..., H, D]`; q and k are normed over all heads together."""
        y = self.linear(x, name)
        if norm:
            y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{norm}.weight"]
        return y.unflatten(-1, (self.heads, -1))

    def velocity(self, x: Tensor, levels: Sequence[float], texts: Sequence[Tensor], attend: Attend) -> Tensor:
        """Of frames `x [C, F, h, w]`, each at a noise level of its own and reading a text `[T, text_dim]` of its own. attend:
        self-attention of `[F, S, H, D]`."""
        channels, frames, height, width = x.shape
        rows, columns = height // 2, width // 2
        patches = x.reshape(channels, frames, rows, 2, columns, 2).permute(1, 2, 4, 0, 3, 5)
        h = self.linear(patches.reshape(frames, rows * columns, -1), "patch_embedding")
        half = self.weights["time_embedding.0.weight"].shape[1] // 2
        steps = (-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).exp()
        angles = torch.stack([1000 * level * steps for level in levels])
        time = self.linear(torch.cat([angles.cos(), angles.sin()], 1).to(h), "time_embedding.0")
        time = self.linear(silu(time), "time_embedding.2")[:, None]
        modulation = self.linear(silu(time), "time_projection.1").unflatten(-1, (6, -1))
        for layer in range(self.layers):
            block = f"blocks.{layer}"
            own, cross = f"{block}.self_attn", f"{block}.cross_attn"
            terms = (self.weights[f"{block}.modulation"] + modulation).unbind(2)
            y = layer_norm(h) * (1 + terms[1]) + terms[0]
            q, k = self.projected(y, f"{own}.q", f"{own}.norm_q"), self.projected(y, f"{own}.k", f"{own}.norm_k")
            y = attend(layer, q, k, self.projected(y, f"{own}.v"))
            h = h + self.linear(y.flatten(-2), f"{own}.o") * terms[2]
            y = layer_norm(h) * self.weights[f"{block}.norm3.weight"] + self.weights[f"{block}.norm3.bias"]
            q = self.projected(y, f"{cross}.q", f"{cross}.norm_q")
            y = torch.stack([self.read(one, text, cross) for one, text in zip(q, texts, strict=True)])
            h = h + self.linear(y.flatten(-2), f"{cross}.o")
            y = self.linear(layer_norm(h) * (1 + terms[4]) + terms[3], f"{block}.ffn.0")
            h = h + self.linear(gelu(y, approximate="tanh"), f"{block}.ffn.2") * terms[5]
        shift, scale = (self.weights["head.modulation"] + time).split(1, 1)
        out = self.linear(layer_norm(h) * (1 + scale) + shift, "head.head")
        out = out.reshape(frames, rows, columns, 2, 2, -1)  # of a patch: its rows, its columns, the channels
        return out.permute(5, 0, 1, 3, 2, 4).reshape(-1, frames, height, width)

    def read(self, q: Tensor, text: Tensor, cross: str) -> Tensor:
        """Cross-attention of one frame's tokens `[S, H, D]`."""
        context = self.linear(gelu(self.linear(text, "text_embedding.0"), approximate="tanh"), "text_embedding.2")
        k, v = self.projected(context, f"{cross}.k", f"{cross}.norm_k"), self.projected(context, f"{cross}.v")
        return attention(q, k, v)


def layer_norm(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`[Q, H, D]` over `[K, H, D]`."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def rotated(x: Tensor, times: Tensor, columns: int, turn: Tensor) -> Tensor:
    """3D RoPE of `x [F, S, H, D]` at temporal positions `[F]`: of the head's channels, rows and columns of patches have
    `2 * (D // 6)` each, time the rest, in adjacent pairs. turn: radians `[F]` more for every temporal pair."""
    frames, tokens, _, dim = x.shape
    side = 2 * (dim // 6)

    def angles(positions: Tensor, channels: int) -> Tensor:
        return positions[:, None] / 10000 ** (torch.arange(0, channels, 2, dtype=x.dtype) / channels)

    place = torch.arange(tokens)
    time = (angles(times, dim - 2 * side) + turn[:, None])[:, None].expand(-1, tokens, -1)
    space = torch.cat([angles(place // columns, side), angles(place % columns, side)], -1)
    angle = torch.cat([time, space.expand(frames, -1, -1)], -1)[:, :, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()]
    return torch.stack(turned, -1).flatten(-2)
