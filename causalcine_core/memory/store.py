"""Where frames lie: two tiers of slots that states share, sized by one budget.

Hot slots hold full precision, what chunks always see. Cold slots hold what only routing reads: in the same slab, or as
`storage` says in 8 bits, in the host's memory, or both.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .settings import ResolvedMemory
from .slab import Slab, Slot, numbers

GIB = 2**30
MOST_GIB, MOST_FRAMES = 2**30, 2**31  # more than any machine has, and few enough to be counted in bytes
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


@dataclass(frozen=True)
class Shares:
    """How a budget is shared out. hot, cold: slots that the tiers begin with, None: as they come. limit: frames that one memory may
    keep beyond those that are near, None: no limit."""

    hot: int | None
    cold: int | None
    limit: int | None


class FrameStore:
    """Two tiers of slots. Hot: full precision, what chunks see always. Cold: what only routing reads; the same slab, or as
    `storage` says in 8 bits, on the host, or both.

    Under a budget no more slots are ever made than it pays for. limit: as in `Shares`. lock: held by whoever makes a chunk,
    so that films that go on from one state in several threads take turns.
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
        settings = settings or ResolvedMemory(window=0, top_k=0)
        self._sharing = settings, near, chunk
        self.lock = threading.RLock()
        self.layers, self.batch, self.frame_shape = layers, batch, tuple(frame_shape)
        self.dtype, self.device = dtype, torch.device(device)
        self.budget = settings.budget
        shares = self._shares(settings, near, chunk)
        self.limit = shares.limit
        shape = (layers, batch, self.frame_shape, dtype, self.device)
        self.hot = self.cold = Slab(*shape, capacity=shares.hot, fixed=self.budget is not None)
        if settings.storage != "full":
            self.cold = Slab(
                *shape,
                eight_bit=settings.eight_bit,
                host=settings.on_host,
                capacity=shares.cold,
                fixed=self.budget is not None,
            )
        self.recalled = self.foretold = (
            0  # pages on the host that were recalled, and those of them that were on their way
        )

    def _shares(self, settings: ResolvedMemory, near: int, chunk: int) -> Shares:
        full = frame_bytes(self.layers, self.batch, self.frame_shape, self.dtype)
        return share_out(settings, full, frame_bytes(self.layers, self.batch, self.frame_shape), near, chunk)

    def like(self, device: torch.device | str) -> FrameStore:
        """An empty one of the same kind on another device."""
        settings, near, chunk = self._sharing
        return FrameStore(
            self.layers,
            self.batch,
            self.frame_shape,
            self.dtype,
            device,
            settings=settings,
            near=near,
            chunk=chunk,
        )

    def limit_under(self, settings: ResolvedMemory, near: int, chunk: int) -> int | None:
        """`limit` of a memory that goes on with another window or top_k. Raises InputError where the budget does not pay for them,
        or where the tiers, which are as large as they are, would have to be shared out anew."""
        shares = self._shares(settings, near, chunk)
        tiers = self.budget is not None and self.cold is not self.hot
        if tiers and (shares.hot, shares.cold) != (self.hot.at_first, self.cold.at_first):
            raise InputError(
                f"memory.window is {settings.window}: the film to continue shared its budget of {self.budget:g} GiB out between "
                f"what is near and what is kept as {settings.storage} for another one; leave it as it was, or start anew"
            )
        return shares.limit

    def reserve(self, frames: int, lying: tuple[int, int] = (0, 0)) -> None:
        """Room for a film of so many frames: allocated now, as much of it as a budget allows. Raises InputError where there is
        less memory.

        lying: how many of them lie in the hot and in the cold tier already, in slots that other states may hold too: what they
        hold beside these, as another take does, stays theirs.
        """
        try:
            for slab, more in self._more(frames, lying).items():
                slab.reserve(more)
        except RuntimeError as error:  # PyTorch's, of a GPU or of the host
            if "memory" not in str(error):
                raise
            device, host = (n / GIB for n in self.bytes_for(frames, lying))
            on_host = f" and {host:.1f} GiB of the host's memory" if host else ""
            raise InputError(
                f"memory: {frames} latent frames take {device:.1f} GiB on {self.device}{on_host}, which is more than is free: set "
                "memory.budget or another memory.storage (host, 8bit), or lower width, height or seconds"
            ) from error

    def trim(self) -> None:
        """Give back what states that are gone have held, where it is much. Not while a chunk is made: `lock` is held meanwhile."""
        with self.lock:
            for slab in self._slabs:
                slab.trim()

    @property
    def slots(self) -> int:
        """Slots that there are once one is taken."""
        return sum(slab.at_first for slab in self._slabs)

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

    def bytes_for(self, frames: int, lying: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Bytes on the device, and in the host's memory, that the slabs will take for a film of so many frames, told as `reserve`
        is."""
        return self._bytes({slab: slab.capacity_for(more) for slab, more in self._more(frames, lying).items()})

    def _more(self, frames: int, lying: tuple[int, int]) -> dict[Slab, int]:
        """Slots of each slab to be taken yet. Of the hot tier beside a cold one those are few, and come when they must."""
        more = dict.fromkeys(self._slabs, 0)
        if self.limit is None:
            more[self.cold] = max(0, frames - (sum(lying) if self.cold is self.hot else lying[1]))
        return more

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

    def descriptors(self, layer: int, rows: Rows) -> Tensor:
        """Of frames, `[B, n, H, D]`."""
        index, cold = rows.index, rows.in_cold
        if cold is None:
            return self.hot.descriptors(layer, index)
        cool, warm = self.cold.descriptors(layer, index * cold), self.hot.descriptors(layer, index * ~cold)
        return torch.where(cold[:, None, None], cool, warm)

    def cool(self, place: Tensor) -> tuple[Slot, ...]:
        """Copies in the cold tier of the hot slots `[n]`."""
        moved = self.cold.allocate(len(place))
        source, target = self.hot.rows(place.to(self.device)), self.cold.places(numbers(moved))
        for layer in range(self.layers):
            self.cold.write(layer, target, *self.hot.read(layer, source))
        return moved


def share_out(settings: ResolvedMemory, full: int, small: int, near: int, chunk: int) -> Shares:
    """What a budget pays for. Raises InputError where it is too small.

    full, small: bytes of a frame in the hot tier and in 8 bits. near: most frames that a chunk always sees, its own
    included; chunk: frames of a chunk.
    """
    apart, spare = settings.storage != "full", _spare(settings, chunk)
    if settings.budget is None:
        return Shares(near + spare if apart and near else None, None, None)
    hot, one = near + spare, small if settings.eight_bit else full
    cold = min(int((min(settings.budget, MOST_GIB) * GIB - hot * full) // one), MOST_FRAMES)
    pending = chunk if apart else 0  # cooled already while what they replace is still held
    if cold < settings.top_k + pending:
        need = least_budget(settings, full, small, near, chunk) / GIB
        raise InputError(
            f"memory.budget is {settings.budget:g} GiB: this size, window and top_k need at least {need:.3g} GiB; raise it, or "
            f"lower window ({settings.window}) or top_k ({settings.top_k})"
        )
    return Shares(hot, cold, cold - pending) if apart else Shares(hot + cold, None, cold)


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
