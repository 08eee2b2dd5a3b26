"""Which kinds of samples a run is trained on, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from causalcine_core import checks
from causalcine_core.errors import InputError

from . import samples
from .cast import cast
from .samples import Reunions, Sample
from .shards import Shards

KINDS = {
    "still": ("stills",),
    "reunion": ("stills",),
    "clip": ("films",),
    "take": ("films",),
    "cast": ("stills", "films"),
    "film": ("films",),
}


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum. until: share of the run's steps at which it ends. mix: share of updates by kind of sample."""

    until: float
    mix: dict[str, float]

    def __post_init__(self) -> None:
        checks.number(self.until, "until", 0, 1)
        for kind, share in self.mix.items():
            checks.choice(kind, "mix", KINDS)
            checks.number(share, f"mix.{kind}", 0, 1e6)
        if not sum(self.mix.values()) > 0:
            raise InputError("mix must name a kind with a share above 0")


@dataclass(frozen=True)
class Mixture:
    """What updates are made of.

    batch: samples of an update by kind, of reunions those of 4 frames. micro_batch: of these, how many are computed at a time;
    by default all. clip_length: chunks of a clip, a take or the film of a cast. reunion_lengths: frames of a reunion, drawn for each
    update. references: pictures of a cast, likewise.
    name_only_weight: in the loss, of a chunk that calls somebody by name only.
    """

    curriculum: tuple[Phase, ...]
    batch: dict[str, int] = field(
        default_factory=lambda: {"still": 48, "reunion": 16, "clip": 6, "take": 6, "cast": 6, "film": 1}
    )
    micro_batch: dict[str, int] = field(default_factory=dict)
    clip_length: int = 4
    reunion_lengths: tuple[int, ...] = (2, 2, 3, 4)
    references: tuple[int, ...] = (2, 3)
    name_only_weight: float = 2.0

    def __post_init__(self) -> None:
        for name in ("batch", "micro_batch"):
            for kind, count in getattr(self, name).items():
                checks.choice(kind, name, KINDS)
                checks.whole(count, f"{name}.{kind}", 1, 10**6)
        if not self.curriculum or not self.reunion_lengths or not self.references:
            raise InputError("curriculum, reunion_lengths and references must not be empty")
        for kind in self.kinds:
            if kind not in self.batch:
                raise InputError(f"batch.{kind} is missing: the curriculum mixes it in")
        checks.whole(self.clip_length, "clip_length", 1, 1024)
        for length in self.reunion_lengths:
            checks.whole(length, "reunion_lengths", 2, 1024)
        for count in self.references:
            checks.whole(count, "references", 1, 1024)
        checks.number(self.name_only_weight, "name_only_weight", 0, 1e6)

    @property
    def kinds(self) -> list[str]:
        """All kinds that the curriculum mixes in."""
        return list(dict.fromkeys(kind for phase in self.curriculum for kind, share in phase.mix.items() if share))

    def phase(self, progress: float) -> Phase:
        """The phase at a share of the run."""
        return next((phase for phase in self.curriculum if progress < phase.until), self.curriculum[-1])


class Source:
    """Draws what a mixture asks for out of a folder of shards."""

    def __init__(self, folder: Path, recipe: Mixture):
        """Raises InputError where the folder lacks something that the curriculum mixes in."""
        self.recipe, self.shards = recipe, {kind: Shards(folder, kind) for kind in ("stills", "films")}
        for kind in recipe.kinds:
            for needed in KINDS[kind]:
                if not len(self.shards[needed]):
                    raise InputError(
                        f"--data {folder} holds no {needed}-*.safetensors, but the curriculum mixes in {kind}: make them with "
                        f"python -m training.world shards --kind {needed}"
                    )
        self._reunions = Reunions(self.shards["stills"])

    def draw(self, progress: float, rng: random.Random) -> tuple[str, list[Sample]]:
        """The kind and the samples, all of one shape, of an update at a share of the run."""
        mix = self.recipe.phase(progress).mix
        kind = rng.choices(list(mix), list(mix.values()))[0]
        return kind, self._samples(kind, rng)

    def _samples(self, kind: str, rng: random.Random) -> list[Sample]:
        recipe, films = self.recipe, self.shards["films"]
        count = recipe.batch[kind]
        if kind == "still":
            sources = [shards for shards in self.shards.values() if len(shards)]
            return [samples.still(rng.choice(sources), rng) for _ in range(count)]
        if kind == "reunion":
            length = rng.choice(recipe.reunion_lengths)
            count = max(1, count * 4 // length)  # as many packed frames an update at every length
            return [self._reunions.draw(rng, length) for _ in range(count)]
        if kind == "clip":
            return [samples.clip(films, rng, recipe.clip_length, recipe.name_only_weight) for _ in range(count)]
        if kind == "take":
            return [samples.take(films, rng, recipe.clip_length) for _ in range(count)]
        if kind == "cast":
            references = rng.choice(recipe.references)
            drawn = (recipe.clip_length, references, recipe.name_only_weight)
            return [cast(films, self._reunions, rng, *drawn) for _ in range(count)]
        return [samples.film(films, rng, recipe.name_only_weight) for _ in range(count)]

    def refresh(self) -> None:
        """Takes in shards that have appeared since."""
        for shards in self.shards.values():
            shards.refresh()
        self._reunions.refresh()

    def state_dict(self) -> dict[str, list[str]]:
        """The shards that were read, in order."""
        return {kind: shards.state() for kind, shards in self.shards.items()}

    def load_state_dict(self, state: dict[str, list[str]]) -> None:
        """Exactly the shards of a former state; of kinds that it does not name, those that lie there now."""
        for kind, names in state.items():
            self.shards[kind].restore(names)
        self._reunions = Reunions(self.shards["stills"])
