"""What the camera sees of a place: views, the painted sheets that pan with parallax, and the easel that they are painted on.

Scenery units: x to the right, y = 0 at the horizon, 1 unit = the frame's height in a wide shot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from .light import Light
from .raster import Array, Raster

TIMES = ("day", "sunset", "night")
FRAMINGS = ("wide", "medium", "close")
VIEWPOINTS = ("front", "left", "right")

ZOOM = {"wide": 1.0, "medium": 1.45, "close": 2.1}
LOOK = {"front": 0.0, "left": -1.15, "right": 1.15}  # where the camera points along x
HORIZON = {"front": 0.46, "left": 0.54, "right": 0.38}  # height of the horizon in the frame


@dataclass(frozen=True)
class View:
    """What the camera sees: everything that a background depends on besides time."""

    setting: str
    time: str
    framing: str
    viewpoint: str
    place: int
    size: tuple[int, int]  # width, height in pixels
    pan: tuple[float, float] = (0.0, 0.0)  # lowest and highest camera offset during the shot, frame heights
    seconds: float = 6.0


@dataclass(frozen=True)
class Layer:
    """One painted sheet [4, H, width]; `margin` px lie left of the frame at pan 0; drift in frame heights a second.

    rows: [first, end) of the pixel rows that hold paint, with room for the sheet to bob.
    """

    rgba: Array
    margin: float
    parallax: float
    rows: tuple[int, int]
    drift: float = 0.0
    bob: float = 0.0

    def lay(self, picture: Array, time: float, pan: float) -> None:
        """Composite onto float32 `picture` [3, H, W] in place at `time` seconds and camera offset `pan`."""
        rows, columns = picture.shape[1:]
        at = self.margin + (pan * self.parallax + time * self.drift) * rows
        at = min(max(at, 0.0), self.rgba.shape[2] - columns - 1.001)
        left = int(at)
        f = np.float32(at - left)
        top, bottom = self.rows
        sheet = self.rgba[:, top:bottom, left : left + columns + 1]
        sheet = sheet[..., :-1] * (1 - f) + sheet[..., 1:] * f if f > 0.01 else sheet[..., :-1]
        if self.bob:
            shift = self.bob * rows * (1 + math.sin(time * 2.6))
            down, g = int(shift), np.float32(shift - int(shift))
            sheet = np.roll(sheet, down, 1) * (1 - g) + np.roll(sheet, down + 1, 1) * g
        target = picture[:, top:bottom]
        target *= 1.0 - sheet[3]
        target += sheet[:3]


@dataclass
class Easel:
    """Hands out rasters for one view and gathers the finished layers from back to front."""

    view: View
    light: Light
    layers: list[Layer] = field(default_factory=list)
    _pending: tuple[Raster, float, float, float, float] | None = None

    def sheet(self, parallax: float, drift: float = 0.0, bob: float = 0.0) -> Raster:
        """A new raster in scenery units, in front of all before it."""
        self.finish()
        width, height = self.view.size
        zoom = 1.0 + (ZOOM[self.view.framing] - 1.0) * min(parallax * 1.2, 1.0)
        low = self.view.pan[0] * parallax + min(drift, 0.0) * self.view.seconds
        high = self.view.pan[1] * parallax + max(drift, 0.0) * self.view.seconds
        margin, extra = math.ceil(max(-low, 0.0) * height) + 1, math.ceil(max(high, 0.0) * height) + 2
        scale = height * zoom
        look = LOOK[self.view.viewpoint] * (0.25 + 0.75 * parallax)
        origin = (width / 2 - look * scale + margin, height * (1.0 - HORIZON[self.view.viewpoint]))
        sun = -0.5 if self.view.place % 2 else 0.5
        raster = Raster(width + margin + extra, height, scale, origin, light=(sun, 0.8))
        self._pending = (raster, float(margin), parallax, drift, bob)
        return raster

    def finish(self) -> None:
        if self._pending is not None:
            raster, margin, parallax, drift, bob = self._pending
            painted = np.flatnonzero(raster.rgba[3].any(1))
            rows = (0, 0)
            if painted.size:
                room = math.ceil(2 * bob * raster.height) + 1 if bob else 0
                rows = int(painted[0]), min(int(painted[-1]) + 1 + room, raster.height)
            self.layers.append(Layer(raster.rgba, margin, parallax, rows, drift, bob))
            self._pending = None
