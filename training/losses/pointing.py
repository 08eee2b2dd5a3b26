"""Names in queries and keys: what lets routing and attention find a character that is called by name only.

A query can look for a name only once keys carry it, and keys have a reason to carry it only once queries look for it. So
by the flow-matching loss alone both stay at chance for very long. Three auxiliary losses on unrotated queries and keys, in
all layers that know of the text, open the way:

- naming: the mean query of a chunk, and the mean key of a frame, lie along fixed random directions, one for each name in
  the text (cross-entropy of the names). It has a gradient from the first step.
- pointing: the scores of routing choose the frames that show who is called, each alike (a divergence, 0 at best).
- binding: both of them for the tokens that a character covers, so that of two in one frame each finds itself. Where
  everybody is comes from the world's truth.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from causalcine_core.memory import PackedView
from causalcine_core.memory.routing import describe, describe_query
from causalcine_core.model.kernels import Kernel

from ..data.shards import Box
from ..world.grammar import NAMES


class Pointing:
    """A packed view that watches queries and keys; `losses` is of what it saw in one pass."""

    def __init__(
        self,
        view: PackedView,
        prompts: Sequence[Sequence[str]],
        by_name: Sequence[Sequence[bool]],
        cast: Sequence[Sequence[Mapping[str, Box]]],
        grid: tuple[int, int],
    ):
        """prompts, by_name: of each sample's chunks, the text in force and whether it calls somebody by name only. cast:
        of each sample's frames, who is where. grid: rows and columns of a frame's tokens."""
        self._view = view
        self._losses: dict[str, list[Tensor]] = {"naming": [], "pointing": [], "binding": []}
        names = torch.tensor([[[name in prompt for name in NAMES] for prompt in of] for of in prompts]).float()  # B N 3
        shown = names.repeat_interleave(torch.tensor(view.chunks), 1)  # B F 3
        covered = torch.tensor([[[_cover(at.get(name), grid) for name in NAMES] for at in of] for of in cast])
        covered = covered * shown[..., None]  # B F 3 S, of those whom the text names
        self._shown, self._covered = shown[:, : view.clean], covered[:, : view.clean]
        self._chunks: list[_Chunk] = []  # that are denoised
        start = 0
        for i, length in enumerate(view.chunks):
            end = start + length
            if start >= view.history:
                fits = (self._shown[:, :start] @ names[:, i, :, None])[..., 0].clamp(max=1)
                asks = torch.tensor([of[i] for of in by_name]) & (fits.sum(1) > 0) & (fits.sum(1) < start)
                first = view.clean - view.history + start
                self._chunks.append(
                    _Chunk(slice(first, first + length), start, names[:, i], covered[:, start:end], asks, fits[asks])
                )
            start = end

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        if layer:
            clean = k[:, : self._view.clean]
            keys, theirs = describe(clean).float().flatten(2), _mean_over(clean, self._covered)
            self._add("naming", _naming(keys, self._shown))
            self._add("binding", _own_name(theirs, self._covered))
            for chunk in self._chunks:
                queries = q[:, chunk.packed]
                query, own = describe_query(queries).float().flatten(1), _mean_over(queries, chunk.covered)
                self._add("naming", _naming(query, chunk.names))
                self._add("binding", _own_name(own, chunk.covered))
                self._add("binding", _own_keys(own, chunk.covered, theirs, self._covered, chunk.before))
                scores = (keys[chunk.asks, : chunk.before] @ query[chunk.asks, :, None])[..., 0]
                self._add("pointing", _divergence(scores / query.shape[1] ** 0.5, chunk.fits))
        return self._view.attend(layer, q, k, v, kernel)

    def _add(self, name: str, values: Tensor) -> None:
        if len(values):
            self._losses[name].append(values)

    def losses(self) -> dict[str, Tensor]:
        """Means over layers, by name; without those that this pass says nothing of."""
        return {name: torch.cat(part).mean() for name, part in self._losses.items() if part}


@dataclass(frozen=True)
class _Chunk:
    """A chunk that is denoised. packed: its frames there. before: clean frames before it. names: whom its text calls. covered:
    its characters' tokens. asks: samples that call by name only somebody whom some of these frames show, but not all;
    fits: which frames, of those samples."""

    packed: slice
    before: int
    names: Tensor
    covered: Tensor
    asks: Tensor
    fits: Tensor


def _cover(box: Box | None, grid: tuple[int, int]) -> list[float]:
    """Share of a character that falls on each token, row by row; zeros for those who are not there."""
    rows, columns = grid
    left, top, right, bottom = box or (0.0, 0.0, 0.0, 0.0)
    across = [max(0.0, min(right * columns, x + 1) - max(left * columns, x)) for x in range(columns)]
    down = [max(0.0, min(bottom * rows, y + 1) - max(top * rows, y)) for y in range(rows)]
    area = sum(across) * sum(down) or 1.0
    return [h * w / area for h in down for w in across]


def _mean_over(tokens: Tensor, covered: Tensor) -> Tensor:
    """Mean query or key of each character in each frame: `[B, F, S, H, D]` and `[B, F, 3, S]` to `[B, F, 3, H D]`."""
    return covered @ tokens.float().flatten(3)


@functools.cache
def _codes(width: int) -> Tensor:
    """The direction of each name, `[names, width]`: random, of length 1, and always the same."""
    codes = torch.randn(len(NAMES), width, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(codes, dim=1)


def _naming(descriptors: Tensor, names: Tensor) -> Tensor:
    """Divergence `[n]` of the names that descriptors `[..., H D]` tell from those that are there, where any is."""
    there = names.sum(-1) > 0
    return _divergence(descriptors[there] @ _codes(descriptors.shape[-1]).T.to(descriptors.device), names[there])


def _own_name(theirs: Tensor, covered: Tensor) -> Tensor:
    """The same of characters `[B, F, 3, H D]` and their own names, where they are there."""
    own = torch.eye(len(NAMES)).expand(*theirs.shape[:2], -1, -1)
    return _naming(theirs[covered.sum(-1) > 0], own[covered.sum(-1) > 0])


def _own_keys(own: Tensor, covered: Tensor, theirs: Tensor, covered_before: Tensor, before: int) -> Tensor:
    """Divergence `[n]` of attention's choice among all characters in the frames before from oneself in them, where one is
    there in some of them and somebody else too."""
    present = covered.sum(-1) > 0  # B f 3
    query = own.sum(1) / present.sum(1).clamp(min=1)[..., None]  # B 3 HD
    there = covered_before[:, :before].sum(-1) > 0  # B F 3
    scores = query @ theirs[:, :before].flatten(1, 2).mT / query.shape[-1] ** 0.5  # B 3 F*3
    scores = scores.masked_fill(~there.flatten(1)[:, None], -1e4)
    fits = (torch.eye(len(NAMES))[:, None] * there[:, None]).flatten(2)  # B 3 F*3
    asks = present.any(1) & (fits.sum(-1) > 0) & (fits.sum(-1) < there.sum((1, 2))[:, None])
    return _divergence(scores[asks], fits[asks])


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence `[n]` of the softmax of logits `[n, m]` from weights `[n, m]`, scaled to sum to 1."""
    target = wanted / wanted.sum(-1, keepdim=True)
    return nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
