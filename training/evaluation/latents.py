"""How easy a VAE's latents are to model: a small denoiser is trained on each VAE's latents in the same way.

    python -m training.evaluation.latents VAE [VAE ...] [--steps 1500] [--json FILE]

It learns stills with one character, told by their setting, time of day, kind and colour. Printed are its loss on unseen
stills at several levels of noise, over that of a guess of the mean (0: nothing left to know, 1: nothing learnt), and how
often the probe reads in its samples what was asked for, beside what it reads in true stills through the same VAE. A loss
can be low because latents say little; the probe's readings cannot.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from causalcine_core.vae import WanVAE, denormalize, frames_to_uint8, load_vae, normalize
from training.data.footage import to_video
from training.world import make_still

from .probe import LABELS, load_probe, read_shot

SEED = 40_000_000  # of the stills
ASKED = ("setting", "time", "kind", "colour")
LEVELS = (0.2, 0.5, 0.8)
PATCH = 2


class Denoiser(nn.Module):
    """Noisy latents `[N z h w]`, levels `[N]` and labels `[N 4]` to velocities: a plain transformer, labels are tokens."""

    def __init__(self, channels: int, width: int = 192, layers: int = 6, places: int = 36):
        super().__init__()
        self.into = nn.Linear(channels * PATCH**2, width)
        self.out = nn.Linear(width, channels * PATCH**2)
        self.place = nn.Parameter(0.02 * torch.randn(places, width))
        self.labels = nn.ModuleList(nn.Embedding(len(LABELS[name]), width) for name in ASKED)
        self.level = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        layer = nn.TransformerEncoderLayer(width, 6, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, level: Tensor, labels: Tensor) -> Tensor:
        height = x.shape[2] // PATCH
        tokens = nn.functional.pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)
        angles = level[:, None] * torch.exp(torch.linspace(0, math.log(1000), 32))
        told = [self.level(torch.cat([angles.sin(), angles.cos()], 1))]
        told += [embed(labels[:, i]) for i, embed in enumerate(self.labels)]
        hidden = self.into(tokens) + self.place + told[0][:, None]
        hidden = self.blocks(torch.cat([torch.stack(told, 1), hidden], 1))[:, len(told) :]
        return nn.functional.pixel_shuffle(self.out(hidden).transpose(1, 2).unflatten(2, (height, -1)), PATCH)


def stills(count: int, first_seed: int) -> tuple[Tensor, Tensor]:
    """uint8 `[N H W 3]` with one character, and their labels `[N 4]`."""
    pictures: list[NDArray[np.uint8]] = []
    labels: list[list[int]] = []
    seed = first_seed
    while len(pictures) < count:
        picture, _, shot = make_still(seed)
        seed += 1
        if len(shot.cast) == 1:
            who = shot.characters[0]
            pictures.append(picture)
            labels.append([LABELS[n].index(v) for n, v in zip(ASKED, (shot.setting, shot.time, who.kind, who.colour))])
    return torch.from_numpy(np.stack(pictures)), torch.tensor(labels)


@torch.no_grad()
def encode(vae: WanVAE, pictures: Tensor) -> Tensor:
    """Latents `[N z h w]`, centred and scaled to unit deviation per channel by `normalize`."""
    return torch.cat([normalize(vae.encode(to_video(part[:, None]))[0])[:, :, 0] for part in pictures.split(32)])


def train(latents: Tensor, labels: Tensor, steps: int, batch: int = 64, width: int = 192, layers: int = 6) -> Denoiser:
    """A denoiser of rectified flow after so many steps, the same in every call but for the latents."""
    torch.manual_seed(0)
    model = Denoiser(latents.shape[1], width, layers, latents.shape[2] * latents.shape[3] // PATCH**2)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, (0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, steps, pct_start=0.05)
    for _ in range(steps):
        pick = torch.randint(len(latents), (batch,))
        noise, level = torch.randn(batch, *latents.shape[1:]), torch.rand(batch)
        clean, at = latents[pick], level.view(-1, 1, 1, 1)
        error = model((1 - at) * clean + at * noise, level, labels[pick]) - (noise - clean)
        optimizer.zero_grad()
        error.square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def clean_error(model: Denoiser, latents: Tensor, labels: Tensor, level: float) -> float:
    """Mean squared error of the clean latent that is read off a noisy one, over the latents' variance."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    noisy = (1 - level) * latents + level * noise
    velocity = model(noisy, torch.full((len(latents),), level), labels)
    error = (noisy - level * velocity - latents).square().mean()
    return float(error / (latents - latents.mean((0, 2, 3), keepdim=True)).square().mean())


@torch.no_grad()
def sample(model: Denoiser, labels: Tensor, shape: Sequence[int], steps: int = 30) -> Tensor:
    """Latents `[N z h w]` by Euler steps, of the same noise in every call."""
    x = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(2))
    levels = torch.linspace(1, 0, steps + 1)
    for now, then in zip(levels[:-1], levels[1:]):
        x = x + (then - now) * model(x, now.expand(len(labels)), labels)
    return x


@torch.no_grad()
def readings(vae: WanVAE, latents: Tensor, labels: Tensor) -> dict[str, float]:
    """How often the probe reads in decoded latents what the labels say, by name."""
    probe, hits = load_probe(), np.zeros(len(ASKED))
    for latent, asked in zip(latents, labels):
        video, _ = vae.decode(denormalize(latent[None, :, None]))
        read = read_shot(probe, frames_to_uint8(video).numpy(), 1)
        got = (read.setting, read.time, read.looks[0].kind, read.looks[0].colour)
        hits += [LABELS[n].index(v) == a for n, v, a in zip(ASKED, got, asked.tolist())]
    return dict(zip(ASKED, (hits / len(labels)).round(3).tolist()))


def compare(vae: WanVAE, learnt: int, unseen: int, steps: int) -> dict[str, Any]:
    """The figures of one VAE."""
    pictures, labels = stills(learnt + unseen, SEED)
    latents = encode(vae, pictures)
    model = train(latents[:learnt], labels[:learnt], steps)
    latents, labels = latents[learnt:], labels[learnt:]
    report: dict[str, Any] = {
        f"error_{level}": round(clean_error(model, latents, labels, level), 4) for level in LEVELS
    }
    report["read_in_samples"] = readings(vae, sample(model, labels, latents.shape[1:]), labels)
    report["read_in_true"] = readings(vae, latents, labels)
    return report


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.latents", description=__doc__.splitlines()[0])
    parser.add_argument(
        "vae", type=Path, nargs="+", help="safetensors files of VAEs whose latents have Wan2.1's statistics"
    )
    parser.add_argument("--learnt", type=int, default=6000, help="stills to train on")
    parser.add_argument("--unseen", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    report = {}
    for path in args.vae:
        report[str(path)] = compare(load_vae(path), args.learnt, args.unseen, args.steps)
        print(path, json.dumps(report[str(path)]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
