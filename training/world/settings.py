"""The places: eight layered settings at three times of day that pan with parallax and never stand quite still.

Scenery units: x to the right, y = 0 at the horizon, 1 unit = the frame's height in a wide shot. A place is drawn from
its seed alone, so every shot that returns to it finds the same hills, windows and trees.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .light import LIGHTS, Light
from .raster import Array, Colour, Paint, Raster, mix, plane

SETTINGS = ("meadow", "beach", "city", "mountain", "forest", "desert", "kitchen", "harbour")
TIMES = ("day", "sunset", "night")
FRAMINGS = ("wide", "medium", "close")
VIEWPOINTS = ("front", "left", "right")

ZOOM = {"wide": 1.0, "medium": 1.45, "close": 2.1}
LOOK = {"front": 0.0, "left": -1.15, "right": 1.15}  # where the camera points along x
HORIZON = {"front": 0.46, "left": 0.54, "right": 0.38}  # height of the horizon in the frame
REACH = 3.2  # scenery exists for |x| below this


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


Ridge = Callable[[Array], Array]


def _ridge(rng: np.random.Generator, base: float, height: float, rough: float = 1.0) -> Ridge:
    """A rolling skyline: a few sines around `base`."""
    k = rng.uniform(1.0, 4.5, 4) * rough
    p = rng.uniform(0, 6.28, 4)
    a = height * np.array([0.5, 0.3, 0.15, 0.08])

    def height_at(x: Array) -> Array:
        total: Array = np.full_like(x, base, np.float64)
        for i in range(4):
            total = total + a[i] * np.sin(k[i] * x * (1 + 0.7 * i) + p[i])
        return total

    return height_at


def _sky(e: Easel) -> None:
    r, light, rng = e.sheet(0.06), e.light, np.random.default_rng([e.view.place, 99])
    zenith, middle, horizon = (plane(c, 1.0) for c in light.sky)
    t = np.clip(r.y / 0.62, 0.0, 1.0)
    low = horizon + (middle - horizon) * np.minimum(t * 2.2, 1.0)
    r.rgba[:] = low + (zenith - low) * np.clip((t - 0.35) / 0.65, 0.0, 1.0)
    side = -1 if e.view.place % 2 else 1
    x, y = side * float(rng.uniform(0.12, 0.32)), float(rng.uniform(0.30, 0.40))
    if e.view.time == "day":
        r.glow(x, y, 0.16, (1.0, 0.98, 0.82), 0.75)
        r.ellipse(x, y, 0.065, 0.065, Paint.flat((1.0, 0.97, 0.72)))
    elif e.view.time == "sunset":
        r.glow(x, 0.10, 0.34, (1.0, 0.86, 0.45), 0.8)
        r.ellipse(x, 0.10, 0.115, 0.115, Paint.flat((1.0, 0.90, 0.55)))
    else:
        for sx, sy, b in zip(
            rng.uniform(-1.2, 1.2, 70), rng.uniform(0.05, 0.62, 70), rng.uniform(0.3, 1, 70), strict=True
        ):
            r.ellipse(float(sx), float(sy), 0.007, 0.007, Paint.flat((1, 1, 0.92)), opacity=float(b))
        r.glow(x, y, 0.14, (0.75, 0.82, 1.0), 0.5)
        r.ellipse(x, y, 0.068, 0.068, Paint.flat((0.96, 0.95, 0.84)))
        r.ellipse(x + 0.032, y + 0.014, 0.055, 0.055, Paint.flat(light.sky[1]))


def _clouds(e: Easel, rng: np.random.Generator, number: int = 5) -> None:
    r = e.sheet(0.10, drift=0.035)
    white = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.70, 0.58), "night": (0.26, 0.31, 0.52)}[e.view.time]
    under = {"day": (0.80, 0.88, 0.97), "sunset": (0.72, 0.38, 0.50), "night": (0.13, 0.17, 0.34)}[e.view.time]
    paint = Paint.shaded(under, white)
    for i in range(number):
        x, y = -1.1 + 2.2 * (i + float(rng.uniform(0.1, 0.9))) / number, float(rng.uniform(0.22, 0.46))
        s = float(rng.uniform(0.7, 1.3))
        for dx, dy, radius in ((-0.10, 0, 0.045), (-0.03, 0.03, 0.07), (0.06, 0.015, 0.055), (0.13, -0.005, 0.035)):
            r.ellipse(x + dx * s, y + dy * s, radius * s * 1.25, radius * s * 0.85, paint, opacity=0.94)


def _tree(r: Raster, light: Light, x: float, y: float, s: float, leaf: Colour, haze: float = 0.0) -> None:
    r.capsule(x, y, x, y + 0.14 * s, 0.016 * s, light.scenery((0.45, 0.30, 0.20), haze))
    paint = light.scenery(leaf, haze, 0.6)
    for dx, dy, radius in ((-0.06, 0.17, 0.07), (0.06, 0.18, 0.07), (0.0, 0.24, 0.085)):
        r.ellipse(x + dx * s, y + dy * s, radius * s, radius * s, paint)


def _pine(r: Raster, light: Light, x: float, y: float, s: float, leaf: Colour, snow: bool, haze: float = 0.0) -> None:
    r.box(x, y + 0.02 * s, 0.012 * s, 0.03 * s, light.scenery((0.36, 0.24, 0.18), haze))
    for i in range(3):
        b, w = y + (0.04 + 0.075 * i) * s, (0.085 - 0.022 * i) * s
        r.polygon(((x - w, b), (x, b + 0.13 * s), (x + w, b)), light.scenery(leaf, haze, 0.6))
        if snow:
            r.polygon(
                ((x - w * 0.45, b + 0.075 * s), (x, b + 0.135 * s), (x + w * 0.45, b + 0.075 * s)),
                light.scenery((0.96, 0.98, 1.0), haze),
            )


def _meadow(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng)
    r = e.sheet(0.22)
    r.below(_ridge(rng, 0.13, 0.09), light.flat((0.42, 0.62, 0.68), 0.35))
    r.below(_ridge(rng, 0.06, 0.06), light.scenery((0.40, 0.68, 0.45), 0.15), 0.2)
    r = e.sheet(0.5)
    hill = _ridge(rng, 0.015, 0.05)
    grass = mix((0.42, 0.74, 0.24), (0.50, 0.72, 0.20), float(rng.uniform(0, 1)))
    for i, x in enumerate(np.arange(-2.6, 2.6, 0.36)):
        leaf = mix((0.20, 0.52, 0.20), (0.36, 0.62, 0.18), float(rng.uniform(0, 1)))
        x = float(x + rng.uniform(-0.12, 0.12))
        if abs(x + 0.75) > 0.28 and abs(x - 0.75) > 0.28 and (i % 4 or abs(x) > 0.4):
            _tree(r, light, x, float(hill(np.array(x))) - 0.03, float(rng.uniform(0.7, 1.2)), leaf)
    # windmill to the left, cottage to the right
    r.polygon(((-0.84, -0.02), (-0.80, 0.24), (-0.70, 0.24), (-0.66, -0.02)), light.scenery((0.96, 0.92, 0.84)))
    r.polygon(((-0.82, 0.24), (-0.75, 0.33), (-0.68, 0.24)), light.scenery((0.72, 0.28, 0.22)))
    for k in range(4):
        a = 0.5 + k * math.pi / 2
        r.capsule(
            -0.75,
            0.25,
            -0.75 + 0.19 * math.cos(a),
            0.25 + 0.19 * math.sin(a),
            0.012,
            light.scenery((0.99, 0.98, 0.94)),
            0.024,
        )
    wall = mix((0.95, 0.85, 0.66), (0.92, 0.72, 0.62), float(rng.uniform(0, 1)))
    r.box(0.75, 0.06, 0.13, 0.08, light.scenery(wall))
    r.polygon(((0.57, 0.13), (0.75, 0.27), (0.93, 0.13)), light.scenery((0.78, 0.30, 0.24)))
    pane = Paint.flat((1.0, 0.86, 0.45)) if light.lamps else light.flat((0.55, 0.80, 0.95))
    r.box(0.69, 0.07, 0.03, 0.03, pane)
    r.box(0.81, 0.04, 0.028, 0.055, light.flat((0.50, 0.30, 0.20)))
    if light.lamps:
        r.glow(0.69, 0.07, 0.09, (1.0, 0.8, 0.4), 0.5)
    r.below(lambda x: hill(x) - 0.02, light.scenery(grass, 0.0, 0.8), 0.25)
    r = e.sheet(1.0)
    r.below(_ridge(rng, -0.10, 0.03), light.scenery(mix(grass, (0.30, 0.60, 0.16), 0.5), 0.0, 0.70), 0.4)
    petals = ((1.0, 0.95, 0.4), (1.0, 1.0, 1.0), (0.98, 0.45, 0.55), (0.72, 0.52, 0.95))
    for x, y, c in zip(rng.uniform(-2.8, 2.8, 90), rng.uniform(-0.48, -0.14, 90), rng.integers(0, 4, 90), strict=True):
        s = 0.6 - 1.2 * float(y)
        r.ellipse(float(x), float(y), 0.014 * s, 0.012 * s, light.flat(petals[int(c)]))


def _water(e: Easel, r: Raster, top: float, bottom: float) -> None:
    light = e.light
    near, far = light.tone((0.10, 0.52, 0.70)), mix(light.tone((0.30, 0.72, 0.86)), light.sky[2], 0.35)
    t = np.clip((top - r.y) / (top - bottom), 0.0, 1.0).astype(np.float32)
    colour = plane(far, 1.0) * (1 - t) + plane(near, 1.0) * t
    cover = np.clip(0.5 + (top - r.y) * r.scale, 0, 1)
    r.rgba += (colour - r.rgba) * cover.astype(np.float32)


def _sail(r: Raster, light: Light, x: float, y: float, s: float, hull: Colour, cloth: Colour) -> None:
    r.polygon(
        (
            (x - 0.12 * s, y + 0.04 * s),
            (x - 0.08 * s, y - 0.03 * s),
            (x + 0.08 * s, y - 0.03 * s),
            (x + 0.13 * s, y + 0.04 * s),
        ),
        light.scenery(hull),
    )
    r.capsule(x, y + 0.03 * s, x, y + 0.33 * s, 0.008 * s, light.scenery((0.42, 0.28, 0.18)))
    r.polygon(
        ((x + 0.015 * s, y + 0.07 * s), (x + 0.015 * s, y + 0.31 * s), (x + 0.13 * s, y + 0.07 * s)),
        light.scenery(cloth),
    )
    r.polygon(
        ((x - 0.015 * s, y + 0.07 * s), (x - 0.015 * s, y + 0.26 * s), (x - 0.10 * s, y + 0.07 * s)),
        light.scenery(mix(cloth, (1, 1, 1), 0.5)),
    )


def _beach(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng, 4)
    r = e.sheet(0.2)
    for x, w, h in ((-0.55, 0.22, 0.10), (0.62, 0.30, 0.07)):
        r.ellipse(x + float(rng.uniform(-0.1, 0.1)), 0.0, w, h, light.flat((0.35, 0.58, 0.52), 0.3))
    _water(e, r, 0.0, -0.22)
    r = e.sheet(0.4, bob=0.006)
    cloth = ((0.96, 0.30, 0.25), (1.0, 0.95, 0.85), (1.0, 0.75, 0.2))[int(rng.integers(3))]
    _sail(r, light, float(rng.uniform(-0.25, 0.25)), 0.0, 0.75, (0.80, 0.25, 0.20), cloth)
    r = e.sheet(1.0)
    shore = _ridge(rng, -0.19, 0.02)
    r.below(lambda x: shore(x) + 0.022, light.flat((0.95, 0.98, 1.0)))
    r.below(shore, light.scenery((0.97, 0.85, 0.58), 0.0, 0.80), 0.35)
    for x, y in zip(rng.uniform(-2.8, 2.8, 26), rng.uniform(-0.48, -0.24, 26), strict=True):
        shell = ((0.99, 0.96, 0.90), (0.96, 0.66, 0.60), (0.86, 0.72, 0.48))[int(rng.integers(3))]
        r.ellipse(float(x), float(y), 0.018, 0.010, light.scenery(shell))
    for x in (-1.55, -0.85, 2.1):  # palms
        bend = float(rng.uniform(0.06, 0.16))
        previous = (x, -0.22)
        for i in range(1, 5):
            t = i / 4
            point = (x + bend * t * t, -0.22 + 0.56 * t)
            r.capsule(*previous, *point, 0.026 - 0.003 * i, light.scenery((0.58, 0.42, 0.27)))
            previous = point
        for a in (0.1, 0.75, 1.5, 2.3, 3.0, -0.5, 3.6):
            tip = (previous[0] + 0.21 * math.cos(a), previous[1] + 0.17 * math.sin(a) - 0.05)
            r.capsule(*previous, *tip, 0.032, light.scenery((0.18, 0.60, 0.28), 0.0, 0.6), 0.010)
    for x, s in ((0.78, 1.0), (1.66, 1.2)):  # parasols
        stripe = ((0.95, 0.25, 0.30), (0.20, 0.55, 0.90), (0.98, 0.62, 0.15))[int(rng.integers(3))]
        r.capsule(x, -0.26, x + 0.02, 0.16 * s, 0.010, light.scenery((0.95, 0.95, 0.95)))
        for k in range(5):
            a, b = math.pi * k / 5, math.pi * (k + 1) / 5
            cx, cy = x + 0.02, 0.09 * s
            r.polygon(
                ((cx, cy + 0.13 * s), (cx + 0.19 * s * math.cos(a), cy), (cx + 0.19 * s * math.cos(b), cy)),
                light.scenery(stripe if k % 2 == 0 else (1, 1, 1)),
            )
            r.polygon(
                (
                    (cx, cy + 0.125 * s),
                    (cx + 0.19 * s * math.cos(a), cy + 0.12 * math.sin(a) * s * 0.6),
                    (cx + 0.19 * s * math.cos(b), cy + 0.12 * math.sin(b) * s * 0.6),
                ),
                light.scenery(stripe if k % 2 == 0 else (1, 1, 1)),
            )
    for x in (1.15, 1.32):
        r.ellipse(x, -0.22, 0.12, 0.075, light.scenery((0.55, 0.52, 0.52)))


def _windows(
    r: Raster, light: Light, rng: np.random.Generator, x: float, y0: float, y1: float, half: float, haze: float
) -> None:
    lit, dark = Paint.flat((1.0, 0.86, 0.48)), light.flat((0.62, 0.80, 0.94), haze)
    off = light.flat((0.38, 0.42, 0.52), haze)
    columns = max(int(half / 0.05), 1)
    for row in np.arange(y0 + 0.07, y1 - 0.05, 0.105):
        for i in range(columns):
            on = rng.uniform() < 0.6
            paint = (lit if on else off) if light.lamps else dark
            r.box(x + (i - (columns - 1) / 2) * (2 * half / columns), float(row), 0.022, 0.032, paint)


def _city(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng, 4)
    r = e.sheet(0.25)
    for x in np.arange(-1.6, 1.7, 0.17):
        h = float(rng.uniform(0.14, 0.42))
        r.box(float(x), h / 2 - 0.1, 0.085, h / 2 + 0.1, light.flat((0.52, 0.60, 0.74), 0.35))
    r = e.sheet(0.65)
    walls = (
        (0.86, 0.44, 0.36),
        (0.95, 0.78, 0.52),
        (0.48, 0.64, 0.72),
        (0.74, 0.56, 0.68),
        (0.60, 0.72, 0.55),
        (0.90, 0.86, 0.80),
    )
    x, last = -2.7, -1
    while x < 2.7:
        half = float(rng.uniform(0.12, 0.19))
        h = float(rng.uniform(0.22, 0.52))
        pick = int(rng.integers(len(walls)))
        pick = (pick + 1) % len(walls) if pick == last else pick
        last = pick
        r.box(x + half, h / 2 - 0.09, half, h / 2 + 0.11, light.scenery(walls[pick]))
        r.box(x + half, h + 0.015, half + 0.01, 0.018, light.scenery(mix(walls[pick], (1, 1, 1), 0.35)))
        _windows(r, light, rng, x + half, 0.04, h, half, 0.0)
        awning = ((0.85, 0.2, 0.2), (0.15, 0.5, 0.4), (0.2, 0.35, 0.75), (0.95, 0.6, 0.1))[int(rng.integers(4))]
        glass = Paint.flat((1.0, 0.88, 0.60)) if light.lamps else light.flat((0.60, 0.76, 0.86))
        r.box(x + half, -0.08, half * 0.78, 0.07, glass)
        for k in range(5):
            r.box(
                x + half + (k - 2) * half * 0.36,
                -0.005,
                half * 0.19,
                0.026,
                light.scenery(awning if k % 2 == 0 else (0.97, 0.97, 0.95)),
            )
        x += 2 * half + 0.012
    r.below(-0.145, light.scenery((0.72, 0.70, 0.70), 0.0, 0.9), 0.3)
    r = e.sheet(1.0)
    r.below(-0.17, light.flat((0.80, 0.78, 0.76)))
    r.below(-0.215, light.scenery((0.38, 0.38, 0.44), 0.0, 0.8), 0.3)
    for x in np.arange(-3.0, 3.0, 0.42):
        r.polygon(
            ((x, -0.335), (x + 0.20, -0.335), (x + 0.19, -0.36), (x - 0.01, -0.36)), light.flat((0.98, 0.92, 0.62))
        )
    for x in (-2.2, -1.5, -0.72, 0.68, 1.62, 2.4):
        r.capsule(x, -0.19, x, 0.28, 0.012, light.scenery((0.20, 0.24, 0.28)))
        r.capsule(x, 0.28, x + 0.07, 0.30, 0.010, light.scenery((0.20, 0.24, 0.28)))
        r.ellipse(
            x + 0.08,
            0.285,
            0.030,
            0.022,
            Paint.flat((1.0, 0.93, 0.70)) if light.lamps else light.scenery((0.95, 0.93, 0.85)),
        )
        if light.lamps:
            r.glow(x + 0.08, 0.27, 0.13, (1.0, 0.84, 0.5), 0.55)
    for x in (-1.12, 1.12):
        r.box(x, -0.12, 0.05, 0.075, light.scenery((0.82, 0.16, 0.16) if x > 0 else (0.15, 0.45, 0.30)), round=0.02)
        r.box(x, -0.075, 0.03, 0.008, light.flat((0.1, 0.1, 0.1)))


def _mountain(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng, 3)
    r = e.sheet(0.25)
    for x in (-0.95, -0.42, 0.12, 0.60, 1.08):
        x = x + float(rng.uniform(-0.1, 0.1))
        h, w = float(rng.uniform(0.26, 0.46)), float(rng.uniform(0.34, 0.46))
        rock = (0.47, 0.53, 0.68)
        r.polygon(((x - w, -0.05), (x, h), (x + w, -0.05)), light.flat(rock, 0.2))
        r.polygon(((x, h), (x + w, -0.05), (x + w * 0.25, -0.05)), light.flat(mix(rock, (0.2, 0.24, 0.40), 0.4), 0.2))
        c = 0.36
        r.polygon(
            (
                (x - w * c, h - (h + 0.05) * c),
                (x, h),
                (x + w * c * 0.35, h - (h + 0.05) * c * 0.8),
                (x, h - (h + 0.05) * c * 1.15),
            ),
            light.flat((0.99, 0.99, 1.0), 0.05),
        )
        r.polygon(
            ((x, h), (x + w * c, h - (h + 0.05) * c), (x + w * c * 0.3, h - (h + 0.05) * c * 0.85)),
            light.flat((0.80, 0.86, 0.96), 0.05),
        )
    r.below(_ridge(rng, 0.015, 0.05), light.flat((0.86, 0.91, 0.98), 0.1))
    r = e.sheet(0.55)
    hill = _ridge(rng, -0.03, 0.05)
    for x in np.arange(-2.6, 2.6, 0.24):
        x = float(x + rng.uniform(-0.09, 0.09))
        if abs(x) > 0.14:
            _pine(r, light, x, float(hill(np.array(x))) - 0.04, float(rng.uniform(0.7, 1.25)), (0.16, 0.40, 0.36), True)
    r.box(0.80, 0.0, 0.14, 0.075, light.scenery((0.55, 0.34, 0.22)))
    r.polygon(((0.60, 0.065), (0.80, 0.20), (1.0, 0.065)), light.scenery((0.97, 0.98, 1.0)))
    r.box(0.76, 0.0, 0.032, 0.03, Paint.flat((1.0, 0.84, 0.42)))
    if light.lamps:
        r.glow(0.76, 0.0, 0.12, (1.0, 0.8, 0.4), 0.6)
    r.below(lambda x: hill(x) - 0.02, light.scenery((0.90, 0.94, 1.0), 0.0, 0.86), 0.2)
    r = e.sheet(1.0)
    r.below(_ridge(rng, -0.12, 0.035), light.scenery((0.97, 0.98, 1.0), 0.0, 0.80), 0.4)
    for x in np.arange(-2.8, 2.9, 0.7):
        x = float(x + rng.uniform(-0.2, 0.2))
        r.ellipse(x, -0.2 + float(rng.uniform(-0.05, 0.03)), 0.09, 0.03, light.scenery((0.99, 1.0, 1.0), 0.0, 0.82))
    for x in (-1.75, -0.92, 1.78):
        _pine(r, light, x, -0.18, 1.7, (0.14, 0.36, 0.32), True)


def _forest(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    r = e.sheet(0.2)
    r.below(_ridge(rng, 0.30, 0.10, 3.0), light.flat((0.45, 0.66, 0.46), 0.45))
    for x in np.arange(-1.4, 1.5, 0.13):
        r.box(float(x + rng.uniform(-0.04, 0.04)), 0.1, 0.012, 0.35, light.flat((0.36, 0.50, 0.40), 0.35))
    r = e.sheet(0.5)
    for x in np.arange(-2.6, 2.6, 0.33):
        x = float(x + rng.uniform(-0.1, 0.1))
        w = float(rng.uniform(0.03, 0.05))
        bark = mix((0.42, 0.30, 0.22), (0.56, 0.44, 0.34), float(rng.uniform(0, 1)))
        r.box(x, 0.25, w, 0.40, light.scenery(bark, 0.1, 0.6))
        leaf = mix((0.16, 0.46, 0.18), (0.38, 0.58, 0.16), float(rng.uniform(0, 1)))
        for dx, dy in ((-0.10, 0.42), (0.10, 0.44), (0.0, 0.54), (0.02, 0.38)):
            s = float(rng.uniform(0.10, 0.15))
            r.ellipse(x + dx, dy, s, s * 0.8, light.scenery(leaf, 0.08, 0.62))
    r.below(_ridge(rng, -0.06, 0.03), light.scenery((0.30, 0.54, 0.22), 0.0, 0.75), 0.2)
    r = e.sheet(1.0)
    soil = mix((0.30, 0.46, 0.16), (0.46, 0.42, 0.20), float(rng.uniform(0, 1)))
    r.below(_ridge(rng, -0.13, 0.025), light.scenery(soil, 0.0, 0.70), 0.4)
    for x in (-2.2, -1.6, -0.74, 0.80, 1.5, 2.2):
        x += float(rng.uniform(-0.08, 0.08))
        near_bark = light.scenery((0.40, 0.27, 0.19), 0.0, 0.5)
        r.polygon(
            (
                (x - 0.10, -0.24),
                (x - 0.06, 0.1),
                (x - 0.065, 0.7),
                (x + 0.065, 0.7),
                (x + 0.06, 0.1),
                (x + 0.11, -0.24),
            ),
            near_bark,
        )
        r.ellipse(x + 0.01, 0.15, 0.022, 0.035, light.flat((0.22, 0.14, 0.10)))
        for dx in (-0.16, 0.0, 0.15):
            r.ellipse(x + dx, 0.60 + 0.03 * math.cos(dx * 9), 0.17, 0.12, light.scenery((0.18, 0.46, 0.16), 0.0, 0.55))
    for x in np.arange(-2.7, 2.8, 0.33):
        x = float(x + rng.uniform(-0.14, 0.14))
        y = float(rng.uniform(-0.34, -0.16))
        if rng.uniform() < 0.45:
            r.capsule(x, y, x, y + 0.04, 0.012, light.scenery((0.97, 0.93, 0.86)))
            r.ellipse(x, y + 0.05, 0.04, 0.026, light.scenery((0.90, 0.20, 0.16)))
            r.ellipse(x - 0.012, y + 0.055, 0.009, 0.008, light.flat((1, 1, 1)))
        else:
            for a in (0.5, 1.1, 2.0, 2.6):
                r.capsule(
                    x,
                    y,
                    x + 0.08 * math.cos(a),
                    y + 0.08 * math.sin(a),
                    0.014,
                    light.scenery((0.26, 0.60, 0.20)),
                    0.004,
                )


def _desert(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng, 2)
    r = e.sheet(0.22)
    for x, w, h in ((-0.62, 0.20, 0.24), (-0.25, 0.10, 0.15), (0.48, 0.16, 0.29), (0.82, 0.11, 0.18)):
        x += float(rng.uniform(-0.08, 0.08))
        rock = (0.80, 0.44, 0.28)
        r.polygon(((x - w, -0.03), (x - w * 0.7, h), (x + w * 0.7, h), (x + w, -0.03)), light.scenery(rock, 0.15))
        for k in (0.35, 0.65):
            r.box(x, h * k, w * (0.92 - 0.25 * k), 0.013, light.flat(mix(rock, (0.5, 0.22, 0.16), 0.5), 0.15))
    r.below(_ridge(rng, 0.01, 0.03), light.flat((0.92, 0.70, 0.42), 0.2))
    r = e.sheet(0.5)
    r.below(_ridge(rng, -0.02, 0.07, 0.8), light.scenery((0.95, 0.74, 0.42), 0.05, 0.74), 0.15)
    # pyramids to the left, oasis to the right
    for x, s in ((-0.88, 0.30), (-0.55, 0.20)):
        r.polygon(((x - s, -0.07), (x, -0.07 + s * 1.1), (x + s, -0.07)), light.scenery((0.93, 0.74, 0.46), 0.05))
        r.polygon(((x, -0.07 + s * 1.1), (x + s, -0.07), (x + s * 0.3, -0.07)), light.flat((0.72, 0.50, 0.30), 0.05))
    r.ellipse(0.78, -0.06, 0.24, 0.03, light.flat((0.25, 0.66, 0.78)))
    for x in (0.62, 0.93):
        r.capsule(x, -0.05, x + 0.03, 0.18, 0.013, light.scenery((0.55, 0.38, 0.24)))
        for a in (0.2, 1.1, 2.0, 2.9):
            r.capsule(
                x + 0.03,
                0.18,
                x + 0.03 + 0.10 * math.cos(a),
                0.17 + 0.06 * math.sin(a),
                0.02,
                light.scenery((0.25, 0.58, 0.26)),
                0.006,
            )
    r.below(_ridge(rng, -0.09, 0.03), light.scenery((0.97, 0.78, 0.46), 0.0, 0.78), 0.15)
    r = e.sheet(1.0)
    r.below(_ridge(rng, -0.15, 0.035), light.scenery((1.0, 0.82, 0.50), 0.0, 0.72), 0.4)
    for x in (-2.3, -1.62, -0.78, 0.74, 1.55, 2.2):
        x += float(rng.uniform(-0.1, 0.1))
        s = float(rng.uniform(0.85, 1.25))
        green = light.scenery((0.24, 0.56, 0.30), 0.0, 0.55)
        y = -0.21
        r.capsule(x, y, x, y + 0.36 * s, 0.042 * s, green)
        r.capsule(x, y + 0.14 * s, x - 0.11 * s, y + 0.16 * s, 0.026 * s, green)
        r.capsule(x - 0.11 * s, y + 0.16 * s, x - 0.11 * s, y + 0.27 * s, 0.026 * s, green)
        r.capsule(x, y + 0.19 * s, x + 0.10 * s, y + 0.21 * s, 0.024 * s, green)
        r.capsule(x + 0.10 * s, y + 0.21 * s, x + 0.10 * s, y + 0.31 * s, 0.024 * s, green)
    for x, y in zip(rng.uniform(-2.8, 2.8, 22), rng.uniform(-0.44, -0.22, 22), strict=True):
        r.ellipse(float(x), float(y), 0.03, 0.016, light.scenery((0.74, 0.54, 0.36)))


def _kitchen(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    room = {
        "day": light,
        "sunset": LIGHTS["sunset"],
        "night": Light((0.62, 0.50, 0.44), (0.02, 0.0, 0.02), light.key, light.shadow, light.sky, True),
    }[e.view.time]
    wall = ((0.98, 0.88, 0.66), (0.70, 0.86, 0.84), (0.95, 0.76, 0.72), (0.80, 0.80, 0.94))[int(rng.integers(4))]
    wood = ((0.66, 0.42, 0.26), (0.36, 0.56, 0.60), (0.86, 0.84, 0.80))[int(rng.integers(3))]
    _sky(e)
    _clouds(e, rng, 4)
    r = e.sheet(0.5)
    r.box(0.0, 0.2, 4.0, 1.0, room.scenery(wall))
    for x in (-0.95, 0.0, 0.95):  # windows cut into the wall
        half = 0.24
        r.box(x, 0.24, half + 0.03, 0.22, room.scenery((0.98, 0.97, 0.95)))
        where = r.window(x - half, 0.05, x + half, 0.43)
        if where is not None:
            hole = np.clip(
                0.5 - np.maximum(np.abs(r.x[where] - x) - half, np.abs(r.y[where] - 0.24) - 0.19) * r.scale, 0, 1
            )
            r.rgba[(slice(None), *where)] *= 1.0 - hole
        r.box(x, 0.24, 0.012, 0.19, room.scenery((0.98, 0.97, 0.95)))
        r.box(x, 0.24, half, 0.012, room.scenery((0.98, 0.97, 0.95)))
        curtain = ((0.88, 0.28, 0.26), (0.25, 0.52, 0.36), (0.95, 0.66, 0.22))[int(rng.integers(3))]
        for way in (-1, 1):
            r.polygon(
                (
                    (x + way * (half + 0.05), 0.48),
                    (x + way * 0.10, 0.48),
                    (x + way * (half + 0.01), 0.02),
                    (x + way * (half + 0.06), 0.02),
                ),
                room.scenery(curtain),
            )
    r.below(-0.02, room.scenery(wood, 0.0, 0.75), 0.25)
    r.box(0.0, -0.01, 4.0, 0.022, room.scenery((0.93, 0.90, 0.86)))
    for x in np.arange(-2.7, 2.8, 0.3):
        r.box(float(x), -0.14, 0.005, 0.11, room.flat([c * 0.6 for c in wood]))
        r.ellipse(float(x) + 0.03, -0.08, 0.012, 0.012, room.flat((0.95, 0.85, 0.5)))
    # stove and pot left, fridge right, fruit and jars between
    r.box(-0.62, -0.12, 0.15, 0.12, room.scenery((0.85, 0.86, 0.90)), round=0.01)
    r.box(-0.62, -0.14, 0.11, 0.06, room.flat((0.16, 0.16, 0.20)))
    r.box(-0.62, 0.07, 0.085, 0.055, room.scenery((0.82, 0.20, 0.18)), round=0.015)
    r.box(-0.62, 0.13, 0.095, 0.010, room.scenery((0.60, 0.14, 0.12)))
    r.box(0.58, 0.10, 0.14, 0.34, room.scenery((0.62, 0.84, 0.88)), round=0.03)
    r.box(0.58, 0.16, 0.135, 0.006, room.flat((0.4, 0.6, 0.66)))
    r.capsule(0.48, 0.22, 0.48, 0.32, 0.010, room.scenery((0.95, 0.95, 0.95)))
    for x, c in (
        (0.28, (0.95, 0.3, 0.2)),
        (0.33, (1.0, 0.75, 0.1)),
        (0.23, (0.5, 0.8, 0.2)),
        (-0.36, (0.9, 0.5, 0.3)),
        (-1.25, (0.3, 0.5, 0.9)),
        (1.35, (0.95, 0.6, 0.2)),
        (-1.4, (0.9, 0.3, 0.4)),
        (1.25, (0.4, 0.7, 0.4)),
    ):
        r.ellipse(x, 0.045, 0.038, 0.036, room.scenery(c))
    r.box(0.0, 0.545, 4.0, 0.03, room.scenery([c * 0.85 for c in wall]))
    if e.light.lamps:
        for x in (-0.5, 0.5, -1.5, 1.5):
            r.glow(x, 0.42, 0.30, (1.0, 0.85, 0.55), 0.45)
            r.ellipse(x, 0.45, 0.05, 0.035, Paint.flat((1.0, 0.93, 0.70)))
    r = e.sheet(1.0)
    tiles = room.tone((0.96, 0.93, 0.88)), room.tone(mix(wood, (0.75, 0.40, 0.30), 0.5))
    depth = np.maximum(-0.02 - r.y, 0.02)
    u, v = r.x / (depth + 0.25) * 1.4, 1.3 / (depth + 0.16)
    width = np.maximum(1.0 / r.scale / (depth + 0.25) * 1.4, 1e-3)
    square = np.sin(u * math.pi) * np.sin(v * math.pi)
    blend = np.clip(0.5 + square / (width * 6.0), 0, 1).astype(np.float32)
    floor = plane(tiles[0], 1.0) * (1 - blend) + plane(tiles[1], 1.0) * blend
    cover = np.clip(0.5 + (-0.19 - r.y) * r.scale, 0, 1).astype(np.float32)
    r.rgba += (floor - r.rgba) * cover


def _harbour(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    _sky(e)
    _clouds(e, rng, 4)
    r = e.sheet(0.25)
    r.below(_ridge(rng, 0.05, 0.05), light.flat((0.40, 0.56, 0.62), 0.35))
    for x in np.arange(-0.1, 1.5, 0.13):  # houses along the right shore
        wall = ((0.95, 0.62, 0.50), (0.98, 0.86, 0.60), (0.66, 0.80, 0.88), (0.94, 0.92, 0.88))[int(rng.integers(4))]
        h = float(rng.uniform(0.09, 0.16))
        x = float(x) + 0.35
        r.box(x, h / 2, 0.055, h / 2, light.scenery(wall, 0.08))
        r.polygon(((x - 0.065, h), (x, h + 0.06), (x + 0.065, h)), light.scenery((0.76, 0.34, 0.26), 0.08))
        r.box(x, h * 0.5, 0.016, 0.02, Paint.flat((1, 0.85, 0.45)) if light.lamps else light.flat((0.4, 0.5, 0.62)))
    x = -0.55  # lighthouse
    r.ellipse(x, 0.0, 0.20, 0.06, light.scenery((0.50, 0.48, 0.48)))
    for k in range(4):
        w0, w1 = 0.058 - 0.006 * k, 0.058 - 0.006 * (k + 1)
        y0, y1 = 0.04 + 0.075 * k, 0.04 + 0.075 * (k + 1)
        r.polygon(
            ((x - w0, y0), (x - w1, y1), (x + w1, y1), (x + w0, y0)),
            light.scenery((0.90, 0.20, 0.18) if k % 2 == 0 else (0.98, 0.97, 0.95)),
        )
    r.box(x, 0.365, 0.028, 0.028, Paint.flat((1.0, 0.95, 0.65)))
    r.polygon(((x - 0.045, 0.39), (x, 0.45), (x + 0.045, 0.39)), light.scenery((0.30, 0.20, 0.22)))
    if light.lamps:
        r.glow(x, 0.365, 0.15, (1.0, 0.95, 0.7), 0.8)
    _water(e, r, 0.0, -0.24)
    r = e.sheet(0.5, bob=0.007)
    hulls = ((0.15, 0.35, 0.62), (0.80, 0.24, 0.18), (0.95, 0.94, 0.90), (0.16, 0.50, 0.42))
    for x in (-1.35, -0.78, -0.25, 0.34, 0.92, 1.5):
        x += float(rng.uniform(-0.08, 0.08))
        hull = hulls[int(rng.integers(4))]
        if rng.uniform() < 0.55:
            _sail(r, light, x, -0.05, 1.0, hull, ((1, 0.97, 0.90), (0.98, 0.72, 0.30))[int(rng.integers(2))])
        else:
            r.box(x + 0.02, 0.035, 0.06, 0.05, light.scenery((0.97, 0.95, 0.92)), round=0.01)
            r.box(
                x + 0.03,
                0.045,
                0.025,
                0.018,
                Paint.flat((1, 0.85, 0.5)) if light.lamps else light.flat((0.3, 0.5, 0.65)),
            )
            r.polygon(((x - 0.17, 0.02), (x - 0.11, -0.08), (x + 0.11, -0.08), (x + 0.15, 0.005)), light.scenery(hull))
            r.capsule(x - 0.06, 0.0, x - 0.06, 0.17, 0.008, light.scenery((0.4, 0.3, 0.25)))
    r = e.sheet(1.0)
    wood = (0.66, 0.47, 0.32)
    r.below(-0.20, light.scenery(wood, 0.0, 0.80), 0.4)
    r.below(lambda x: -0.235 + 0 * x, light.scenery(mix(wood, (0.80, 0.62, 0.44), 0.5), 0.0, 0.72), 0.4)
    for k, y in enumerate((-0.262, -0.305, -0.365, -0.44)):
        r.box(0.0, y, 4.0, 0.004 + 0.001 * k, light.flat((0.36, 0.24, 0.17)))
    for x in (-2.3, -1.66, -0.70, 0.70, 1.62, 2.3):
        r.box(x, -0.15, 0.032, 0.10, light.scenery((0.42, 0.29, 0.21)), round=0.01)
        r.ellipse(x, -0.055, 0.036, 0.016, light.scenery((0.88, 0.84, 0.76)))
    for x in (-1.12, 1.10):
        r.box(x, -0.15, 0.085, 0.075, light.scenery((0.72, 0.50, 0.28)))
        r.box(x, -0.15, 0.085, 0.008, light.flat((0.42, 0.28, 0.16)))
    for x in (-1.36, 1.36):
        r.ellipse(x, -0.16, 0.07, 0.085, light.scenery((0.50, 0.32, 0.20)))
        r.box(x, -0.13, 0.068, 0.009, light.flat((0.3, 0.3, 0.34)))


_PAINTERS: dict[str, Callable[[Easel, np.random.Generator], None]] = {
    "meadow": _meadow,
    "beach": _beach,
    "city": _city,
    "mountain": _mountain,
    "forest": _forest,
    "desert": _desert,
    "kitchen": _kitchen,
    "harbour": _harbour,
}
_GROUND = {"meadow", "forest"}  # where blades of grass sway before the camera, and fireflies glow at night
_FLURRIES: dict[tuple[str, str], tuple[int, Colour, float, float, float]] = {
    # what flies before the camera: number, colour, radius, fall and side speed in frame heights a second
    ("mountain", ""): (28, (1.0, 1.0, 1.0), 0.011, 0.32, 0.10),
    ("forest", "day"): (9, (0.93, 0.62, 0.18), 0.015, 0.22, 0.12),
    ("forest", "night"): (9, (1.0, 0.95, 0.45), 0.012, -0.05, 0.05),
    ("meadow", "day"): (8, (1.0, 0.97, 0.98), 0.012, 0.10, 0.22),
    ("meadow", "night"): (8, (1.0, 0.95, 0.50), 0.012, -0.06, 0.04),
    ("desert", ""): (7, (1.0, 0.90, 0.66), 0.010, 0.01, 0.60),
}


class Stage:
    """A painted background: `behind` gives what lies behind the characters, `before` adds what drifts before them."""

    def __init__(self, view: View) -> None:
        self.view, self.light = view, LIGHTS[view.time]
        easel = Easel(view, self.light)
        rng = np.random.default_rng([view.place, SETTINGS.index(view.setting)])
        _PAINTERS[view.setting](easel, rng)
        easel.finish()
        self.layers = easel.layers
        self.sun = (-0.55, 0.8) if view.place % 2 else (0.55, 0.8)
        drops = np.random.default_rng([view.place, 77])
        self._flakes = drops.uniform(0.0, 1.0, (28, 4)).astype(np.float32)

    def behind(self, time: float, pan: float) -> Array:
        """float32 [3, H, W] at `time` seconds into the shot with the camera `pan` frame heights to the right."""
        width, height = self.view.size
        picture = np.zeros((3, height, width), np.float32)
        for i, layer in enumerate(self.layers):
            layer.lay(picture, time, pan)
            if i == 2 and self.view.setting in ("beach", "harbour"):
                self._shimmer(picture, time, pan)
        if self.view.setting in ("beach", "harbour", "city") and not self.light.lamps:
            self._birds(picture, time)
        return picture

    def _shimmer(self, picture: Array, time: float, pan: float) -> None:
        """Moving glints on the water between the horizon and the shore."""
        rows, columns = picture.shape[1:]
        top = int(rows * (1.0 - HORIZON[self.view.viewpoint])) + 1
        bottom = min(rows, int(top + rows * 0.22 * ZOOM[self.view.framing]))
        y = ((np.arange(top, bottom, dtype=np.float32) - top + 1) / rows)[:, None]
        x = ((np.arange(columns, dtype=np.float32) - columns / 2) / rows + 0.25 * pan)[None, :]
        wave = np.sin(x * (9.0 / (0.25 + y)) + time * 3.0 + 40 * y) * np.sin(130.0 * y / (0.5 + y) - time * 4.5)
        glint = np.clip(wave * 2.2 - 0.9, 0.0, 1.0) * (0.35 if self.light.lamps else 0.6)
        light = plane(mix(self.light.sky[2], (1, 1, 1), 0.5))
        target = picture[:, top:bottom]
        target += (light - target) * glint

    def before(self, picture: Array, time: float, pan: float) -> None:
        """Snow, leaves, fireflies, petals, dust or steam, in place."""
        setting, night = self.view.setting, self.light.lamps
        rows, columns = picture.shape[1:]
        aspect = columns / rows
        flurry = _FLURRIES.get((setting, "night" if night else "day")) or _FLURRIES.get((setting, ""))
        if flurry is None:
            return
        number, colour, radius, fall, side = flurry
        glow = night and setting in _GROUND
        if setting != "mountain" and not glow:
            colour = self.light.tone(colour)
        pen = Raster(columns, rows, float(rows), (0.0, float(rows)))
        for a, b, c, d in self._flakes[:number].tolist():
            x = (a * aspect * 1.2 + side * time * (0.6 + 0.8 * c) + 0.05 * math.sin(3 * time + 9 * d) - pan) % (
                aspect * 1.2
            )
            y = (b * 1.2 - fall * time * (0.6 + 0.8 * c)) % 1.2
            size = radius * (0.7 + 0.8 * d)
            if glow:
                pulse = 0.35 + 0.65 * max(0.0, math.sin(4.0 * time + 20 * d))
                pen.glow(x - 0.1, y - 0.1, 0.04, colour, 0.7 * pulse)
            pen.ellipse(
                x - 0.1,
                y - 0.1,
                size,
                size * (1.0 if setting == "mountain" or glow else 0.6),
                Paint.flat(colour),
                angle=0.0 if setting == "mountain" or glow else 2 * time + 6 * d,
                opacity=0.9,
            )
        if setting in _GROUND:
            self._grass(pen, time, pan)
        pen.over(picture)

    def _grass(self, pen: Raster, time: float, pan: float) -> None:
        aspect = pen.width / pen.height
        size = 0.6 + 0.4 * ZOOM[self.view.framing]
        paints = [self.light.flat((0.24, 0.56, 0.16)), self.light.flat((0.34, 0.66, 0.20))]
        for i, (a, b, c, d) in enumerate(self._flakes[:12].tolist()):
            x = ((a + i) / 12 * (aspect + 0.3) - 1.3 * pan) % (aspect + 0.3) - 0.15
            height = (0.06 + 0.05 * b) * size
            bend = 0.03 * math.sin(2.5 * time + 6 * c + 3 * x)
            for k in (-1, 1):
                pen.capsule(
                    x + k * 0.012, -0.01, x + k * (0.03 + 0.02 * d) + bend, height, 0.010 * size, paints[i % 2], 0.003
                )

    def _birds(self, picture: Array, time: float) -> None:
        rows, columns = picture.shape[1:]
        aspect, band = columns / rows, rows // 3
        pen = Raster(columns, band, float(rows), (0.0, float(rows)))
        ink = Paint.flat(
            mix(self.light.tone((0.98, 0.98, 1.0)), (0.2, 0.2, 0.3), 0.55 if self.view.time == "sunset" else 0.5)
        )
        for a, b, c, _ in self._flakes[:3].tolist():
            x = (a * (aspect + 0.4) + 0.14 * (0.7 + c) * time) % (aspect + 0.4) - 0.2
            y = 0.76 + 0.2 * b + 0.01 * math.sin(2 * time)
            flap = 0.028 * math.sin(9.0 * time + 7 * c)
            for way in (-1, 1):
                pen.capsule(x, y, x + way * 0.03, y + flap + 0.006, 0.007, ink)
        pen.over(picture)
