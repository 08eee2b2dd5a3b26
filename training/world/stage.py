"""Eight places at three times of day, painted once for a shot and never quite still."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .camera import HORIZON, ZOOM, Easel, View
from .light import LIGHTS
from .nature import desert, forest, meadow, mountain
from .raster import Array, Colour, Paint, Raster, mix, plane
from .town import beach, city, harbour, kitchen

SETTINGS = ("meadow", "beach", "city", "mountain", "forest", "desert", "kitchen", "harbour")

PAINTERS: dict[str, Callable[[Easel, np.random.Generator], None]] = {
    "meadow": meadow,
    "beach": beach,
    "city": city,
    "mountain": mountain,
    "forest": forest,
    "desert": desert,
    "kitchen": kitchen,
    "harbour": harbour,
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
        PAINTERS[view.setting](easel, rng)
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
