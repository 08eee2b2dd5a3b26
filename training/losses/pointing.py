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

LOSSES = ("naming", "pointing", "binding")


@dataclass(frozen=True)
class _Wanted:
    """Which rows of logits are compared, int64 `[n]`, and with what: weights `[n, m]` that sum to 1."""

    rows: Tensor
    weights: Tensor

    @classmethod
    def of(cls, weights: Tensor, asked: Tensor, device: torch.device | str) -> _Wanted:
        """Of weights `[..., m]` of any sum and of bool `[...]`, on the CPU."""
        chosen = weights[asked]
        return cls(asked.flatten().nonzero()[:, 0].to(device), (chosen / chosen.sum(-1, keepdim=True)).to(device))

    def divergence(self, logits: Tensor) -> Tensor:
        """Kullback-Leibler divergence `[n]` of the softmax of logits `[..., m]` from the weights, 0 at best."""
        chosen = logits.flatten(0, -2).index_select(0, self.rows)
        return nn.functional.kl_div(chosen.log_softmax(-1), self.weights, reduction="none").sum(-1)


@dataclass(frozen=True)
class _Chunk:
    """A chunk that is denoised. packed: its frames there. before: clean frames before it. covered: its characters' tokens `[B, f, 3,
    S]`; share: 1 / frames that each is in `[B, 3]`. absent: who is not in which frame before it `[B, 1, F*3]`.

    names: of its text. own: of each of its characters. frames: that show who is called, of samples that call by name only
    somebody whom some of the frames before show, but not all. themselves: of each character, itself in the frames before, where
    it is there in some of them and somebody else too.
    """

    packed: slice
    before: int
    covered: Tensor
    share: Tensor
    absent: Tensor
    names: _Wanted
    own: _Wanted
    frames: _Wanted
    themselves: _Wanted


class Truth:
    """Who is named and who is where in the frames of a packed pass: what the losses are measured against."""

    def __init__(
        self,
        view: PackedView,
        prompts: Sequence[Sequence[str]],
        by_name: Sequence[Sequence[bool]],
        cast: Sequence[Sequence[Mapping[str, Box]]],
        grid: tuple[int, int],
        device: torch.device | str = "cpu",
    ):
        """prompts, by_name: of each sample's chunks, the text in force and whether it calls somebody by name only. cast:
        of each sample's frames, who is where. grid: rows and columns of a frame's tokens."""
        self.clean, self.frames = view.clean, view.frames
        names = torch.tensor([[[name in prompt for name in NAMES] for prompt in of] for of in prompts]).float()  # B N 3
        shown = names.repeat_interleave(torch.tensor(view.chunks), 1)  # B F 3
        covered = torch.tensor([[[_cover(at.get(name), grid) for name in NAMES] for at in of] for of in cast])
        covered = covered * shown[..., None]  # B F 3 S, of those whom the text names
        there = covered.sum(-1) > 0  # B F 3
        own = torch.eye(len(NAMES)).expand(*there.shape, -1)
        self.covered = covered[:, : self.clean].to(device)
        self.named = _Wanted.of(shown[:, : self.clean], shown[:, : self.clean].any(-1), device)
        self.own = _Wanted.of(own[:, : self.clean], there[:, : self.clean], device)
        self.chunks: list[_Chunk] = []
        start = 0
        for i, length in enumerate(view.chunks):
            end = start + length
            if start >= view.history:
                shows = (shown[:, :start] @ names[:, i, :, None])[..., 0].clamp(max=1)  # B F
                calls = torch.tensor([of[i] for of in by_name]) & (shows.sum(1) > 0) & (shows.sum(1) < start)
                now, before = there[:, start:end], there[:, :start]
                itself = (torch.eye(len(NAMES))[:, None] * before[:, None]).flatten(2)  # B 3 F*3
                finds = now.any(1) & (itself.sum(-1) > 0) & (itself.sum(-1) < before.sum((1, 2))[:, None])
                first = view.clean - view.history + start
                self.chunks.append(
                    _Chunk(
                        slice(first, first + length),
                        start,
                        covered[:, start:end].to(device),
                        (1 / now.sum(1).clamp(min=1)).to(device),
                        ~before.flatten(1)[:, None].to(device),
                        _Wanted.of(names[:, i], names[:, i].any(-1), device),
                        _Wanted.of(own[:, start:end], now, device),
                        _Wanted.of(shows, calls, device),
                        _Wanted.of(itself, finds, device),
                    )
                )
            start = end

    def compare(self, q: Tensor, k: Tensor) -> dict[str, Tensor]:
        """One layer's divergences `[n]` by loss. q, k: unrotated, of the packed frames, `[B, F, S, H, D]`."""
        clean = k[:, : self.clean]
        keys, theirs = describe(clean).float().flatten(2), _mean_over(clean, self.covered)
        width = keys.shape[-1]
        codes = _codes(width).T.to(keys.device)
        out = {
            "naming": [self.named.divergence(keys @ codes)],
            "pointing": [],
            "binding": [self.own.divergence(theirs @ codes)],
        }
        for chunk in self.chunks:
            queries = q[:, chunk.packed]
            query, own = describe_query(queries).float().flatten(1), _mean_over(queries, chunk.covered)
            out["naming"].append(chunk.names.divergence(query @ codes))
            out["binding"].append(chunk.own.divergence(own @ codes))
            before = theirs[:, : chunk.before].flatten(1, 2)  # B F*3 HD
            scores = (own.sum(1) * chunk.share[..., None]) @ before.mT / width**0.5  # B 3 F*3
            out["binding"].append(chunk.themselves.divergence(scores.masked_fill(chunk.absent, -1e4)))
            scores = (keys[:, : chunk.before] @ query[:, :, None])[..., 0] / width**0.5  # B F
            out["pointing"].append(chunk.frames.divergence(scores))
        return {name: torch.cat(parts) for name, parts in out.items()}

    def counts(self) -> dict[str, int]:
        """How many divergences a layer gives of each loss, which the network has no say in."""
        of_frames = {"naming": len(self.named.rows), "pointing": 0, "binding": len(self.own.rows)}
        for chunk in self.chunks:
            of_frames["naming"] += len(chunk.names.rows)
            of_frames["pointing"] += len(chunk.frames.rows)
            of_frames["binding"] += len(chunk.own.rows) + len(chunk.themselves.rows)
        return of_frames


class Pointing:
    """A packed view that watches queries and keys of all layers but the first, which knows nothing of the text yet."""

    def __init__(self, view: PackedView, truth: Truth):
        self._view, self._truth = view, truth
        self._of_layer: dict[int, dict[str, Tensor]] = {}

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        if layer:
            seen = {name: found.sum() for name, found in self._truth.compare(q, k).items() if len(found)}
            self._of_layer.setdefault(
                layer, seen
            )  # it is computed again on the way back where activations are not kept
        return self._view.attend(layer, q, k, v, kernel)

    def losses(self, counts: Mapping[str, int]) -> dict[str, Tensor]:
        """Shares of the means over layers and divergences, by loss, without those that this pass says nothing of. counts: of the
        divergences of a layer, in all passes that the means are over."""
        layers = list(self._of_layer.values())
        return {
            name: torch.stack([of[name] for of in layers]).sum() / (counts[name] * len(layers))
            for name in LOSSES
            if layers and name in layers[0]
        }


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
