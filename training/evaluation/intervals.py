"""Means with 95% intervals that do not pretend that the shots of one film are independent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

RESAMPLES = 4000
_Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95% interval, and how many observations it rests on. NaN without any."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, Any]:
        return {k: None if isinstance(v, float) and math.isnan(v) else round(v, 4) for k, v in asdict(self).items()}


NONE = Estimate(math.nan, math.nan, math.nan, 0)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share of `hits` in `n` independent trials."""
    share, square = hits / n, _Z * _Z
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = _Z / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def proportion(films: Sequence[Sequence[bool]], seed: int = 0) -> Estimate:
    """The share of hits over all films, `films[i]` being the hits of film i.

    Whole films are resampled, because shots of one film go wrong together; the interval is never narrower than Wilson's,
    which also holds where every hit is the same.
    """
    counted = np.array([(sum(film), len(film)) for film in films if len(film)], float).reshape(-1, 2)
    if not len(counted):
        return NONE
    hits, n = int(counted[:, 0].sum()), int(counted[:, 1].sum())
    picks = np.random.default_rng(seed).integers(0, len(counted), (RESAMPLES, len(counted)))
    drawn = counted[picks].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    wilson_low, wilson_high = wilson(hits, n)
    return Estimate(hits / n, min(float(low), wilson_low), max(float(high), wilson_high), n)


def mean(values: Sequence[float], seed: int = 0) -> Estimate:
    """The mean of one value a film, by bootstrap over films."""
    if not len(values):
        return NONE
    array = np.asarray(values, float)
    picks = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.quantile(array[picks].mean(1), [0.025, 0.975])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def difference(first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], seed: int = 0) -> Estimate:
    """Share of `first` minus share of `second`, on the same things of the same films: paired, whole films resampled."""
    pairs = [(sum(a), sum(b), len(a)) for a, b in zip(first, second, strict=True) if len(a)]
    if any(len(a) != len(b) for a, b in zip(first, second, strict=True)):
        raise ValueError("a paired difference needs the same things in both")
    if not pairs:
        return NONE
    counted = np.array(pairs, float)
    picks = np.random.default_rng(seed).integers(0, len(counted), (RESAMPLES, len(counted)))
    drawn = counted[picks].sum(1)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / drawn[:, 2], [0.025, 0.975])
    total = counted.sum(0)
    return Estimate((total[0] - total[1]) / total[2], float(low), float(high), int(total[2]))
