"""The cast: six kinds of character, their colours and marks, how they move, and how they are drawn.

A character is one unit tall with its feet at (0, 0) and faces +x; the raster's transform places it in the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .light import Light
from .raster import Array, Colour, Paint, Raster, mix

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
ACTIONS = ("walk left", "walk right", "run left", "run right", "jump", "wave", "dance", "spin", "sit", "sleep")
SPEED = {"walk left": -0.22, "walk right": 0.22, "run left": -0.5, "run right": 0.5}  # frame heights a second
PERIOD = {"walk": 0.75, "run": 0.5, "jump": 0.9, "wave": 0.6, "dance": 1.0, "spin": 1.1, "sit": 2.0, "sleep": 2.5}

INK: Colour = (0.10, 0.08, 0.13)
PALE: Colour = (0.98, 0.95, 0.90)
HEADS = {  # centre x, y and radii of the head: where face, hat and crown sit
    "cat": (0.02, 0.66, 0.24, 0.19),
    "robot": (0.01, 0.71, 0.23, 0.16),
    "bird": (0.03, 0.72, 0.20, 0.18),
    "bear": (0.02, 0.75, 0.22, 0.18),
    "ghost": (0.01, 0.70, 0.27, 0.26),
    "rabbit": (0.02, 0.55, 0.20, 0.17),
}
HIPS = {"cat": 0.20, "robot": 0.22, "bird": 0.22, "bear": 0.18, "ghost": 0.2, "rabbit": 0.17}
WIDTH = {"cat": 0.75, "robot": 0.72, "bird": 0.85, "bear": 0.78, "ghost": 0.78, "rabbit": 0.68}


@dataclass(frozen=True)
class Character:
    """Who somebody is: a name such as '[character1]', a kind, a colour and a mark."""

    name: str
    kind: str
    colour: str
    mark: str


@dataclass(frozen=True)
class Pose:
    """One instant of a body; lengths in character heights, angles in radians.

    dx, lift: offset of the whole body; feet: (x, y) of back and front foot relative to their rest; arms: angle of back
    and front arm from hanging (0) to raised (pi); turn: cosine of the turn about the vertical (-1 shows the back).
    """

    dx: float = 0.0
    lift: float = 0.0
    lean: float = 0.0
    squash: tuple[float, float] = (1.0, 1.0)
    feet: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    arms: tuple[float, float] = (0.35, 0.35)
    turn: float = 1.0
    facing: int = 1
    drop: float = 0.0
    eyes: float = 1.0
    tail: float = 0.0
    asleep: float = -1.0


def pose(action: str, time: float, phase: float, facing: int = 1) -> Pose:
    """The pose of `action` at `time` seconds; `phase` in [0, 1) sets one character apart from the next."""
    verb, _, way = action.partition(" ")
    turns = time / PERIOD[verb] + phase
    angle = 2 * math.pi * turns
    s, c = math.sin(angle), math.cos(angle)
    blink = (time + 3.1 * phase) % 2.3
    eyes = 0.1 if blink < 0.13 else 1.0
    tail = math.sin(2 * math.pi * (time / 1.1 + phase))
    if verb in ("walk", "run"):
        stride, swing, lean = (0.10, 0.7, 0.05) if verb == "walk" else (0.16, 1.2, 0.20)
        facing = -1 if way == "left" else 1
        feet = ((-stride * s, 0.09 * max(c, 0.0)), (stride * s, 0.09 * max(-c, 0.0)))
        return Pose(
            lift=0.03 * abs(c) * (2 if verb == "run" else 1),
            lean=-lean * facing,
            feet=feet,
            eyes=eyes,
            arms=(swing * s, -swing * s),
            facing=facing,
            tail=tail,
        )
    if verb == "jump":
        height = abs(math.sin(math.pi * turns))
        low = max(0.0, 1.0 - 4.0 * height)
        return Pose(
            lift=0.24 * height,
            squash=(1 + 0.14 * low, 1 - 0.16 * low),
            eyes=eyes,
            facing=facing,
            tail=tail,
            arms=(0.5 + 1.9 * height, 0.5 + 1.9 * height),
            feet=((-0.03, -0.03), (0.03, -0.03)),
        )
    if verb == "wave":
        return Pose(lean=0.05 * s, arms=(0.3, 2.15 + 0.5 * s), eyes=eyes, facing=facing, tail=tail)
    if verb == "dance":
        up = 0.05 * abs(math.sin(2 * angle))
        return Pose(
            dx=0.07 * s,
            lift=up,
            lean=-0.20 * s,
            arms=(1.4 + 1.1 * s, 1.4 - 1.1 * s),
            eyes=eyes,
            feet=((0.0, 0.10 * max(s, 0.0)), (0.0, 0.10 * max(-s, 0.0))),
            facing=facing,
            tail=s,
        )
    if verb == "spin":
        return Pose(turn=c, lift=0.02 * abs(s), arms=(1.45, 1.45), eyes=1.0, facing=facing, tail=tail)
    if verb == "sit":
        return Pose(
            drop=0.15,
            feet=((0.08, 0.02), (0.20, 0.02)),
            arms=(0.4, 0.25),
            lean=0.05 * s,
            eyes=eyes,
            facing=facing,
            tail=tail,
            squash=(1.0, 1 + 0.01 * c),
        )
    return Pose(
        drop=0.15,
        lean=0.16 * -facing,
        squash=(1 + 0.05 * s, 1 - 0.05 * s),
        feet=((0.08, 0.02), (0.2, 0.02)),
        arms=(0.3, 0.3),
        eyes=0.0,
        facing=facing,
        tail=0.3 * s,
        asleep=(time * 0.5 + phase) % 1.0,
    )


def _stripes(x: Array, y: Array) -> Array:
    return np.clip(np.sin(y * 52.0 + x * x * 30.0) * 3.0, 0.0, 1.0)


def _spots(x: Array, y: Array) -> Array:
    row = np.floor(y / 0.11)
    u = (x / 0.13 + 0.5 * (row % 2)) % 1.0 - 0.5
    v = (y / 0.11) % 1.0 - 0.5
    return np.clip((0.30 - np.sqrt(u * u + v * v)) * 12.0, 0.0, 1.0)


class _Body:
    """The paints of one character and the strokes that several kinds share."""

    def __init__(self, who: Character, now: Pose, brush: Raster, light: Light) -> None:
        base = COLOURS[who.colour]
        self.now, self.r, self.light, self.mark = now, brush, light, who.mark
        self.main = light.body(base)
        self.limb = light.body([c * 0.88 for c in base])
        self.soft = light.body(mix(base, (1, 1, 1), 0.55) if who.colour != "white" else (0.80, 0.82, 0.90))
        self.dark = light.body((0.17, 0.16, 0.22))
        self.pale, self.ink = light.body(PALE), light.body(INK)
        self.gold = light.body((1.0, 0.78, 0.16))
        self.grey = light.body((0.55, 0.58, 0.66))
        self.pattern: Callable[[Array, Array], Array] | None = {"stripes": _stripes, "spots": _spots}.get(who.mark)
        blend = (0.12, 0.10, 0.16) if who.mark == "stripes" else (1.0, 1.0, 1.0)
        if who.mark == "spots" and who.colour in ("white", "yellow", "pink"):
            blend = (0.45, 0.26, 0.16)
        self.ink_pattern = light.body(mix(base, blend, 0.75))
        self.back = now.turn < -0.15
        self.warm = who.colour in ("orange", "yellow")

    def blob(self, x: float, y: float, rx: float, ry: float, paint: Paint | None = None) -> None:
        marked = paint is None
        self.r.ellipse(x, y, rx, ry, paint or self.main, pattern=self.pattern if marked else None, ink=self.ink_pattern)

    def leg(self, side: int, x: float, hip: float, radius: float, paint: Paint, foot: float = 0.0) -> None:
        dx, dy = self.now.feet[side]
        fx, fy = x + dx, radius + dy
        self.r.capsule(x, max(hip - self.now.drop, 0.07), fx, fy, radius, paint)
        if foot:
            self.r.ellipse(fx + foot * 0.45, fy - radius * 0.3, foot, radius * 0.8, paint)

    def arm(self, side: int, x: float, y: float, length: float, radius: float, paint: Paint) -> tuple[float, float]:
        angle, way = self.now.arms[side], (-1, 1)[side]
        hx, hy = x + way * length * math.sin(angle), y - self.now.drop - length * math.cos(angle)
        self.r.capsule(x, y - self.now.drop, hx, hy, radius, paint)
        return hx, hy

    def eye(self, x: float, y: float, rx: float, ry: float, white: float = 0.0) -> None:
        y -= self.now.drop
        if self.now.eyes < 0.5:
            self.r.capsule(x - rx * 1.2, y, x + rx * 1.2, y - 0.008, 0.013, self.ink, outline=False)
            return
        if white:
            self.r.ellipse(x, y, rx + white, ry + white, self.pale, outline=False)
        self.r.ellipse(x + white * 0.3, y, rx, ry, Paint.flat(INK), outline=False)
        self.r.ellipse(
            x + rx * 0.35 + white * 0.3, y + ry * 0.4, rx * 0.4, ry * 0.35, Paint.flat((1, 1, 1)), outline=False
        )


def _cat(b: _Body) -> None:
    d, sway = b.now.drop, 0.07 * b.now.tail
    b.r.capsule(-0.12, 0.18 - d * 0.6, -0.30, 0.28, 0.04, b.limb)
    b.r.capsule(-0.30, 0.28, -0.36 + sway, 0.50, 0.04, b.limb, 0.032)
    b.arm(0, -0.12, 0.42, 0.19, 0.042, b.limb)
    b.leg(0, -0.09, 0.2, 0.055, b.limb)
    b.leg(1, 0.09, 0.2, 0.055, b.main)
    b.blob(0, 0.34 - d, 0.16, 0.20)
    b.r.ellipse(0.03, 0.31 - d, 0.09, 0.13, b.soft, outline=False)
    for x, tip in ((-0.12, -0.19), (0.16, 0.23)):
        b.r.polygon(((x - 0.09, 0.74 - d), (tip, 0.97 - d), (x + 0.09, 0.78 - d)), b.main, round=0.015)
        if not b.back:
            b.r.polygon(
                ((x - 0.04, 0.78 - d), (tip + 0.01, 0.91 - d), (x + 0.05, 0.80 - d)),
                b.light.body((1.0, 0.62, 0.66)),
                outline=False,
            )
    b.blob(0.02, 0.66 - d, 0.24, 0.19)
    if not b.back:
        b.r.ellipse(0.06, 0.59 - d, 0.10, 0.07, b.pale, outline=False)
        b.eye(-0.05, 0.69, 0.036, 0.052)
        b.eye(0.15, 0.69, 0.036, 0.052)
        b.r.ellipse(0.06, 0.615 - d, 0.026, 0.018, b.light.body((0.95, 0.35, 0.45)), outline=False)
        for way in (-1, 1):
            for dy in (-0.02, 0.03):
                b.r.capsule(
                    0.06 + way * 0.12, 0.59 - d, 0.06 + way * 0.26, 0.59 + dy * 1.5 - d, 0.007, b.pale, outline=False
                )


def _robot(b: _Body) -> None:
    d = b.now.drop
    beat = 0.5 + 0.5 * b.now.tail
    b.arm(0, -0.19, 0.47, 0.20, 0.035, b.grey)
    for side, x in ((0, -0.09), (1, 0.09)):
        b.leg(side, x, 0.24, 0.04, b.grey)
        fx, fy = x + b.now.feet[side][0], b.now.feet[side][1]
        b.r.box(fx + 0.02, 0.035 + fy, 0.075, 0.035, b.dark, round=0.02)
    b.r.box(0, 0.36 - d, 0.18, 0.17, b.main, round=0.04, pattern=b.pattern, ink=b.ink_pattern)
    if not b.back:
        b.r.box(0.02, 0.36 - d, 0.09, 0.07, b.grey, round=0.02, outline=False)
        b.r.ellipse(0.0, 0.36 - d, 0.025, 0.025, Paint.flat((1, 0.3 + 0.5 * beat, 0.2)), outline=False)
        b.r.ellipse(0.065, 0.36 - d, 0.025, 0.025, Paint.flat((0.2, 0.6 + 0.4 * (1 - beat), 0.5)), outline=False)
    b.r.capsule(0.01, 0.84 - d, 0.01, 0.94 - d, 0.016, b.grey)
    b.r.ellipse(0.01, 0.955 - d, 0.042, 0.042, Paint.flat(mix((0.75, 0.1, 0.1), (1, 0.85, 0.4), beat)))
    b.r.box(-0.24, 0.71 - d, 0.03, 0.06, b.grey, round=0.02)
    b.r.box(0.26, 0.71 - d, 0.03, 0.06, b.grey, round=0.02)
    b.r.box(0.01, 0.71 - d, 0.23, 0.155, b.main, round=0.06, pattern=b.pattern, ink=b.ink_pattern)
    if not b.back:
        b.r.box(0.03, 0.71 - d, 0.175, 0.10, b.dark, round=0.05, outline=False)
        glow = Paint.flat((0.45, 0.98, 1.0))
        for x in (-0.05, 0.12):
            if b.now.eyes < 0.5:
                b.r.capsule(x - 0.035, 0.72 - d, x + 0.035, 0.72 - d, 0.012, glow, outline=False)
            else:
                b.r.ellipse(x, 0.73 - d, 0.036, 0.045, glow, outline=False)
        b.r.capsule(0.0, 0.655 - d, 0.07, 0.655 - d, 0.010, glow, outline=False)


def _bird(b: _Body) -> None:
    d = b.now.drop
    beak = b.light.body((0.40, 0.25, 0.22) if b.warm else (1.0, 0.62, 0.08))
    for y, x in ((0.40, -0.42), (0.31, -0.40)):
        b.r.capsule(-0.16, 0.36 - d, x, y - d + 0.02 * b.now.tail, 0.035, b.limb, 0.045)
    for side, x in ((0, -0.07), (1, 0.09)):
        b.leg(side, x, 0.22, 0.024, beak, foot=0.06)
    b.r.capsule(-0.01, 0.86 - d, -0.07, 0.97 - d, 0.022, b.limb, 0.03)
    b.r.capsule(0.02, 0.86 - d, 0.04, 0.97 - d, 0.022, b.limb, 0.03)
    b.blob(0.0, 0.42 - d, 0.25, 0.25)
    b.r.ellipse(0.07, 0.37 - d, 0.15, 0.17, b.soft, outline=False)
    if not b.back:
        b.r.polygon(((0.17, 0.77 - d), (0.43, 0.68 - d), (0.17, 0.63 - d)), beak, round=0.012)
    b.blob(0.03, 0.72 - d, 0.20, 0.18)
    if not b.back:
        b.r.polygon(((0.13, 0.75 - d), (0.40, 0.69 - d), (0.13, 0.645 - d)), beak, outline=False)
        b.eye(0.10, 0.78, 0.035, 0.045, white=0.022)
        b.eye(-0.05, 0.78, 0.030, 0.042, white=0.02)


def _wings(b: _Body) -> None:
    for side, x in ((0, -0.19), (1, 0.17)):
        angle, way = b.now.arms[side], (-1, 1)[side]
        reach = 0.17
        cx, cy = x + way * reach * math.sin(angle), 0.50 - b.now.drop - reach * math.cos(angle)
        b.r.ellipse(cx, cy, 0.075, 0.20, b.limb, angle=way * angle)


def _bear(b: _Body) -> None:
    d = b.now.drop
    b.arm(0, -0.20, 0.48, 0.22, 0.072, b.limb)
    b.leg(0, -0.13, 0.2, 0.09, b.limb, foot=0.05)
    b.leg(1, 0.13, 0.2, 0.09, b.limb, foot=0.05)
    b.blob(0, 0.37 - d, 0.27, 0.26)
    b.r.ellipse(0.03, 0.33 - d, 0.16, 0.17, b.soft, outline=False)
    for x in (-0.15, 0.20):
        b.r.ellipse(x, 0.90 - d, 0.085, 0.085, b.main)
        if not b.back:
            b.r.ellipse(x, 0.895 - d, 0.045, 0.045, b.soft, outline=False)
    b.blob(0.02, 0.75 - d, 0.22, 0.18)
    if not b.back:
        b.r.ellipse(0.07, 0.69 - d, 0.115, 0.085, b.pale, outline=False)
        b.r.ellipse(0.08, 0.73 - d, 0.045, 0.030, Paint.flat(INK), outline=False)
        b.r.capsule(0.05, 0.655 - d, 0.11, 0.655 - d, 0.010, b.ink, outline=False)
        b.eye(-0.05, 0.80, 0.028, 0.036)
        b.eye(0.15, 0.80, 0.028, 0.036)


def _ghost(b: _Body) -> None:
    d, wob = b.now.drop * 0.6, b.now.tail
    b.arm(0, -0.25, 0.52, 0.15, 0.06, b.main)
    skirt = 0.12 - d
    for i in range(4):
        x = -0.235 + i * 0.157
        dy = b.now.feet[i % 2][1] * 0.4 + 0.02 * wob * (1 if i % 2 else -1)
        b.r.ellipse(x + 0.3 * b.now.feet[i % 2][0], max(skirt + dy, 0.075), 0.088, 0.10, b.main)
    b.r.polygon(((-0.27, 0.70 - d), (0.28, 0.70 - d), (0.325, skirt), (-0.32, skirt)), b.main)
    b.r.box(0, 0.40 - d, 0.27, 0.28, b.main, pattern=b.pattern, ink=b.ink_pattern, outline=False)
    b.blob(0.005, 0.70 - d, 0.275, 0.27)
    if b.back:
        return
    b.eye(-0.05, 0.74, 0.052, 0.08)
    b.eye(0.15, 0.74, 0.052, 0.08)
    b.r.ellipse(0.05, 0.56 - d, 0.045, 0.055 * (0.7 + 0.3 * wob), Paint.flat(INK), outline=False)
    for x in (-0.14, 0.235):
        b.r.ellipse(x, 0.62 - d, 0.04, 0.025, b.light.body((1.0, 0.45, 0.55)), opacity=0.7, outline=False)


def _rabbit(b: _Body) -> None:
    d, flop = b.now.drop, 0.035 * b.now.tail
    b.r.ellipse(-0.19, 0.20 - d * 0.8, 0.075, 0.075, b.pale)
    b.arm(0, -0.11, 0.37, 0.16, 0.042, b.limb)
    b.leg(0, -0.09, 0.17, 0.055, b.limb, foot=0.085)
    b.leg(1, 0.09, 0.17, 0.055, b.main, foot=0.085)
    b.blob(0, 0.27 - d, 0.165, 0.18)
    b.r.ellipse(0.03, 0.25 - d, 0.09, 0.11, b.soft, outline=False)
    for x, lean in ((-0.08, -0.06 - flop), (0.11, 0.06 + flop)):
        b.r.capsule(x, 0.66 - d, x + lean, 0.94 - d, 0.058, b.main, 0.048)
        if not b.back:
            b.r.capsule(
                x + 0.01, 0.72 - d, x + lean, 0.92 - d, 0.028, b.light.body((1.0, 0.62, 0.70)), 0.020, outline=False
            )
    b.blob(0.02, 0.55 - d, 0.205, 0.17)
    if not b.back:
        b.eye(-0.05, 0.59, 0.033, 0.048)
        b.eye(0.14, 0.59, 0.033, 0.048)
        b.r.ellipse(0.055, 0.50 - d, 0.075, 0.05, b.pale, outline=False)
        b.r.ellipse(0.055, 0.525 - d, 0.026, 0.018, b.light.body((0.95, 0.35, 0.45)), outline=False)
        b.r.box(0.055, 0.465 - d, 0.024, 0.028, Paint.flat((1, 1, 1)), outline=False)


def _front_arm(b: _Body, kind: str) -> None:
    if kind == "bird":
        _wings(b)
    elif kind == "robot":
        b.arm(1, 0.20, 0.47, 0.20, 0.035, b.grey)
        for side, x in ((0, -0.19), (1, 0.20)):
            angle, way = b.now.arms[side], (-1, 1)[side]
            b.r.ellipse(
                x + way * 0.21 * math.sin(angle), 0.47 - b.now.drop - 0.21 * math.cos(angle), 0.05, 0.05, b.dark
            )
    else:
        x, y, length, radius = {
            "cat": (0.12, 0.42, 0.19, 0.042),
            "bear": (0.20, 0.48, 0.22, 0.072),
            "ghost": (0.26, 0.52, 0.15, 0.06),
            "rabbit": (0.11, 0.37, 0.16, 0.042),
        }[kind]
        b.arm(1, x, y, length, radius, b.main)


def _scarf(b: _Body, kind: str) -> None:
    x, y, _, ry = HEADS[kind]
    neck = y - ry + (0.10 if kind == "ghost" else -0.005) - b.now.drop
    if kind == "ghost":
        neck -= 0.13
    half = {"cat": 0.14, "robot": 0.15, "bird": 0.18, "bear": 0.20, "ghost": 0.27, "rabbit": 0.13}[kind]
    white, red = b.light.body((0.97, 0.97, 0.97)), b.light.body((0.86, 0.10, 0.16))
    swing = 0.05 * b.now.tail
    b.r.capsule(-half * 0.5, neck, -half * 0.5 - 0.10 + swing, neck - 0.20, 0.05, red, 0.055)
    b.r.ellipse(-half * 0.5 - 0.05 + swing * 0.5, neck - 0.11, 0.05, 0.026, white, outline=False)
    b.r.ellipse(-half * 0.5 - 0.095 + swing, neck - 0.20, 0.052, 0.026, white, outline=False)
    b.r.box(x * 0.5, neck, half + 0.02, 0.055, red, round=0.05)
    for i in range(3):
        b.r.box(x * 0.5 - half * 0.62 + i * half * 0.62, neck, half * 0.15, 0.053, white, outline=False)


def _headwear(b: _Body, kind: str) -> None:
    x, y, _, ry = HEADS[kind]
    top = y + ry - 0.035 - b.now.drop
    if b.mark == "hat":
        black, band = b.light.body((0.13, 0.12, 0.20)), b.light.body((0.20, 0.85, 0.85))
        b.r.box(x, top + 0.115, 0.115, 0.105, black, round=0.02)
        b.r.box(x, top + 0.05, 0.115, 0.026, band, outline=False)
        b.r.box(x, top + 0.01, 0.20, 0.026, black, round=0.02)
    else:
        for i in (-1, 0, 1):
            b.r.polygon(((x + i * 0.09 - 0.055, top), (x + i * 0.105, top + 0.17), (x + i * 0.09 + 0.055, top)), b.gold)
        b.r.box(x, top + 0.02, 0.155, 0.04, b.gold, round=0.01)
        for i, gem in ((-1, (0.9, 0.1, 0.2)), (0, (0.1, 0.5, 0.9)), (1, (0.9, 0.1, 0.2))):
            b.r.ellipse(x + i * 0.09, top + 0.02, 0.022, 0.022, b.light.body(gem), outline=False)


_DRAW = {"cat": _cat, "robot": _robot, "bird": _bird, "bear": _bear, "ghost": _ghost, "rabbit": _rabbit}


def draw_character(
    picture: Array,
    who: Character,
    now: Pose,
    foot: tuple[float, float],
    height: float,
    light: Light,
    sun: tuple[float, float] = (-0.5, 0.8),
) -> None:
    """Draw onto float32 `picture` [3, H, W] in place.

    foot: where the character stands, (x, y) in frame heights from the bottom left corner; height: its own height in
    the same unit; sun: direction towards the light.
    """
    rows, columns = picture.shape[1:]
    unit = height * rows
    fx, ground = foot[0] * rows + now.dx * unit, rows - foot[1] * rows
    floats = 0.05 if who.kind == "ghost" else 0.0
    lift = (now.lift + floats * (1.0 + 0.5 * now.tail)) * unit
    shadow = Raster(columns, rows, 1.0, (fx, ground))
    spread = 0.30 * unit * (1.0 - 0.9 * now.lift)
    shadow.ellipse(0.0, 0.0, spread * 1.25, spread * 0.26, Paint.flat((0.02, 0.02, 0.06)), opacity=0.22)
    shadow.ellipse(0.0, 0.0, spread * 0.9, spread * 0.18, Paint.flat((0.02, 0.02, 0.06)), opacity=0.30)
    shadow.over(picture)
    reach = 0.62 * unit
    left, right = max(int(fx - reach), 0), min(int(fx + reach) + 1, columns)
    top, bottom = max(int(ground - lift - 1.22 * unit), 0), min(int(ground - lift + 0.1 * unit) + 1, rows)
    if left >= right or top >= bottom:
        return
    turn = now.facing * (math.copysign(max(abs(now.turn), 0.38), now.turn))
    brush = Raster(
        right - left,
        bottom - top,
        unit,
        (fx - left, ground - lift - top),
        flip=turn,
        angle=now.lean,
        squash=now.squash,
        light=sun,
        outline=True,
    )
    body = _Body(who, now, brush, light)
    _DRAW[who.kind](body)
    if who.mark == "scarf":
        _scarf(body, who.kind)
    _front_arm(body, who.kind)
    if who.mark in ("hat", "crown"):
        _headwear(body, who.kind)
    ink = mix((0.10, 0.07, 0.13), (0.03, 0.03, 0.09), 0.6 if light.lamps else 0.0)
    brush.over(picture, top, left, ink)
    if now.asleep >= 0.0:
        _snore(picture, fx + now.facing * 0.2 * unit, ground - (HEADS[who.kind][1] + 0.05) * unit, unit, now)


def _snore(picture: Array, x: float, y: float, unit: float, now: Pose) -> None:
    """Two letters z that rise and grow."""
    rows, columns = picture.shape[1:]
    for k in (0.0, 0.5):
        t = (now.asleep + k) % 1.0
        size = unit * (0.05 + 0.05 * t)
        at = (x + now.facing * unit * (0.12 + 0.16 * t), max(y - unit * 0.28 * t, size * 1.3))
        pen = Raster(columns, rows, size, at)
        ink = Paint.flat((1.0, 1.0, 1.0))
        fade = min(1.0, 3.0 * t, 4.0 * (1.0 - t))
        for a, b in (((-0.7, 0.8), (0.7, 0.8)), ((0.7, 0.8), (-0.7, -0.8)), ((-0.7, -0.8), (0.7, -0.8))):
            pen.capsule(*a, *b, 0.2, ink, opacity=fade)
        pen.over(picture)
