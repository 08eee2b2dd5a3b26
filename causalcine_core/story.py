"""Stories: the values that a user asks for, and their checks.

A `Story` is a list of shots and what holds for all of them. How a story is written is `story_formats`' matter, how it is
laid onto the chunks of a film is `plan`'s. "Frame" means a pixel frame here. Whatever cannot be used raises
`InputError`, whose sentence names the field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from . import checks
from .cut import Cut
from .errors import InputError
from .lora import LoRA, loras_of, loras_to_json

MAX_SHOTS = 9_999
MAX_FRAMES = 1_000_000  # of one film: 17 hours at 16 fps
MIN_SECONDS, MAX_SECONDS = 0.001, 86_400.0  # of one shot
MIN_FPS, MAX_FPS = 1, 120
MAX_SEED = 2**64 - 1
MAX_BLEND = 1000  # chunks
MAX_PIXELS = 4096 * 2304
SHOT_FIELDS = ("prompt", "seconds", "frames", "seed", "cut", "blend", "lora")


# --- values


def check_count(shots: int) -> None:
    """An `InputError` for more shots than a story may have: also before each of a million is looked at."""
    if shots > MAX_SHOTS:
        raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {shots:,} of them")


def checked_prompt(value: object, name: str) -> str:
    """Text of a prompt without the blanks around it; an `InputError` where it is none, or blank."""
    return checks.text(value, name, empty="every shot needs a prompt that says what is seen").strip()


def check_seed(value: object, name: str = "seed") -> int:
    """A seed is any whole number from 0 to 2^64 - 1; anything else is an `InputError`."""
    return checks.whole(value, name, 0, MAX_SEED)


def exact(value: float) -> Fraction:
    """A number as its shortest decimal says it, so that sums of any length stay exact: 23.976 is 2997/125."""
    return Fraction(repr(float(value)))


def check_fps(value: object, name: str = "fps") -> float:
    """Frames per second: a number from 1 to 120, whole or not; anything else is an `InputError`."""
    return checks.number(value, name, MIN_FPS, MAX_FPS)


def pace_notes(fps: float | None, trained: float) -> list[str]:
    """A warning if a film is asked for at another rate than its model was trained at (both frames per second)."""
    if fps is None or fps == trained:
        return []
    return [f"the model moves at {trained:g} fps; at {fps:g} fps its motion looks {fps / trained:.3g} times as fast"]


def parse_size(text: str) -> tuple[int, int]:
    """`(width, height)` of a text such as `832x480`; `check_size` says whether a model can make it."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise InputError(f"size must be WIDTHxHEIGHT in pixels, such as 832x480, got {checks.show(text)}")
    return int(match[1]), int(match[2])


