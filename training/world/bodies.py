"""Six kinds of body, stroke by stroke.

A character is one unit tall with its feet at (0, 0) and faces +x; the raster's transform places it in the frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .characters import COLOURS, Character
from .light import Light
from .poses import Pose
from .raster import Array, Colour, Paint, Raster, mix

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


def _stripes(x: Array, y: Array) -> Array:
    out: Array = np.clip(np.sin(y * 52.0 + x * x * 30.0) * 3.0, 0.0, 1.0)
    return out


def _spots(x: Array, y: Array) -> Array:
    row = np.floor(y / 0.11)
    u = (x / 0.13 + 0.5 * (row % 2)) % 1.0 - 0.5
    v = (y / 0.11) % 1.0 - 0.5
    return np.clip((0.30 - np.sqrt(u * u + v * v)) * 12.0, 0.0, 1.0)


class Body:
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


def _cat(b: Body) -> None:
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


def _robot(b: Body) -> None:
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


def _bird(b: Body) -> None:
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


def _wings(b: Body) -> None:
    for side, x in ((0, -0.19), (1, 0.17)):
        angle, way = b.now.arms[side], (-1, 1)[side]
        reach = 0.17
        cx, cy = x + way * reach * math.sin(angle), 0.50 - b.now.drop - reach * math.cos(angle)
        b.r.ellipse(cx, cy, 0.075, 0.20, b.limb, angle=way * angle)


def _bear(b: Body) -> None:
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


def _ghost(b: Body) -> None:
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


def _rabbit(b: Body) -> None:
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


def front_arm(b: Body, kind: str) -> None:
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


KIND_PAINTERS = {"cat": _cat, "robot": _robot, "bird": _bird, "bear": _bear, "ghost": _ghost, "rabbit": _rabbit}
