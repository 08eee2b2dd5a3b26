"""A film or still drawn, with what training needs to know of it. It needs no torch: many of these run side by side."""

from __future__ import annotations

import multiprocessing
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from causalcine_core.story import Story

from . import Film, make_film, make_still, plan_still

T = TypeVar("T")
AHEAD = 3  # pictures for each worker that are drawn before they are asked for
GROUP = 4  # pixel frames of a latent frame
Rendered = tuple[NDArray[np.uint8], dict[str, Any]]  # frames `[F H W 3]` and their record


def render(kind: str, seed: int, size: tuple[int, int]) -> Rendered:
    """The film, or with `kind` "stills" the still, of a seed. size: width and height in pixels."""
    film = plan_still(seed, size) if kind == "stills" else make_film(seed, size=size)
    return film.render(), film_record(film)


def render_still(seed: int) -> NDArray[np.uint8]:
    """The still `[H W 3]` of a seed."""
    return make_still(seed)[0]


def render_clip(seed: int, frames: int) -> NDArray[np.uint8]:
    """`frames` frames `[F H W 3]` of the film of a seed, from a multiple of 4 on; where the seed is odd with a cut inside,
    or up to three frames behind."""
    film, rng = make_film(seed), random.Random(seed)
    start = rng.choice(film.cuts) - rng.randrange(1, frames) if film.cuts and seed % 2 else rng.randrange(film.frames)
    start = max(0, min(start, film.frames - frames)) // GROUP * GROUP
    return film.render(start, start + frames)


@contextmanager
def drawn(draw: Callable[..., T], wanted: Sequence[tuple[Any, ...]], workers: int) -> Iterator[Iterator[T]]:
    """What `draw`, a function of this module, makes of each of the arguments that are wanted, in their order, by so many other
    processes, a few ahead of whoever takes them; 0: as it is taken, by this one."""
    if not workers:
        yield (draw(*arguments) for arguments in wanted)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))

    def in_order() -> Iterator[T]:
        ahead: deque[Future[T]] = deque()
        for arguments in wanted:
            ahead.append(pool.submit(draw, *arguments))
            if len(ahead) > AHEAD * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    try:
        yield in_order()
    finally:
        pool.shutdown(cancel_futures=True)


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
