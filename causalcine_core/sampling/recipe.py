"""What a checkpoint needs to run well: stored in its header, every field can be overridden."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError

SAMPLERS = ("euler", "renoise")


@dataclass(frozen=True)
class Recipe:
    """How to roll out a causal checkpoint.

    chunk, first_chunk: latent frames. steps: denoising passes a chunk. levels: explicit timesteps in (0, 1000],
    already shifted, instead of `steps`. shift: of the flow-match schedule. sampler: `euler` on the ODE, or `renoise`
    (predict the clean latents, add fresh noise at the next level). guidance: 1 = none, else a second, unguided
    branch with its own memory under the `negative` prompt. window (chunks) and top_k (frames): memory as trained.
    context_noise: level in [0, 1) at which a finished chunk is written to memory. seconds: default length of a shot.
    """

    chunk: int = 3
    first_chunk: int = 3
    steps: int = 50
    levels: tuple[float, ...] | None = None
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

    def __post_init__(self) -> None:
        if self.levels is not None:
            object.__setattr__(self, "levels", tuple(float(level) for level in self.levels))
            object.__setattr__(self, "steps", len(self.levels))
        whole = {"chunk": (1, 64), "first_chunk": (1, 64), "steps": (1, 1000), "window": (0, 1024), "top_k": (0, 1024)}
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
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise InputError(f"{name} is {value!r}: it must be a number from {low:g} to {high:g}")
        if self.sampler not in SAMPLERS:
            raise InputError(f"sampler is {self.sampler!r}: allowed are {', '.join(SAMPLERS)}")
        for level in self.levels or ():
            if not (math.isfinite(level) and 0 < level <= 1000):
                raise InputError(f"levels holds {level!r}: each must be a timestep above 0 and up to 1000")
        if self.levels and list(self.levels) != sorted(self.levels, reverse=True):
            raise InputError("levels must fall from the noisiest timestep to the cleanest")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Recipe:
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(f"recipe.{unknown[0]} is not a field of a recipe; allowed: {', '.join(sorted(known))}")
        return cls(**data)
