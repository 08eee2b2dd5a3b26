"""What a student makes in each update of self-forcing: new films, or the next chunks of films that live on."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.errors import InputError

from ..data.samples import spread_out, story, story_length
from ..data.shards import Shards
from .rollouts import Living, Rollouts


@dataclass(frozen=True)
class Films:
    """Which films are made.

    batch: of an update; micro_batch: of these, how many are computed at a time; 0: all. lengths: chunks that are made of each, one
    of these is drawn for each update. longest: chunks up to which films live on across updates, each of which makes their next
    chunks; beyond its end a story begins anew. 0: every update begins new films, and where those are shorter than their story,
    its chunks are left out evenly. history: chunks before the new ones that the denoisers see, those that they were
    trained on at most. held_out: films of the data that are never trained on, but measured by.
    """

    batch: int = 8
    micro_batch: int = 0
    lengths: tuple[int, ...] = (7,)
    longest: int = 0
    history: int = 13
    held_out: int = 8

    def __post_init__(self) -> None:
        checks.whole(self.batch, "batch", 1, 10**6)
        checks.whole(self.held_out, "held_out", 1, 10**6)
        for name in ("micro_batch", "longest", "history"):
            checks.whole(getattr(self, name), name, 0, 10**6)
        if self.batch % self.at_once:
            raise InputError(f"batch must be a multiple of micro_batch ({self.micro_batch}), got {self.batch}")
        if not self.lengths:
            raise InputError("lengths must not be empty")
        for length in self.lengths:
            checks.whole(length, "lengths", 2, 1024)
        if 0 < self.longest < max(self.lengths):
            raise InputError(f"longest must be 0, or at least {max(self.lengths)} of lengths, got {self.longest}")

    @property
    def at_once(self) -> int:
        """Films that are computed at a time."""
        return self.micro_batch or self.batch


@dataclass(frozen=True)
class Piece:
    """The next chunks of films that are made side by side. slot: their place in an update. stories: numbers of the films whose texts
    they are told. seed: of their noise. start: chunks before them; history: of these, those that the denoisers see. true: the
    stories' own latents `[B, C, F, h, w]` of history and new chunks, and of each film the text of each of these chunks."""

    slot: int
    stories: tuple[int, ...]
    seed: int
    start: int
    history: int
    true: Tensor
    prompts: Sequence[Sequence[str]]
    described: Sequence[Sequence[str]]

    @property
    def lines(self) -> list[Sequence[str]]:
        """Texts of the new chunks."""
        return [of[self.history :] for of in self.prompts]


class Pieces:
    """Draws what is made next out of a folder's films, and keeps those that live on."""

    def __init__(self, folder: Path, recipe: Films, chunk: int):
        """chunk: latent frames of each chunk. Raises InputError where the folder holds too few films, or films of other chunks."""
        self.recipe, self.chunk = recipe, chunk
        self.shards = Shards(folder, "films")
        self.living: dict[int, Living] = {}
        self._next: dict[int, Living | None] = {}
        if len(self.shards) <= recipe.held_out:
            raise InputError(
                f"--data {folder} holds {len(self.shards)} films in films-*.safetensors, of which {recipe.held_out} are held out "
                "(films.held_out): make them with python -m training.world shards --kind films"
            )
        for record in self.shards.records:
            if record["chunk"] != chunk:
                raise InputError(
                    f"--data {folder} holds films in chunks of {record['chunk']} latent frames: the student makes {chunk}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of a latent frame."""
        return self.shards.latents[0].shape[-2], self.shards.latents[0].shape[-1]

    def draw(self, slot: int, length: int, rng: random.Random) -> Piece:
        """`length` chunks, or as many as the story has where nothing lives on. It changes nothing."""
        recipe, living, count = self.recipe, self.living.get(slot), self.recipe.at_once
        stories = tuple(rng.randrange(recipe.held_out, len(self.shards)) for _ in range(count))
        seed, phase = rng.getrandbits(63), rng.random()
        start = history = 0
        if living is not None and len(living.stories) == count and living.chunks + length <= recipe.longest:
            stories, seed, start = living.stories, living.seed, living.chunks
            history = min(recipe.history, living.latents.shape[2] // self.chunk)
        if recipe.longest:
            return self._piece(slot, stories, seed, start, history, range(start - history, start + length))
        total = min(story_length(self.shards, film) for film in stories)
        return self._piece(slot, stories, seed, 0, 0, spread_out(total, min(length, total), phase))

    def true_films(self, most: int) -> list[Tensor]:
        """Latents `[C, F, h, w]` of films that are trained on."""
        films = range(self.recipe.held_out, len(self.shards))[:most]
        return [story(self.shards, film, range(story_length(self.shards, film))).latents for film in films]

    def held_out(self) -> list[Piece]:
        """Whole films that are never trained on, as many at once as in training."""
        films, step = list(range(self.recipe.held_out)), self.recipe.at_once
        groups = [tuple(films[i : i + step]) for i in range(0, len(films), step)]
        total = min(story_length(self.shards, film) for film in films)
        return [self._piece(-1, group, 10**9 + n, 0, 0, range(total)) for n, group in enumerate(groups)]

    def _piece(
        self, slot: int, stories: tuple[int, ...], seed: int, start: int, history: int, numbers: Sequence[int]
    ) -> Piece:
        samples = [story(self.shards, film, numbers) for film in stories]
        return Piece(
            slot,
            stories,
            seed,
            start,
            history,
            torch.stack([sample.latents for sample in samples]),
            [sample.prompts for sample in samples],
            [sample.described for sample in samples],
        )

    def make(self, rollouts: Rollouts, piece: Piece, exit_step: int) -> tuple[Tensor, Tensor]:
        """The new chunks of a piece, `[B, C, F, h, w]` with their gradient, and the history that the denoisers see. Where the films
        live on, they do so from here once the update is done (`updated`)."""
        living = self.living[piece.slot] if piece.start else None
        length = len(piece.lines[0])
        end = piece.start + length
        keep = end + min(self.recipe.lengths) <= self.recipe.longest
        made, memory = rollouts.make(
            piece.lines,
            piece.seed,
            start=piece.start,
            exit_step=exit_step,
            memory=living.memory if living is not None else None,
            keep=keep,
        )
        frames = self.chunk * piece.history
        before = living.latents[:, :, living.latents.shape[2] - frames :] if living is not None else made[:, :, :0]
        before = before.detach()
        self._next[piece.slot] = None
        if memory is not None:
            latents = torch.cat([before, made.detach()], 2)
            kept = latents[:, :, max(0, latents.shape[2] - self.chunk * self.recipe.history) :].clone()
            self._next[piece.slot] = Living(piece.stories, piece.seed, end, kept, memory)
        return made, before

    def updating(self) -> None:
        """An update begins: what one before it made that was left out is forgotten."""
        self._next = {}

    def updated(self) -> None:
        """The update is done: its films live on, or have ended."""
        for slot, living in self._next.items():
            if living is None:
                self.living.pop(slot, None)
            else:
                self.living[slot] = living
        self._next = {}

    def state_dict(self) -> dict[str, Any]:
        return {
            "shards": self.shards.state(),
            "living": {slot: living.state_dict() for slot, living in self.living.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], rollouts: Rollouts) -> None:
        if state["shards"]:  # none where the state was carried to this machine
            self.shards.restore(state["shards"])
        self.living = {slot: rollouts.revive(living) for slot, living in state["living"].items()}
