"""How frames, shots and the pictures of a cast are numbered where each of them may be meant: in recalls, texts and reports.

A film's latent frames, and its shots, are 0, 1, 2 and so on, -1 is none, and picture i of the cast is -2 - i.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", int, "Tensor")


def mirrored(numbers: T) -> T:
    """The number of picture i of a cast, and of such a number the i."""
    return -2 - numbers


def is_picture(number: int) -> bool:
    """Whether this is the number of a picture of the cast."""
    return number < -1


def called(shot: int) -> str:
    """What a sentence calls a shot, or a picture of the cast, of this number."""
    return f"picture {mirrored(shot) + 1} of the cast" if is_picture(shot) else f"shot {shot + 1}"
