"""What a rollout remembers: unrotated keys and values of its frames, in slots that states share.

`FrameStore` owns the tensors. `KVMemory` is a value: an immutable table of slots. Appending a chunk gives a new
table; older tables, and forks, go on seeing exactly what they saw. A slot returns to the store when the last
table that holds it is gone. Under a budget a table keeps as many frames as fit: what routing used least goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError
from .settings import MemorySettings
from .slab import Slab, Slot

GIB = 2**30


@dataclass(frozen=True)
class Rows:
    """Where frames lie: their slots; row `[B, n]` in their slab; cold: bool `[B, n]`, which lie in the cold one (None: none
    does). run: the slots `[first, end)`, where they are all of one slab and lie there one after another."""

    slots: tuple[Slot, ...]
    index: Tensor
    cold: Tensor | None = None
    run: tuple[Slab, int, int] | None = None


class FrameStore:
    """Two tiers of slots. Hot: full precision, what chunks see always. Cold: what only routing reads; the same slab, or as
    `storage` says in 8 bits, on the host, or both.

    limit: frames that one memory may keep beyond what is near, from its budget; None: no limit.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        frame_shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        settings: MemorySettings | None = None,
        near: int = 0,
        chunk: int = 1,
    ):
        """near: most frames that a chunk always sees, its own included; chunk: frames of a chunk. Both size a budget."""
        settings = settings or MemorySettings()
        self.layers, self.batch, self.frame_shape = layers, batch, tuple(frame_shape)
        self.dtype, self.device = dtype, torch.device(device)
        frame = frame_bytes(layers, batch, frame_shape, dtype)
        hot, cold, self.limit = share_out(settings, frame, frame_bytes(layers, batch, frame_shape), near, chunk)
        shape = (layers, batch, self.frame_shape, dtype, self.device)
        self.hot = self.cold = Slab(*shape, capacity=hot)
        if settings.storage != "full":
            self.cold = Slab(*shape, eight_bit=settings.eight_bit, host=settings.on_host, capacity=cold)
        self.recalled = self.foretold = (
            0  # pages on the host that were recalled, and those of them that were on their way
        )

    def reserve(self, frames: int) -> None:
        """Room for a film of so many frames, where no budget has settled it."""
        if self.limit is None:
            self.cold.reserve(frames)

    @property
    def used(self) -> int:
        """Slots held by some state."""
        return self.hot.used + (0 if self.cold is self.hot else self.cold.used)

    @property
    def nbytes(self) -> int:
        """Bytes that the slabs take."""
        return sum(self.bytes_for(0))

    def bytes_for(self, frames: int) -> tuple[int, int]:
        """Bytes on the device, and in the host's memory, that the slabs will take for a film of so many frames."""
        slabs = {id(slab): slab for slab in (self.hot, self.cold)}.values()
        device = sum(slab.capacity * (slab.bytes_per_frame - slab.host_bytes_per_frame) for slab in slabs)
        host = sum(slab.capacity * slab.host_bytes_per_frame for slab in slabs)
        more = 0 if self.limit is not None else max(0, frames - self.cold.capacity)
        return (
            device + more * (self.cold.bytes_per_frame - self.cold.host_bytes_per_frame),
            host + more * self.cold.host_bytes_per_frame,
        )

    def rows(self, slots: Sequence[Slot]) -> Rows:
        where = [slot.slab is not self.hot for slot in slots]
        cold = torch.tensor(where, device=self.device).expand(self.batch, -1) if any(where) else None
        run = None
        if slots and all(where) == any(where):
            first, end = slots[0].index, slots[0].index + len(slots)
            if [slot.index for slot in slots] == list(range(first, end)):
                run = slots[0].slab, first, end
        return Rows(tuple(slots), self.hot.rows(slots), cold, run)  # a slot's row is counted alike in every slab

    def read(self, layer: int, rows: Rows, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]`, in the store's dtype; `chosen`: of these rows only, `[B, k]` into n."""
        index, cold = rows.index, rows.cold
        if chosen is not None:
            index, cold = index.gather(1, chosen), None if cold is None else cold.gather(1, chosen)
        if cold is None:
            return self.hot.read(layer, index)
        if self.cold.host:
            wanted = [range(len(rows.slots))] * self.batch if chosen is None else chosen.tolist()
            return self.fetch(layer, [[rows.slots[i] for i in of] for of in wanted])
        k, v = self.cold.read(layer, index.masked_fill(~cold, 0))
        hot_k, hot_v = self.hot.read(layer, index.masked_fill(cold, 0))
        cold = cold[..., None, None, None]
        return torch.where(cold, k, hot_k), torch.where(cold, v, hot_v)

    def fetch(self, layer: int, slots: Sequence[Sequence[Slot]]) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]` of `n` slots for each branch, page by page from wherever they lie."""
        shape = (self.batch, len(slots[0]), *self.frame_shape)
        k, v = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        for branch, row in enumerate(slots):
            for place, slot in enumerate(row):
                self.fetch_page(layer, branch, slot, k[branch, place], v[branch, place])
        return k, v

    def fetch_page(self, layer: int, branch: int, slot: Slot, k: Tensor, v: Tensor) -> None:
        """One slot's page of one branch into `k` and `v` `[S, H, D]`."""
        slot.slab.copy_out(layer, slot.index * self.batch + branch, k, v)

    def descriptors(self, layer: int, rows: Rows) -> Tensor:
        """Frame descriptors `[B, n, H, D]`, float32; of a run, where they lie."""
        if rows.run is not None:
            slab, first, end = rows.run
            return slab.descriptors_in_place(layer, first, end)
        if rows.cold is None:
            return self.hot.descriptors(layer, rows.index)
        cold = self.cold.descriptors(layer, rows.index.masked_fill(~rows.cold, 0))
        hot = self.hot.descriptors(layer, rows.index.masked_fill(rows.cold, 0))
        return torch.where(rows.cold[..., None, None], cold, hot)

    def cool(self, slots: Sequence[Slot]) -> tuple[Slot, ...]:
        """Copies of hot slots in the cold tier."""
        moved = self.cold.allocate(len(slots))
        source, target = self.hot.rows(slots), self.cold.rows(moved)
        for layer in range(self.layers):
            self.cold.write(layer, target, *self.hot.read(layer, source))
        return moved


