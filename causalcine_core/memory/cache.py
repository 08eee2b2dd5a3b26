"""What a rollout remembers: unrotated keys and values of every frame, in slots that states share.

`FrameStore` owns the tensors. `KVMemory` is a value: an immutable table of slots. Appending a chunk gives a new
table; older tables, and forks, go on seeing exactly what they saw. A slot returns to the store when the last
table that holds its block is gone.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .routing import describe


class FrameStore:
    """Slabs of frame slots, one pair per layer, that grow by doubling.

    A slot holds one latent frame of all `batch` branches: keys and values `[S, H, D]` and a descriptor `[H, D]`
    per layer and branch. Row `slot * batch + b` of a slab is branch `b` of that slot.
    """

    def __init__(self, layers: int, batch: int, frame_shape: Sequence[int], dtype: torch.dtype, device: torch.device):
        self.layers, self.batch, self.frame_shape = layers, batch, tuple(frame_shape)
        self.dtype, self.device = dtype, torch.device(device)
        self.capacity = 0
        self._free: list[int] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        self._descriptors: list[Tensor] = []
        self._grow(32)

    def _grow(self, capacity: int) -> None:
        shapes = (self.frame_shape, self.frame_shape, self.frame_shape[1:])
        kept = self.capacity * self.batch
        with torch.inference_mode(False), torch.no_grad():  # written to in any mode later on
            for name, shape in zip(("_keys", "_values", "_descriptors"), shapes, strict=True):
                dtype = torch.float32 if name == "_descriptors" else self.dtype
                slabs = getattr(self, name)
                for layer in range(self.layers):
                    slab = torch.empty(capacity * self.batch, *shape, dtype=dtype, device=self.device)
                    if kept:
                        slab[:kept] = slabs[layer]
                        slabs[layer] = slab
                    else:
                        slabs.append(slab)
        self._free.extend(range(capacity - 1, self.capacity - 1, -1))
        self.capacity = capacity

    def allocate(self, frames: int) -> Block:
        """Take slots for one chunk; they come back when the block is collected."""
        while len(self._free) < frames:
            self._grow(2 * self.capacity)
        return Block(self, tuple(self._free.pop() for _ in range(frames)))

    def release(self, slots: tuple[int, ...]) -> None:
        self._free.extend(reversed(slots))

    @property
    def used(self) -> int:
        """Slots held by some state."""
        return self.capacity - len(self._free)

    @property
    def bytes_per_frame(self) -> int:
        tokens, heads, dim = self.frame_shape
        return self.layers * self.batch * heads * dim * (2 * tokens * self.dtype.itemsize + 4)

    def rows(self, slots: Tensor) -> Tensor:
        """Slab rows `[B, n]` of slots `[n]` or `[B, n]`."""
        return slots * self.batch + torch.arange(self.batch, device=self.device)[:, None]

    def write(self, layer: int, rows: Tensor, k: Tensor, v: Tensor) -> None:
        """Put keys and values `[B, n, S, H, D]` into rows `[B, n]`, with their descriptors."""
        flat = rows.flatten()
        k, v = k.detach().flatten(0, 1), v.detach().flatten(0, 1)
        self._keys[layer].index_copy_(0, flat, k.to(self.dtype))
        self._values[layer].index_copy_(0, flat, v.to(self.dtype))
        self._descriptors[layer].index_copy_(0, flat, describe(k.float()))

    def read(self, layer: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, n, S, H, D]` of rows `[B, n]`."""
        flat, shape = rows.flatten(), rows.shape
        return (
            self._keys[layer].index_select(0, flat).unflatten(0, shape),
            self._values[layer].index_select(0, flat).unflatten(0, shape),
        )

    def descriptors(self, layer: int, rows: Tensor) -> Tensor:
        """Frame descriptors `[B, n, H, D]`, float32."""
        return self._descriptors[layer].index_select(0, rows.flatten()).unflatten(0, rows.shape)


class Block:
    """The slots of one chunk. Shared by every memory that holds the chunk."""

    __slots__ = ("__weakref__", "slots")

    def __init__(self, store: FrameStore, slots: tuple[int, ...]):
        self.slots = slots
        weakref.finalize(self, store.release, slots)


@dataclass(frozen=True)
class KVMemory:
    """An immutable table of the frames a rollout has written."""

    store: FrameStore
    blocks: tuple[Block, ...] = ()

    @property
    def frames(self) -> int:
        return sum(len(block.slots) for block in self.blocks)

    def append(self, block: Block) -> KVMemory:
        return KVMemory(self.store, (*self.blocks, block))

    def slots(self) -> Tensor:
        """Slot of every frame, in temporal order: int64 `[frames]`."""
        flat = [slot for block in self.blocks for slot in block.slots]
        return torch.tensor(flat, dtype=torch.int64, device=self.store.device)

    def chunks(self) -> list[int]:
        """Latent frames of every chunk."""
        return [len(block.slots) for block in self.blocks]

    def without(self, chunks: int) -> KVMemory:
        """This memory before its last `chunks` chunks were written."""
        return KVMemory(self.store, self.blocks[: len(self.blocks) - chunks])

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to rebuild this memory, as flat tensors for a file."""
        rows = self.store.rows(self.slots())
        out = {"blocks": torch.tensor([len(block.slots) for block in self.blocks], dtype=torch.int64)}
        for layer in range(self.store.layers):
            keys, values = self.store.read(layer, rows)
            out[f"keys.{layer}"], out[f"values.{layer}"] = keys.cpu(), values.cpu()
        return out

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> KVMemory:
        layers = sum(name.startswith("keys.") for name in tensors)
        first = tensors["keys.0"]
        store = FrameStore(layers, first.shape[0], tuple(first.shape[2:]), first.dtype, device)
        memory, start = cls(store), 0
        for length in tensors["blocks"].tolist():
            block = store.allocate(length)
            rows = store.rows(torch.tensor(block.slots, device=device))
            for layer in range(layers):
                part = slice(start, start + length)
                store.write(
                    layer,
                    rows,
                    tensors[f"keys.{layer}"][:, part].to(device),
                    tensors[f"values.{layer}"][:, part].to(device),
                )
            memory, start = memory.append(block), start + length
        return memory
