"""The packed pass of training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from .memory import attention_of_chunk, recall
from .network import Network
from .story import Settings, Shot, plan, seen


def teacher_forcing(
    network: Network, clean: Tensor, noisy: Tensor, level: float, shots: Sequence[Shot], settings: Settings
) -> Tensor:
    """Velocity of the noisy copy of a film `[C, F, h, w]`, from one pass over its clean and its noisy copy (Sec. 3.2).

    Either copy of a chunk sees itself, and what the chunk would see in a rollout of the clean frames before it. shots: with texts
    `[1, T, text_dim]`.
    """
    chosen: dict[tuple[int, int], list[int]] = {}  # by the first layer, of each chunk of each copy
    chunks, frames, columns = plan(shots, settings), clean.shape[1], clean.shape[3] // 2
    starts = [0, *accumulate(chunk.length for chunk in chunks)]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        for copy in (0, frames):
            for n, chunk in enumerate(chunks):
                near, far, gap = seen(chunks, n, settings)
                own = list(range(copy + starts[n], copy + starts[n + 1]))
                keys, query = {frame: k[frame].mean(0) for frame in far}, q[own].mean((0, 1))
                newest = k[starts[n] - 1].mean(0) if n else None
                recalled, _ = recall(settings.routing, keys, query, newest, settings.top_k)
                if settings.routing == "rag":
                    recalled = chosen.setdefault((copy, n), recalled)
                visible = [*recalled, *near, *own]
                of_shot = [next(i for i, end in enumerate(starts[1:]) if frame % frames < end) for frame in visible]
                turns = [settings.shot_angle * (chunks[i].shot - chunk.shot) for i in of_shot]
                out[own] = attention_of_chunk(q[own], list(k[visible]), list(v[visible]), gap, turns, columns)
        return out

    texts = [chunk.text[0] for chunk in chunks for _ in range(chunk.length)]
    both = network.velocity(torch.cat([clean, noisy], 1), [0.0] * frames + [level] * frames, texts * 2, attend)
    return both[:, frames:]
