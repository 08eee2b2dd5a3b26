"""Which frames of the past a chunk recalls: Content-Aware Memory Routing (paper, Sec. 3.3), and what it is compared with.

Parameter-free, and the same functions in training and in inference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def first(frames: int, k: int) -> Sequence[int]:
    """The first `k` of so many frames."""
    return range(min(k, frames))


def last(frames: int, k: int) -> Sequence[int]:
    """The last `k` of so many frames."""
    return range(max(0, frames - k), frames)


def evenly(frames: int, k: int) -> Sequence[int]:
    """The middle ones of `k` equal parts of so many frames; all of them where there are fewer."""
    k = min(k, frames)
    return [(2 * i + 1) * frames // (2 * k) for i in range(k)]


@dataclass(frozen=True)
class Routing:
    """How a chunk settles what it recalls.

    place: of so many frames that may be recalled, the `k` that are, whatever they show; None: chosen by content. keeps: a choice by
    content is kept over the passes of a chunk. shared: all layers recall what the first one chooses, the frames that are most like
    the newest one (LongLive-RAG); otherwise each layer chooses by its own queries.
    """

    place: Callable[[int, int], Sequence[int]] | None = None
    keeps: bool = False
    shared: bool = False


ROUTINGS = {
    "every_step": Routing(),
    "first_step": Routing(keeps=True),
    "rag": Routing(shared=True),
    "sink": Routing(place=first),
    "fifo": Routing(place=last),
    "even": Routing(place=evenly),
}


def describe(keys: Tensor) -> Tensor:
    """Descriptor of each frame: the mean of its unrotated keys over space, in float32 whatever they are in, so that training under
    autocast and inference choose alike. `[..., S, H, D]` to `[..., H, D]`."""
    return keys.float().mean(-3)


def describe_query(queries: Tensor) -> Tensor:
    """Descriptor of a chunk: the mean of its unrotated queries over frames and space, in float32. `[..., c, S, H, D]` to
    `[..., H, D]`."""
    return queries.float().mean((-4, -3))


def match(query: Tensor, descriptors: Tensor) -> Tensor:
    """How well frames match chunks: the sum over heads of the dot products of their descriptors.

    query: `[B, R, H, D]` of R chunks. descriptors: `[B, T, H, D]` of T frames. Returns: float32 `[B, R, T]`.
    """
    query, descriptors = query.flatten(2).float(), descriptors.flatten(2).float()
    with torch.autocast(query.device.type, enabled=False):  # it would round both to bfloat16
        if query.shape[:2] == (1, 1):  # on a CPU a matrix product of one row reads with one core only
            scores: Tensor = torch.linalg.vecdot(descriptors, query)[:, None]
        elif (
            query.shape[1] == 1
        ):  # one product of all branches reads a rollout's descriptors in the order in which they lie
            every = descriptors.transpose(0, 1).flatten(0, 1) @ query[:, 0].mT
            scores = every.unflatten(0, (-1, len(query))).diagonal(dim1=1, dim2=2).mT[:, None]
        else:
            scores = query @ descriptors.mT
        return scores


def likeness(newest: Tensor, descriptors: Tensor, total: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """How much frames are like the newest ones: cosines of their descriptors, up to a factor that all frames share.

    newest: `[B, R, H, D]` of R frames. descriptors: `[B, T, H, D]`. total: as in `route`. Returns: float32 `[B, R, T]`.
    """
    newest, descriptors = newest.detach(), descriptors.detach()
    dots, squares = match(newest, descriptors), descriptors.float().square().sum((2, 3))[:, None]
    if total:
        dots, squares = total(dots), total(squares)
    return dots * squares.clamp(min=1e-12).rsqrt()


def choose(scores: Tensor, k: int, eligible: Tensor | None = None) -> Tensor:
    """The `k` frames of the highest scores.

    Args:
        scores: `[B, R, T]`, of T frames for R chunks that choose each for itself.
        k: how many frames to take.
        eligible: bool `[R, T]`, which frames may compete for which chunk; None = all.

    Returns: int64 `[B, R, k]`: frame numbers in temporal order, then -1 where fewer than `k` may compete.
    """
    frames = scores.shape[-1]
    if eligible is None and k <= frames:
        return scores.topk(k, -1).indices.sort(-1).values
    if eligible is not None:
        scores = scores.masked_fill(~eligible, float("-inf"))
    best = scores.topk(min(k, frames), -1)
    chosen = best.indices.masked_fill(best.values == float("-inf"), frames).sort(-1).values
    chosen = chosen.masked_fill(chosen == frames, -1)
    return torch.cat([chosen, chosen.new_full((*chosen.shape[:2], k - chosen.shape[2]), -1)], -1)


def route(
    query: Tensor,
    descriptors: Tensor,
    k: int,
    eligible: Tensor | None = None,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Choose the `k` frames whose keys match the query best: `match`, then `choose`. No gradient goes through a choice.

    total: sums scores over those who have the other heads; None: all heads are here.
    """
    scores = match(query.detach(), descriptors.detach())
    return choose(total(scores) if total else scores, k, eligible)
