"""What a rollout remembers: unrotated keys and values of its frames, in slots that states share.

`FrameStore` owns the tensors. `KVMemory` is a value: an immutable table of slots. Appending a chunk gives a new
table; older tables, and forks, go on seeing exactly what they saw. A slot returns to the store when the last
table that holds it is gone. Under a budget a table keeps as many frames as fit: what routing used least goes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import InputError
from .settings import ResolvedMemory
from .slab import Slab, Slot, numbers

GIB = 2**30
Page = tuple[Slab, int]  # a slab, and which of its slots


@dataclass(frozen=True)
class Rows:
    """Where frames lie. place: their slots `[n]`; cold: bool `[n]`, which of these are in the cold tier; both on the CPU.

    On the device: at, the slots once more; index, rows `[B, n]`, counted alike in every slab; in_cold: `cold`, None where
    none is. ends: first slots after them in the hot and the cold slab.
    """

    place: Tensor
    cold: Tensor
    at: Tensor
    index: Tensor
    in_cold: Tensor | None
    ends: tuple[int, int]


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
        settings: ResolvedMemory | None = None,
        near: int = 0,
        chunk: int = 1,
    ):
        """near: most frames that a chunk always sees, its own included; chunk: frames of a chunk. Both size a budget."""
        settings = settings or ResolvedMemory(0, 0)
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
        """Room for a film of so many frames: allocated now, as much of it as a budget allows. Raises InputError where there is
        less memory."""
        try:
            for slab in self._slabs:
                slab.reserve(frames if slab is self.cold and self.limit is None else 0)
        except RuntimeError as error:  # PyTorch's, of a GPU or of the host
            if "memory" not in str(error):
                raise
            device, host = (n / GIB for n in self.bytes_for(frames))
            on_host = f" and {host:.1f} GiB of the host's memory" if host else ""
            raise InputError(
                f"memory: {frames} latent frames take {device:.1f} GiB on {self.device}{on_host}, which is more than is free: set "
                "memory.budget or another memory.storage (host, 8bit), or lower width, height or seconds"
            ) from error

    @property
    def used(self) -> int:
        """Slots held by some state."""
        return sum(slab.used for slab in self._slabs)

    @property
    def nbytes(self) -> int:
        """Bytes that the slabs take."""
        return sum(self.held)

    @property
    def held(self) -> tuple[int, int]:
        """The same on the device, and in the host's memory."""
        return self._bytes({slab: slab.capacity for slab in self._slabs})

    def bytes_for(self, frames: int) -> tuple[int, int]:
        """Bytes on the device, and in the host's memory, that the slabs will take for a film of so many frames."""
        slots = {slab: slab.at_first for slab in self._slabs}
        if self.limit is None:
            slots[self.cold] = max(slots[self.cold], frames)
        return self._bytes(slots)

    def _bytes(self, slots: Mapping[Slab, int]) -> tuple[int, int]:
        host = sum(n * slab.host_bytes_per_frame for slab, n in slots.items())
        return sum(n * slab.bytes_per_frame for slab, n in slots.items()) - host, host

    @property
    def _slabs(self) -> tuple[Slab, ...]:
        return (self.hot,) if self.cold is self.hot else (self.hot, self.cold)

    def rows(self, place: Tensor, cold: Tensor) -> Rows:
        """Frames in these slots `[n]` of the hot tier, or where `cold [n]` says so of the cold one."""
        at = place.to(self.device)
        ends = [int(part.max()) + 1 if len(part) else 0 for part in (place[~cold], place[cold])]
        in_cold = cold.to(self.device) if ends[1] else None
        return Rows(place, cold, at, self.hot.rows(at), in_cold, (ends[0], ends[1]))

    def read(self, layer: int, rows: Rows, chosen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]`, in the store's dtype; `chosen`: of these rows only, `[B, k]` into n.

        Chosen rows of a store on the host are `Prefetch`'s to read.
        """
        index, cold = rows.index, rows.in_cold
        if cold is not None and self.cold.host:
            return self.fetch(layer, [self.pages(rows)] * self.batch)
        cold = None if cold is None else cold.expand(self.batch, -1)
        if chosen is not None:
            index, cold = index.gather(1, chosen), None if cold is None else cold.gather(1, chosen)
        if cold is None:
            return self.hot.read(layer, index)
        k, v = self.cold.read(layer, index.masked_fill(~cold, 0))
        hot_k, hot_v = self.hot.read(layer, index.masked_fill(cold, 0))
        cold = cold[..., None, None, None]
        return torch.where(cold, k, hot_k), torch.where(cold, v, hot_v)

    def pages(self, rows: Rows) -> list[Page]:
        """Slab and slot of each frame."""
        return [
            (self.cold if cold else self.hot, slot)
            for slot, cold in zip(rows.place.tolist(), rows.cold.tolist(), strict=True)
        ]

    def fetch(self, layer: int, pages: Sequence[Sequence[Page]]) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]` of `n` pages for each branch, one by one from wherever they lie."""
        shape = (self.batch, len(pages[0]), *self.frame_shape)
        k, v = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        for branch, row in enumerate(pages):
            for place, page in enumerate(row):
                self.fetch_page(layer, branch, page, k[branch, place], v[branch, place])
        return k, v

    def fetch_page(self, layer: int, branch: int, page: Page, k: Tensor, v: Tensor) -> None:
        """One branch of a page into `k` and `v` `[S, H, D]`."""
        slab, slot = page
        slab.copy_out(layer, slot * self.batch + branch, k, v)

    def match(self, layer: int, query: Tensor, rows: Rows) -> Tensor:
        """Scores `[B, 1, n]` of frames against a chunk's descriptor `[B, 1, H, D]`.

        Descriptors are read where they lie, those between the wanted ones too: copying them costs more.
        """
        hot_end, cold_end = rows.ends
        if rows.in_cold is None:
            return self.hot.match(layer, query, hot_end).index_select(-1, rows.at)
        cold = self.cold.match(layer, query, cold_end).index_select(-1, rows.at.masked_fill(~rows.in_cold, 0))
        if not hot_end:
            return cold
        hot = self.hot.match(layer, query, hot_end).index_select(-1, rows.at.masked_fill(rows.in_cold, 0))
        return torch.where(rows.in_cold, cold, hot)

    def cool(self, place: Tensor) -> tuple[Slot, ...]:
        """Copies in the cold tier of the hot slots `[n]`."""
        moved = self.cold.allocate(len(place))
        source, target = self.hot.rows(place.to(self.device)), self.cold.places(numbers(moved))
        for layer in range(self.layers):
            self.cold.write(layer, target, *self.hot.read(layer, source))
        return moved


def share_out(
    settings: ResolvedMemory, full: int, small: int, near: int, chunk: int
) -> tuple[int | None, int | None, int | None]:
    """How many slots the hot and the cold tier begin with, and how many frames beyond the near ones a memory may keep.

    full, small: bytes of a frame in the hot tier and in 8 bits. near: most frames that a chunk always sees, its own
    included; chunk: frames of a chunk. None: as it comes.
    """
    apart, spare = settings.storage != "full", _spare(settings, chunk)
    if settings.budget is None:
        return (near + spare if apart and near else None), None, None
    hot, one = near + spare, small if settings.eight_bit else full
    cold = int((settings.budget * GIB - hot * full) // one)
    pending = chunk if apart else 0  # cooled already while what they replace is still held
    if cold < settings.top_k + pending:
        need = least_budget(settings, full, small, near, chunk) / GIB
        raise InputError(
            f"memory.budget is {settings.budget:g} GiB: this size, window and top_k need at least {need:.3g} GiB; raise it, or "
            f"lower window ({settings.window}) or top_k ({settings.top_k})"
        )
    return (hot, cold, cold - pending) if apart else (hot + cold, None, cold)


def least_budget(settings: ResolvedMemory, full: int, small: int, near: int, chunk: int) -> int:
    """Bytes of the smallest budget that `share_out` takes, told the same."""
    recalled = settings.top_k
    cold = recalled + (chunk if settings.storage != "full" else 0)
    return (near + _spare(settings, chunk)) * full + cold * (small if settings.eight_bit else full)


def _spare(settings: ResolvedMemory, chunk: int) -> int:
    """Frames beside those in view: the newest chunk and what the last state still holds, or those that are written once more."""
    return max(2 * chunk, settings.written_again(chunk))


def frame_bytes(layers: int, batch: int, frame_shape: Sequence[int], dtype: torch.dtype | None = None) -> int:
    """Bytes of one latent frame's keys, values and descriptor, in all layers and branches. dtype None: 8 bits."""
    tokens, heads, dim = frame_shape
    one = tokens * dim * dtype.itemsize if dtype is not None else tokens * dim + 4
    return layers * batch * heads * (2 * one + 4 * dim)


