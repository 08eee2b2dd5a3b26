"""Films as latents on disk: one safetensors file for many films of one size.

A shard holds `latents [n, C, F, h, w]` in float16, in the VAE's own space, and in its header one JSON record for each film.
It appears under its name when it is whole, so a trainer may read a folder while a maker still writes there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.weights.tensors import read_tensors, write_tensors

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the frame


def save_shard(path: Path, latents: Sequence[Tensor], records: Sequence[dict[str, Any]]) -> None:
    """Write a shard. latents: of each film `[C, F, h, w]`, all of one shape. Raises OSError where it cannot be written."""
    write_tensors(path, {"latents": torch.stack(list(latents)).half()}, {"records": json.dumps(list(records))})


class Shards:
    """All shards of one kind in a folder, `KIND-*.safetensors`, in the order in which they were found.

    latents: of each film float16 `[C, F, h, w]`, in VAE space. records: what is known of it, by the same numbers.
    """

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self._names: list[str] = []
        self.latents: list[Tensor] = []
        self.records: list[dict[str, Any]] = []
        self.refresh()

    def refresh(self) -> None:
        """Reads the shards that have appeared since."""
        for path in sorted(self.folder.glob(f"{self.kind}-*.safetensors")):
            if path.name not in self._names:
                self._read(path)

    def state(self) -> list[str]:
        """Names of the shards that were read, in order: what is drawn depends on it."""
        return list(self._names)

    def restore(self, names: Sequence[str]) -> None:
        """Exactly the shards of a former `state`, in its order. Raises InputError where one is missing."""
        self._names, self.latents, self.records = [], [], []
        for name in names:
            self._read(self.folder / name)

    def _read(self, path: Path) -> None:
        tensors, header = read_tensors(path, "shard")
        try:
            latents, records = tensors["latents"], json.loads(header.metadata["records"])
        except (KeyError, ValueError):
            raise InputError(f"shard {path} holds no latents with their records") from None
        if latents.ndim != 5 or not isinstance(records, list) or len(records) != len(latents):
            raise InputError(f"shard {path} must hold latents [n, C, F, h, w] and as many records")
        self.latents.extend(latents)
        self.records.extend(records)
        self._names.append(path.name)

    def __len__(self) -> int:
        return len(self.records)
