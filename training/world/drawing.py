"""A character drawn into a picture: its shadow, its body, what it wears."""

from __future__ import annotations

import math

from .bodies import HEADS, KIND_PAINTERS, Body, front_arm
from .characters import Character
from .light import Light
from .poses import Pose
from .raster import Array, Paint, Raster, mix


def _scarf(b: Body, kind: str) -> None:
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


def _headwear(b: Body, kind: str) -> None:
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
    body = Body(who, now, brush, light)
    KIND_PAINTERS[who.kind](body)
    if who.mark == "scarf":
        _scarf(body, who.kind)
    front_arm(body, who.kind)
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
