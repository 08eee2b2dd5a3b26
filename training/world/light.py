"""Light at three times of day: how a daylight colour looks then, and the colours of the sky."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .raster import Colour, Paint, mix


@dataclass(frozen=True)
class Light:
    """Grading of the scenery (`gain`, `lift`), of characters (`key`, `shadow`), and the sky from zenith to horizon."""

    gain: Colour
    lift: Colour
    key: Colour
    shadow: Colour
    sky: tuple[Colour, Colour, Colour]
    lamps: bool = False

    def tone(self, colour: Sequence[float], haze: float = 0.0) -> Colour:
        """A daylight colour in this light; `haze` in [0, 1] fades it into the horizon (distance)."""
        toned = tuple(min(c * g + b, 1.0) for c, g, b in zip(colour, self.gain, self.lift, strict=True))
        return mix(toned, self.sky[2], haze)

    def scenery(self, colour: Sequence[float], haze: float = 0.0, depth: float = 0.72) -> Paint:
        """Shaded paint for scenery; `depth` is the brightness of its shadow side."""
        toned = self.tone(colour, haze)
        return Paint.shaded([c * depth for c in toned], [min(c * 1.08, 1.0) for c in toned])

    def flat(self, colour: Sequence[float], haze: float = 0.0) -> Paint:
        return Paint.flat(self.tone(colour, haze))

    def body(self, colour: Sequence[float]) -> Paint:
        """Shaded paint for characters, whose colour must stay recognisable at every time of day."""
        high = [min(c * k + 0.05 * k, 1.0) for c, k in zip(colour, self.key, strict=True)]
        return Paint.shaded([c * s for c, s in zip(colour, self.shadow, strict=True)], high)


LIGHTS: dict[str, Light] = {
    "day": Light(
        (1, 1, 1),
        (0, 0, 0),
        (1.08, 1.06, 1.02),
        (0.62, 0.62, 0.70),
        ((0.28, 0.58, 0.93), (0.52, 0.77, 0.98), (0.84, 0.94, 1.0)),
    ),
    "sunset": Light(
        (0.98, 0.70, 0.62),
        (0.08, 0.02, 0.06),
        (1.12, 0.96, 0.86),
        (0.60, 0.48, 0.58),
        ((0.30, 0.22, 0.52), (0.90, 0.42, 0.42), (1.0, 0.78, 0.42)),
    ),
    "night": Light(
        (0.27, 0.34, 0.54),
        (0.01, 0.03, 0.12),
        (0.92, 0.90, 0.99),
        (0.46, 0.44, 0.60),
        ((0.02, 0.03, 0.13), (0.06, 0.09, 0.27), (0.16, 0.22, 0.46)),
        lamps=True,
    ),
}
