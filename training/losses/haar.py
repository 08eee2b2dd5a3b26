"""Errors in Haar wavelets: of pictures, and of groups of frames."""

from __future__ import annotations

import torch
from torch import Tensor

GROUP = 4  # pixel frames of one latent frame


def haar(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Sums and differences of neighbours 2n and 2n + 1 along an axis of even length, divided by the root of two."""
    first, second = x.unflatten(dim, (-1, 2)).unbind(dim + 1)
    return (first + second) * 0.5**0.5, (first - second) * 0.5**0.5


def haar_loss(output: Tensor, video: Tensor, levels: int = 2) -> Tensor:
    """Mean absolute error of Haar coefficients, `[B C F H W]` with 1 + 4n frames; rows and columns divide by 2^levels.

    In rows and columns: of every frame, `levels` deep. In time as well: of every group of four frames that share a
    latent frame, two levels in time and one in rows and columns, so that an error that lasts as long as a group, and
    changes with it, weighs as much as one of a single frame. All details of one level weigh the same, and every level.
    """
    error = output - video
    low, terms = error, []
    for _ in range(levels):
        low, details = _split(low, (3, 4))
        terms.append(torch.stack([detail.abs().mean() for detail in details]).mean())
    if video.shape[2] > 1:
        low = error[:, :, 1:]
        for dims in ((2, 3, 4), (2,)):  # a level in time, rows and columns, then one more in time
            low, details = _split(low, dims)
            terms.append(torch.stack([detail.abs().mean() for detail in details]).mean())
    terms.append(low.abs().mean())
    return torch.stack(terms).mean()


def _split(x: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, list[Tensor]]:
    """The part that is low along all of `dims`, and the others."""
    parts = [x]
    for dim in dims:
        parts = [half for part in parts for half in haar(part, dim)]
    return parts[0], parts[1:]
