"""The cast: six kinds of character, their colours and marks."""

from __future__ import annotations

from dataclasses import dataclass

from .raster import Colour

COLOURS: dict[str, Colour] = {
    "red": (0.90, 0.16, 0.16),
    "orange": (1.0, 0.55, 0.10),
    "yellow": (1.0, 0.87, 0.22),
    "green": (0.20, 0.70, 0.25),
    "blue": (0.16, 0.38, 0.95),
    "purple": (0.56, 0.22, 0.78),
    "pink": (1.0, 0.56, 0.76),
    "white": (0.95, 0.95, 0.96),
}
KINDS = ("cat", "robot", "bird", "bear", "ghost", "rabbit")
MARKS = ("plain", "hat", "scarf", "crown", "stripes", "spots")
WIDTH = {"cat": 0.75, "robot": 0.72, "bird": 0.85, "bear": 0.78, "ghost": 0.78, "rabbit": 0.68}


@dataclass(frozen=True)
class Character:
    """Who somebody is: a name such as '[character1]', a kind, a colour and a mark."""

    name: str
    kind: str
    colour: str
    mark: str
