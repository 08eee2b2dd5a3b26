"""What one chunk of a rollout sees: a reader of a memory, and the passes that write a chunk into one.

Both ask `visibility` what is near and `routing` what is recalled; neither has a rule of its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..cut import Cut
from ..model.kernels import Kernel
from ..model.rope import Rope, rotate
from ..model.transformer import View
from .attention_buffer import AttentionBuffer, Extent
from .cache import KVMemory
from .prefetch import Prefetch
from .routing import ROUTINGS, choose, describe_query, likeness
from .settings import ResolvedMemory
from .slab import numbers
from .visibility import visibility


class RolloutView:
    """One chunk over a memory: recalled frames, then what is always near, then its own frames. Nothing is written."""

    def __init__(
        self,
        memory: KVMemory,
        settings: ResolvedMemory,
        rope: Rope,
        frames: int,
        *,
        shot_start: int | None = None,
        cut: Cut | None = None,
        sink: int = 0,
        references: int = 0,
        angles: Tensor | None = None,
        total: Callable[[Tensor], Tensor] | None = None,
    ):
        """
        Args:
            memory: what was written before this chunk.
            settings: window (chunks), top_k (frames), and how it is chosen what is recalled.
            rope: rotations of this patch grid.
            frames: latent frames of the chunk.
            shot_start: chunks of `memory` that lie before this chunk's shot; None: its shot is all there is.
            cut: how its shot was begun; None: natively.
            sink: first latent frames of the film that are always seen.
            references: chunks at the head of `memory`, this one among them, that are pictures from outside the film.
            angles: radians `[frames of the memory]` by which each is turned in time against the chunk, on top of its place.
            total: sums scores over those who have the other heads; None: all heads are here.
        """
        store = memory.store
        seen = visibility(
            memory.lengths, shot_start or 0, window=settings.window, sink=sink, cut=cut, references=references
        )
        self.memory, self.frames, self._total = memory, frames, total
        self._routing = ROUTINGS[settings.routing]
        self._asked_k = settings.top_k
        self._far, near = memory.kept(seen.far), memory.kept(seen.near)
        self._references = sum(memory.lengths[:references])
        self._far_rows, self._near_rows = memory.rows(self._far), memory.rows(near)
        self._k = min(self._asked_k, len(self._far))
        self._turns = None if angles is None else (rope.turn(angles[near]), rope.turn(angles[self._far]))
        self._prefetch = Prefetch(store, self._far_rows) if self._k and store.cold.host else None
        self._newest = (
            memory.rows(torch.cat([self._far, near]).max()[None]) if self._k and self._routing.shared else None
        )
        self._chosen: list[Tensor | None] = [None] * store.layers
        self._placed: list[list[int]] | None = None  # by place a choice is known without asking the device
        if self._k and self._routing.place is not None:
            self._placed = [list(self._routing.place(len(self._far), self._k))] * store.batch
            self._chosen = [torch.tensor(self._placed, device=store.device)] * store.layers
        self._buffer = AttentionBuffer(rope, store.layers, Extent(self._k, len(near), frames, seen.gap))

    @property
    def far(self) -> Tensor:
        """Frames that may be recalled, int64 `[n]` on the CPU."""
        return self._far

    @property
    def aging(self) -> Tensor:
        """Those of `far` that a budget may evict: of the film, never a reference."""
        return self._far[self._far >= self._references]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel, *, choose_anew: bool = False
    ) -> Tensor:
        """Self-attention of the chunk's unrotated `q, k, v [B, c, S, H, D]`. choose_anew: what is recalled is this pass's choice, even
        where passes keep the first one's."""
        kept = self._routing.keeps and not choose_anew and self._chosen[layer] is not None
        fresh = self._k > 0 and not kept and self._routing.place is None and self._choose(layer, q)
        return self._buffer.attend(layer, q, k, v, self, kernel, fresh=fresh)

    def _choose(self, layer: int, q: Tensor) -> bool:
        """Settle what this layer recalls; whether that may be other frames than in the last pass (a GPU is not waited for)."""
        before, store = self._chosen[layer], self.memory.store
        if self._newest is None:
            scores = store.match(layer, describe_query(q)[:, None].detach(), self._far_rows)
            chosen = choose(self._total(scores) if self._total else scores, self._k)[:, 0]
        elif layer == 0:
            newest, far = (store.descriptors(0, rows) for rows in (self._newest, self._far_rows))
            chosen = choose(likeness(newest, far, self._total), self._k)[:, 0]
        else:
            assert self._chosen[0] is not None
            chosen = self._chosen[0]
        self._chosen[layer] = chosen
        return before is None or chosen.device.type != "cpu" or not torch.equal(before, chosen)

    def read_near(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]` of what is always seen."""
        k, v = self.memory.store.read(layer, self._near_rows)
        return (k, v) if self._turns is None else (rotate(k, self._turns[0]), v)

    def read_recalled(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, k, S, H, D]` of what this layer chose last."""
        chosen = self._chosen[layer]
        assert chosen is not None
        if self._prefetch is not None:
            k, v = self._prefetch.read(layer, self._placed or chosen.tolist())
        else:
            k, v = self.memory.store.read(layer, self._far_rows, chosen)
        return (k, v) if self._turns is None else (rotate(k, self._turns[1][chosen]), v)

    def recalled(self) -> Tensor:
        """What the last pass recalled: int64 `[layers, B, k]`, numbers of frames as outside (`numbering`), on the CPU."""
        store = self.memory.store
        out = torch.full((store.layers, store.batch, self._asked_k), -1, dtype=torch.int64)
        chosen = [layer for layer in self._chosen if layer is not None]
        if chosen:  # of all layers: brought over at once
            out[:, :, : self._k] = self.memory.numbers(self._far)[torch.stack(chosen).cpu()]
        return out


class WritingView:
    """The pass that writes a chunk: its keys and values go into slots of the store, layer by layer, and what it recalls is its own
    choice.

    after: the memory with the chunk in it, whole once the pass has run.
    """

    def __init__(self, view: RolloutView, recalled: Tensor | None = None):
        """view: what the chunk saw when it was made. recalled: int64 `[layers, B, k]`, numbers of frames that it recalled then, which
        count as uses of them; None: those count already."""
        store = view.memory.store
        slots = store.hot.allocate(view.frames)
        self.view = view
        self.after: KVMemory = view.memory.append(slots, far=view.aging, recalled=recalled)
        self._places = store.hot.places(numbers(slots))

    @property
    def frames(self) -> int:
        return self.view.frames

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        self.view.memory.store.hot.write(layer, self._places, k, v)
        return self.view.attend(layer, q, k, v, kernel, choose_anew=True)


class FusedView:
    """A pass over two chunks: the newest one, which is written, and the one after it, which sees what was written a moment before."""

    def __init__(self, writing: WritingView, following: View):
        """following: over the memory `writing.after`."""
        self.writing, self.following = writing, following

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        n = self.writing.frames
        written = self.writing.attend(layer, q[:, :n], k[:, :n], v[:, :n], kernel)
        return torch.cat([written, self.following.attend(layer, q[:, n:], k[:, n:], v[:, n:], kernel)], 1)