def share_out(
    settings: MemorySettings, full: int, small: int, near: int, chunk: int
) -> tuple[int | None, int | None, int | None]:
    """How many slots the hot and the cold tier begin with, and how many frames beyond the near ones a memory may keep.

    full, small: bytes of a frame in the hot tier and in 8 bits. near: most frames that a chunk always sees, its own
    included; chunk: frames of a chunk. None: as it comes.
    """
    apart, spare = settings.storage != "full", 2 * chunk  # the newest chunk, and what the last state still holds
    if settings.budget is None:
        return (near + spare if apart and near else None), None, None
    hot, one = near + spare, small if settings.eight_bit else full
    cold = int((settings.budget * GIB - hot * full) // one)
    pending = chunk if apart else 0  # cooled already while what they replace is still held
    if cold < (settings.top_k or 0) + pending:
        need = least_budget(settings, full, small, near, chunk) / GIB
        raise InputError(
            f"memory.budget is {settings.budget:g} GiB: this size, window and top_k need at least {need:.3g} GiB; raise it, or "
            f"lower window ({settings.window}) or top_k ({settings.top_k})"
        )
    return (hot, cold, cold - pending) if apart else (hot + cold, None, cold)


def least_budget(settings: MemorySettings, full: int, small: int, near: int, chunk: int) -> int:
    """Bytes of the smallest budget that `share_out` takes, told the same."""
    recalled = settings.top_k or 0
    cold = recalled + (chunk if settings.storage != "full" else 0)
    return (near + 2 * chunk) * full + cold * (small if settings.eight_bit else full)


def frame_bytes(layers: int, batch: int, frame_shape: Sequence[int], dtype: torch.dtype | None = None) -> int:
    """Bytes of one latent frame's keys, values and descriptor, in all layers and branches. dtype None: 8 bits."""
    tokens, heads, dim = frame_shape
    one = tokens * dim * dtype.itemsize if dtype is not None else tokens * dim + 4
    return layers * batch * heads * (2 * one + 4 * dim)


@dataclass(frozen=True)
class KVMemory:
    """An immutable table of the frames a rollout has written.

    lengths: latent frames of every chunk. slots: of every frame, None where it was evicted. uses: how often routing took
    a frame, in layers; turns: how many chunks could have taken it; both `[frames]`.
    """

    store: FrameStore
    lengths: tuple[int, ...] = ()
    slots: tuple[Slot | None, ...] = ()
    uses: Tensor = field(default_factory=lambda: torch.zeros(0))
    turns: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def frames(self) -> int:
        """Frames written, evicted ones included."""
        return len(self.slots)

    @property
    def evicted(self) -> int:
        return sum(slot is None for slot in self.slots)

    def rows(self, frames: Sequence[int]) -> Rows:
        """Where these frames lie; none may be evicted."""
        return self.store.rows([slot for slot in (self.slots[f] for f in frames) if slot is not None])

    def kept(self, frames: Sequence[int]) -> list[int]:
        """Those of the frames that were not evicted."""
        return [f for f in frames if self.slots[f] is not None]

    def without(self, chunks: int) -> KVMemory:
        """This memory before its last `chunks` chunks were written."""
        lengths = self.lengths[: len(self.lengths) - chunks]
        n = sum(lengths)
        return KVMemory(self.store, lengths, self.slots[:n], self.uses[:n], self.turns[:n])

    def append(self, slots: Sequence[Slot], *, far: Sequence[int] = (), recalled: Tensor | None = None) -> KVMemory:
        """The memory with one more chunk.

        far: frames that the chunk could recall and did not see anyway: they go to the cold tier, and are what a budget may
        evict. recalled: int64 frame numbers that it did recall, one entry a layer and branch, -1 for none.
        """
        uses, turns = self.uses.clone(), self.turns.clone()
        if recalled is not None and recalled.numel():
            taken = recalled[recalled >= 0]
            uses += torch.bincount(taken, minlength=self.frames) / (self.store.layers * self.store.batch)
        turns[list(far)] += 1
        table = list(self.slots)
        self._evict(table, far, uses, turns)
        self._cool(table, far)
        new = torch.zeros(len(slots))
        return KVMemory(
            self.store,
            (*self.lengths, len(slots)),
            (*table, *slots),
            torch.cat([uses, new]),
            torch.cat([turns, new]),
        )

    def _evict(self, table: list[Slot | None], far: Sequence[int], uses: Tensor, turns: Tensor) -> None:
        """Let go of what routing used least, for as many chunks as it could have; new frames get some credit."""
        if self.store.limit is None or len(far) <= self.store.limit:
            return
        excess = len(far) - self.store.limit
        score = ((uses + 0.25) / (turns + 4)).tolist()
        for frame in sorted(far, key=lambda f: (score[f], f))[:excess]:
            table[frame] = None

    def _cool(self, table: list[Slot | None], far: Sequence[int]) -> None:
        store = self.store
        if store.cold is store.hot:
            return
        warm = [f for f in far if (slot := table[f]) is not None and slot.slab is store.hot]
        if warm:
            for frame, slot in zip(
                warm, store.cool([s for s in (table[f] for f in warm) if s is not None]), strict=True
            ):
                table[frame] = slot

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to rebuild this memory, as flat tensors for a file."""
        out = {"lengths": torch.tensor(self.lengths, dtype=torch.int64), "uses": self.uses, "turns": self.turns}
        for name, slab in self._tiers().items():
            frames = [f for f, slot in enumerate(self.slots) if slot is not None and slot.slab is slab]
            out[f"{name}.frames"] = torch.tensor(frames, dtype=torch.int64)
            rows = slab.rows([slot for slot in (self.slots[f] for f in frames) if slot is not None])
            out |= {f"{name}.{key}": t.cpu() for key, t in slab.tensors(rows).items()}
        return out

    def _tiers(self) -> dict[str, Slab]:
        return {"hot": self.store.hot} | ({} if self.store.cold is self.store.hot else {"cold": self.store.cold})

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], store: FrameStore) -> KVMemory:
        """`tensors` into a fresh store of the same shape and storage."""
        lengths = tuple(tensors["lengths"].tolist())
        slots: list[Slot | None] = [None] * sum(lengths)
        memory = cls(store, lengths, (), tensors["uses"], tensors["turns"])
        for name, slab in memory._tiers().items():
            frames = tensors[f"{name}.frames"].tolist()
            taken = slab.allocate(len(frames))
            parts = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
            slab.fill(slab.rows(taken), parts)
            for frame, slot in zip(frames, taken, strict=True):
                slots[frame] = slot
        return cls(store, lengths, tuple(slots), tensors["uses"], tensors["turns"])
