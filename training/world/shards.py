"""Films of the world as shards of latents, rendered and encoded once, read by every stage of the transformer."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.footage import to_video
from ..data.shards import save_shard
from .rendering import drawn, render

_PIECE = 48  # pixel frames encoded at once


class VideoVAE(Protocol):
    """Whatever turns films into latents: `causalcine_core.vae.WanVAE`, nano's or the published ones."""

    def encode(self, video: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The next frames of a film `[B, 3, F, H, W]` in -1..1, the first time 1 + 4n of them, as latents `[B, C, f, h, w]`,
        and the state to go on with."""


@torch.no_grad()
def encode_films(vae: VideoVAE, films: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Latents `[B, C, f, h, w]`, on the CPU, of films `[B, F, H, W, 3]`, encoded in pieces on a device."""
    state, out, first = None, [], 0
    while first < films.shape[1]:
        last = min(first + (_PIECE + 1 if first == 0 else _PIECE), films.shape[1])
        latent, state = vae.encode(to_video(torch.from_numpy(films[:, first:last]).to(device)), state)
        out.append(latent.float().cpu())
        first = last
    return torch.cat(out, 2)


def make_shards(
    kind: str,
    vae: VideoVAE,
    out: Path,
    *,
    count: int,
    first_seed: int = 0,
    per_shard: int = 0,
    size: tuple[int, int] = (96, 96),
    workers: int = 0,
    seconds: float = 0,
    device: torch.device | str = "cpu",
) -> None:
    """Render and encode films or stills; shards that exist are kept.

    kind: "films" or "stills". count: how many, of seeds from `first_seed` on. per_shard: 0: 20 films or 1000 stills. size: width
    and height in pixels. workers: processes that draw while this one encodes; 0: it does both. seconds: after which no shard is
    begun and an unfinished one is left; 0: no limit. device: that the VAE lies on.
    """
    began = time.monotonic()
    per_shard = per_shard or (1000 if kind == "stills" else 20)
    together = 1 if torch.device(device).type == "cpu" and kind == "films" else 32  # that are encoded at once
    out.mkdir(parents=True, exist_ok=True)
    wanted = [
        range(start, min(start + per_shard, first_seed + count))
        for start in range(first_seed, first_seed + count, per_shard)
        if not (out / f"{kind}-{start:08d}.safetensors").exists()
    ]
    with drawn(render, [(kind, seed, size) for seed in itertools.chain(*wanted)], workers) as films:
        for seeds in wanted:
            shard_began = time.monotonic()
            latents: list[Tensor] = []
            records: list[dict[str, Any]] = []
            while len(records) < len(seeds):
                some = list(itertools.islice(films, min(together, len(seeds) - len(records))))
                latents.extend(encode_films(vae, np.stack([frames for frames, _ in some]), device))
                records.extend(record for _, record in some)
                if seconds and time.monotonic() - began > seconds:
                    return
            name = f"{kind}-{seeds.start:08d}.safetensors"
            save_shard(out / name, latents, records)
            print(f"{name}: {len(records)} in {time.monotonic() - shard_began:.1f} s", flush=True)
