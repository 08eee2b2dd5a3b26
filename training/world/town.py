"""Places that people built: city, kitchen, and the two by the water, beach and harbour.

A place is drawn from its seed alone, so every shot that returns to it finds the same hills, windows and trees. Units as in
`camera`.
"""

from __future__ import annotations

import math

import numpy as np

from .camera import Easel
from .light import LIGHTS, Light
from .raster import Paint, mix, plane
from .scenery import clouds, ridge, sail, sky, water, windows


def city(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng, 4)
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
        windows(r, light, rng, x + half, 0.04, h, half, 0.0)
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


def kitchen(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    room = {
        "day": light,
        "sunset": LIGHTS["sunset"],
        "night": Light((0.62, 0.50, 0.44), (0.02, 0.0, 0.02), light.key, light.shadow, light.sky, True),
    }[e.view.time]
    wall = ((0.98, 0.88, 0.66), (0.70, 0.86, 0.84), (0.95, 0.76, 0.72), (0.80, 0.80, 0.94))[int(rng.integers(4))]
    wood = ((0.66, 0.42, 0.26), (0.36, 0.56, 0.60), (0.86, 0.84, 0.80))[int(rng.integers(3))]
    sky(e)
    clouds(e, rng, 4)
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


def beach(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng, 4)
    r = e.sheet(0.2)
    for x, w, h in ((-0.55, 0.22, 0.10), (0.62, 0.30, 0.07)):
        r.ellipse(x + float(rng.uniform(-0.1, 0.1)), 0.0, w, h, light.flat((0.35, 0.58, 0.52), 0.3))
    water(e, r, 0.0, -0.22)
    r = e.sheet(0.4, bob=0.006)
    cloth = ((0.96, 0.30, 0.25), (1.0, 0.95, 0.85), (1.0, 0.75, 0.2))[int(rng.integers(3))]
    sail(r, light, float(rng.uniform(-0.25, 0.25)), 0.0, 0.75, (0.80, 0.25, 0.20), cloth)
    r = e.sheet(1.0)
    shore = ridge(rng, -0.19, 0.02)
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


def harbour(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng, 4)
    r = e.sheet(0.25)
    r.below(ridge(rng, 0.05, 0.05), light.flat((0.40, 0.56, 0.62), 0.35))
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
    water(e, r, 0.0, -0.24)
    r = e.sheet(0.5, bob=0.007)
    hulls = ((0.15, 0.35, 0.62), (0.80, 0.24, 0.18), (0.95, 0.94, 0.90), (0.16, 0.50, 0.42))
    for x in (-1.35, -0.78, -0.25, 0.34, 0.92, 1.5):
        x += float(rng.uniform(-0.08, 0.08))
        hull = hulls[int(rng.integers(4))]
        if rng.uniform() < 0.55:
            sail(r, light, x, -0.05, 1.0, hull, ((1, 0.97, 0.90), (0.98, 0.72, 0.30))[int(rng.integers(2))])
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