@dataclass(frozen=True)
class KVMemory:
    """An immutable table of the frames a rollout has written.

    lengths: latent frames of every chunk. slots: of every frame, None where it was evicted; who holds a slot keeps it.

    The rest says of each frame, `[frames]` on the CPU: place, its slot's number, -1 where it was evicted; cold, whether
    that is in the cold tier; uses, how often routing took it, in layers; turns, how many chunks could have taken it.
    """

    store: FrameStore
    lengths: tuple[int, ...] = ()
    slots: tuple[Slot | None, ...] = ()
    place: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    cold: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    uses: Tensor = field(default_factory=lambda: torch.zeros(0))
    turns: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def frames(self) -> int:
        """Frames written, evicted ones included."""
        return len(self.slots)

    @property
    def evicted(self) -> int:
        return int((self.place < 0).sum())

    def kept(self, frames: Sequence[int]) -> Tensor:
        """Those of the frames that were not evicted, int64 `[n]`."""
        wanted = torch.arange(frames.start, frames.stop) if isinstance(frames, range) else torch.tensor(frames).long()
        return wanted[self.place[wanted] >= 0]

    def rows(self, frames: Tensor) -> Rows:
        """Where these frames `[n]` lie; none may be evicted."""
        return self.store.rows(self.place[frames], self.cold[frames])

    def without(self, chunks: int) -> KVMemory:
        """This memory before its last `chunks` chunks were written."""
        lengths = self.lengths[: len(self.lengths) - chunks]
        n = sum(lengths)
        return KVMemory(
            self.store, lengths, self.slots[:n], self.place[:n], self.cold[:n], self.uses[:n], self.turns[:n]
        )

    def append(self, slots: Sequence[Slot], *, far: Tensor, recalled: Tensor | None = None) -> KVMemory:
        """The memory with one more chunk.

        far: frames `[n]` that the chunk could recall and did not see anyway: they go to the cold tier, and are what a budget
        may evict. recalled: frame numbers that it did recall, int64 `[n, k]` of n layers and branches, -1 for none.
        """
        uses, turns = self.uses.clone(), self.turns.clone()
        if recalled is not None and recalled.numel():
            uses += torch.bincount(recalled[recalled >= 0], minlength=self.frames) / len(recalled)
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
            torch.cat([place, numbers(slots)]),
            torch.cat([cold, new.bool()]),
            torch.cat([uses, new]),
            torch.cat([turns, new]),
        )

    def _least_used(self, far: Tensor, uses: Tensor, turns: Tensor) -> Tensor:
        """Frames to let go of: what routing used least, for as many chunks as it could have; new frames get some credit."""
        excess = 0 if self.store.limit is None else max(0, len(far) - self.store.limit)
        score = (uses[far] + 0.25) / (turns[far] + 4)
        return far[score.sort(stable=True).indices[:excess]] if excess else far[:0]

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to rebuild this memory, as flat tensors for a file."""
        out = {"lengths": torch.tensor(self.lengths, dtype=torch.int64), "uses": self.uses, "turns": self.turns}
        for name, slab in self._tiers().items():
            frames = ((self.place >= 0) & (self.cold == (name == "cold"))).nonzero()[:, 0]
            out[f"{name}.frames"] = frames
            parts = slab.tensors(slab.rows(self.place[frames]))
            out |= {f"{name}.{key}": t.cpu() for key, t in parts.items()}
        return out

    def _tiers(self) -> dict[str, Slab]:
        return {"hot": self.store.hot} | ({} if self.store.cold is self.store.hot else {"cold": self.store.cold})

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], store: FrameStore) -> KVMemory:
        """`tensors` into a fresh store of the same shape and storage."""
        lengths = tuple(tensors["lengths"].tolist())
        slots: list[Slot | None] = [None] * sum(lengths)
        place, cold = torch.full((len(slots),), -1), torch.zeros(len(slots), dtype=torch.bool)
        memory = cls(store, lengths, tuple(slots), place, cold, tensors["uses"], tensors["turns"])
        for name, slab in memory._tiers().items():
            frames = tensors[f"{name}.frames"]
            taken = slab.allocate(len(frames))
            parts = {k.removeprefix(f"{name}."): t for k, t in tensors.items() if k.startswith(f"{name}.")}
            place[frames], cold[frames] = numbers(taken), name == "cold"
            slab.fill(slab.places(place[frames]), parts)
            for frame, slot in zip(frames.tolist(), taken, strict=True):
                slots[frame] = slot
        return replace(memory, slots=tuple(slots))
