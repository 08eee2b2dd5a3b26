"""Films of the world as shards of latents, rendered and encoded once, read by every stage of the transformer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from causalcine_core.story import Story

from ..data.shards import save_shard
from . import Film, make_film, plan_still

_PIECE = 48  # pixel frames encoded at once


class VideoVAE(Protocol):
    """Whatever turns films into latents: `causalcine_core.vae.WanVAE`, nano's or the published ones."""

    def encode(self, video: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The next frames of a film `[B, 3, F, H, W]` in -1..1, the first time 1 + 4n of them, as latents `[B, C, f, h, w]`,
        and the state to go on with."""


def encode_film(vae: VideoVAE, film: Film) -> Tensor:
    """A film's latents `[C, F, h, w]`, encoded in pieces."""
    end = film.shots[-1].end
    state, out = None, []
    first = 0
    while first < end:
        last = min(first + (_PIECE + 1 if first == 0 else _PIECE), end)
        pixels = torch.from_numpy(np.ascontiguousarray(film.render(first, last)))
        video = pixels.permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latent, state = vae.encode(video, state)
        out.append(latent[0])
        first = last
    return torch.cat(out, 1)


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


@torch.no_grad()
def make_shards(
    kind: str,
    vae: VideoVAE,
    out: Path,
    *,
    count: int,
    first_seed: int = 0,
    per_shard: int = 0,
    size: tuple[int, int] = (96, 96),
) -> None:
    """Render and encode films or stills; shards that exist are kept.

    kind: "films" or "stills". count: how many, of seeds from `first_seed` on. per_shard: 0: 20 films or 1000 stills. size: width
    and height in pixels.
    """
    per_shard = per_shard or (1000 if kind == "stills" else 20)
    out.mkdir(parents=True, exist_ok=True)
    for start in range(first_seed, first_seed + count, per_shard):
        path = out / f"{kind}-{start:08d}.safetensors"
        if path.exists():
            continue
        began = time.monotonic()
        latents: list[Tensor] = []
        records: list[dict[str, Any]] = []
        seeds = range(start, min(start + per_shard, first_seed + count))
        if kind == "stills":
            pictures = []
            for seed in seeds:
                planned = plan_still(seed, size)
                pictures.append(torch.from_numpy(planned.render()[0]))
                records.append(film_record(planned))
            for part in torch.stack(pictures).split(32):
                latent, _ = vae.encode(part.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1)
                latents.extend(latent)
        else:
            for seed in seeds:
                film = make_film(seed, size=size)
                latents.append(encode_film(vae, film))
                records.append(film_record(film))
        save_shard(path, latents, records)
        print(f"{path.name}: {len(records)} in {time.monotonic() - began:.1f} s", flush=True)
