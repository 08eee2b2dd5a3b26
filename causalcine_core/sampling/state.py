"""A rollout's state: a value that can be kept, forked, saved, loaded and continued."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import write_atomic
from ..errors import InputError
from ..memory import FrameStore, KVMemory, ResolvedMemory
from ..plan import PlannedChunk, PlannedShot, cut_short
from ..vae import VAEState
from .recipe import Recipe

FORMAT = "causalcine-state-2"


@dataclass(frozen=True)
class ChunkRecord:
    """What a finished chunk was: its place, how long it took, and which frames each layer recalled."""

    plan: PlannedChunk
    seconds: float
    routing: Tensor


@dataclass(frozen=True)
class Pending:
    """A planned chunk that is being made together with earlier ones: what the first `passes` passes left of it, in model
    space."""

    x: Tensor
    passes: int


@dataclass(frozen=True)
class State:
    """Everything a film needs to go on.

    memory: of all chunks but the newest, which is written when the next one is made. None where it was left out of the file, or
    lies on other workers: the rollout then writes it anew, a pass for every chunk. latents: VAE
    space, `[B, C, c, h, w]` a chunk, on the CPU. records: one a finished chunk. shots: of the whole film, asked and
    actual. planned: chunks that were planned but not made yet. pending: the first
    of these, where several are made at once and some of their passes are done. decoder: of the streaming decode, if one
    runs. model: fingerprint of the network that wrote the memory.
    """

    memory: KVMemory | None
    recipe: Recipe
    settings: ResolvedMemory
    seed: int
    model: str = ""
    latents: tuple[Tensor, ...] = ()
    records: tuple[ChunkRecord, ...] = ()
    shots: tuple[PlannedShot, ...] = ()
    planned: tuple[PlannedChunk, ...] = ()
    pending: tuple[Pending, ...] = ()
    decoder: VAEState | None = None

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return len(self.records)

    def read_next(self, chunks: Sequence[PlannedChunk], *, elsewhere: bool = False) -> list[int]:
        """Shots whose text is read to make these chunks: theirs, and those of what is to be written into memory before. elsewhere:
        whether a memory that is not here is with the workers."""
        written = len(self.memory.lengths) if self.memory else max(0, self.chunks - 1) if elsewhere else 0
        unwritten = [record.plan for record in self.records[written:]]
        return list(dict.fromkeys(shot for chunk in (*unwritten, *chunks) for shot, _ in chunk.mixture))

    @property
    def frames(self) -> int:
        """Pixel frames made so far."""
        return self.records[-1].plan.frames[1] if self.records else 0

    @property
    def asked(self) -> Fraction:
        """Pixel frames that were asked for up to here, exact: a story that is appended begins there."""
        kept = cut_short(self.shots, self.frames)
        return kept[-1].until if kept else Fraction(self.frames)

    def film(self) -> Tensor:
        """The film so far in VAE space: `[B, C, F, h, w]`."""
        return torch.cat(self.latents, 2)

    def save(self, path: str | os.PathLike[str], *, memory: bool = True) -> None:
        """Write one safetensors file. It appears under its name only when it is whole.

        memory: without it the file is small, a film's latents and little more, whatever the model's size.
        """
        kept = self.memory.tensors() if memory and self.memory else {}
        tensors = {f"memory.{name}": t for name, t in kept.items()}
        tensors |= {f"latents.{i}": t for i, t in enumerate(self.latents)}
        tensors |= {f"routing.{i}": record.routing for i, record in enumerate(self.records)}
        tensors |= {f"pending.{i}": part.x for i, part in enumerate(self.pending)}
        if self.decoder is not None:
            tensors |= {f"decoder.{name}": t for name, t in self.decoder.tensors().items()}
        header: dict[str, Any] = {
            "recipe": self.recipe.to_dict(),
            "settings": self.settings.to_dict(),
            "seed": self.seed,
            "model": self.model,
            "records": [{"plan": asdict(r.plan), "seconds": r.seconds} for r in self.records],
            "shots": [shot.to_dict() for shot in self.shots],
            "planned": [asdict(chunk) for chunk in self.planned],
            "pending": [part.passes for part in self.pending],
        }
        whole = {name: t.contiguous() for name, t in tensors.items()}
        metadata = {"format": FORMAT, "causalcine_state": json.dumps(header)}
        write_atomic(Path(path), lambda partial: save_file(whole, str(partial), metadata=metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> State:
        """Read a state file. Raises InputError where the file is missing, incomplete or something else."""
        path = Path(path)
        if not path.is_file():
            raise InputError(f"state file {path} does not exist")
        try:
            with safe_open(str(path), "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise InputError(
                        f"{path} is a safetensors file but no CausalCine state; make one with --save-state"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is no readable state file ({error}); it may be incomplete") from error
        header = json.loads(metadata["causalcine_state"])
        decoder = _group(tensors, "decoder.")
        records = tuple(
            ChunkRecord(_chunk(entry["plan"]), entry["seconds"], tensors[f"routing.{i}"])
            for i, entry in enumerate(header["records"])
        )
        recipe, settings = Recipe.from_dict(header["recipe"]), ResolvedMemory.from_dict(header["settings"])
        memory = None
        if kept := _group(tensors, "memory."):
            keys, layers = kept["hot.keys.0"], sum(name.startswith("hot.keys.") for name in kept)
            store = open_store(recipe, settings, layers, len(keys), keys.shape[2:], keys.dtype, torch.device(device))
            memory = KVMemory.from_tensors(kept, store)
        return cls(
            memory=memory,
            recipe=recipe,
            settings=settings,
            seed=header["seed"],
            model=header["model"],
            latents=tuple(tensors[f"latents.{i}"] for i in range(len(records))),
            records=records,
            shots=tuple(PlannedShot.from_dict(entry) for entry in header["shots"]),
            planned=tuple(_chunk(entry) for entry in header["planned"]),
            pending=tuple(Pending(tensors[f"pending.{i}"], n) for i, n in enumerate(header.get("pending", ()))),
            decoder=VAEState.from_tensors(decoder) if decoder else None,
        )

    def extended(self, memory: KVMemory | None, latent: Tensor, record: ChunkRecord) -> State:
        """This state and one more chunk."""
        return replace(self, memory=memory, latents=(*self.latents, latent), records=(*self.records, record))


def open_store(
    recipe: Recipe,
    settings: ResolvedMemory,
    layers: int,
    branches: int,
    frame_shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
) -> FrameStore:
    """The store of a film: its budget is shared out by what this recipe always has in view."""
    near = most_near(recipe, settings)
    return FrameStore(
        layers, branches, frame_shape, dtype, device, settings=settings, near=near, chunk=recipe.timeline.chunk
    )


def most_near(recipe: Recipe, settings: ResolvedMemory) -> int:
    """Most latent frames that a chunk always sees: sink, a pinned chunk, the window, and its own."""
    return recipe.visibility.sink + (settings.window + 2) * recipe.timeline.chunk


def most_held(recipe: Recipe, settings: ResolvedMemory, chunks: Sequence[PlannedChunk]) -> int:
    """Slots that a film takes whose next chunks these are: its latent frames, and those that are written once more."""
    again = recipe.visibility.recompute or any(chunk.rewrite for chunk in chunks)
    return chunks[-1].latents[1] + (settings.written_again(recipe.timeline.chunk) if again else 0)


def _group(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _tupled(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def _chunk(entry: dict[str, Any]) -> PlannedChunk:
    return PlannedChunk(**_tupled(entry) | {"text": tuple((shot, weight) for shot, weight in entry.get("text", ()))})
