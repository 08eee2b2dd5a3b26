"""What a checkpoint needs to run well: stored in its header, every field can be overridden."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..cut import Cut
from ..errors import InputError

SAMPLERS = ("euler", "unipc", "renoise", "rolling")


@dataclass(frozen=True)
class Recipe:
    """How to roll out a causal checkpoint.

    chunk, first_chunk: latent frames. steps: denoising passes a chunk. levels: explicit timesteps in (0, 1000],
    already shifted, instead of `steps`. first_levels: those of the film's first chunk, where it needs more passes than
    the rest. shift: of the flow-match schedule. sampler: `euler` or `unipc` (of second order, for fewer steps) on the ODE,
    or `renoise` (predict the clean latents, add fresh noise at the next level), or `rolling` (the same for as many chunks at
    once as there are steps, each a step noisier than the one before it: all see one another). guidance: 1 = none, else a second,
    unguided branch with its own memory under the `negative` prompt. window (chunks) and top_k (frames): memory as trained.
    context_noise: level in [0, 1) at which a finished chunk is written to memory. seconds: default length of a shot.
    sink: first latent frames of the film that are always seen. cut: how shots follow one another (`cut.Cut`), with its
    numbers cut_keep (latent frames) and cut_jump (positions) and its words cut_phrase. recompute: before each chunk its window
    is written anew, under the words in force and seeing nothing older. shot_angle: radians in time by which each shot is turned
    against the one before.
    """

    chunk: int = 3
    first_chunk: int = 3
    steps: int = 50
    levels: tuple[float, ...] | None = None
    first_levels: tuple[float, ...] | None = None
    shift: float = 5.0
    sampler: str = "euler"
    guidance: float = 1.0
    negative: str = ""
    window: int = 3
    top_k: int = 5
    context_noise: float = 0.0
    fps: float = 16
    width: int = 832
    height: int = 480
    seconds: float = 3.0
    sink: int = 0
    cut: str = "native"
    cut_keep: int = 2
    cut_jump: int = 24
    cut_phrase: str = "The scene transitions."
    recompute: bool = False
    shot_angle: float = 0.0

    def __post_init__(self) -> None:
        for name in ("levels", "first_levels"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _checked_levels(name, getattr(self, name)))
        if self.levels is not None:
            object.__setattr__(self, "steps", len(self.levels))
        whole = {
            "chunk": (1, 64),
            "first_chunk": (1, 64),
            "steps": (1, 1000),
            "window": (0, 1024),
            "top_k": (0, 1024),
            "sink": (0, 1024),
            "cut_keep": (0, 1024),
            "cut_jump": (0, 1024),
        }
        for name, (least, most) in whole.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise InputError(f"{name} is {value!r}: it must be a whole number from {least} to {most}")
        if self.first_chunk not in (1, self.chunk):
            raise InputError(f"first_chunk is {self.first_chunk}: it must be 1 or the chunk length ({self.chunk})")
        ranges = {
            "shift": (0.01, 100.0),
            "guidance": (0.0, 100.0),
            "context_noise": (0.0, 0.99),
            "seconds": (0.01, 3600.0),
            "shot_angle": (0.0, 6.3),
            "fps": (1.0, 120.0),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")
        if not isinstance(self.recompute, bool):
            raise InputError(f"recompute is {self.recompute!r}: it must be true or false")
        Cut.parse(self.cut)
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler is {self.sampler!r}: allowed are {', '.join(SAMPLERS)}")
        if self.rolling:
            for name, needed in (("first_chunk", self.chunk), ("first_levels", None), ("recompute", False)):
                if getattr(self, name) != needed:
                    raise InputError(
                        f"{name} is {getattr(self, name)!r}: with the sampler `rolling` it must be {needed!r}"
                    )

    @property
    def rolling(self) -> bool:
        """Whether several chunks are made at once."""
        return self.sampler == "rolling"

    @property
    def branches(self) -> int:
        """Of a film: the guided and the unguided one, each with keys and values of its own, or one where nothing guides."""
        return 1 if self.guidance == 1 else 2

    @property
    def at_once(self) -> int:
        """Latent frames that are made at once."""
        return self.chunk * (self.steps if self.rolling else 1)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(f"recipe.{unknown[0]} is not a field of a recipe; allowed: {', '.join(sorted(known))}")
        return cls(**data)


def _checked_levels(name: str, levels: Any) -> tuple[float, ...]:
    """Timesteps of a chunk as floats; InputError names the field."""
    if isinstance(levels, str) or not isinstance(levels, Iterable):
        raise InputError(f"{name} is {levels!r}: it must be a list of timesteps, such as [1000, 750, 500, 250]")
    values = tuple(levels)
    if not values:
        raise InputError(f"{name} is empty: it must hold at least one timestep")
    for level in values:
        number = isinstance(level, int | float) and not isinstance(level, bool)
        if not (number and math.isfinite(level) and 0 < level <= 1000):
            raise InputError(f"{name} holds {level!r}: each must be a timestep above 0 and up to 1000")
    if list(values) != sorted(set(values), reverse=True):
        raise InputError(f"{name} must fall from the noisiest timestep to the cleanest")
    return tuple(float(level) for level in values)
