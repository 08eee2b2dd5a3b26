"""Adversarial heads on a denoiser's inner features: learned queries look at a few blocks, and a small network judges each chunk.

A logit belongs to a chunk, not to a film. The denoiser is block-causal, so the features of a chunk's noisy tokens hold that
chunk and its history alone: the logit says whether this chunk is a likely one after that history, and its gradient goes to
the chunk that is at fault. One logit for a film would be an average in which a late drift, which is what the term is
there for, counts a twentieth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from causalcine_core.model.kernels import Kernel, sdpa
from causalcine_core.model.transformer import Compute


class Tap:
    """The residual stream after some blocks of one pass: features `[B, F, S, dim]` in float32, in the blocks' order.

    It lives as long as a pass and its way back, wherever the pass is compiled, or computed once more on the way back.
    """

    def __init__(self, net: Any, blocks: Sequence[int]):
        """blocks: numbers of the blocks of a Wan network."""
        self._number = {id(net.blocks[block]): block for block in blocks}
        self._seen: dict[int, Tensor] = {}

    def into(self, compute: Compute) -> Compute:
        """A way of computing with the tap in it."""
        return replace(compute, leave=partial(self._leave, compute.leave))

    def _leave(self, leave: Any, block: Any, *given: Any) -> Tensor:
        x: Tensor = leave(block, *given)
        if id(block) in self._number:
            self._seen.setdefault(self._number[id(block)], x)  # the first time: the second is on the way back
        return x

    @property
    def features(self) -> list[Tensor]:
        return [self._seen[block] for block in sorted(self._number.values())]


class QueryToken(nn.Module):
    """Learned queries that gather from tokens `[n, T, dim]` by attention, then a feed-forward: `[n, queries * width]`."""

    def __init__(self, dim: int, width: int, heads: int, queries: int):
        super().__init__()
        self.heads = heads
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.norm = nn.LayerNorm(dim)
        self.kv = nn.Linear(dim, 2 * width)
        self.out = nn.Linear(width, width)
        self.ffn = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor, kernel: Kernel = sdpa) -> Tensor:
        keys, values = self.kv(self.norm(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        queries = self.queries.unflatten(-1, (self.heads, -1)).expand(len(tokens), -1, -1, -1)
        x = self.queries + self.out(kernel(queries, keys, values, None).flatten(2))
        gathered: Tensor = (x + self.ffn(x)).flatten(1)
        return gathered


class Heads(nn.Module):
    """Logits of chunks out of the features of a few blocks; zero at first, so that the heads begin by having no say."""

    def __init__(self, dim: int, taps: int, width: int, heads: int = 4, queries: int = 1):
        """dim: of the features. taps: blocks that are looked at. width: of all that the heads compute in, a multiple of `heads`,
        those of their attention. queries: learned tokens of each tap."""
        super().__init__()
        self.tokens = nn.ModuleList(QueryToken(dim, width, heads, queries) for _ in range(taps))
        last = nn.Linear(width, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        gathered = taps * queries * width
        self.judge = nn.Sequential(nn.LayerNorm(gathered), nn.Linear(gathered, width), nn.SiLU(), last)

    def forward(self, features: Sequence[Tensor], chunks: Sequence[int]) -> Tensor:
        """Logits `[B, N]`. features: of each tap `[B, F, S, dim]`. chunks: frames of each chunk, F in all."""
        runs = [(length, len(list(run))) for length, run in groupby(chunks)]  # of chunks of one length
        parts = [feature.split([length * count for length, count in runs], 1) for feature in features]
        return torch.cat([self._logits(of_run, count) for (_, count), of_run in zip(runs, zip(*parts), strict=True)], 1)

    def _logits(self, features: Sequence[Tensor], count: int) -> Tensor:
        """Of `count` chunks of one length."""
        gathered = []
        for token, feature in zip(self.tokens, features, strict=True):
            of_chunks = feature.unflatten(1, (count, -1)).flatten(2, 3).flatten(0, 1)  # B*N c*S dim
            gathered.append(token(of_chunks))
        logits: Tensor = self.judge(torch.cat(gathered, 1))
        return logits.view(-1, count)
