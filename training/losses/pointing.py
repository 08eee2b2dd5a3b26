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
        self.shown = shown[:, : self.clean].to(device)
        self.covered = covered[:, : self.clean].to(device)
        self.chunks: list[_Chunk] = []  # that are denoised
        start = 0
        for i, length in enumerate(view.chunks):
            end = start + length
            if start >= view.history:
                fits = (shown[:, :start] @ names[:, i, :, None])[..., 0].clamp(max=1)
                asks = torch.tensor([of[i] for of in by_name]) & (fits.sum(1) > 0) & (fits.sum(1) < start)
                first = view.clean - view.history + start
                of_samples = (tensor.to(device) for tensor in (names[:, i], covered[:, start:end], asks, fits[asks]))
                self.chunks.append(_Chunk(slice(first, first + length), start, *of_samples))
            start = end

    def compare(self, q: Tensor, k: Tensor) -> dict[str, Tensor]:
        """One layer's divergences `[n]` by loss. q, k: unrotated, of the packed frames, `[B, F, S, H, D]`."""
        out: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
        clean = k[:, : self.clean]
        keys, theirs = describe(clean).float().flatten(2), _mean_over(clean, self.covered)
        out["naming"].append(_naming(keys, self.shown))
        out["binding"].append(_own_name(theirs, self.covered))
        for chunk in self.chunks:
            queries = q[:, chunk.packed]
            query, own = describe_query(queries).float().flatten(1), _mean_over(queries, chunk.covered)
            out["naming"].append(_naming(query, chunk.names))
            out["binding"].append(_own_name(own, chunk.covered))
            out["binding"].append(_own_keys(own, chunk.covered, theirs, self.covered, chunk.before))
            scores = (keys[chunk.asks, : chunk.before] @ query[chunk.asks, :, None])[..., 0]
            out["pointing"].append(_divergence(scores / query.shape[1] ** 0.5, chunk.fits))
        return {name: torch.cat(parts) for name, parts in out.items()}

    def counts(self) -> dict[str, int]:
        """How many divergences a layer gives of each loss, which the network has no say in."""
        nothing = self.covered.new_zeros(len(self.shown), self.frames, self.covered.shape[-1], 1, 1)
        return {name: len(values) for name, values in self.compare(nothing, nothing).items()}


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


def _naming(descriptors: Tensor, names: Tensor) -> Tensor:
    """Divergence `[n]` of the names that descriptors `[..., H D]` tell from those that are there, where any is."""
    there = names.sum(-1) > 0
    return _divergence(descriptors[there] @ _codes(descriptors.shape[-1]).T.to(descriptors.device), names[there])


def _own_name(theirs: Tensor, covered: Tensor) -> Tensor:
    """Divergence `[n]` of the names that characters `[B, F, 3, H D]` tell from their own, of those who are there."""
    own = torch.eye(len(NAMES), device=theirs.device).expand(*theirs.shape[:2], -1, -1)
    return _naming(theirs[covered.sum(-1) > 0], own[covered.sum(-1) > 0])


def _own_keys(own: Tensor, covered: Tensor, theirs: Tensor, covered_before: Tensor, before: int) -> Tensor:
    """Divergence `[n]` of attention's choice among all characters in the frames before from oneself in them, where one is
    there in some of them and somebody else too."""
    present = covered.sum(-1) > 0  # B f 3
    query = own.sum(1) / present.sum(1).clamp(min=1)[..., None]  # B 3 HD
    there = covered_before[:, :before].sum(-1) > 0  # B F 3
    scores = query @ theirs[:, :before].flatten(1, 2).mT / query.shape[-1] ** 0.5  # B 3 F*3
    scores = scores.masked_fill(~there.flatten(1)[:, None], -1e4)
    fits = (torch.eye(len(NAMES), device=own.device)[:, None] * there[:, None]).flatten(2)  # B 3 F*3
    asks = present.any(1) & (fits.sum(-1) > 0) & (fits.sum(-1) < there.sum((1, 2))[:, None])
    return _divergence(scores[asks], fits[asks])


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence `[n]` of the softmax of logits `[n, m]` from weights `[n, m]`, scaled to sum to 1."""
    target = wanted / wanted.sum(-1, keepdim=True)
    return nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
