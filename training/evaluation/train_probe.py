"""Makes the probe, and checks it on films whose truth is known.

    python -m training.evaluation.train_probe train --vae VAE [--out FILE]     # minutes on one core
    python -m training.evaluation.train_probe check --vae VAE [--films 40]

It is trained on the world's own frames after a round trip through the VAE, so that a decoder's blur does not trouble it.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from causalcine_core.vae import WanVAE, frames_to_uint8, load_vae
from training.world import SETTINGS, TIMES, Film, Shot, make_film, make_still

from .probe import (
    ALONE,
    ASSET,
    LABELS,
    LEFT,
    LOOKS,
    PLACE,
    RIGHT,
    SIZE,
    Frames,
    Probe,
    judge,
    load_probe,
    probe_card,
    read_shot,
    round_trip,
    save_probe,
)

STILL_SEED, FILM_SEED = 20_000_000, 30_000_000  # what it learns from; a generator learns below 1,000,000
CHECK_SEED = 50_000_000  # the stories of the quality report


@dataclass
class Pictures:
    """What the probe learns from: uint8 `[N, 96, 96, 3]`, labels by name, and how many characters are there."""

    frames: Tensor
    labels: dict[str, Tensor]  # place [N]; looks [N, 2]
    count: Tensor


@dataclass
class Drawings:
    """Pictures as the world draws them, with their shots: stills, and clips of 21 frames in motion."""

    stills: list[Frames]
    clips: list[Frames]
    truths: list[Shot]  # of the stills, then of the clips


def draw(stills: int, clips: int) -> Drawings:
    """Stills of every look, place and framing, and clips out of films."""
    out = Drawings([], [], [])
    for i in range(stills):
        picture, _, shot = make_still(STILL_SEED + i, (SIZE, SIZE))
        out.stills.append(picture)
        out.truths.append(shot)
        if (i + 1) % 1000 == 0:
            print(f"{i + 1} stills", flush=True)
    for i in range(clips):
        film = make_film(FILM_SEED + i, size=(SIZE, SIZE))
        shot = film.shots[i % len(film.shots)]
        first = shot.first + i % (shot.frames - 21)
        out.clips.append(film.render(first, first + 21))
        out.truths.append(shot)
        if (i + 1) % 100 == 0:
            print(f"{i + 1} clips", flush=True)
    return out


def training_pictures(drawings: Drawings, vae: WanVAE | None) -> Pictures:
    """What the probe learns from: all stills and every fourth frame of a clip; with a VAE, after its round trip."""
    frames = [
        picture for i in range(0, len(drawings.stills), 32) for picture in _decoded(vae, drawings.stills[i : i + 32])
    ]
    for clip in drawings.clips:
        frames += list((clip if vae is None else round_trip(vae, clip))[4::4])
    still, moving = drawings.truths[: len(drawings.stills)], drawings.truths[len(drawings.stills) :]
    truths = still + [shot for shot in moving for _ in range(5)]
    labels = {
        "setting": torch.tensor([SETTINGS.index(s.setting) for s in truths]),
        "time": torch.tensor([TIMES.index(s.time) for s in truths]),
    }
    for name in LOOKS:
        ids = [[LABELS[name].index(getattr(c, name)) for c in (s.characters * 2)[:2]] for s in truths]
        labels[name] = torch.tensor(ids)
    return Pictures(torch.from_numpy(np.stack(frames)), labels, torch.tensor([len(s.cast) for s in truths]))


@torch.no_grad()
def _decoded(vae: WanVAE | None, batch: list[Frames]) -> list[Frames]:
    if vae is None:
        return batch
    video = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1
    return [frames_to_uint8(one[None])[0].numpy() for one in vae.decode(vae.encode(video)[0])[0]]


def augment(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Moved, scaled, blurred, noisy, a little brighter or darker: what a generated picture may be and still be right."""
    n = len(pictures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    scale, move = uniform(0.88, 1.12), uniform(-0.08, 0.08, 2)
    grid = torch.zeros(n, 2, 3)
    grid[:, 0, 0] = grid[:, 1, 1] = scale
    grid[:, :, 2] = move
    out = F.grid_sample(
        pictures, F.affine_grid(grid, list(pictures.shape), False), padding_mode="reflection", align_corners=False
    )
    for factor in (2, 3):  # softened as by a codec that keeps less detail
        soft = F.interpolate(F.avg_pool2d(out, factor), out.shape[2:], mode="bilinear", align_corners=False)
        amount = uniform(-1.0, 1.0).clamp(min=0) * (0.9 if factor == 2 else 0.5)
        out = out.lerp(soft, amount[:, None, None, None])
    out = out * uniform(0.88, 1.12, 1, 1, 1) + uniform(-0.08, 0.08, 1, 1, 1) + uniform(-0.04, 0.04, 3, 1, 1)
    coarse = torch.randn(n, 3, 12, 12, generator=generator)
    fine = torch.randn(out.shape, generator=generator)
    noise = F.interpolate(coarse, out.shape[2:], mode="bilinear", align_corners=False)
    return (out + noise * uniform(0, 0.12, 1, 1, 1) + fine * uniform(0, 0.08, 1, 1, 1)).clamp(-1, 1)


def loss(probe: Probe, pictures: Tensor, labels: dict[str, Tensor], count: Tensor) -> Tensor:
    """Cross entropy over everything that a picture shows; a look counts in the regions that its picture has."""
    logits = probe(pictures)
    total = sum((F.cross_entropy(logits[name], labels[name], label_smoothing=0.02) for name in PLACE), torch.zeros(()))
    alone = count == 1
    for name in LOOKS:
        parts = [logits[name][alone, ALONE], logits[name][~alone, LEFT], logits[name][~alone, RIGHT]]
        wanted = [labels[name][alone, 0], labels[name][~alone, 0], labels[name][~alone, 1]]
        total = total + F.cross_entropy(torch.cat(parts), torch.cat(wanted), label_smoothing=0.02)
    return total


def train(
    pictures: Pictures, *, steps: int, start: Probe | None = None, batch: int = 64, rate: float = 3e-3, seed: int = 0
) -> Probe:
    """A probe after `steps` batches of augmented pictures, from `start` or anew; the rate warms up, then falls to zero."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        probe = Probe()
    if start is not None:
        probe.load_state_dict(start.state_dict())
    for parameter in probe.parameters():  # with bfloat16, twice as fast on a CPU
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(seed)
    mean, began = math.nan, time.process_time()
    for step in range(steps):
        rows = torch.randint(len(pictures.frames), (batch,), generator=generator)
        clean = pictures.frames[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
        labels, count = {n: t[rows] for n, t in pictures.labels.items()}, pictures.count[rows]
        varied = augment(clean, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(probe, varied, labels, count)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        mean = value.item() if math.isnan(mean) else 0.98 * mean + 0.02 * value.item()
        if step % 50 == 0:
            print(f"step {step}/{steps} loss {mean:.3f} cpu {time.process_time() - began:.0f} s", flush=True)
    return probe.eval().requires_grad_(False)


def check(probe: Probe, films: Iterable[Film], vae: WanVAE | None) -> dict[str, dict[str, float]]:
    """Shares of shots (setting, time) and of characters (looks) read right, alone and in pairs, and how many there were."""
    hits: dict[str, list[bool]] = {}
    for film in films:
        frames = film.render()
        frames = frames if vae is None else round_trip(vae, frames)
        for shot, seen in judged(probe, film, frames):
            pair = "_of_two" if len(shot.cast) == 2 else ""
            for name in PLACE:
                hits.setdefault(name, []).append(seen[name])
            for one in seen["cast"]:
                for name in LOOKS:
                    hits.setdefault(name + pair, []).append(one[name])
    return {name: {"accuracy": sum(found) / len(found), "n": len(found)} for name, found in sorted(hits.items())}


def judged(probe: Probe, film: Film, frames: Frames) -> Iterator[tuple[Shot, dict[str, Any]]]:
    """Every shot of a film with what was read right on its frames."""
    for shot in film.shots:
        yield shot, judge(read_shot(probe, frames[shot.first : shot.end], len(shot.cast)), shot)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.train_probe", description=__doc__.splitlines()[0]
    )
    parser.add_argument("what", choices=("train", "check"))
    parser.add_argument(
        "--vae", type=Path, help="VAE whose round trip the frames take; without it they are left as drawn"
    )
    parser.add_argument("--out", type=Path, default=ASSET, help="the probe's file")
    parser.add_argument("--start", type=Path, help="a probe to go on from, such as one of frames as drawn")
    parser.add_argument("--stills", type=int, default=8_000)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--films", type=int, default=40, help="unseen films to check it on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    vae = None if args.vae is None else load_vae(args.vae).eval().requires_grad_(False)
    films = (make_film(CHECK_SEED + i) for i in range(args.films))
    if args.what == "check":
        print(json.dumps(check(load_probe(args.out), films, vae), indent=2))
        return
    began = time.process_time()
    pictures = training_pictures(draw(args.stills, args.clips), vae)
    print(f"{len(pictures.frames)} pictures, cpu {time.process_time() - began:.0f} s", flush=True)
    start = None if args.start is None else load_probe(args.start)
    probe = train(pictures, steps=args.steps, start=start, rate=3e-3 if start is None else 1e-3)
    card = {
        "command": f"python -m training.evaluation.train_probe train --stills {args.stills} --clips {args.clips} --steps {args.steps}",
        "vae": args.vae is not None,
        "start": None if args.start is None else probe_card(args.start),
        "cpu_seconds": round(time.process_time() - began),
    }
    save_probe(probe, args.out, card)
    card["ground_truth"] = check(probe, films, vae)
    save_probe(probe, args.out, card)
    print(json.dumps(card, indent=2))
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
