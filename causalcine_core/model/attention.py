"""The one attention rule: the queries of one chunk over selected memory + window + own frames.

Packed teacher forcing and cached rollout both end here. Positions are compact and relative to what is seen (Block-Relative RoPE;
CausalCine, arXiv, May 2026, Sec. 3.3): the first frame that is seen gets temporal position 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .kernels import Kernel, sdpa
from .rope import Rope, rotate


def chunk_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    rope: Rope,
    valid: Tensor | None = None,
    gaps: Sequence[int] = (0,),
    kernel: Kernel = sdpa,
) -> Tensor:
    """Attend from the frames of one chunk to the frames it may see.

    Args:
        q: unrotated queries `[N, c, S, H, D]`, one row per chunk (and per batch element).
        keys, values: unrotated `[N, F, S, H, D]` in temporal order; the last `c` frames are the chunk's own.
        rope: rotations of this patch grid.
        valid: bool `[N, F]`, False where a row has fewer frames than the others; None when every slot is filled.
        gaps: positions left empty between history and own frames: one for all rows, or one for each.
        kernel: what computes it, `model.kernels`.

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
    return attend(q, keys, values, mask, kernel)


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, kernel: Kernel = sdpa) -> Tensor:
    """Attention of rotated `q [N, c, S, H, D]` over rotated keys and their values `[N, F, S, H, D]`; gives `[N, c, S, H, D]`."""
    out = kernel(q.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2), mask)
    result: Tensor = out.unflatten(1, q.shape[1:3])
    return result
