"""Which crops of the footage a codec is trained on, and when."""

from __future__ import annotations

import random
from dataclasses import dataclass

from causalcine_core import checks
from causalcine_core.errors import InputError

from ..world.rendering import GROUP


def check_frames(frames: int, name: str, least: int = 1) -> None:
    """Raises InputError unless latent frames of four come out even: 1 + 4n."""
    checks.whole(frames, name, least, 10**6)
    if frames % GROUP != 1:
        raise InputError(f"{name} must be 1 + {GROUP}n, got {frames}")


@dataclass(frozen=True)
class Crops:
    """One kind of batch. share: of the phase's updates. count: crops in a batch. frames: 1 (out of stills), or 1 + 4n (out of
    clips). crop: edge in pixels."""

    share: float
    count: int
    frames: int
    crop: int

    def __post_init__(self) -> None:
        checks.number(self.share, "share", 0, 1e6)
        checks.whole(self.count, "count", 1, 10**6)
        checks.whole(self.crop, "crop", 1, 10**5)
        check_frames(self.frames, "frames")


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum. until: share of the run's updates at which it ends."""

    until: float
    batches: tuple[Crops, ...]

    def __post_init__(self) -> None:
        checks.number(self.until, "until", 0, 1)
        if not sum(batch.share for batch in self.batches) > 0:
            raise InputError("batches must hold one with a share above 0")


@dataclass(frozen=True)
class Plan:
    """What a codec is trained on. stills, films: that are rendered, and of each film a clip of `clip_frames` frames, 1 + 4n."""

    curriculum: tuple[Phase, ...]
    stills: int = 8000
    films: int = 3600
    clip_frames: int = 33

    def __post_init__(self) -> None:
        checks.whole(self.stills, "stills", 1, 10**8)
        checks.whole(self.films, "films", 1, 10**8)
        check_frames(self.clip_frames, "clip_frames")
        if not self.curriculum:
            raise InputError("curriculum must not be empty")
        for kind in self.kinds:
            if kind.frames > self.clip_frames:
                raise InputError(
                    f"clip_frames must be at least the frames of a batch, {kind.frames}, got {self.clip_frames}"
                )

    @property
    def kinds(self) -> list[Crops]:
        return [batch for phase in self.curriculum for batch in phase.batches]

    def draw(self, progress: float, rng: random.Random) -> Crops:
        """The kind of batch of an update at a share of the run."""
        phase = next((phase for phase in self.curriculum if progress < phase.until), self.curriculum[-1])
        return rng.choices(phase.batches, [batch.share for batch in phase.batches])[0]
