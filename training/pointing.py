"""Names in queries and keys: what lets routing and attention find a character that is called by name only.

A query can look for a name only once keys carry it, and keys have a reason to carry it only once queries look for it. So
by the flow-matching loss alone both stay at chance for very long. Two auxiliary losses on the descriptors of routing, in
all layers that know of the text, open the way:

- naming: the mean query of a chunk, and the mean key of a frame, lie along fixed random directions, one for each name in
  the text (cross-entropy of the names). It has a gradient from the first step.
- pointing: the scores of routing choose the frames that show who is called, each alike (a divergence, 0 at best).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from causalcine_core.memory import PackedView
from causalcine_core.memory.routing import describe, describe_query

from .data.grammar import NAMES


class Pointing:
    """A packed view that watches queries and keys; `losses` is of what it saw in one pass."""

    def __init__(self, view: PackedView, prompts: Sequence[Sequence[str]], by_name: Sequence[Sequence[bool]]):
        """prompts, by_name: of each sample's chunks, the text in force and whether it calls somebody by name only."""
        self._view = view
        self._naming: list[Tensor] = []
        self._pointing: list[Tensor] = []
        starts = [sum(view.chunks[:i]) for i in range(len(view.chunks) + 1)]
        names = torch.tensor([[[name in prompt for name in NAMES] for prompt in of] for of in prompts]).float()  # B N 3
        lengths = torch.tensor(view.chunks)
        self._shown = names.repeat_interleave(lengths, 1)[:, : view.clean]  # B F 3, of clean frames
        self._chunks: list[
            tuple[slice, Tensor, Tensor, Tensor]
        ] = []  # of noisy ones: where, names, who points, where to
        for i in range(len(view.chunks)):
            if starts[i] < view.history:
                continue
            first = view.clean - view.history + starts[i]
            shown = (self._shown[:, : starts[i]] @ names[:, i, :, None])[..., 0].clamp(max=1)
            asks = torch.tensor([of[i] for of in by_name]) & (shown.sum(1) > 0) & (shown.sum(1) < starts[i])
            target = shown[asks] / shown[asks].sum(1, keepdim=True)
            self._chunks.append((slice(first, first + view.chunks[i]), names[:, i], asks, target))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if layer:
            keys = describe(k[:, : self._view.clean]).float().flatten(2)
            self._naming.append(_naming(keys, self._shown))
            for own, names, asks, target in self._chunks:
                query = describe_query(q[:, own]).float().flatten(1)
                self._naming.append(_naming(query, names))
                if len(target):
                    scores = (keys[asks, : target.shape[1]] @ query[asks, :, None])[..., 0] / query.shape[1] ** 0.5
                    self._pointing.append(nn.functional.kl_div(scores.log_softmax(1), target, reduction="none").sum(1))
        return self._view.attend(layer, q, k, v)

    def losses(self) -> dict[str, Tensor]:
        """Means over layers, by name; without those that this pass says nothing of."""
        parts = {"naming": self._naming, "pointing": self._pointing}
        return {name: torch.cat(part).mean() for name, part in parts.items() if any(len(t) for t in part)}


@functools.cache
def _codes(width: int) -> Tensor:
    """The direction of each name, `[names, width]`: random, of length 1, and always the same."""
    codes = torch.randn(len(NAMES), width, generator=torch.Generator().manual_seed(0))
    return nn.functional.normalize(codes, dim=1)


def _naming(descriptors: Tensor, names: Tensor) -> Tensor:
    """Divergence `[n]` of the names that descriptors `[..., H D]` tell from those that are there, where any is."""
    there = names.sum(-1) > 0
    logits = descriptors[there] @ _codes(descriptors.shape[-1]).T.to(descriptors.device)
    target = names[there] / names[there].sum(-1, keepdim=True)
    return nn.functional.kl_div(logits.log_softmax(-1), target, reduction="none").sum(-1)
