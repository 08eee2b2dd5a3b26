"""One training step of teacher forcing, written from the papers in plain PyTorch, in float64; it shares no code with the trainer.

Teacher forcing and memory routing: CausalCine (arXiv, May 2026), Sec. 3.2 and 3.3. Network: Wan2.1 (its published weights' names).
Weights come as a dictionary by name, `net.*` and `text.*`; everything else is written out, as dense attention with a mask.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """heads of the network and of the text encoder, frames of a chunk, window in chunks, frames that are recalled."""

    heads: int
    text_heads: int
    chunk: int
    window: int
    top_k: int


def flow_loss(
    w: Weights,
    shape: Shape,
    clean: Tensor,
    noise: Tensor,
    sigmas: Tensor,
    texts: Sequence[Sequence[Sequence[int]]],
    shares: Tensor,
) -> Tensor:
    """The loss of a batch. clean, noise `[B C F h w]`; sigmas `[B]`; texts: of each sample's chunks the word ids, without padding;
    shares `[B N]`: how much each chunk counts, 1 in all."""
    total = torch.zeros((), dtype=torch.float64)
    for b in range(len(clean)):
        noisy = (1 - sigmas[b]) * clean[b] + sigmas[b] * noise[b]
        answer = packed_pass(w, shape, clean[b].double(), noisy.double(), float(sigmas[b]), texts[b])
        error = (answer - (noise[b] - clean[b]).double()).pow(2)
        for i, share in enumerate(shares[b]):
            total = total + share.double() * error[:, i * shape.chunk : (i + 1) * shape.chunk].mean()
    return total


def packed_pass(
    w: Weights,
    shape: Shape,
    clean: Tensor,
    noisy: Tensor,
    sigma: float,
    texts: Sequence[Sequence[int]],
    seen: dict[int, Tensor] | None = None,
) -> Tensor:
    """N clean chunks at t = 0 and N noisy ones at t = 1000 sigma in one sequence; the velocity of the noisy half `[C F h w]`. seen:
    takes the residual stream `[2F S dim]` after every layer."""
    frames, height, width = clean.shape[1:]
    rows, columns = height // 2, width // 2
    x = torch.cat([clean, noisy], 1)  # C 2F h w
    patches = x.unflatten(2, (rows, 2)).unflatten(4, (columns, 2))  # C T r p c q
    patches = patches.permute(1, 2, 4, 0, 3, 5).flatten(3).flatten(1, 2)  # T S (C p q)
    x = linear(w, "net.patch_embedding", patches)  # T S dim
    times = torch.cat([torch.zeros(frames), torch.full((frames,), 1000 * sigma)]).double()
    embedded = time_embedding(w, times)  # T dim
    parts = linear(w, "net.time_projection.1", F.silu(embedded)).unflatten(1, (6, -1))  # T 6 dim
    chunk_of = [(n % frames) // shape.chunk for n in range(2 * frames)]
    encoded = torch.stack([encode_text(w, shape.text_heads, ids) for ids in texts])  # N L dim
    told = linear(w, "net.text_embedding.2", F.gelu(linear(w, "net.text_embedding.0", encoded), approximate="tanh"))
    layer = 0
    while f"net.blocks.{layer}.modulation" in w:
        at = f"net.blocks.{layer}"
        m = (w[f"{at}.modulation"] + parts)[:, :, None]  # T 6 1 dim
        h = norm(x) * (1 + m[:, 1]) + m[:, 0]
        q, k = (rms(w, f"{at}.self_attn.norm_{n}", linear(w, f"{at}.self_attn.{n}", h)) for n in "qk")
        q, k, v = (t.unflatten(-1, (shape.heads, -1)) for t in (q, k, linear(w, f"{at}.self_attn.v", h)))
        y = routed_attention(q, k, v, shape, (rows, columns))
        x = x + linear(w, f"{at}.self_attn.o", y.flatten(2)) * m[:, 2]
        h = F.layer_norm(x, x.shape[-1:], w[f"{at}.norm3.weight"], w[f"{at}.norm3.bias"], 1e-6)
        q = rms(w, f"{at}.cross_attn.norm_q", linear(w, f"{at}.cross_attn.q", h)).unflatten(-1, (shape.heads, -1))
        k = rms(w, f"{at}.cross_attn.norm_k", linear(w, f"{at}.cross_attn.k", told)).unflatten(-1, (shape.heads, -1))
        v = linear(w, f"{at}.cross_attn.v", told).unflatten(-1, (shape.heads, -1))
        y = torch.stack([softmax_attention(q[n], k[chunk_of[n]], v[chunk_of[n]]) for n in range(2 * frames)])
        x = x + linear(w, f"{at}.cross_attn.o", y.flatten(2))
        h = norm(x) * (1 + m[:, 4]) + m[:, 3]
        x = x + linear(w, f"{at}.ffn.2", F.gelu(linear(w, f"{at}.ffn.0", h), approximate="tanh")) * m[:, 5]
        if seen is not None:
            seen[layer] = x
        layer += 1
    m = (w["net.head.modulation"] + embedded[:, None])[:, :, None]  # T 2 1 dim
    out = linear(w, "net.head.head", norm(x) * (1 + m[:, 1]) + m[:, 0])[frames:]  # F S (p q C)
    out = out.unflatten(1, (rows, columns)).unflatten(3, (2, 2, -1))  # F r c p q C
    return out.permute(5, 0, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def routed_attention(q: Tensor, k: Tensor, v: Tensor, shape: Shape, grid: tuple[int, int]) -> Tensor:
    """Self-attention of `[T S H D]`, T = 2F: of each chunk, clean or noisy, over what Sec. 3.2's quadrants let it see, reduced to
    local window and routed memory (Sec. 3.3), at positions that count the visible frames."""
    packed, c = len(q), shape.chunk
    frames = packed // 2
    out = torch.empty_like(q)
    for first in range(0, packed, c):  # of the chunk
        i = (first % frames) // c
        own = slice(first, first + c)
        visible = torch.zeros(packed, dtype=torch.bool)
        visible[own] = True  # itself, in its own half
        visible[max(0, i - shape.window) * c : i * c] = True  # clean chunks just before it
        older = range(max(0, i - shape.window) * c)
        scores = [float((q[own].detach().mean((0, 1)) * k[n].detach().mean(0)).sum()) for n in older]
        for n in sorted(older, key=lambda n: -scores[n])[: shape.top_k]:
            visible[n] = True
        place = visible.cumsum(0) - 1
        turned_q = rotary(q[own], place[own], grid)
        turned_k = rotary(k, place.clamp(min=0), grid)
        mask = visible.repeat_interleave(q.shape[1])
        out[own] = softmax_attention(turned_q.flatten(0, 1), turned_k.flatten(0, 1), v.flatten(0, 1), mask).unflatten(
            0, (c, -1)
        )
    return out


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """`[L H D]` over `[M H D]`; mask `[M]`: which keys there are."""
    scores = torch.einsum("lhd,mhd->hlm", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return torch.einsum("hlm,mhd->lhd", scores.softmax(-1), v)


def rotary(x: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
    """`[T S H D]` turned pair by pair by its place in time, row and column; of D channels, rows and columns take 2 (D // 6) each."""
    pairs = x.shape[-1] // 2
    side = x.shape[-1] // 6
    rows = torch.arange(grid[0]).repeat_interleave(grid[1])
    columns = torch.arange(grid[1]).repeat(grid[0])

    def turns(at: Tensor, count: int) -> Tensor:
        return at[..., None].double() * 10000 ** (-torch.arange(count).double() / count)

    size = (len(place), grid[0] * grid[1], -1)
    parts = (turns(place[:, None], pairs - 2 * side), turns(rows[None], side), turns(columns[None], side))
    angle = torch.cat([part.expand(*size) for part in parts], -1)[:, :, None]  # T S 1 D/2
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1).flatten(-2)


