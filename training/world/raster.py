"""Anti-aliased, softly shaded shapes on a small RGBA canvas: the brush that everything in the world is painted with.

Coordinates are units (x right, y up); `scale` pixels make one unit. A shape touches only its own bounding box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
Array = np.ndarray
OUTLINE = 0.018  # width of a character's dark outline, in its own heights


def mix(a: Sequence[float], b: Sequence[float], t: float) -> Colour:
    """The colour a fraction `t` of the way from `a` to `b`."""
    return tuple(float(p + (q - p) * t) for p, q in zip(a, b, strict=True))  # type: ignore[return-value]


def plane(colour: Sequence[float], *more: float) -> Array:
    """A colour float32 [C, 1, 1], ready to be laid over planes [C, H, W]."""
    return np.array([*colour, *more], np.float32)[:, None, None]


def _unit(values: Array) -> Array:
    """Clip a fresh float array to [0, 1] in place (np.clip costs three times as much on arrays this small)."""
    np.maximum(values, 0.0, out=values)
    np.minimum(values, 1.0, out=values)
    return values


@dataclass(frozen=True)
class Paint:
    """Colours [4, 1, 1] (RGB, 1) of a surface away from the light and towards it; equal ones paint flat."""

    low: Array
    high: Array

    @classmethod
    def flat(cls, colour: Sequence[float]) -> Paint:
        rgba = plane(colour, 1.0)
        return cls(rgba, rgba)

    @classmethod
    def shaded(cls, low: Sequence[float], high: Sequence[float]) -> Paint:
        return cls(plane(low, 1.0), plane(high, 1.0))


class Raster:
    """A premultiplied RGBA canvas float32 [4, height, width] with a unit coordinate system.

    origin: pixel position of the unit point (0, 0); `flip` scales x (negative mirrors), `squash` scales (x, y),
    `angle` (radians, counter-clockwise) turns the drawing about its origin. `light` is the direction to the light.
    """

    def __init__(
        self,
        width: int,
        height: int,
        scale: float,
        origin: tuple[float, float],
        *,
        flip: float = 1.0,
        angle: float = 0.0,
        squash: tuple[float, float] = (1.0, 1.0),
        light: tuple[float, float] = (-0.5, 0.8),
        outline: bool = False,
    ) -> None:
        self.width, self.height, self.scale, self.origin = width, height, scale, origin
        self.rgba = np.zeros((4, height, width), np.float32)
        self.halo = np.zeros((height, width), np.float32) if outline else None
        sx, sy = flip * squash[0], squash[1]
        cos, sin = math.cos(angle), math.sin(angle)
        self._to_pixel = np.array([[cos * sx, -sin * sy], [sin * sx, cos * sy]]) * scale
        x = ((np.arange(width, dtype=np.float32) + 0.5 - origin[0]) / scale)[None, :]
        y = ((origin[1] - np.arange(height, dtype=np.float32) - 0.5) / scale)[:, None]
        shape = (height, width)
        if angle:
            self.x, self.y = (x * cos + y * sin) / sx, (y * cos - x * sin) / sy
        else:
            self.x, self.y = np.broadcast_to(x / sx, shape), np.broadcast_to(y / sy, shape)
        lx, ly = light
        self.light = ((lx * cos + ly * sin) * (1 if sx > 0 else -1), ly * cos - lx * sin)

    def window(self, x0: float, y0: float, x1: float, y1: float) -> tuple[slice, slice] | None:
        """Pixel slices that hold the unit rectangle, or None when it lies outside the canvas."""
        pad = 1.5 + (OUTLINE * self.scale if self.halo is not None else 0.0)
        (a, b), (c, d) = self._to_pixel
        xs = [a * x + b * y for x in (x0, x1) for y in (y0, y1)]
        ys = [c * x + d * y for x in (x0, x1) for y in (y0, y1)]
        left, right = int(self.origin[0] + min(xs) - pad), int(self.origin[0] + max(xs) + pad) + 1
        top, bottom = int(self.origin[1] - max(ys) - pad), int(self.origin[1] - min(ys) + pad) + 1
        left, top, right, bottom = max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height)
        return (slice(top, bottom), slice(left, right)) if left < right and top < bottom else None

    def _lay(
        self,
        where: tuple[slice, slice],
        distance: Array,
        paint: Paint,
        opacity: float,
        shade: Array | None,
        outline: bool,
    ) -> None:
        cover = _unit(0.5 - distance * self.scale)
        if self.halo is not None and outline:
            wide = _unit(0.5 - (distance - OUTLINE) * self.scale)
            np.maximum(self.halo[where], wide, out=self.halo[where])
        if opacity != 1.0:
            cover *= opacity
        colour = paint.high if shade is None else paint.low + (paint.high - paint.low) * shade
        target = self.rgba[(slice(None), *where)]
        target += (colour - target) * cover

    def ellipse(
        self,
        cx: float,
        cy: float,
        rx: float,
        ry: float,
        paint: Paint,
        *,
        angle: float = 0.0,
        opacity: float = 1.0,
        outline: bool = True,
        pattern: Callable[[Array, Array], Array] | None = None,
        ink: Paint | None = None,
    ) -> None:
        """A filled ellipse; `pattern(x, y) -> [0, 1]` lays `ink` over it, inside its edge."""
        reach = max(rx, ry) if angle else 0.0
        where = self.window(cx - (reach or rx), cy - (reach or ry), cx + (reach or rx), cy + (reach or ry))
        if where is None:
            return
        x, y = self.x[where] - cx, self.y[where] - cy
        if angle:
            c, s = math.cos(angle), math.sin(angle)
            x, y = x * c + y * s, y * c - x * s
        nx, ny = x / rx, y / ry
        k = np.sqrt(nx * nx + ny * ny) + 1e-6
        distance = k * (k - 1.0) / (np.sqrt((nx / rx) ** 2 + (ny / ry) ** 2) + 1e-6)
        shade = None
        if paint.low is not paint.high:
            shade = _unit(0.5 + 0.5 * (nx * self.light[0] + ny * self.light[1]))
        self._lay(where, distance, paint, opacity, shade, outline)
        if pattern is not None and ink is not None:
            inside = _unit(0.5 - distance * self.scale) * pattern(self.x[where], self.y[where])
            colour = ink.high if shade is None else ink.low + (ink.high - ink.low) * shade
            target = self.rgba[(slice(None), *where)]
            target += (colour - target) * inside

    def capsule(
        self,
        ax: float,
        ay: float,
        bx: float,
        by: float,
        ra: float,
        paint: Paint,
        rb: float | None = None,
        *,
        opacity: float = 1.0,
        outline: bool = True,
    ) -> None:
        """A line from a to b with round ends of radius `ra` and `rb`."""
        rb = ra if rb is None else rb
        r = max(ra, rb)
        where = self.window(min(ax, bx) - r, min(ay, by) - r, max(ax, bx) + r, max(ay, by) + r)
        if where is None:
            return
        dx, dy = bx - ax, by - ay
        x, y = self.x[where] - ax, self.y[where] - ay
        t = _unit((x * dx + y * dy) / (dx * dx + dy * dy + 1e-9))
        px, py = x - t * dx, y - t * dy
        length = np.sqrt(px * px + py * py)
        shade = None
        if paint.low is not paint.high:
            shade = _unit(0.5 + 0.5 * (px * self.light[0] + py * self.light[1]) / r)
        self._lay(where, length - (ra + (rb - ra) * t), paint, opacity, shade, outline)

    def box(
        self,
        cx: float,
        cy: float,
        hx: float,
        hy: float,
        paint: Paint,
        *,
        round: float = 0.0,
        opacity: float = 1.0,
        outline: bool = True,
        pattern: Callable[[Array, Array], Array] | None = None,
        ink: Paint | None = None,
    ) -> None:
        """A rectangle of half sizes hx, hy with corners of radius `round`."""
        where = self.window(cx - hx, cy - hy, cx + hx, cy + hy)
        if where is None:
            return
        x, y = self.x[where] - cx, self.y[where] - cy
        qx, qy = np.abs(x) - (hx - round), np.abs(y) - (hy - round)
        distance = np.maximum(qx, qy)
        if round:
            outer = np.sqrt(np.maximum(qx, 0.0) ** 2 + np.maximum(qy, 0.0) ** 2)
            distance = outer + np.minimum(distance, 0.0) - round
        shade = None
        if paint.low is not paint.high:
            shade = _unit(0.5 + 0.5 * (x / hx * self.light[0] + y / hy * self.light[1]))
        self._lay(where, distance, paint, opacity, shade, outline)
        if pattern is not None and ink is not None:
            inside = _unit(0.5 - distance * self.scale) * pattern(self.x[where], self.y[where])
            target = self.rgba[(slice(None), *where)]
            target += (ink.high - target) * inside

    def polygon(
        self,
        points: Sequence[tuple[float, float]],
        paint: Paint,
        *,
        round: float = 0.0,
        opacity: float = 1.0,
        outline: bool = True,
    ) -> None:
        """A convex polygon; corners in either order, grown by `round`."""
        xs, ys = [p[0] for p in points], [p[1] for p in points]
        where = self.window(min(xs) - round, min(ys) - round, max(xs) + round, max(ys) + round)
        if where is None:
            return
        area = sum(points[i - 1][0] * p[1] - p[0] * points[i - 1][1] for i, p in enumerate(points))
        turn = 1.0 if area > 0 else -1.0
        x, y, distance = self.x[where], self.y[where], None
        for i, (bx, by) in enumerate(points):
            ax, ay = points[i - 1]
            dx, dy = bx - ax, by - ay
            length = math.hypot(dx, dy) or 1.0
            side = ((x - ax) * dy - (y - ay) * dx) * (turn / length)
            distance = side if distance is None else np.maximum(distance, side)
        shade = None
        if paint.low is not paint.high:
            cx, cy = sum(xs) / len(xs), sum(ys) / len(ys)
            half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
            shade = _unit(0.5 + 0.6 * ((x - cx) * self.light[0] + (y - cy) * self.light[1]) / half)
        assert distance is not None
        self._lay(where, distance - round, paint, opacity, shade, outline)

    def below(self, height: Callable[[Array], Array] | float, paint: Paint, fade: float = 0.0) -> None:
        """Everything under the ridge y = height(x); `fade` units below it the colour goes from high to low."""
        ridge = height(self.x[:1]) if callable(height) else height
        depth = ridge - self.y
        shade = 1.0 - _unit(depth / fade) if fade else None
        self._lay((slice(None), slice(None)), -depth, paint, 1.0, shade, False)

    def glow(self, cx: float, cy: float, radius: float, colour: Sequence[float], strength: float) -> None:
        """A soft light of Gaussian falloff, laid over what is there."""
        where = self.window(cx - 2 * radius, cy - 2 * radius, cx + 2 * radius, cy + 2 * radius)
        if where is None:
            return
        squared = ((self.x[where] - cx) ** 2 + (self.y[where] - cy) ** 2) / (radius * radius)
        cover = np.exp(-1.5 * squared) * _unit(2.0 - 0.5 * squared) * strength
        target = self.rgba[(slice(None), *where)]
        target += (plane(colour, 1.0) - target) * cover.astype(np.float32)

    def over(self, picture: Array, top: int = 0, left: int = 0, ink: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        """Composite onto float32 `picture` [3, H, W] in place, with the outline in colour `ink` behind."""
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + self.height, picture.shape[1]), min(left + self.width, picture.shape[2])
        if y0 >= y1 or x0 >= x1:
            return
        own = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        target = picture[:, y0:y1, x0:x1]
        if self.halo is not None:
            target += (plane(ink) - target) * self.halo[own]
        rgba = self.rgba[(slice(None), *own)]
        target *= 1.0 - rgba[3]
        target += rgba[:3]
