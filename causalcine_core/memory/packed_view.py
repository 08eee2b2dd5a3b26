"""The packed pass of teacher forcing: clean chunks, then noisy ones, each seeing what a rollout's chunk would see (paper, Sec. 3.2).

It asks the functions that the rollout asks, `visibility` for what is near and `routing` for what is recalled, and has no rule of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cut import Cut
from ..model.attention import chunk_attention
from ..model.kernels import Kernel
from ..model.rope import Rope, rotate
from .routing import ROUTINGS, Routing, choose, describe, describe_query, likeness, route
from .settings import ResolvedMemory
from .visibility import Visibility, visibility


@dataclass(frozen=True)
class Segment:
    """A run of frames of the packed sequence that attends as one chunk, how many clean frames come before it, and what it sees of
    them."""

    first: int
    frames: int
    history: int
    seen: Visibility


class PackedView:
    """Teacher forcing over 2N segments: clean chunks, then noisy chunks, in one pass (paper, Sec. 3.2).

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
        references: int = 0,
        shot_angle: float = 0.0,
        total: Callable[[Tensor], Tensor] | None = None,
    ):
        """first: the first chunk that is denoised. shots: the shot of each chunk, needed where `cut` is not native or shots are
        turned. cut, sink, references: as in `visibility`. shot_angle: radians in time by which each shot is turned against the one
        before. total: sums scores over those who have the other heads; None: all heads are here."""
        self.chunks, self.rope, self._total = list(chunks), rope, total
        self.clean, self.history = sum(chunks[:-1]), sum(chunks[:first])
        shots = list(shots) if shots is not None else [0] * len(chunks)
        of_frame = [shot for shot, length in zip(shots, chunks, strict=True) for _ in range(length)]
        packed = torch.tensor(of_frame[: self.clean] + of_frame[self.history :])
        self._turn = rope.turn(shot_angle * packed) if shot_angle else None
        seen = [
            visibility(
                chunks[:i],
                shots.index(shots[i]),
                window=settings.window,
                sink=sink,
                cut=cut,
                references=references,
            )
            for i in range(len(chunks))
        ]
        starts = [sum(chunks[:i]) for i in range(len(chunks))]
        offset = self.clean - self.history
        clean = [Segment(starts[i], chunks[i], starts[i], seen[i]) for i in range(len(chunks) - 1)]
        noisy = [Segment(offset + starts[i], chunks[i], starts[i], seen[i]) for i in range(first, len(chunks))]
        self._routing = ROUTINGS[settings.routing]
        self._by_content = self._routing.place is None
        self._top_k, self._device = settings.top_k, torch.device(device)
        self._groups, self._of_clean, self._of_noisy = map(self._grouped, (clean + noisy, clean, noisy))

    def _grouped(self, segments: Sequence[Segment]) -> list[_Group]:
        """Segments by their length, each an attention call."""
        return [
            _Group([s for s in segments if s.frames == size], self.clean, self._top_k, self._routing, self._device)
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
        return self._attend(self._groups, 0, layer, q, k, v, kernel)

    def halves(self) -> tuple[CleanHalf, NoisyHalf]:
        """Views of a pass over the clean frames alone, and of passes over the noisy ones that see what it kept: together they are
        the packed pass, and noisy frames may be asked about again and again."""
        kept: list[tuple[Tensor, Tensor]] = []
        return CleanHalf(self, kept), NoisyHalf(self, kept)

    def _attend(
        self, groups: Sequence[_Group], first: int, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel
    ) -> Tensor:
        """Of the segments of `groups`. q: of the packed sequence from frame `first` on; k, v: from its beginning on."""
        batch, frames = k.shape[:2]
        offset = torch.arange(batch, device=q.device)[:, None, None] * frames
        asked = self._by_content and any(group.k for group in groups) and not (layer and self._routing.shared)
        descriptors = describe(k[:, : self.clean]) if asked else k.new_empty(0)
        turned_q, turned_k = q, k
        if self._turn is not None:
            turned_q, turned_k = rotate(q, self._turn[first : first + q.shape[1]]), rotate(k, self._turn[:frames])
        pool_k, pool_v = turned_k.flatten(0, 1), v.flatten(0, 1)
        out = torch.empty_like(q)
        for group in groups:
            own = group.own - first  # R c
            index = group.near.expand(batch, -1, -1)
            if group.k:
                chosen = self._recalled(layer, group, q[:, own], descriptors)
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

    def _recalled(self, layer: int, group: _Group, q: Tensor, descriptors: Tensor) -> Tensor:
        """Frames that the segments of a group recall, `[B, R, k]`, -1 for none. q: their queries `[B, R, c, S, H, D]`."""
        if group.placed is not None:
            return group.placed.expand(len(q), -1, -1)
        if not self._routing.shared:
            return route(describe_query(q), descriptors, group.k, group.eligible, self._total)
        mode = (
            torch.is_grad_enabled()
        )  # a teacher's pass comes between a pass and its way back, where layers are computed again
        if layer == 0:
            scores = likeness(descriptors[:, group.newest], descriptors, self._total)
            group.shared[mode] = choose(scores, group.k, group.eligible)
        return group.shared[mode]


class CleanHalf:
    """The view of a pass over the clean frames of a `PackedView` alone. It keeps their keys and values, layer by layer."""

    def __init__(self, packed: PackedView, kept: list[tuple[Tensor, Tensor]]):
        self._packed, self._kept = packed, kept

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        self._kept[layer:] = [(k, v)]
        return self._packed._attend(self._packed._of_clean, 0, layer, q, k, v, kernel)


class NoisyHalf:
    """The view of passes over the noisy frames of a `PackedView` alone: they see the clean ones as `CleanHalf` kept them."""

    def __init__(self, packed: PackedView, kept: list[tuple[Tensor, Tensor]]):
        self._packed, self._kept = packed, kept

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        packed = self._packed
        if packed.clean:
            k, v = (torch.cat([of_clean, own], 1) for of_clean, own in zip(self._kept[layer], (k, v), strict=True))
        return packed._attend(packed._of_noisy, packed.clean, layer, q, k, v, kernel)


class _Group:
    """Segments of one length, as index tensors: who they are, what is near them, what may be recalled, the newest frame before each.

    placed: what they recall `[R, k]`, where that is settled by place. shared: what the first layer chose for all, in the newest pass
    with gradients and without.
    """

    def __init__(self, segments: list[Segment], clean: int, top_k: int, routing: Routing, device: torch.device):
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
        self.newest = torch.tensor([max(0, s.history - 1) for s in segments], device=device)
        self.shared: dict[bool, Tensor] = {}
        self.placed: Tensor | None = None
        if routing.place is not None:
            rows = [[s.seen.far[i] for i in routing.place(len(s.seen.far), self.k)] for s in segments]
            placed = [row + [-1] * (self.k - len(row)) for row in rows]
            self.placed = torch.tensor(placed, dtype=torch.int64, device=device).view(len(segments), self.k)
