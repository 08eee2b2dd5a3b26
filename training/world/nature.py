"""Places without houses, or with few: meadow, mountain, forest, desert.

A place is drawn from its seed alone, so every shot that returns to it finds the same hills, windows and trees. Units as in
`camera`.
"""

from __future__ import annotations

import math

import numpy as np

from .camera import Easel
from .raster import Paint, mix
from .scenery import clouds, pine, ridge, sky, tree


def meadow(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng)
    r = e.sheet(0.22)
    r.below(ridge(rng, 0.13, 0.09), light.flat((0.42, 0.62, 0.68), 0.35))
    r.below(ridge(rng, 0.06, 0.06), light.scenery((0.40, 0.68, 0.45), 0.15), 0.2)
    r = e.sheet(0.5)
    hill = ridge(rng, 0.015, 0.05)
    grass = mix((0.42, 0.74, 0.24), (0.50, 0.72, 0.20), float(rng.uniform(0, 1)))
    for i, x in enumerate(np.arange(-2.6, 2.6, 0.36)):
        leaf = mix((0.20, 0.52, 0.20), (0.36, 0.62, 0.18), float(rng.uniform(0, 1)))
        x = float(x + rng.uniform(-0.12, 0.12))
        if abs(x + 0.75) > 0.28 and abs(x - 0.75) > 0.28 and (i % 4 or abs(x) > 0.4):
            tree(r, light, x, float(hill(np.array(x))) - 0.03, float(rng.uniform(0.7, 1.2)), leaf)
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
    r.below(ridge(rng, -0.10, 0.03), light.scenery(mix(grass, (0.30, 0.60, 0.16), 0.5), 0.0, 0.70), 0.4)
    petals = ((1.0, 0.95, 0.4), (1.0, 1.0, 1.0), (0.98, 0.45, 0.55), (0.72, 0.52, 0.95))
    for x, y, c in zip(rng.uniform(-2.8, 2.8, 90), rng.uniform(-0.48, -0.14, 90), rng.integers(0, 4, 90), strict=True):
        s = 0.6 - 1.2 * float(y)
        r.ellipse(float(x), float(y), 0.014 * s, 0.012 * s, light.flat(petals[int(c)]))


def mountain(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng, 3)
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
    r.below(ridge(rng, 0.015, 0.05), light.flat((0.86, 0.91, 0.98), 0.1))
    r = e.sheet(0.55)
    hill = ridge(rng, -0.03, 0.05)
    for x in np.arange(-2.6, 2.6, 0.24):
        x = float(x + rng.uniform(-0.09, 0.09))
        if abs(x) > 0.14:
            pine(r, light, x, float(hill(np.array(x))) - 0.04, float(rng.uniform(0.7, 1.25)), (0.16, 0.40, 0.36), True)
    r.box(0.80, 0.0, 0.14, 0.075, light.scenery((0.55, 0.34, 0.22)))
    r.polygon(((0.60, 0.065), (0.80, 0.20), (1.0, 0.065)), light.scenery((0.97, 0.98, 1.0)))
    r.box(0.76, 0.0, 0.032, 0.03, Paint.flat((1.0, 0.84, 0.42)))
    if light.lamps:
        r.glow(0.76, 0.0, 0.12, (1.0, 0.8, 0.4), 0.6)
    r.below(lambda x: hill(x) - 0.02, light.scenery((0.90, 0.94, 1.0), 0.0, 0.86), 0.2)
    r = e.sheet(1.0)
    r.below(ridge(rng, -0.12, 0.035), light.scenery((0.97, 0.98, 1.0), 0.0, 0.80), 0.4)
    for x in np.arange(-2.8, 2.9, 0.7):
        x = float(x + rng.uniform(-0.2, 0.2))
        r.ellipse(x, -0.2 + float(rng.uniform(-0.05, 0.03)), 0.09, 0.03, light.scenery((0.99, 1.0, 1.0), 0.0, 0.82))
    for x in (-1.75, -0.92, 1.78):
        pine(r, light, x, -0.18, 1.7, (0.14, 0.36, 0.32), True)


def forest(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    r = e.sheet(0.2)
    r.below(ridge(rng, 0.30, 0.10, 3.0), light.flat((0.45, 0.66, 0.46), 0.45))
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
    r.below(ridge(rng, -0.06, 0.03), light.scenery((0.30, 0.54, 0.22), 0.0, 0.75), 0.2)
    r = e.sheet(1.0)
    soil = mix((0.30, 0.46, 0.16), (0.46, 0.42, 0.20), float(rng.uniform(0, 1)))
    r.below(ridge(rng, -0.13, 0.025), light.scenery(soil, 0.0, 0.70), 0.4)
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


def desert(e: Easel, rng: np.random.Generator) -> None:
    light = e.light
    sky(e)
    clouds(e, rng, 2)
    r = e.sheet(0.22)
    for x, w, h in ((-0.62, 0.20, 0.24), (-0.25, 0.10, 0.15), (0.48, 0.16, 0.29), (0.82, 0.11, 0.18)):
        x += float(rng.uniform(-0.08, 0.08))
        rock = (0.80, 0.44, 0.28)
        r.polygon(((x - w, -0.03), (x - w * 0.7, h), (x + w * 0.7, h), (x + w, -0.03)), light.scenery(rock, 0.15))
        for k in (0.35, 0.65):
            r.box(x, h * k, w * (0.92 - 0.25 * k), 0.013, light.flat(mix(rock, (0.5, 0.22, 0.16), 0.5), 0.15))
    r.below(ridge(rng, 0.01, 0.03), light.flat((0.92, 0.70, 0.42), 0.2))
    r = e.sheet(0.5)
    r.below(ridge(rng, -0.02, 0.07, 0.8), light.scenery((0.95, 0.74, 0.42), 0.05, 0.74), 0.15)
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
    r.below(ridge(rng, -0.09, 0.03), light.scenery((0.97, 0.78, 0.46), 0.0, 0.78), 0.15)
    r = e.sheet(1.0)
    r.below(ridge(rng, -0.15, 0.035), light.scenery((1.0, 0.82, 0.50), 0.0, 0.72), 0.4)
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