def check_size(width: object, height: object, multiple: int = 16) -> tuple[int, int]:
    """`(width, height)` in pixels, if a model whose VAE stride times patch size is `multiple` can make it.

    Otherwise an `InputError`. The command line and the nodes both call this, so that the words are the same.
    """
    for name, value in (("width", width), ("height", height)):
        if not checks.is_whole(value) or value < 1:
            raise InputError(
                f"{name} must be a whole number of pixels, a multiple of {multiple}, got {checks.show(value)}"
            )
    w, h = int(width), int(height)  # type: ignore[call-overload]
    if w * h > MAX_PIXELS:
        # a Wan decoder's last layers: 96 channels, 4 frames, float32, a convolution's input and output
        gib = 2 * 96 * 4 * 4 * w * h / 2**30
        raise InputError(
            f"{w}x{h} is too large: decoding it would need about {gib:,.0f} GiB of memory; "
            f"width times height may be at most {MAX_PIXELS:,} pixels (such as 4096x2304)"
        )
    down = [max(side // multiple, 1) * multiple for side in (w, h)]
    up = [-(-side // multiple) * multiple for side in (w, h)]
    if up != [w, h]:
        choices = dict.fromkeys(f"{a}x{b}" for a, b in (down, up))
        raise InputError(
            f"size {w}x{h} does not fit: width and height must be multiples of {multiple}; "
            f"nearest are {' or '.join(choices)}"
        )
    return w, h


def join_prompt(global_prompt: str, prompt: str) -> str:
    """What a text encoder reads for one shot: the global text, then the shot's own."""
    return f"{global_prompt} {prompt}".strip()


# --- how shots are named to people


def listed(items: Sequence[str], most: int = 8) -> str:
    """`a, b and c`, or of many the first `most` and how many there are more."""
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most:,} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def shots_named(indices: Sequence[int]) -> str:
    """Shots of a film as people call them, counted from 1: `shot 3`, `shots 1-5 and 8`. indices: from 0, ascending.

    Every sentence about a film names its shots so; a sentence about what stands in a story file names the field, `shots[2]`.
    """
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    names: list[str] = []
    for run in runs:
        names += [f"{run[0] + 1}-{run[-1] + 1}"] if len(run) > 2 else [str(n + 1) for n in run]
    return f"shot{'s' * (len(indices) > 1)} {listed(names)}"


# --- story


@dataclass(frozen=True)
class Shot:
    """One shot: its prompt and its length, in `seconds` or pixel `frames` (neither: the model's own).

    cut: how it follows the shot before it (`cut.Cut`; None: as the story, then as the model). blend: chunks over which
    the text goes over to this shot's, for a soft cut. seed: of the noise of its chunks; None: the film's. lora: what the network is
    changed by for its chunks, in this order.

    The `Story` that holds it checks it, because the message names its place, `shots[2].seconds`.
    """

    prompt: str
    seconds: float | None = None
    frames: int | None = None
    seed: int | None = None
    cut: str | None = None
    blend: int | None = None
    lora: tuple[LoRA, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in SHOT_FIELDS}
        fields["lora"] = loras_to_json(self.lora) if self.lora else None
        return {name: value for name, value in fields.items() if value is not None}


def _checked_shot(shot: object, name: str) -> Shot:
    if not isinstance(shot, Shot):
        raise InputError(f"{name} must be a Shot, got {checks.show(shot)}")
    if shot.seconds is not None and shot.frames is not None:
        raise InputError(f'{name} has both "seconds" and "frames"; give one of the two')
    if shot.seconds is not None:
        checks.number(shot.seconds, f"{name}.seconds", MIN_SECONDS, MAX_SECONDS)
    if shot.frames is not None:
        checks.whole(shot.frames, f"{name}.frames", 1, MAX_FRAMES)
    if shot.seed is not None:
        check_seed(shot.seed, f"{name}.seed")
    if shot.cut is not None:
        Cut.parse(shot.cut, name=f"{name}.cut")
    if shot.blend is not None:
        checks.whole(shot.blend, f"{name}.blend", 0, MAX_BLEND)
    prompt, loras = checked_prompt(shot.prompt, f"{name}.prompt"), loras_of(shot.lora, f"{name}.lora")
    return replace(shot, prompt=prompt, lora=loras)


@dataclass(frozen=True)
class Story:
    """A film to make: shots in order, and what holds for all of them (None: as the checkpoint was trained).

    `width` and `height` are pixels, `fps` frames per second (1 to 120), `seed` 0 to 2^64 - 1, `cut` how shots that name
    no cut of their own follow one another. `notes` are sentences about how a text was read, `form` is the name of the written
    form that it has, `ignored` are fields of it that mean nothing here. Raises `InputError` for anything that cannot be used.
    """

    shots: Sequence[Shot]
    global_prompt: str = ""
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    negative: str | None = None
    cut: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)
    form: str = field(default="", compare=False)
    ignored: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.shots, list | tuple) or not self.shots:
            raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {checks.show(self.shots)}")
        check_count(len(self.shots))
        clean = {
            "shots": tuple(_checked_shot(shot, f"shots[{i}]") for i, shot in enumerate(self.shots)),
            "global_prompt": checks.text(self.global_prompt, "global").strip(),
        }
        if self.negative is not None:
            clean["negative"] = checks.text(self.negative, "negative").strip()
        for name, value in clean.items():
            object.__setattr__(self, name, value)
        if self.fps is not None:
            check_fps(self.fps)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                checks.whole(getattr(self, name), name, 1, MAX_PIXELS)
        if self.seed is not None:
            check_seed(self.seed)
        if self.cut is not None:
            Cut.parse(self.cut)
        for i, shot in enumerate(self.shots):
            if shot.blend is not None and not Cut.parse(shot.cut or self.cut or "native").soft:
                raise InputError(f'shots[{i}].blend belongs to a soft cut; add "cut": "soft", or leave it out')

    def prompt(self, index: int) -> str:
        """The text that the encoder gets for shot `index`: the global text, then the shot's own."""
        return join_prompt(self.global_prompt, self.shots[index].prompt)

    def to_dict(self) -> dict[str, Any]:
        """The story as its JSON file would hold it; `Story.from_dict` reads it back to an equal story."""
        from .story_formats import story_to_dict

        return story_to_dict(self)

    @classmethod
    def load(cls, path: str | Path) -> Story:
        """Reads a story file: UTF-8 text of at most 32 MiB. A name that ends in .json must hold JSON."""
        from .story_formats import load_story

        return load_story(Path(path))

    @classmethod
    def parse(cls, text: str) -> Story:
        """Reads a story from text in any form of `story_formats.SHOT_SYNTAX`; the result's `notes` say which it was."""
        from .story_formats import parse_story

        return parse_story(text)

    @classmethod
    def from_dict(cls, data: object) -> Story:
        """A story from decoded JSON: our fields, HoloCine's `prompt` and `shot_cut_frames`, or texts by frame."""
        from .story_formats import story_from_dict

        return story_from_dict(data)
