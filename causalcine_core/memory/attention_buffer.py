"""What one chunk attends to, gathered and rotated: `[recalled | near | own]` at positions 0, 1, 2, ... (paper, Sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..model.attention import attend
from ..model.kernels import Kernel
from ..model.rope import Rope, rotate, rotated


class History(Protocol):
    """Reads what a chunk sees of the past, unrotated keys and values `[B, n, S, H, D]` of a layer."""

    def read_near(self, layer: int) -> tuple[Tensor, Tensor]: ...

    def read_recalled(self, layer: int) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Extent:
    """How many frames a chunk attends to: recalled, near, and its own. gap: positions left empty before its own."""

    recalled: int
    near: int
    own: int
    gap: int = 0

    @property
    def history(self) -> int:
        return self.recalled + self.near

    @property
    def frames(self) -> int:
        return self.history + self.own


class AttentionBuffer:
    """Keys and values that the passes of one chunk attend to.

    Between them only the chunk's own frames change, and what it recalls; so the rest is gathered and rotated once and kept.
    That takes the extent's keys and values once more for every layer; where they are too large, one layer's room is shared
    by all and filled in every pass. A pass that autograd records gathers everything anew, since it reads it once more on its
    way back.
    """

    ROOM = 2 * 2**30  # bytes

    def __init__(self, rope: Rope, layers: int, extent: Extent):
        self.rope, self.layers, self.extent = rope, layers, extent
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, history: History, kernel: Kernel, *, fresh: bool
    ) -> Tensor:
        """Attention of own, unrotated `q, k, v [B, c, S, H, D]`; gives `[B, c, S, H, D]`. fresh: whether what is recalled may have
        changed since the last pass."""
        extent = self.extent
        table = self.rope.table(extent.frames + extent.gap)
        place = table[extent.history + extent.gap :]
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v))
        if recorded:
            keys, values = self._gathered(layer, rotate(k, place), v, history)
        else:
            keys, values = self._kept_room(layer, k, v, history, fresh)
            keys[:, extent.history :], values[:, extent.history :] = rotated(k, place), v
        return attend(rotate(q, place), keys, values, kernel=kernel)

    def _gathered(self, layer: int, own_k: Tensor, own_v: Tensor, history: History) -> tuple[Tensor, Tensor]:
        """All frames in new tensors `[B, F, S, H, D]`. own_k: rotated."""
        extent, table = self.extent, self.rope.table(self.extent.history)
        keys, values = [], []
        if extent.recalled:
            k, v = history.read_recalled(layer)
            keys.append(rotate(k, table[: extent.recalled]))
            values.append(v)
        if extent.near:
            k, v = history.read_near(layer)
            keys.append(rotate(k, table[extent.recalled :]))
            values.append(v)
        return torch.cat([*keys, own_k], 1), torch.cat([*values, own_v], 1)

    def _kept_room(self, layer: int, k: Tensor, v: Tensor, history: History, fresh: bool) -> tuple[Tensor, Tensor]:
        """Room `[B, F, S, H, D]` with the past in it, which lies there already where it was kept."""
        extent, table = self.extent, self.rope.table(self.extent.history)
        size = 2 * self.layers * k[:, :1].numel() * extent.frames * k.element_size()
        number = layer if size <= self.ROOM else 0
        kept = number in self._kept and size <= self.ROOM
        if number not in self._kept:
            batch, _, tokens, heads, dim = k.shape
            shape = (batch, heads, extent.frames, tokens, dim)  # as attention reads it: head by head
            self._kept[number] = (k.new_empty(shape).permute(0, 2, 3, 1, 4), v.new_empty(shape).permute(0, 2, 3, 1, 4))
        keys, values = self._kept[number]
        if not kept and extent.near:
            part = slice(extent.recalled, extent.history)
            near_k, near_v = history.read_near(layer)
            keys[:, part], values[:, part] = rotated(near_k, table[part]), near_v
        if extent.recalled and (fresh or not kept):
            far_k, far_v = history.read_recalled(layer)
            keys[:, : extent.recalled] = rotated(far_k, table[: extent.recalled])
            values[:, : extent.recalled] = far_v
        return keys, values
