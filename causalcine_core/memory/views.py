"""The two places frames come from: a rollout's memory, and the packed pass of teacher forcing.

Both choose with `route` and attend with `chunk_attention`; neither has a rule of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cut import Cut
from ..model.attention import chunk_attention
from ..model.rope import Rope
from .cache import Block, KVMemory
from .routing import describe, describe_query, route
from .settings import MemorySettings
from .sight import Sight, sight


class RolloutView:
    """One chunk over a memory: recalled frames, then what is always near, then its own frames.

    The chunk's own keys and values are written into a block of slots that no memory holds yet; each pass
    overwrites them, and `commit` appends the block. Until then nothing that anyone else can see has changed.
    """

    def __init__(
        self,
        memory: KVMemory,
        settings: MemorySettings,
        rope: Rope,
        frames: int,
        *,
        shot_start: int | None = None,
        cut: Cut | None = None,
        sink: int = 0,
    ):
        """shot_start: chunks of `memory` that lie before this chunk's shot; None: its shot is all there is."""
        store = memory.store
        seen = sight(memory.chunks(), shot_start or 0, window=settings.window or 0, sink=sink, cut=cut)
        self.memory, self.rope, self.gap = memory, rope, seen.gap
        self.block: Block = store.allocate(frames)
        self._far_frames = torch.tensor(seen.far, dtype=torch.int64, device=store.device)
        slots = memory.slots()
        near_rows = store.rows(slots[torch.tensor(seen.near, dtype=torch.int64, device=store.device)])
        self._far_rows = store.rows(slots[self._far_frames])
        self._own_rows = store.rows(torch.tensor(self.block.slots, device=store.device))
        self._near_rows = torch.cat([near_rows, self._own_rows], 1)
        self._top_k = min(settings.top_k or 0, len(seen.far))
        self._descriptors = (
            [store.descriptors(layer, self._far_rows) for layer in range(store.layers)] if self._top_k else []
        )
        self._routing: list[Tensor | None] = [None] * store.layers
        self._asked_k = settings.top_k or 0

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        store = self.memory.store
        store.write(layer, self._own_rows, k, v)
        rows = self._near_rows
        if self._top_k:
            chosen = route(describe_query(q)[:, None], self._descriptors[layer], self._top_k)[:, 0]
            self._routing[layer] = self._far_frames[chosen]
            rows = torch.cat([self._far_rows.gather(1, chosen), rows], 1)
        keys, values = store.read(layer, rows)
        return chunk_attention(q, keys.to(q.dtype), values.to(q.dtype), self.rope, gaps=(self.gap,))

    def commit(self) -> KVMemory:
        """The memory with this chunk in it, as the last pass wrote it."""
        return self.memory.append(self.block)

    def routing(self) -> Tensor:
        """What the last pass recalled: int64 `[layers, B, k]`, frame numbers and -1 for none, on the CPU."""
        store = self.memory.store
        out = torch.full((store.layers, store.batch, self._asked_k), -1, dtype=torch.int64)
        for layer, chosen in enumerate(self._routing):
            if chosen is not None:
                out[layer, :, : chosen.shape[1]] = chosen.cpu()
        return out


@dataclass(frozen=True)
class Segment:
    """A run of frames of the packed sequence that attends as one chunk, and what it sees of the clean frames before it."""

    first: int
    frames: int
    seen: Sight


class PackedView:
    """Teacher forcing over 2N segments: clean chunks, then noisy chunks, in one pass (method.md, 2).

    The last chunk's clean copy is left out: nothing may see it. So the packed sequence is the clean frames of
    chunks `0 .. N-2`, then the noisy frames of chunks `0 .. N-1`.
    """

    def __init__(
        self,
        chunks: list[int],
        settings: MemorySettings,
        rope: Rope,
        device: torch.device | str = "cpu",
        *,
        shots: Sequence[int] | None = None,
        cut: Cut | None = None,
        sink: int = 0,
    ):
        """shots: the shot of each chunk, needed where `cut` is not native. cut, sink: as in `sight`."""
        self.chunks, self.rope = list(chunks), rope
        self.clean = sum(chunks[:-1])
        shots = list(shots) if shots is not None else [0] * len(chunks)
        seen = [
            sight(chunks[:i], shots.index(shots[i]), window=settings.window or 0, sink=sink, cut=cut)
            for i in range(len(chunks))
        ]
        starts = [sum(chunks[:i]) for i in range(len(chunks))]
        segments = [
            Segment(offset + starts[i], chunks[i], seen[i])
            for offset, count in ((0, len(chunks) - 1), (self.clean, len(chunks)))
            for i in range(count)
        ]
        self._groups = [
            _Group([s for s in segments if s.frames == size], self.clean, settings.top_k or 0, torch.device(device))
            for size in sorted({s.frames for s in segments})
        ]

    @property
    def frames(self) -> int:
        """Length of the packed sequence."""
        return self.clean + sum(self.chunks)

    def pack(self, clean: Tensor, noisy: Tensor) -> Tensor:
        """`[B, C, F, h, w]` twice to the packed sequence `[B, C, frames, h, w]`."""
        return torch.cat([clean[:, :, : self.clean], noisy], 2)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, frames = q.shape[:2]
        offset = torch.arange(batch, device=q.device)[:, None, None] * frames
        descriptors = describe(k[:, : self.clean]) if any(group.k for group in self._groups) else None
        pool_k, pool_v = k.flatten(0, 1), v.flatten(0, 1)
        out = torch.empty_like(q)
        for group in self._groups:
            own = group.own  # R c
            queries = q[:, own]  # B R c S H D
            index = group.near.expand(batch, -1, -1)
            if group.k:
                chosen = route(describe_query(queries), descriptors, group.k, group.eligible)
                index = torch.cat([chosen, index], -1)
            valid = (index >= 0).flatten(0, 1)
            rows = (index.clamp(min=0) + offset).flatten(0, 1)
            shape = rows.shape
            y = chunk_attention(
                queries.flatten(0, 1),
                pool_k.index_select(0, rows.flatten()).unflatten(0, shape),
                pool_v.index_select(0, rows.flatten()).unflatten(0, shape),
                self.rope,
                None if group.full and not group.k else valid,
                group.gaps * batch if any(group.gaps) else (0,),
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
