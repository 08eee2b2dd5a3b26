"""The one attention rule: the queries of one chunk over selected memory + window + own frames.

Packed teacher forcing and cached rollout both end here (architecture.md, idea 2). Positions are compact and
relative to the span (Block-Relative RoPE, method.md 3): the first frame that is seen gets temporal position 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .rope import Rope, rotate

CACHED_SCORES = 2**21  # more at a time would leave the processor's cache


def chunk_attention(
    q: Tensor, keys: Tensor, values: Tensor, rope: Rope, valid: Tensor | None = None, gaps: Sequence[int] = (0,)
) -> Tensor:
    """Attend from the frames of one chunk to the frames it may see.

    Args:
        q: unrotated queries `[N, c, S, H, D]`, one row per chunk (and per batch element).
        keys, values: unrotated `[N, F, S, H, D]` in temporal order; the last `c` frames are the chunk's own.
        rope: rotations of this patch grid.
        valid: bool `[N, F]`, False where a row has fewer frames than the others; None when every slot is filled.
        gaps: positions left empty between history and own frames: one for all rows, or one for each.

    Returns: `[N, c, S, H, D]`.
    """
    own, tokens = q.shape[1:3]
    frames = keys.shape[1]
    table = rope.table(frames + max(gaps))
    mask = None
    if valid is None and len(gaps) == 1:
        own_table = table[frames - own + gaps[0] : frames + gaps[0]]
        q, keys = rotate(q, own_table), rotate(keys, torch.cat([table[: frames - own], own_table]))
    else:
        if valid is None:
            valid = torch.ones(keys.shape[:2], dtype=torch.bool, device=keys.device)
        positions = (valid.cumsum(1) - 1).clamp(min=0)
        positions[:, frames - own :] += torch.tensor(gaps, device=keys.device)[:, None]
        q, keys = rotate(q, table[positions[:, frames - own :]]), rotate(keys, table[positions])
        mask = valid.repeat_interleave(tokens, 1)[:, None, None]
    return attend(q, keys, values, mask)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of rotated `q [N, c, S, H, D]` over rotated keys and their values `[N, F, S, H, D]`; gives `[N, c, S, H, D]`."""
    out = _attend(q.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), mask)
    return out.unflatten(1, q.shape[1:3])


def text_attention(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Cross-attention: queries `[N, L, H, D]` over text keys and values `[N, T, H, D]`."""
    return _attend(q, keys, values)


def _attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention `[N, L, H, D]`. On a CPU in float32, whose kernel is the faster one there, backward many times; but
    without gradients two bfloat16 products and a softmax are faster still, as long as the scores stay in the cache."""
    dtype = q.dtype
    if q.device.type == "cpu" and dtype != torch.float32:
        if mask is None and not torch.is_grad_enabled():
            return _attend_in_cache(q, keys, values)
        q, keys, values = q.float(), keys.float(), values.float()
    with torch.autocast(q.device.type, enabled=False):
        out = F.scaled_dot_product_attention(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)
    return out.transpose(1, 2).to(dtype)


def _attend_in_cache(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The same for as many heads at a time, or queries of one head, as have their scores in the cache together."""
    batch, length, heads, dim = q.shape
    q, keys, values = (t.transpose(1, 2).reshape(batch * heads, -1, dim) for t in (q * dim**-0.5, keys, values))
    out, rows = torch.empty_like(q), max(1, CACHED_SCORES // keys.shape[1])
    together = max(1, rows // length)
    for of_heads, k, v, y in zip(*(t.split(together) for t in (q, keys, values, out)), strict=True):
        for some, into in zip(of_heads.split(rows, 1), y.split(rows, 1), strict=True):
            torch.bmm(torch.bmm(some, k.mT).softmax(-1), v, out=into)
    return out.view(batch, heads, length, dim).transpose(1, 2)
