"""What a rollout remembers: a table that says in which slots of a store its frames lie.

`KVMemory` is a value. Appending a chunk gives a new table; older tables, and forks, go on seeing exactly what they saw. A
slot returns to the store when the last table that holds it is gone. Under a budget a table keeps as many frames as fit:
what routing used least goes first.

At its head may be references, the pictures of a cast: a chunk of one frame each, which are no part of the film. What belongs to
which is told here and nowhere else: outside, frames have the numbers of `numbering`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..checks import show
from ..errors import InputError
from ..numbering import mirrored
from .slab import Slab, Slot, numbers
from .store import FrameStore, Rows


@dataclass(frozen=True)
class KVMemory:
    """An immutable table of the frames a rollout has written.

    lengths: latent frames of every chunk. slots: of every frame, None where it was evicted; who holds a slot keeps it.

    limit: frames that may be kept beyond those that are near; None: all of them. references: how many of the first chunks are
    pictures of the cast.

    The rest says of each frame, `[frames]` on the CPU: place, its slot's number, -1 where it was evicted; cold, whether
    that is in the cold tier; uses, how often routing took it, in layers; turns, how many chunks could have taken it.
    """

    store: FrameStore
    lengths: tuple[int, ...] = ()
    slots: tuple[Slot | None, ...] = ()
    limit: int | None = None
    place: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cold: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    uses: Tensor = field(default_factory=lambda: torch.zeros(0))
    turns: Tensor = field(default_factory=lambda: torch.zeros(0))
    references: int = 0

    @classmethod
    def empty(cls, store: FrameStore) -> KVMemory:
        """Of nothing yet, with as many frames to come as the store's budget pays for."""
        return cls(store, limit=store.limit)

    def to(self, device: torch.device) -> KVMemory:
        """On another device: itself where it lies there already, else a copy in a store of its own."""
        if self.store.device == device:
            return self
        return KVMemory.from_tensors(self.tensors(), self.store.like(device))

    @property
    def frames(self) -> int:
        """Frames written, evicted ones included."""
        return len(self.slots)

    @property
    def evicted(self) -> int:
        return int((self.place < 0).sum())

    @property
    def lying(self) -> tuple[int, int]:
        """How many frames lie in the hot and in the cold tier."""
        cold = int(self.cold[self.place >= 0].sum())
        return self.frames - self.evicted - cold, cold

    def kept(self, frames: Sequence[int]) -> Tensor:
        """Those of the frames that were not evicted, int64 `[n]`."""
        wanted = torch.arange(frames.start, frames.stop) if isinstance(frames, range) else torch.tensor(frames).long()
        return wanted[self.place[wanted] >= 0]

    def rows(self, frames: Tensor) -> Rows:
        """Where these frames `[n]` lie; none may be evicted."""
        return self.store.rows(self.place[frames], self.cold[frames])

    @property
    def chunks(self) -> int:
        """Chunks of the film that are written."""
        return len(self.lengths) - self.references

    @property
    def head(self) -> KVMemory:
        """Its references alone."""
        return self.without(self.chunks)

    def behind(self, head: KVMemory) -> KVMemory:
        """The film's part of this memory behind other references, which are all that `head` holds."""
        n = self.references  # chunks and frames: each has one
        return replace(
            head,
            lengths=(*head.lengths, *self.lengths[n:]),
            slots=(*head.slots, *self.slots[n:]),
            limit=self.limit,
            place=torch.cat([head.place, self.place[n:]]),
            cold=torch.cat([head.cold, self.cold[n:]]),
            uses=torch.cat([head.uses, self.uses[n:]]),
            turns=torch.cat([head.turns, self.turns[n:]]),
            references=len(head.lengths),
        )

    def numbers(self, frames: Tensor) -> Tensor:
        """Frames of this memory, by the numbers that they have outside."""
        return torch.where(frames < self.references, mirrored(frames), frames - self.references)

    def _frames(self, numbers: Tensor) -> Tensor:
        """The other way, without those that are -1."""
        numbers = numbers[numbers != -1]
        return torch.where(numbers < 0, mirrored(numbers), numbers + self.references)

    def without(self, chunks: int) -> KVMemory:
        """This memory before its last `chunks` chunks were written."""
        lengths = self.lengths[: len(self.lengths) - chunks]
        n = sum(lengths)
        return replace(
            self,
            lengths=lengths,
            slots=self.slots[:n],
            place=self.place[:n],
            cold=self.cold[:n],
            uses=self.uses[:n],
            turns=self.turns[:n],
        )

    def append(self, slots: Sequence[Slot], *, far: Tensor, recalled: Tensor | None = None) -> KVMemory:
        """The memory with one more chunk.

        far: frames `[n]` that the chunk could recall and did not see anyway: they go to the cold tier, and are what a budget
        may evict. recalled: numbers of frames that it did recall, int64 `[layers, B, k]`, -1 for none; a use is counted in shares, so
        that a frame which every layer of every branch recalled counts one.
        """
        uses, turns = self.uses.clone(), self.turns.clone()
        if recalled is not None and recalled.numel():
            uses += torch.bincount(self._frames(recalled), minlength=self.frames) / recalled.shape[:2].numel()
        turns[far] += 1
        table, place, cold = list(self.slots), self.place.clone(), self.cold.clone()
        for frame in self._least_used(far, uses, turns).tolist():
            table[frame], place[frame] = None, -1
        if self.store.cold is not self.store.hot:
            warm = far[(place[far] >= 0) & ~cold[far]]
            moved = self.store.cool(place[warm]) if len(warm) else ()
            for frame, slot in zip(warm.tolist(), moved, strict=True):
                table[frame], place[frame], cold[frame] = slot, slot.index, True
        new = torch.zeros(len(slots))
        return KVMemory(
            self.store,
            (*self.lengths, len(slots)),
            (*table, *slots),
            self.limit,
            torch.cat([place, numbers(slots)]),
            torch.cat([cold, new.bool()]),
            torch.cat([uses, new]),
            torch.cat([turns, new]),
            self.references,
        )

    def _least_used(self, far: Tensor, uses: Tensor, turns: Tensor) -> Tensor:
        """Frames to let go of: what routing used least, for as many chunks as it could have; new frames get some credit."""
        excess = 0 if self.limit is None else max(0, len(far) - self.limit)
        score = (uses[far] + 0.25) / (turns[far] + 4)
        return far[score.sort(stable=True).indices[:excess]] if excess else far[:0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to rebuild this memory, as flat tensors for a file."""
        out = {"lengths": torch.tensor(self.lengths, dtype=torch.int64), "uses": self.uses, "turns": self.turns}
        if self.references:
            out["references"] = torch.tensor([self.references])
        for name, slab in self._tiers().items():
            frames = ((self.place >= 0) & (self.cold == (name == "cold"))).nonzero()[:, 0]
            out[f"{name}.frames"] = frames
            parts = slab.tensors(slab.rows(self.place[frames]))
            out |= {f"{name}.{key}": t.cpu() for key, t in parts.items()}
        return out

    @property
    def nbytes(self) -> int:
        """Bytes of the keys and values among `tensors`, without making them."""
        total = 0
        for name, slab in self._tiers().items():
            frames = int(((self.place >= 0) & (self.cold == (name == "cold"))).sum())
            total += sum(math.prod(shape) * dtype.itemsize for shape, dtype in slab.parts(frames).values())
        return total

    def _tiers(self) -> dict[str, Slab]:
        return {"hot": self.store.hot} | ({} if self.store.cold is self.store.hot else {"cold": self.store.cold})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], store: FrameStore) -> KVMemory:
        """`tensors` into a fresh store of the same shape and storage. InputError where one is missing or not what it must be."""
        whole, share = torch.int64, torch.float32
        lengths = tuple(_part(tensors, "lengths", whole, None).tolist())
        n = len(_part(tensors, "uses", share, None))
        if min(lengths, default=1) < 1 or sum(lengths) != n:
            raise InputError(f"memory.lengths must be those of chunks of {n} frames in all, got {show(list(lengths))}")
        references = int(_part(tensors, "references", whole, (1,))) if "references" in tensors else 0
        if not 0 <= references <= len(lengths) or any(length != 1 for length in lengths[:references]):
            raise InputError(f"memory.references must say how many chunks of one frame come first, got {references}")
        uses, turns = (_part(tensors, name, share, (n,)) for name in ("uses", "turns"))
        store.reserve(n)
        known = {"lengths", "uses", "turns", "references"}
        slots: list[Slot | None] = [None] * n
        place, cold = torch.full((n,), -1), torch.zeros(n, dtype=torch.bool)
        memory = cls(store, lengths, tuple(slots), store.limit, place, cold, uses, turns, references)
        for name, slab in memory._tiers().items():
            frames = _part(tensors, f"{name}.frames", whole, None)
            if len(frames) and not 0 <= int(frames.min()) <= int(frames.max()) < n:
                raise InputError(f"memory.{name}.frames must be frames from 0 to {n - 1}")
            if len(frames.unique()) < len(frames) or (place[frames] >= 0).any():
                raise InputError(f"memory.{name}.frames must hold every frame once")
            parts = {
                part: _part(tensors, f"{name}.{part}", dtype, shape)
                for part, (shape, dtype) in slab.parts(len(frames)).items()
            }
            known |= {f"{name}.frames", *(f"{name}.{part}" for part in parts)}
            taken = slab.allocate(len(frames))
            place[frames], cold[frames] = numbers(taken), name == "cold"
            slab.fill(slab.places(place[frames]), parts)
            for frame, slot in zip(frames.tolist(), taken, strict=True):
                slots[frame] = slot
        if set(tensors) - known:
            raise InputError(f"memory.{min(set(tensors) - known)} is no part of a memory of {store.layers} layers")
        return replace(memory, slots=tuple(slots))


def _part(tensors: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...] | None) -> Tensor:
    """One of the tensors, of this type and shape. shape None: any number of numbers."""
    found = tensors.get(name)
    right = found is not None and found.dtype == dtype and (found.ndim == 1 if shape is None else found.shape == shape)
    if found is None or not right:
        wanted = f"{dtype} {'[n]' if shape is None else list(shape)}"
        got = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise InputError(f"memory.{name} must be {wanted}, got {got}".replace("torch.", ""))
    return found