def time_embedding(w: Weights, times: Tensor) -> Tensor:
    half = w["net.time_embedding.0.weight"].shape[1] // 2
    angles = times[:, None] * 10000 ** (-torch.arange(half).double() / half)
    wave = torch.cat([angles.cos(), angles.sin()], 1)
    return linear(w, "net.time_embedding.2", F.silu(linear(w, "net.time_embedding.0", wave)))


def encode_text(w: Weights, heads: int, ids: Sequence[int]) -> Tensor:
    """Word ids through nano's text encoder to `[L dim]`, zero beyond the words."""
    length, dim = w["text.positions"].shape
    out = torch.zeros(length, dim, dtype=torch.float64)
    if not ids:
        return out
    x = w["text.tokens.weight"][list(ids)] + w["text.positions"][: len(ids)]
    layer = 0
    while f"text.blocks.{layer}.qkv.weight" in w:
        at = f"text.blocks.{layer}"
        q, k, v = linear(w, f"{at}.qkv", affine(w, f"{at}.norm1", x)).chunk(3, -1)
        y = softmax_attention(*(t.unflatten(-1, (heads, -1)) for t in (q, k, v)))
        x = x + linear(w, f"{at}.out", y.flatten(1))
        h = F.gelu(linear(w, f"{at}.ffn.0", affine(w, f"{at}.norm2", x)), approximate="tanh")
        x = x + linear(w, f"{at}.ffn.2", h)
        layer += 1
    return torch.cat([affine(w, "text.norm", x), out[len(ids) :]])


