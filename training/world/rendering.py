"""A film or still drawn, with what training needs to know of it. It needs no torch: many of these run side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from causalcine_core.story import Story

from . import Film, make_film, plan_still

Rendered = tuple[NDArray[np.uint8], dict[str, Any]]  # frames `[F H W 3]` and their record


def render(kind: str, seed: int, size: tuple[int, int]) -> Rendered:
    """The film, or with `kind` "stills" the still, of a seed. size: width and height in pixels."""
    film = plan_still(seed, size) if kind == "stills" else make_film(seed, size=size)
    return film.render(), film_record(film)


def film_record(film: Film) -> dict[str, Any]:
    """What training needs to know of a film or still: latent frames of a chunk; of each shot its prompt, its chunks, who is
    named and whether by name only; of each latent frame, who is in which box."""
    prompts = Story.from_dict(film.story())
    shots = []
    for i, shot in enumerate(film.shots):
        shots.append(
            {
                "prompt": prompts.prompt(i),
                "chunks": [(at + 3) // (4 * film.chunk) for at in (shot.first, shot.end)],
                "names": [character.name for character in shot.characters],
                "name_only": bool(shot.name_only),
            }
        )
    return {
        "chunk": film.chunk,
        "shots": shots,
        "cast": [_boxes(film, frame) for frame in range((film.frames + 3) // 4)],
    }


def _boxes(film: Film, latent_frame: int) -> dict[str, list[float]]:
    """Who is where in the middle of the pixel frames that a latent frame stands for."""
    frame = max(4 * latent_frame - 1, 0)
    width, height = film.size
    names = [character.name for character in film.shot_at(frame).characters]
    scaled = [np.divide(box, (width, height, width, height)).round(3).tolist() for box in film.boxes(frame)]
    return dict(zip(names, scaled, strict=True))
