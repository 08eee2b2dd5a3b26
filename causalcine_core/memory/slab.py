"""Slots for the keys and values of latent frames: in full precision or in 8 bits, on the device or on the host."""

from __future__ import annotations

import contextlib
import heapq
import mmap
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError
from .routing import describe, match

_PAGES = ("keys", "values")  # what a slot is made of, but for what is small
MOST_MORE, MOST_AHEAD = 1024, 4096  # frames that a slab grows by when it is full, and when it is told of a film


class Slot:
    """Where one frame lies. It comes back to its slab when the last memory that holds it is gone."""

    __slots__ = ("__weakref__", "index", "slab")

    def __init__(self, slab: Slab, index: int):
        self.slab, self.index = slab, index
        weakref.finalize(self, slab.release, index).atexit = False


def numbers(slots: Sequence[Slot]) -> Tensor:
    """Of slots, int64 `[n]` on the CPU."""
    return torch.tensor([slot.index for slot in slots], dtype=torch.int64)


@dataclass(frozen=True)
class Places:
    """Where frames are put: rows `[B, n]` on the device, and their numbers, row by row, for what lies in the host's memory."""

    rows: Tensor
    numbers: list[int]


class Slab:
    """Frame slots of one precision: a pair of tensors per layer that grows when it must.

    A slot holds one latent frame of all `batch` branches: keys and values `[S, H, D]` and a descriptor `[H, D]` (float32)
    per layer and branch. Row `slot * batch + b` is branch `b` of that slot. With `eight_bit` keys and values are int8 with
    one scale a frame and head. With `host` they lie in the host's memory, pinned where the device is a GPU; descriptors and
    scales, which are small, stay on the device.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        frame_shape: Sequence[int],
        dtype: torch.dtype,
        device: torch.device,
        *,
        eight_bit: bool = False,
        host: bool = False,
        capacity: int | None = None,
        fixed: bool = False,
    ):
        """capacity: how many slots there are from the first that is taken on, where that is known; else they come as `reserve` is
        told of a film, or double. Until then nothing is allocated. fixed: there are never more than these."""
        self.layers, self.batch, self.frame_shape = layers, batch, tuple(frame_shape)
        self.dtype, self.device, self.eight_bit, self.host = dtype, device, eight_bit, host
        self._home = torch.device("cpu") if host and device.type != "meta" else device  # of keys and values
        self.capacity, self._first, self._fixed = 0, capacity or 0, fixed
        self._free: list[int] = []  # a heap: the lowest are taken first, so that what is free lies at the end
        tokens, heads, dim = self.frame_shape
        kept = torch.int8 if eight_bit else dtype
        self._shapes = {"keys": (self.frame_shape, kept), "values": (self.frame_shape, kept)}
        self._shapes |= {"descriptors": ((heads, dim), torch.float32)}
        if eight_bit:
            scale = ((1, heads, 1), torch.float32)
            self._shapes |= {"key_scales": scale, "value_scales": scale}
        self._tensors = {name: [self._empty(name, 0) for _ in range(layers)] for name in self._shapes}

    @property
    def used(self) -> int:
        """Slots that some memory holds."""
        return self.capacity - len(self._free)

    @property
    def at_first(self) -> int:
        """Slots as soon as one is taken."""
        return max(self.capacity, self._first)

    @property
    def bytes_per_frame(self) -> int:
        return self._bytes(self._shapes)

    @property
    def host_bytes_per_frame(self) -> int:
        """What of it lies in the host's memory."""
        return self._bytes(_PAGES) if self.host else 0

    def _bytes(self, names: Iterable[str]) -> int:
        kept = [self._shapes[name] for name in names]
        return sum(self.layers * self.batch * torch.Size(shape).numel() * dtype.itemsize for shape, dtype in kept)

    def allocate(self, frames: int) -> tuple[Slot, ...]:
        """Free slots. Raises InputError where a budget pays for no more: states that are still held keep theirs."""
        if len(self._free) < frames:
            short = self._fixed and self.capacity >= self._first
            if short or (self._fixed and self._first < frames):
                raise InputError(
                    "memory.budget is used up by what earlier states of this film, or other takes of it, still hold: let go of "
                    "them, or raise memory.budget"
                )
            self._resize(max(self._first, self.capacity + max(frames, min(self.capacity // 4, MOST_MORE))))
        return tuple(Slot(self, heapq.heappop(self._free)) for _ in range(frames))

    def capacity_for(self, frames: int) -> int:
        """Slots that there will be once so many frames were taken beside those that are held."""
        return max(self.at_first, self.used + frames)

    def reserve(self, frames: int) -> None:
        """Room for so many frames beside those that are held, now instead of little by little; of very many, for the next
        thousands."""
        wanted = min(self.capacity_for(frames), max(self.at_first, self.capacity + MOST_AHEAD))
        if self.capacity < wanted:
            self._resize(wanted)

    def trim(self) -> None:
        """Give back the memory behind the last slot that is held, where that is much. A budget's slots were paid for at once."""
        free, end = set(self._free), self.capacity
        while end - 1 in free:
            end -= 1
        if not self._fixed and end < self.capacity * 3 // 4:
            self._resize(end)

    def release(self, index: int) -> None:
        heapq.heappush(self._free, index)

    def rows(self, slots: Tensor) -> Tensor:
        """Rows `[B, n]` of slots `[n]`, on the device that the slots are given on."""
        return slots * self.batch + torch.arange(self.batch, device=slots.device)[:, None]

    def places(self, slots: Tensor) -> Places:
        """Of slots `[n]` on the CPU, to be written to: asked once for all layers, since a GPU is waited for."""
        rows = self.rows(slots)
        return Places(rows.to(self.device), rows.flatten().tolist() if self.host else [])

    def write(self, layer: int, places: Places, k: Tensor, v: Tensor) -> None:
        """Put keys and values `[B, n, S, H, D]` into their places, with their descriptors."""
        k, v = k.detach().flatten(0, 1), v.detach().flatten(0, 1)
        self._put("descriptors", layer, places, describe(k.float()))
        if self.eight_bit:
            k, scale = quantize(k)
            self._put("key_scales", layer, places, scale)
            v, scale = quantize(v)
            self._put("value_scales", layer, places, scale)
        self._put("keys", layer, places, k)
        self._put("values", layer, places, v)

    def read(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]` of rows `[B, n]`, in the store's own dtype."""
        k, v = self._take("keys", layer, rows), self._take("values", layer, rows)
        if self.eight_bit:
            k = (k.float() * self._take("key_scales", layer, rows)).to(self.dtype)
            v = (v.float() * self._take("value_scales", layer, rows)).to(self.dtype)
        return k, v

    def copy_out(self, layer: int, row: int, k: Tensor, v: Tensor) -> None:
        """Keys and values of one row into `k` and `v` `[S, H, D]`, which lie on the device; the device may still be at it."""
        for name, target in (("key", k), ("value", v)):
            page = self._tensors[f"{name}s"][layer][row]
            if self.eight_bit:
                scale = self._tensors[f"{name}_scales"][layer][row]
                target.copy_(page.to(target.device, non_blocking=True).float() * scale)
            else:
                target.copy_(page, non_blocking=True)

    def match(self, layer: int, query: Tensor, end: int) -> Tensor:
        """Scores `[B, R, end]` of the frames in slots `[0, end)`, those of free slots of no meaning, as `routing.match`."""
        lying = self._tensors["descriptors"][layer][: end * self.batch]
        return match(query, lying.unflatten(0, (-1, self.batch)).transpose(0, 1))

    def descriptors(self, layer: int, rows: Tensor) -> Tensor:
        """Of the frames in rows `[B, n]`, `[B, n, H, D]`."""
        return self._take("descriptors", layer, rows)

    def tensors(self, rows: Tensor) -> dict[str, Tensor]:
        """Everything in these rows, `name.layer` to `[B, n, ...]`, as it is kept: for a file."""
        self._settle()
        return {
            f"{name}.{layer}": self._take(name, layer, rows) for name in self._tensors for layer in range(self.layers)
        }

    def parts(self, frames: int) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of all that `tensors` gives for so many frames."""
        return {
            f"{name}.{layer}": ((self.batch, frames, *shape), dtype)
            for name, (shape, dtype) in self._shapes.items()
            for layer in range(self.layers)
        }

    def fill(self, places: Places, tensors: Mapping[str, Tensor]) -> None:
        """`tensors` back into their places, bit for bit."""
        for name in self._tensors:
            for layer in range(self.layers):
                self._put(name, layer, places, tensors[f"{name}.{layer}"].to(self.device).flatten(0, 1))

    def _put(self, name: str, layer: int, places: Places, values: Tensor) -> None:
        target, values = self._tensors[name][layer], values.to(self._shapes[name][1])
        if self.host and name in _PAGES:
            for row, value in zip(places.numbers, values, strict=True):
                target[row].copy_(value, non_blocking=True)
        else:
            target.index_copy_(0, places.rows.flatten(), values)

    def _take(self, name: str, layer: int, rows: Tensor) -> Tensor:
        lying = self._tensors[name][layer]
        result: Tensor = lying.index_select(0, rows.flatten().to(lying.device)).unflatten(0, rows.shape)
        return result

    def _settle(self) -> None:
        """Wait for copies to the host, before the host itself reads them."""
        if self.host and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _resize(self, capacity: int) -> None:
        """So many slots; where they are fewer, those that go are free."""
        kept = min(capacity, self.capacity) * self.batch
        self._settle()
        for name, layers in self._tensors.items():
            for layer in range(self.layers):
                resized = self._empty(name, capacity)
                resized[:kept] = layers[layer][:kept]
                layers[layer] = resized
        for index in range(self.capacity, capacity):
            heapq.heappush(self._free, index)
        for index in range(capacity, self.capacity):
            self._free.remove(index)
        heapq.heapify(self._free)
        self.capacity = capacity

    @torch.inference_mode(False)  # written to in any mode later on
    def _empty(self, name: str, capacity: int) -> Tensor:
        """Room for one part of so many slots, in one layer."""
        (shape, dtype), rows = self._shapes[name], capacity * self.batch
        if name not in _PAGES:
            return torch.empty(rows, *shape, dtype=dtype, device=self.device)
        if self.host and self.device.type == "cuda" and rows:
            return _pinned((rows, *shape), dtype, self.device)
        return torch.empty(rows, *shape, dtype=dtype, device=self._home)


def _pinned(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Host memory that is locked in place, so that a GPU copies from it at full speed and meanwhile computes on. PyTorch's own
    comes in powers of two; this takes what is asked, in memory pages of its own, since a page can be locked but once. Where
    the driver declines, copies are slower and no less right."""
    size, page = torch.Size(shape).numel() * dtype.itemsize, mmap.PAGESIZE
    room = torch.empty(size + 2 * page, dtype=torch.uint8)
    skipped = -room.data_ptr() % page
    tensor, driver = room[skipped : skipped + size].view(dtype).view(shape), torch.cuda.cudart()
    if int(driver.cudaHostRegister(tensor.data_ptr(), -(-size // page) * page, 0)) == 0:
        weakref.finalize(tensor, driver.cudaHostUnregister, tensor.data_ptr()).atexit = False
    else:
        with contextlib.suppress(RuntimeError):  # whatever runs next on the GPU would be told of the refusal
            torch.ones(1, device=device)
    return tensor


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """`[N, S, H, D]` to int8 and its scale `[N, 1, H, 1]`: one a frame and head."""
    scale = x.float().abs().amax((1, 3), keepdim=True).clamp(min=1e-12) / 127
    return (x.float() / scale).round().to(torch.int8), scale
