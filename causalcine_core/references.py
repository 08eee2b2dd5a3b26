"""A cast: pictures of characters or places from outside a film, each with a name and a caption, which the film may recall at any time.

A value, as a state is. A film has its cast from its first chunk on, or gets more of it on its way; what it was made with is never
taken away. In a file (safetensors) the entry `causalcine_cast` of the header has the names and captions, in order, and the tensor
`cast` `[1, C, n, h, w]` the pictures in VAE space.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor

from . import checks
from .errors import InputError, about
from .numbering import mirrored
from .plan import PlannedChunk, PlannedShot
from .vae import SCALES
from .weights.metadata import read_entry
from .weights.tensors import read_tensors, write_tensors

FORMAT = 1
ENTRY = "causalcine_cast"
TENSOR = "cast"
WHAT = "cast file"
MOST = 64  # pictures of a cast
LONGEST_NAME = 100
ALIKE = 0.02  # how far latents of one picture may be apart, whose deviation is about 2


@dataclass(frozen=True, eq=False)
class Reference:
    """One picture. name: of the character or place, as the shots call it. caption: the text under which it is remembered, as it
    stands: no global text is put before it. latent: VAE space `[1, C, 1, h, w]`, on the CPU.

    Raises InputError for an empty name or caption, and a latent that is no picture.
    """

    name: str
    caption: str
    latent: Tensor

    def __post_init__(self) -> None:
        check_words(self.name, self.caption)
        latent = self.latent
        if latent.ndim != 5 or latent.shape[0] != 1 or latent.shape[2] != 1 or latent.shape[1] not in SCALES:
            raise InputError(
                f"cast: the picture of {self.name} must be one latent frame [1, {' or '.join(map(str, SCALES))}, 1, height, width], "
                f"got {list(latent.shape)}"
            )
        if not latent.is_floating_point() or not bool(torch.isfinite(latent).all()):
            raise InputError(f"cast: the picture of {self.name} holds numbers that are none (NaN or infinity)")

    def planned(self, i: int) -> PlannedChunk:
        """This one, picture `i` of its cast, as a chunk that is written into memory."""
        return PlannedChunk(mirrored(i), mirrored(i), (0, 1), (0, 1))

    def captioned(self, i: int) -> PlannedShot:
        """The text of this one, picture `i` of its cast, as that of a shot."""
        return PlannedShot(mirrored(i), self.caption, (0, 1), (0, 1), Fraction(1))

    def same(self, other: Reference) -> bool:
        """Whether both are the same picture, under one name and caption; encoded anew, it may differ a little."""
        said = (self.name, self.caption, self.latent.shape) == (other.name, other.caption, other.latent.shape)
        return said and torch.allclose(self.latent, other.latent, atol=ALIKE, rtol=0)

    def to_dict(self) -> dict[str, str]:
        """Name and caption, in values that JSON has."""
        return {"name": self.name, "caption": self.caption}


def reference(name: str, latent: Tensor, caption: str | None = None) -> Reference:
    """A picture of a cast. latent: VAE space `[1, C, 1, h, w]`, wherever it lies. caption: None or empty: the name."""
    caption = name if caption is None or checks.is_blank(caption) else caption
    return Reference(name, caption, latent.detach().to("cpu", torch.float32).contiguous())


def check_words(name: str, caption: str) -> None:
    """Raise InputError for a name or a caption that is none."""
    checks.text(name, "cast: name", empty="give the character the name that the shots call it by")
    if len(name) > LONGEST_NAME:
        raise InputError(f"cast: name must have up to {LONGEST_NAME} letters, got {checks.show(name)}")
    checks.text(caption, f"cast: caption of {name}", empty="leave it out, and it is the name")


class Said(Protocol):
    """A picture of a cast, as far as its words go."""

    @property
    def name(self) -> str: ...
    @property
    def caption(self) -> str: ...


def check_captions(cast: Sequence[Said]) -> None:
    """Raise InputError for too many pictures, and for a name with two captions."""
    if len(cast) > MOST:
        raise InputError(f"cast: up to {MOST} pictures are allowed, got {len(cast)}")
    captions: dict[str, str] = {}
    for one in cast:
        known = captions.setdefault(one.name, one.caption)
        if known != one.caption:
            raise InputError(
                f"cast: {one.name} has the captions {checks.show(known)} and {checks.show(one.caption)}: give all pictures of one "
                "character the same, or the other character another name"
            )


def check_cast(cast: Sequence[Reference]) -> tuple[Reference, ...]:
    """A cast as it may be: InputError for what `check_captions` refuses, and for pictures of several sizes."""
    check_captions(cast)
    for one in cast:
        if one.latent.shape != cast[0].latent.shape:
            raise InputError(
                f"cast: the picture of {one.name} is a latent of {list(one.latent.shape[1:])}, that of {cast[0].name} one of "
                f"{list(cast[0].latent.shape[1:])}: make all of one size, with one VAE"
            )
    return tuple(cast)


def check_pictures(cast: Sequence[Reference], channels: int, size: tuple[int, int]) -> None:
    """Raise InputError for a cast that may not be, or is none for films of so many latent channels and of this latent size."""
    for one in check_cast(cast)[:1]:
        if one.latent.shape[1] != channels:
            raise InputError(
                f"cast: the picture of {one.name} has {one.latent.shape[1]} latent channels, the model {channels}: make it with the "
                "model's own VAE"
            )
        if tuple(one.latent.shape[-2:]) != size:
            sides = [" x ".join(str(side) for side in pair) for pair in (one.latent.shape[-2:], size)]
            raise InputError(
                f"cast: the picture of {one.name} is {sides[0]} latents high and wide, the film {sides[1]}: make it for the film's "
                "size"
            )


def grown(cast: Sequence[Reference], known: Sequence[Reference]) -> tuple[Reference, ...]:
    """The cast of a film that goes on and has `known` already, which stay as they are. Raises InputError where one of these is missing
    or another."""
    kept = len(cast) >= len(known) and all(a.same(b) for a, b in zip(known, cast, strict=False))
    if not kept:
        names = ", ".join(dict.fromkeys(one.name for one in known))
        raise InputError(
            f"cast: the film to continue was made with {names}, and remembers these for ever: leave the cast out, or give the same "
            "pictures first and new ones after them"
        )
    return (*known, *cast[len(known) :])


def save_cast(cast: Sequence[Reference], path: str | os.PathLike[str]) -> None:
    """Write a cast file; it appears under its name only when it is whole. Raises InputError for a cast that may not be."""
    if not check_cast(cast):
        raise InputError("cast: there is nobody to save")
    entry = {"format": FORMAT, "cast": [one.to_dict() for one in cast]}
    metadata = {"format": f"causalcine-cast-{FORMAT}", ENTRY: json.dumps(entry)}
    write_tensors(path, {TENSOR: torch.cat([one.latent for one in cast], 2)}, metadata)


def load_cast(path: str | os.PathLike[str]) -> tuple[Reference, ...]:
    """Read a cast file. Raises InputError where it is missing, incomplete, damaged, of another version or something else."""
    tensors, header = read_tensors(path, WHAT)
    source = f"{WHAT} {path}"
    entry = read_entry(header.metadata, ENTRY, source)
    if entry is None:
        raise InputError(f"{source} holds no cast of CausalCine: make one with --save-cast or CausalCine Cast")
    with about(source):
        if entry.get("format") != FORMAT:
            raise InputError(
                f"was written by another version (format {checks.show(entry.get('format'))}, this one reads {FORMAT}): make it again"
            )
        checks.fields(entry, "", ("format", "cast"), needed=("cast",))
        return check_cast(cast_of(entry["cast"], tensors.get(TENSOR)))


def cast_of(said: object, pictures: Tensor | None) -> tuple[Reference, ...]:
    """A cast out of a file. said: names and captions, as JSON has them. pictures: `[1, C, n, h, w]`."""
    if not isinstance(said, list) or not 1 <= len(said) <= MOST:
        raise InputError(f"cast must be a list of 1 to {MOST} names and captions, got {checks.show(said)}")
    if pictures is None or pictures.ndim != 5 or pictures.shape[2] != len(said) or not pictures.is_floating_point():
        got = "nothing" if pictures is None else f"{pictures.dtype} {list(pictures.shape)}".removeprefix("torch.")
        raise InputError(f"{TENSOR} must be pictures [1, C, {len(said)}, height, width], got {got}")
    parts: list[dict[str, Any]] = [
        checks.fields(one, f"cast[{i}]", ("name", "caption"), needed=("name", "caption")) for i, one in enumerate(said)
    ]
    return tuple(
        Reference(part["name"], part["caption"], one.contiguous())
        for part, one in zip(parts, pictures.split(1, 2), strict=True)
    )
