"""How a causal checkpoint wants to be rolled out: stored in its header, every field can be overridden.

A recipe is nested by what a field is about (`recipe.schedule.steps`), and flat where people and files write it
(`{"steps": 4, ...}`). `PLACES` is the one table of which flat name stands where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from .. import checks
from ..cut import Cut
from ..errors import InputError
from ..memory import MemorySettings, ResolvedMemory

SAMPLERS = ("euler", "unipc", "renoise", "rolling")

PLACES = {
    "chunk": "timeline.chunk",
    "first_chunk": "timeline.first_chunk",
    "steps": "schedule.steps",
    "levels": "schedule.timesteps",
    "first_levels": "schedule.first_timesteps",
    "shift": "schedule.shift",
    "sampler": "schedule.sampler",
    "guidance": "guidance.scale",
    "negative": "guidance.negative",
    "window": "visibility.window",
    "top_k": "visibility.top_k",
    "context_noise": "schedule.context_noise",
    "fps": "timeline.fps",
    "width": "picture.width",
    "height": "picture.height",
    "seconds": "timeline.seconds",
    "sink": "visibility.sink",
    "cut": "cut.mode",
    "cut_keep": "cut.keep",
    "cut_jump": "cut.jump",
    "cut_phrase": "cut.phrase",
    "recompute": "visibility.recompute",
    "shot_angle": "visibility.shot_angle",
}


@dataclass(frozen=True)
class TimelineSettings:
    """Time. chunk, first_chunk: latent frames of every chunk, and of the film's first (1 or `chunk`). fps: pixel frames a second
    that the model was trained at. seconds: length of a shot that names none."""

    chunk: int = 3
    first_chunk: int = 3
    fps: float = 16
    seconds: float = 3.0

    def __post_init__(self) -> None:
        checks.whole(self.chunk, "chunk", 1, 64)
        checks.whole(self.first_chunk, "first_chunk", 1, 64)
        if self.first_chunk not in (1, self.chunk):
            raise InputError(f"first_chunk must be 1 or the chunk length ({self.chunk}), got {self.first_chunk}")
        checks.number(self.fps, "fps", 1, 120)
        checks.number(self.seconds, "seconds", 0.01, 3600)


@dataclass(frozen=True)
class PictureSettings:
    """Size of the frames that the model was trained on, in pixels."""

    width: int = 832
    height: int = 480

    def __post_init__(self) -> None:
        checks.whole(self.width, "width", 1, 65_536)
        checks.whole(self.height, "height", 1, 65_536)


@dataclass(frozen=True)
class ScheduleSettings:
    """Noise. steps: denoising passes a chunk. timesteps: explicit ones in (0, 1000], falling and shifted already, instead of
    `steps`, which then counts them. first_timesteps: those of the film's first chunk, where it needs more passes than the
    rest. shift: of the flow-match schedule. sampler: `euler` or `unipc` (of second order, for fewer steps) on the ODE, or
    `renoise` (predict the clean latents, add fresh noise at the next level), or `rolling` (the same for as many chunks at
    once as there are steps, each a step noisier than the one before it: all see one another). context_noise: level in
    [0, 1) at which a finished chunk is written to memory.
    """

    steps: int = 50
    timesteps: tuple[float, ...] | None = None
    first_timesteps: tuple[float, ...] | None = None
    shift: float = 5.0
    sampler: str = "euler"
    context_noise: float = 0.0

    def __post_init__(self) -> None:
        if self.timesteps is not None:
            object.__setattr__(self, "timesteps", _checked_timesteps(self.timesteps, "levels"))
            object.__setattr__(self, "steps", len(self.timesteps))
        if self.first_timesteps is not None:
            object.__setattr__(self, "first_timesteps", _checked_timesteps(self.first_timesteps, "first_levels"))
        checks.whole(self.steps, "steps", 1, 1000)
        checks.number(self.shift, "shift", 0.01, 100)
        checks.choice(self.sampler, "sampler", SAMPLERS)
        checks.number(self.context_noise, "context_noise", 0, 0.99)


@dataclass(frozen=True)
class GuidanceSettings:
    """Classifier-free guidance. scale: 1 = none, else a second, unguided branch runs, with a memory of its own, under the
    `negative` prompt."""

    scale: float = 1.0
    negative: str = ""

    def __post_init__(self) -> None:
        checks.number(self.scale, "guidance", 0, 100)
        checks.text(self.negative, "negative")

    @property
    def on(self) -> bool:
        """Whether an unguided branch runs."""
        return self.scale != 1


@dataclass(frozen=True)
class VisibilitySettings:
    """What a chunk sees of the past. window (chunks) and top_k (frames recalled from before it): as trained, where
    `MemorySettings` ask for nothing else. sink: first latent frames of the film that are always seen. recompute: before each
    chunk its window is written anew, under the words in force and seeing nothing older. shot_angle: radians in time by which
    each shot is turned against the one before.
    """

    window: int = 3
    top_k: int = 5
    sink: int = 0
    recompute: bool = False
    shot_angle: float = 0.0

    def __post_init__(self) -> None:
        for name in ("window", "top_k", "sink"):
            checks.whole(getattr(self, name), name, 0, 1024)
        checks.truth(self.recompute, "recompute")
        checks.number(self.shot_angle, "shot_angle", 0, 6.3)


@dataclass(frozen=True)
class CutSettings:
    """How shots follow one another. mode: names of `cut.Cut`, joined by +. keep: latent frames before the cut that a flush leaves
    in view. jump: positions in time of a rope_jump. phrase: words that a phrase puts before the prompt."""

    mode: str = "native"
    keep: int = 2
    jump: int = 24
    phrase: str = "The scene transitions."

    def __post_init__(self) -> None:
        Cut.parse(self.mode)
        checks.whole(self.keep, "cut_keep", 0, 1024)
        checks.whole(self.jump, "cut_jump", 0, 1024)
        checks.text(self.phrase, "cut_phrase")


@dataclass(frozen=True)
class Recipe:
    """How to roll out a causal checkpoint, part by part. `Recipe.of(steps=4, window=1)` makes one from flat names, those of files
    and of the command line; `recipe.changed(steps=8)` is another one. Raises InputError that names the flat field."""

    timeline: TimelineSettings = field(default_factory=TimelineSettings)
    picture: PictureSettings = field(default_factory=PictureSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    visibility: VisibilitySettings = field(default_factory=VisibilitySettings)
    cut: CutSettings = field(default_factory=CutSettings)

    def __post_init__(self) -> None:
        if not self.rolling:
            return
        alone = {"first_chunk": self.timeline.chunk, "first_levels": None, "recompute": False}
        for name, needed in alone.items():
            value = attrgetter(PLACES[name])(self)
            if value != needed:
                wanted, got = checks.show(needed), checks.show(value)
                raise InputError(f"{name} must be {wanted} with the sampler `rolling`, got {got}")

    @property
    def rolling(self) -> bool:
        """Whether several chunks are made at once."""
        return self.schedule.sampler == "rolling"

    @property
    def branches(self) -> int:
        """Of a film: the guided and the unguided one, each with keys and values of its own, or one where nothing guides."""
        return 2 if self.guidance.on else 1

    @property
    def at_once(self) -> int:
        """Latent frames that are made at once."""
        return self.timeline.chunk * (self.schedule.steps if self.rolling else 1)

    def memory(self, asked: MemorySettings | None = None) -> ResolvedMemory:
        """What a film may see of its past: as asked, and for the rest as this checkpoint was trained."""
        return (asked or MemorySettings()).resolve(self.visibility.window, self.visibility.top_k)

    @classmethod
    def of(cls, **flat: Any) -> Recipe:
        """A recipe of these flat fields; the others have their defaults."""
        return cls().changed(**flat)

    def changed(self, **flat: Any) -> Recipe:
        """This recipe with other values of these flat fields. Explicit timesteps give way to another number of steps."""
        checks.fields(flat, "recipe", PLACES)
        if "levels" not in flat and flat.get("steps", self.schedule.steps) != self.schedule.steps:
            flat["levels"] = None
        parts: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            part, inner = PLACES[name].split(".")
            parts.setdefault(part, {})[inner] = value
        return replace(self, **{part: replace(getattr(self, part), **values) for part, values in parts.items()})

    def to_dict(self) -> dict[str, Any]:
        """The flat fields, as a header holds them."""
        return {name: attrgetter(place)(self) for name, place in PLACES.items()}

    @classmethod
    def from_dict(cls, data: object) -> Recipe:
        """A recipe out of a header. Raises InputError that names the field, such as recipe.steps."""
        flat: Mapping[str, Any] = checks.fields(data, "recipe", PLACES)
        try:
            return cls.of(**flat)
        except InputError as error:
            raise InputError(f"recipe.{error}") from None


def _checked_timesteps(value: object, name: str) -> tuple[float, ...]:
    """Timesteps of a chunk as floats; InputError names the field."""
    what = (
        f"{name} must be a list of 1 to 1000 timesteps above 0 and up to 1000, falling, such as [1000, 750, 500, 250]"
    )
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 1000:
        raise InputError(f"{what}, got {checks.show(value)}")
    for one in value:
        if not checks.is_number(one) or not 0 < one <= 1000:
            raise InputError(f"{what}, got {checks.show(one)} in it")
    if list(value) != sorted(set(value), reverse=True):
        raise InputError(f"{what}, got {checks.show(value)}")
    return tuple(float(one) for one in value)
