"""How a film's pictures look in numbers, whatever they show, and made films against true ones in these numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import Estimate, mean
from .luma import border_step, gradients, luma_steps

BORDERS = (8, 16)  # pixels
RATIOS = {"sharpness": "gradient", "border_8": "border_8", "border_16": "border_16", "motion": "motion"}

Frames = NDArray[np.uint8]


def picture_figures(frames: Frames, cuts: Sequence[int] = ()) -> dict[str, float]:
    """Of frames uint8 `[F H W 3]`: gradient (mean absolute luma step to the next pixel, in levels of 255), border_8 and border_16
    (the step over borders of squares of so many pixels, over the steps elsewhere), motion (mean absolute luma change from frame to
    frame, without the steps into `cuts`)."""
    steps = gradients(frames)
    changes = luma_steps(frames)
    changes[list(cuts)] = np.nan
    out = {"gradient": np.concatenate(steps).mean()} | {f"border_{size}": border_step(steps, size) for size in BORDERS}
    out["motion"] = np.nanmean(changes) if np.isfinite(changes).any() else 0.0
    return {name: round(float(value), 5) for name, value in out.items()}


def quarters(frames: Frames, cuts: Sequence[int]) -> list[dict[str, float]]:
    """`picture_figures` of the four quarters of a film."""
    bounds = [len(frames) * i // 4 for i in range(5)]
    parts = zip(bounds[:-1], bounds[1:], strict=True)
    return [picture_figures(frames[low:end], [cut - low for cut in cuts if low <= cut < end]) for low, end in parts]


def ratios(
    made: Sequence[dict[str, Any]], true: Sequence[dict[str, Any]], part: Callable[[Any], Any] = lambda one: one
) -> dict[str, Estimate]:
    """Figures of made films over those of the true films of the same stories, as means of the films' ratios; 1: alike.

    part: what of a film is compared, out of the figures of `made` and `true`; the film's own by default.
    """
    pairs = [(part(a), part(b)) for a, b in zip(made, true, strict=True)]
    return {name: mean([a[figure] / b[figure] for a, b in pairs if b[figure] > 0]) for name, figure in RATIOS.items()}


def drift(made: Sequence[list[dict[str, float]]], true: Sequence[list[dict[str, float]]]) -> dict[str, Estimate]:
    """How much each ratio of `ratios` moves from a film's first quarter to its last, as a mean of the films' differences; 0: nothing.

    made, true: `quarters` of each film.
    """
    out = {}
    for name, figure in RATIOS.items():
        of_films = [
            [a[i][figure] / b[i][figure] for i in (0, -1)]
            for a, b in zip(made, true, strict=True)
            if b[0][figure] > 0 and b[-1][figure] > 0
        ]
        out[name] = mean([last - first for first, last in of_films])
    return out
