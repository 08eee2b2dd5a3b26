"""Stills and clips of the world, rendered once to disk and read from there by the codec's training."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from causalcine_core.atomic import write_atomic

from ..world.rendering import GROUP, drawn, render_clip, render_still

HELD_OUT_SEED = 900_000_000  # seeds from here on are never trained on


@dataclass(frozen=True)
class Footage:
    """Rendered pictures: stills uint8 `[N H W 3]`, clips uint8 `[M F H W 3]`, mapped from files that stay on disk."""

    stills: NDArray[np.uint8]
    clips: NDArray[np.uint8]

    @classmethod
    def cached(cls, folder: Path, stills: int, films: int, frames: int, first_seed: int, workers: int = 0) -> Footage:
        """So many stills, and a clip of `frames` frames from each of so many films, rendered where they are missing, by so many
        other processes, or with 0 by this one.

        Clips begin at multiples of 4 frames, so that cuts fall between latent frames, as they do in every film. Every
        second one holds a cut, or ends up to three frames before one.
        """
        folder.mkdir(parents=True, exist_ok=True)
        pictures, clips = (
            folder / f"stills-{stills}-{first_seed}.npy",
            folder / f"clips-{films}x{frames}-{first_seed}.npy",
        )
        _render(pictures, render_still, [(first_seed + n,) for n in range(stills)], workers)
        _render(clips, render_clip, [(first_seed + n, frames) for n in range(films)], workers)
        return cls(np.load(pictures, mmap_mode="r"), np.load(clips, mmap_mode="r"))

    def batch(self, count: int, frames: int, crop: int, rng: random.Random) -> Tensor:
        """`[B 3 F crop crop]` in -1..1: random clips, places and times, half of them mirrored. One frame: of stills."""
        source = self.stills[:, None] if frames == 1 else self.clips
        out = []
        for _ in range(count):
            film = source[rng.randrange(len(source))]
            t = rng.randrange(0, len(film) - frames + 1, GROUP)
            y, x = (rng.randrange(size - crop + 1) for size in film.shape[1:3])
            piece = torch.from_numpy(film[t : t + frames, y : y + crop, x : x + crop].copy())
            out.append(piece.flip(2) if rng.random() < 0.5 else piece)
        return to_video(torch.stack(out))


def to_video(frames: Tensor) -> Tensor:
    """uint8 `[B F H W 3]` to float `[B 3 F H W]` in -1..1."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def _render(
    path: Path, draw: Callable[..., NDArray[np.uint8]], wanted: Sequence[tuple[Any, ...]], workers: int
) -> None:
    """Writes what is wanted to a .npy file, under another name until it is whole."""
    if path.exists():
        return
    began = time.monotonic()

    def write(partial: Path) -> None:
        out = None
        with drawn(draw, wanted, workers) as pictures:
            for index, picture in enumerate(pictures):
                if out is None:
                    out = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(wanted), *picture.shape))
                out[index] = picture
        if out is None:
            raise ValueError(f"{path.name} would hold nothing")
        out.flush()

    write_atomic(path, write)
    print(f"rendered {path.name} in {time.monotonic() - began:.0f} s", flush=True)
