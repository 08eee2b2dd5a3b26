"""The Fréchet distance between sets of features, in the probe's features between made and true films.

The distance of Heusel et al. (arXiv:1706.08500), whose network is replaced by the world's own reader.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .intervals import NONE, Estimate

Features = NDArray[np.floating]
BLOCKS = 20  # parts of which each is left out once for the interval, at most


def frechet(first: Features, second: Features) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two sets of features `[n, d]`, `[m, d]`.

    |mean difference|^2 + tr(A) + tr(B) - 2 tr((A^1/2 B A^1/2)^1/2). The last trace is the sum of the singular values of X Y^T,
    where X and Y are the centred features over the root of their number: no root of a covariance is taken, so fewer samples than
    features do no harm to its arithmetic (they do add to the distance: compare only what was measured with as many samples).
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a Fréchet distance needs two samples of each kind")
    one, other = (np.asarray(features, np.float64) for features in (first, second))
    triangles = [np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1)).R for x in (one, other)]
    spread = sum(float(np.square(triangle).sum()) for triangle in triangles)
    shared = float(np.linalg.svd(triangles[0] @ triangles[1].T, compute_uv=False).sum())
    return max(0.0, float(np.square(one.mean(0) - other.mean(0)).sum()) + spread - 2 * shared)


def frechet_between(made: Sequence[Features], true: Sequence[Features]) -> Estimate:
    """The distance between films, each of features `[n, d]`, with its interval by the jackknife over stories: whole stories are left
    out on both sides, in at most 20 parts. `made[i]` and `true[i]` are of one story. n: stories. NaN below two."""
    if len(made) != len(true):
        raise ValueError("a distance between films needs the same stories in both")
    if len(made) < 2:
        return NONE
    parts = min(BLOCKS, len(made))
    without = []
    for part in range(parts):
        keep = [i for i in range(len(made)) if i % parts != part]
        without.append(frechet(np.concatenate([made[i] for i in keep]), np.concatenate([true[i] for i in keep])))
    whole = frechet(np.concatenate(made), np.concatenate(true))
    error = np.sqrt((parts - 1) / parts * np.square(np.array(without) - np.mean(without)).sum())
    return Estimate(whole, max(0.0, whole - 1.96 * float(error)), whole + 1.96 * float(error), len(made))
