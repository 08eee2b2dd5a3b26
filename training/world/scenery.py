"""What several places are painted with: skylines, sky, clouds, trees, water, sails, windows. Units as in `camera`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .camera import Easel
from .light import Light
from .raster import Array, Colour, Paint, Raster, mix, plane

Ridge = Callable[[Array], Array]


def ridge(rng: np.random.Generator, base: float, height: float, rough: float = 1.0) -> Ridge:
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


def sky(e: Easel) -> None:
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


def clouds(e: Easel, rng: np.random.Generator, number: int = 5) -> None:
    r = e.sheet(0.10, drift=0.035)
    white = {"day": (1.0, 1.0, 1.0), "sunset": (1.0, 0.70, 0.58), "night": (0.26, 0.31, 0.52)}[e.view.time]
    under = {"day": (0.80, 0.88, 0.97), "sunset": (0.72, 0.38, 0.50), "night": (0.13, 0.17, 0.34)}[e.view.time]
    paint = Paint.shaded(under, white)
    for i in range(number):
        x, y = -1.1 + 2.2 * (i + float(rng.uniform(0.1, 0.9))) / number, float(rng.uniform(0.22, 0.46))
        s = float(rng.uniform(0.7, 1.3))
        for dx, dy, radius in ((-0.10, 0, 0.045), (-0.03, 0.03, 0.07), (0.06, 0.015, 0.055), (0.13, -0.005, 0.035)):
            r.ellipse(x + dx * s, y + dy * s, radius * s * 1.25, radius * s * 0.85, paint, opacity=0.94)


def tree(r: Raster, light: Light, x: float, y: float, s: float, leaf: Colour, haze: float = 0.0) -> None:
    r.capsule(x, y, x, y + 0.14 * s, 0.016 * s, light.scenery((0.45, 0.30, 0.20), haze))
    paint = light.scenery(leaf, haze, 0.6)
    for dx, dy, radius in ((-0.06, 0.17, 0.07), (0.06, 0.18, 0.07), (0.0, 0.24, 0.085)):
        r.ellipse(x + dx * s, y + dy * s, radius * s, radius * s, paint)


def pine(r: Raster, light: Light, x: float, y: float, s: float, leaf: Colour, snow: bool, haze: float = 0.0) -> None:
    r.box(x, y + 0.02 * s, 0.012 * s, 0.03 * s, light.scenery((0.36, 0.24, 0.18), haze))
    for i in range(3):
        b, w = y + (0.04 + 0.075 * i) * s, (0.085 - 0.022 * i) * s
        r.polygon(((x - w, b), (x, b + 0.13 * s), (x + w, b)), light.scenery(leaf, haze, 0.6))
        if snow:
            r.polygon(
                ((x - w * 0.45, b + 0.075 * s), (x, b + 0.135 * s), (x + w * 0.45, b + 0.075 * s)),
                light.scenery((0.96, 0.98, 1.0), haze),
            )


def water(e: Easel, r: Raster, top: float, bottom: float) -> None:
    light = e.light
    near, far = light.tone((0.10, 0.52, 0.70)), mix(light.tone((0.30, 0.72, 0.86)), light.sky[2], 0.35)
    t = np.clip((top - r.y) / (top - bottom), 0.0, 1.0).astype(np.float32)
    colour = plane(far, 1.0) * (1 - t) + plane(near, 1.0) * t
    cover = np.clip(0.5 + (top - r.y) * r.scale, 0, 1)
    r.rgba += (colour - r.rgba) * cover.astype(np.float32)


def sail(r: Raster, light: Light, x: float, y: float, s: float, hull: Colour, cloth: Colour) -> None:
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


def windows(
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
