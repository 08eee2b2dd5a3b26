"""Signs of life of films, in latents: whether they still move, keep their contrast, and stay within bounds.

Distillation that goes wrong shows in them before it shows in a loss: films freeze, turn to one colour, or burn (training.md, 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

VITALS = ("motion", "variance", "saturation")


def vitals(films: Tensor) -> dict[str, Tensor]:
    """Of each of films `[B, C, F, h, w]`, F at least 2, float32 `[B]`:

    motion: mean change from a latent frame to the next. variance: over frames and places, mean over channels. saturation: the size
    that one number in a hundred exceeds, which burned colours raise.
    """
    films = films.detach().float()
    sizes = films.abs().flatten(1)
    rank = max(1, round(0.99 * sizes.shape[1]))
    return {
        "motion": (films[:, :, 1:] - films[:, :, :-1]).abs().mean((1, 2, 3, 4)),
        "variance": films.flatten(2).var(2).mean(1),
        "saturation": sizes.kthvalue(rank, 1).values,
    }


def picture_signs(films: Sequence[NDArray[np.uint8]]) -> dict[str, Tensor]:
    """Means over decoded films, each `[F, H, W, 3]`, in levels of 0 to 255: motion, the change from a frame to the next; saturation,
    the largest less the smallest of a pixel's three colours."""
    pictures = [torch.from_numpy(film).float() for film in films]
    return {
        "motion": torch.stack([(film[1:] - film[:-1]).abs().mean() for film in pictures]).mean(),
        "saturation": torch.stack([(film.amax(-1) - film.amin(-1)).mean() for film in pictures]).mean(),
    }


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value of a sign among true films, and how many they were."""

    low: float
    high: float
    films: int


def ranges(films: Sequence[Tensor]) -> dict[str, Range]:
    """Of each sign among true films, each `[C, F, h, w]`."""
    found = [vitals(film[None]) for film in films]
    values = {name: torch.cat([of[name] for of in found]) for name in VITALS}
    return {name: Range(of.min().item(), of.max().item(), len(of)) for name, of in values.items()}


def out_of_range(
    figures: Mapping[str, float], true: Mapping[str, Range], limits: Mapping[str, tuple[float, float]]
) -> str:
    """Why a run should stop whose films have these signs on average; "": it should not.

    limits: by sign, times the lowest and times the highest of the true films that it may come to.
    """
    for name, (low, high) in limits.items():
        least, most = low * true[name].low, high * true[name].high
        if not least <= figures[name] <= most:
            return (
                f"{name} of the student's films is {figures[name]:.3g}, outside of {least:.3g} to {most:.3g}: {low:g} times the "
                f"lowest to {high:g} times the highest of {true[name].films} true films (limits.{name})"
            )
    return ""
