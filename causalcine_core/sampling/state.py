"""A rollout's state: a value that can be kept, forked, saved, loaded and continued."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from ..memory import KVMemory, RemoteMemory, ResolvedMemory
from ..numbering import mirrored
from ..plan import PlannedChunk, PlannedShot, cut_short
from ..references import Reference
from ..vae import VAEState
from .recipe import Recipe
from .restyle import Restyle


@dataclass(frozen=True)
class ChunkRecord:
    """What a finished chunk was: its place, how long it took, the seed of its noise, and which frames each layer recalled, int64
    `[layers, B, k]` of all branches, by their numbers (`numbering`): -1 for none."""

    plan: PlannedChunk
    seconds: float
    recalled: Tensor
    seed: int

    @property
    def routing(self) -> Tensor:
        """What the first film's guided branch recalled: int64 `[layers, k]`."""
        return self.recalled[:, 0]


@dataclass(frozen=True)
class Pending:
    """A planned chunk that is being made together with earlier ones: what the first `passes` passes left of it, in model
    space."""

    x: Tensor
    passes: int


@dataclass(frozen=True)
class State:
    """Everything a film needs to go on.

    memory: of all chunks but the newest, which is written when the next one is made. A RemoteMemory where workers hold it. None where
    it was left out of the file; then, as where nobody holds it any more, it is written anew, a pass for every chunk.

    recipe: in force; given: the checkpoint's own, against which changes are noticed. size: latent height and width. model:
    fingerprint of the network that wrote the memory. latents: VAE space, `[B, C, c, h, w]` a chunk, on the CPU. records: one a
    finished chunk. shots: of the whole film, asked and actual. planned: chunks that were planned but not made yet. pending: the
    first of these, where several are made at once and some of their passes are done. decoder: of the streaming decode, if one
    runs. references: pictures of the cast, which memory has at its head and the film has not. history: how many of its first
    chunks were given and not made. restyle: what chunks begin from instead of noise. text:
    fingerprint of the encoder that its prompts are read through, "" where that has none.
    """

    memory: KVMemory | RemoteMemory | None
    recipe: Recipe
    settings: ResolvedMemory
    seed: int
    size: tuple[int, int] = (0, 0)
    model: str = ""
    given: Recipe | None = None
    latents: tuple[Tensor, ...] = ()
    records: tuple[ChunkRecord, ...] = ()
    shots: tuple[PlannedShot, ...] = ()
    planned: tuple[PlannedChunk, ...] = ()
    pending: tuple[Pending, ...] = ()
    decoder: VAEState | None = None
    references: tuple[Reference, ...] = ()
    history: int = 0
    restyle: Restyle | None = None
    text: str = ""

    @property
    def local_memory(self) -> KVMemory | None:
        """What the film remembers, where it lies in this process."""
        return self.memory if isinstance(self.memory, KVMemory) else None

    @property
    def chunks(self) -> int:
        """Chunks made so far."""
        return len(self.records)

    @property
    def shot_numbers(self) -> list[int]:
        """Of every chunk made so far, the shot it belongs to."""
        return [record.plan.shot for record in self.records]

    def read_next(self, chunks: Sequence[PlannedChunk], *, elsewhere: bool = False) -> list[int]:
        """Numbers of the texts that are read to make these chunks: of their shots, and of what is to be written into memory before,
        pictures of the cast among it. elsewhere: whether its RemoteMemory is still held."""
        local = self.local_memory
        written = local.chunks if local is not None else max(0, self.chunks - 1) if elsewhere else 0
        cast = [reference.planned(i) for i, reference in enumerate(self.references)]
        unwritten = cast[local.references if local is not None else 0 :]
        unwritten += [record.plan for record in self.records[written:]]
        return list(dict.fromkeys(shot for chunk in (*unwritten, *chunks) for shot, _ in chunk.mixture))

    def __repr__(self) -> str:
        """In a few words: whatever reports an error with its inputs would else print every latent."""
        return f"State({len(self.records)} chunks, {self.frames} frames, {len(self.planned)} chunks planned, seed {self.seed})"

    def computed_next(self, chunks: Sequence[PlannedChunk]) -> list[int]:
        """Shots whose networks compute to make these chunks: theirs, and, where what is remembered is to be written anew, those of
        chunks that came after what is written."""
        written = self.local_memory.chunks if self.local_memory is not None else 0
        following = [record.plan for record in self.records[written + 1 :]]
        return list(dict.fromkeys(chunk.shot for chunk in (*following, *chunks)))

    @property
    def texts(self) -> dict[int, PlannedShot]:
        """By its number everything that has a text of its own: shots, and pictures of the cast."""
        cast = {mirrored(i): reference.captioned(i) for i, reference in enumerate(self.references)}
        return cast | {shot.index: shot for shot in self.shots}

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

    def to(self, device: torch.device | str) -> State:
        """The same state with its memory and its decoder's part on a device; itself where they lie there already. What a film is told
        by, its latents, stays on the CPU."""
        device = torch.device(device)
        memory = self.memory.to(device) if isinstance(self.memory, KVMemory) else self.memory
        decoder = None if self.decoder is None else self.decoder.to(device)
        return replace(self, memory=memory, decoder=decoder)

    def extended(self, memory: KVMemory | RemoteMemory | None, latent: Tensor, record: ChunkRecord) -> State:
        """This state and one more chunk."""
        return replace(self, memory=memory, latents=(*self.latents, latent), records=(*self.records, record))

    def save(self, path: str | os.PathLike[str], *, memory: bool = True, picture: bytes = b"") -> None:
        """Write one safetensors file. It appears under its name only when it is whole.

        Args:
            path: of the file.
            memory: without it the file is small, a film's latents and little more, whatever the model's size.
            picture: a JPEG or PNG of up to 8 KiB, for who looks for the file.
        """
        from .state_files import save_state

        save_state(self, path, memory=memory, picture=picture)

    def nbytes(self, *, memory: bool = True) -> int:
        """About how many bytes `save` will write."""
        kept = self.local_memory.nbytes if memory and self.local_memory is not None else 0
        parts = [*self.latents, *(part.x for part in self.pending), *(record.recalled.int() for record in self.records)]
        parts += [reference.latent for reference in self.references]
        decoder: Iterable[Tensor] = self.decoder.tensors().values() if self.decoder is not None else ()
        return kept + sum(tensor.numel() * tensor.element_size() for tensor in (*parts, *decoder))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: torch.device | str = "cpu") -> State:
        """Read a state file. Raises InputError where the file is missing, incomplete, damaged or something else."""
        from .state_files import load_state

        return load_state(path, device)
