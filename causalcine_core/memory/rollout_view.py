"""The two places frames come from: a rollout's memory, and the packed pass of teacher forcing.

Both ask `sight` what is near, `route` what is recalled, and give the span positions 0, 1, 2, ...; neither has a rule of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cut import Cut
from ..model.attention import attend, chunk_attention
from ..model.kernels import Kernel
from ..model.rope import Rope, rotate, rotated
from .cache import KVMemory
from .prefetch import Prefetch
from .routing import choose, describe, describe_query, route
from .settings import ResolvedMemory
from .slab import Places, numbers
from .visibility import Visibility, visibility


class RolloutView:
    """One chunk over a memory: recalled frames, then what is always near, then its own frames.

    The memory itself never changes: `keep` gives another one, with this chunk in slots of its own.
    """

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
        angles: Tensor | None = None,
        total: Callable[[Tensor], Tensor] | None = None,
    ):
        """shot_start: chunks of `memory` that lie before this chunk's shot; None: its shot is all there is. cut, sink: as in
        `sight`. angles: radians `[frames]` by which each remembered frame is turned in time against the chunk, on top of its
        place. total: sums scores over those who have the other heads; None: all heads are here."""
        store = memory.store
        seen = visibility(memory.lengths, shot_start or 0, window=settings.window, sink=sink, cut=cut)
        self.memory, self.frames, self._total = memory, frames, total
        self._keep_choice = settings.routing == "first_step"
        self._asked_k = settings.top_k
        self._far, near = memory.kept(seen.far), memory.kept(seen.near)
        self._far_rows, self._near_rows = memory.rows(self._far), memory.rows(near)
        self._k = min(self._asked_k, len(self._far))
        self._turns = None if angles is None else (rope.turn(angles[near]), rope.turn(angles[self._far]))
        self._ahead = Prefetch(store, self._far_rows) if self._k and store.cold.host else None
        self._chosen: list[Tensor | None] = [None] * store.layers
        self._written: Places | None = None  # of the store, where passes leave their keys and values
        self._span = Span(rope, store.layers, self._k, len(near), frames, seen.gap)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        if self._written is not None:
            self.memory.store.hot.write(layer, self._written, k, v)
        fresh = self._k > 0 and not (self._keep_choice and self._chosen[layer] is not None) and self._choose(layer, q)
        return self._span.attend(layer, q, k, v, self._near, self._recalled, kernel, fresh=fresh)

    def _choose(self, layer: int, q: Tensor) -> bool:
        """Settle what this layer recalls; whether that may be other frames than in the last pass (a GPU is not waited for)."""
        before = self._chosen[layer]
        scores = self.memory.store.match(layer, describe_query(q)[:, None], self._far_rows)
        chosen = self._chosen[layer] = choose(self._total(scores) if self._total else scores, self._k)[:, 0]
        return before is None or chosen.device.type != "cpu" or not torch.equal(before, chosen)

    def _near(self, layer: int) -> tuple[Tensor, Tensor]:
        k, v = self.memory.store.read(layer, self._near_rows)
        return (k, v) if self._turns is None else (rotate(k, self._turns[0]), v)

    def _recalled(self, layer: int) -> tuple[Tensor, Tensor]:
        chosen = self._chosen[layer]
        assert chosen is not None
        if self._ahead is not None:
            k, v = self._ahead.read(layer, chosen)
        else:
            k, v = self.memory.store.read(layer, self._far_rows, chosen)
        return (k, v) if self._turns is None else (rotate(k, self._turns[1][chosen]), v)

    def keep(self, recalled: Tensor | None = None) -> KVMemory:
        """The memory with this chunk in it, as the next pass writes it, layer by layer: what it recalls is its own choice. recalled:
        int64 `[n, k]`, frames that the chunk recalled, as `routing` tells them of n layers and branches."""
        store = self.memory.store
        slots = store.hot.allocate(self.frames)
        self._written, self._keep_choice = store.hot.places(numbers(slots)), False
        return self.memory.append(slots, far=self._far, recalled=recalled)

    def routing(self) -> Tensor:
        """What the last pass recalled: int64 `[layers, B, k]`, frame numbers and -1 for none, on the CPU."""
        store = self.memory.store
        out = torch.full((store.layers, store.batch, self._asked_k), -1, dtype=torch.int64)
        chosen = [layer for layer in self._chosen if layer is not None]
        if chosen:  # of all layers: brought over at once
            out[:, :, : self._k] = self._far[torch.stack(chosen).cpu()]
        return out


class FoldedView:
    """Two chunks in one pass: the newest one, whose keys and values are written, and the one after it, which sees them."""

    def __init__(self, newest: RolloutView, following: RolloutView):
        """newest: its chunk is kept, in the memory of `following`."""
        self.newest, self.following = newest, following

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        n = self.newest.frames
        written = self.newest.attend(layer, q[:, :n], k[:, :n], v[:, :n], kernel)
        return torch.cat([written, self.following.attend(layer, q[:, n:], k[:, n:], v[:, n:], kernel)], 1)


class Span:
    """What one chunk attends to, gathered and rotated: `[recalled | near | own]`, per layer.

    Between the passes of a chunk only its own frames change, and what it recalls; the rest is gathered and rotated once.
    That takes the span's keys and values once more for every layer; where they are too large, one layer's room is
    shared by all and filled in every pass.
    """

    ROOM = 2 * 2**30  # bytes

    def __init__(self, rope: Rope, layers: int, recalled: int, near: int, own: int, gap: int):
        self.rope, self.layers, self.gap = rope, layers, gap
        self.recalled, self.history, self.own = recalled, recalled + near, own
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        near: Callable[[int], tuple[Tensor, Tensor]],
        recalled: Callable[[int], tuple[Tensor, Tensor]],
        kernel: Kernel,
        *,
        fresh: bool,
    ) -> Tensor:
        """Attention of own `q, k, v [B, c, S, H, D]`; `near` and `recalled` read a layer's frames. fresh: what is recalled
        may have changed since the last pass."""
        table = self.rope.table(self.history + self.own + self.gap)
        place = table[self.history + self.gap :]
        size = 2 * self.layers * k[:, :1].numel() * (self.history + self.own) * k.element_size()
        number = layer if size <= self.ROOM else 0
        filled = number in self._buffers and size <= self.ROOM
        if number not in self._buffers:
            batch, _, tokens, heads, dim = k.shape
            shape = (batch, heads, self.history + self.own, tokens, dim)  # as attention reads it: head by head
            self._buffers[number] = (
                k.new_empty(shape).permute(0, 2, 3, 1, 4),
                v.new_empty(shape).permute(0, 2, 3, 1, 4),
            )
        keys, values = self._buffers[number]
        if not filled and self.history > self.recalled:
            part = slice(self.recalled, self.history)
            near_k, near_v = near(layer)
            keys[:, part], values[:, part] = rotated(near_k, table[part]), near_v
        if self.recalled and (fresh or not filled):
            far_k, far_v = recalled(layer)
            keys[:, : self.recalled] = rotated(far_k, table[: self.recalled])
            values[:, : self.recalled] = far_v
        keys[:, self.history :], values[:, self.history :] = rotated(k, place), v
        return attend(rotate(q, place), keys, values, kernel=kernel)


@dataclass(frozen=True)
class Segment:
    """A run of frames of the packed sequence that attends as one chunk, and what it sees of the clean frames before it."""

    first: int
    frames: int
    seen: Visibility


class PackedView:
    """Teacher forcing over 2N segments: clean chunks, then noisy chunks, in one pass (method.md, 2).

    The last chunk's clean copy is left out: nothing may see it. So the packed sequence is the clean frames of
    chunks `0 .. N-2`, then the noisy frames of chunks `first .. N-1`; chunks before `first` are history only.
    """

    def __init__(
        self,
        chunks: list[int],
        settings: ResolvedMemory,
        rope: Rope,
        device: torch.device | str = "cpu",
        *,
        first: int = 0,
        shots: Sequence[int] | None = None,
        cut: Cut | None = None,
        sink: int = 0,
        shot_angle: float = 0.0,
    ):
        """first: the first chunk that is denoised. shots: the shot of each chunk, needed where `cut` is not native or shots are
        turned. cut, sink: as in `sight`. shot_angle: radians in time by which each shot is turned against the one before."""
        self.chunks, self.rope = list(chunks), rope
        self.clean, self.history = sum(chunks[:-1]), sum(chunks[:first])
        shots = list(shots) if shots is not None else [0] * len(chunks)
        of_frame = [shot for shot, length in zip(shots, chunks, strict=True) for _ in range(length)]
        packed = torch.tensor(of_frame[: self.clean] + of_frame[self.history :])
        self._turn = rope.turn(shot_angle * packed) if shot_angle else None
        seen = [
            visibility(chunks[:i], shots.index(shots[i]), window=settings.window, sink=sink, cut=cut)
            for i in range(len(chunks))
        ]
        starts = [sum(chunks[:i]) for i in range(len(chunks))]
        segments = [
            Segment(offset + starts[i], chunks[i], seen[i])
            for offset, copied in ((0, range(len(chunks) - 1)), (self.clean - self.history, range(first, len(chunks))))
            for i in copied
        ]
        self._groups = [
            _Group([s for s in segments if s.frames == size], self.clean, settings.top_k, torch.device(device))
            for size in sorted({s.frames for s in segments})
        ]

    @property
    def frames(self) -> int:
        """Length of the packed sequence."""
        return self.clean + sum(self.chunks) - self.history

    def pack(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """`[B, C, F, h, w]` twice to the packed sequence `[B, C, frames, h, w]`."""
        return torch.cat([clean[:, :, : self.clean], noisy[:, :, self.history :]], 2)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        batch, frames = q.shape[:2]
        offset = torch.arange(batch, device=q.device)[:, None, None] * frames
        descriptors = describe(k[:, : self.clean]) if any(group.k for group in self._groups) else k.new_empty(0)
        turned_q, turned_k = (q, k) if self._turn is None else (rotate(q, self._turn), rotate(k, self._turn))
        pool_k, pool_v = turned_k.flatten(0, 1), v.flatten(0, 1)
        out = torch.empty_like(q)
        for group in self._groups:
            own = group.own  # R c
            index = group.near.expand(batch, -1, -1)
            if group.k:
                chosen = route(describe_query(q[:, own]), descriptors, group.k, group.eligible)
                index = torch.cat([chosen, index], -1)
            valid = (index >= 0).flatten(0, 1)
            rows = (index.clamp(min=0) + offset).flatten(0, 1)
            shape = rows.shape
            y = chunk_attention(
                turned_q[:, own].flatten(0, 1),  # of B R c S H D
                pool_k.index_select(0, rows.flatten()).unflatten(0, shape),
                pool_v.index_select(0, rows.flatten()).unflatten(0, shape),
                self.rope,
                None if group.full and not group.k else valid,
                group.gaps * batch if any(group.gaps) else (0,),
                kernel,
            )
            out = out.index_copy(1, own.flatten(), y.unflatten(0, (batch, -1)).flatten(1, 2))
        return out


class _Group:
    """Segments of one length, as index tensors: who they are, what is near them, what may be recalled."""

    def __init__(self, segments: list[Segment], clean: int, top_k: int, device: torch.device):
        frames = segments[0].frames
        longest = max(len(s.seen.near) for s in segments)
        own = [list(range(s.first, s.first + frames)) for s in segments]
        near = [[-1] * (longest - len(s.seen.near)) + list(s.seen.near) for s in segments]
        self.own = torch.tensor(own, device=device)
        self.near = torch.cat([torch.tensor(near, dtype=torch.int64, device=device), self.own], 1)
        self.full = all(len(s.seen.near) == longest for s in segments)
        self.gaps = tuple(s.seen.gap for s in segments)
        self.eligible = torch.zeros(len(segments), clean, dtype=torch.bool, device=device)
        for row, s in zip(self.eligible, segments, strict=True):
            row[list(s.seen.far)] = True
        self.k = min(top_k, max(len(s.seen.far) for s in segments))
