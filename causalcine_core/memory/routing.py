"""Content-Aware Memory Routing: which frames of the past a chunk recalls (method.md, 3).

Parameter-free, and the same function in training and in inference.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def describe(keys: Tensor) -> Tensor:
    """Descriptor of each frame: the mean of its unrotated keys over space. `[..., S, H, D]` to `[..., H, D]`."""
    return keys.mean(-3)


def describe_query(queries: Tensor) -> Tensor:
    """Descriptor of a chunk: the mean of its unrotated queries over frames and space. `[..., c, S, H, D]` to `[..., H, D]`."""
    return queries.mean((-4, -3))


def route(
    query: Tensor,
    descriptors: Tensor,
    k: int,
    eligible: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Choose the `k` frames whose keys match the query best.

    Args:
        query: chunk descriptors `[B, R, H, D]`, R chunks that decide each for itself.
        descriptors: frame descriptors `[B, T, H, D]`.
        k: how many frames to take.
        eligible: bool `[R, T]`, which frames may compete for which chunk; None = all.
        total: sums scores `[B, R, T]` over those who have the other heads; None = all heads are here.

    Returns: int64 `[B, R, k]`: frame numbers in temporal order, then -1 where fewer than `k` may compete.
    """
    batch, chunks = query.shape[:2]
    frames = descriptors.shape[1]
    taken = min(k, frames)
    scores = query.flatten(2).float() @ descriptors.flatten(2).float().mT  # the sum over heads of their dot products
    if total is not None:
        scores = total(scores)
    if eligible is not None:
        scores = scores.masked_fill(~eligible, float("-inf"))
    best = scores.topk(taken, -1)
    chosen = best.indices.masked_fill(best.values == float("-inf"), frames)
    chosen = chosen.sort(-1).values
    chosen = chosen.masked_fill(chosen == frames, -1)
    return torch.cat([chosen, chosen.new_full((batch, chunks, k - taken), -1)], -1)