def chunk_logit(w: Weights, heads: int, features: Sequence[Tensor]) -> Tensor:
    """What adversarial heads say of a chunk. features: of each layer that they look at, the chunk's tokens `[n dim]`."""
    gathered = []
    for i, tokens in enumerate(features):
        at = f"tokens.{i}"
        k, v = linear(w, f"{at}.kv", affine(w, f"{at}.norm", tokens)).chunk(2, -1)
        query = w[f"{at}.queries"]
        y = softmax_attention(*(t.unflatten(-1, (heads, -1)) for t in (query, k, v))).flatten(1)
        x = query + linear(w, f"{at}.out", y)
        x = x + linear(w, f"{at}.ffn.3", F.gelu(linear(w, f"{at}.ffn.1", affine(w, f"{at}.ffn.0", x))))
        gathered.append(x.flatten())
    h = F.silu(linear(w, "judge.1", affine(w, "judge.0", torch.cat(gathered))))
    return linear(w, "judge.3", h)[0]


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].flatten(1).T + w[f"{name}.bias"]


def norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def affine(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def rms(w: Weights, name: str, x: Tensor) -> Tensor:
    """Over all heads together, as Wan normalises queries and keys."""
    return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * w[f"{name}.weight"]


# --- optimizers


def clipped(gradients: Weights, most: float) -> Weights:
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients.values()))
    return {name: g * min(1.0, most / (norm + 1e-6)) for name, g in gradients.items()}


def adamw(
    weight: Tensor, gradients: Sequence[Tensor], rates: Sequence[float], betas: tuple[float, float], decay: float
) -> Tensor:
    """The weight after as many updates as gradients (Loshchilov and Hutter, arXiv:1711.05101)."""
    m, v = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (g, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g * g
        step = m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + 1e-8)
        weight = weight - rate * decay * weight - rate * step
    return weight


def muon(weight: Tensor, gradients: Sequence[Tensor], rates: Sequence[float], decay: float) -> Tensor:
    """The weight after as many updates: momentum 0.95 (Nesterov), five steps of Newton-Schulz (Jordan, 2024), scaled to the root
    mean square of AdamW's updates (Liu and others, arXiv:2502.16982)."""
    momentum = torch.zeros_like(weight)
    for g, rate in zip(gradients, rates, strict=True):
        momentum = 0.95 * momentum + 0.05 * g
        x = 0.95 * momentum + 0.05 * g
        x = x / x.norm()
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        weight = weight - rate * decay * weight - rate * 0.2 * math.sqrt(max(weight.shape)) * x
    return weight
