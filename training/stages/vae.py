"""Trains the built-in video VAE on the procedural world, on a CPU.

    causalcine train vae training/recipes/vae.yaml
    causalcine train vae training/recipes/vae_decoder.yaml --init VAE

Most steps see small crops, the last ones whole pictures; each is a batch of stills or of clips, some with a cut
inside. At the end the latents are brought to Wan2.1's mean and deviation per channel, folded into the two 1x1
convolutions next to them, so that the file fits wherever Wan2.1's latents do.

A finished VAE's decoder can be trained on alone: its latents stay what they are, and so does every transformer that was
trained on them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

from causalcine_core.errors import InputError
from causalcine_core.vae import WAN21_MEAN, WAN21_STD, VAEConfig, WanVAE, load_vae, save_vae
from causalcine_core.weights.header import read_header
from causalcine_core.weights.tensors import write_tensors, write_torch

from .. import HOME
from ..components.vae_start import start_linear
from ..world import make_film, make_still

HELD_OUT_SEED = 900_000_000  # seeds from here on are never trained on
GROUP = 4  # pixel frames of one latent frame


@dataclass(frozen=True)
class VAERecipe:
    """A run. It ends after `steps`, or if that is 0 after `seconds` of training, summed over all sessions.

    stills, films, clips_per_film, clip_frames: what is rendered to train on. held_out: as many stills, and as many
    films, to measure on. batch: samples of a step by kind, for crops. crop: edge of a crop in pixels. whole_share:
    last part of the run, on whole pictures. still_share: part of the steps on stills. levels: scales of the edge
    loss, halving. decoder_only: train the decoder of a finished VAE. latent_noise: most deviation of noise that is
    added to latents, in units of model space, drawn for each sample: what a transformer makes is never quite a latent
    of the encoder, and a decoder that saw no other shows it as blocks. precision: 'bf16' or 'fp32' of the forward and
    backward pass; weights are always float32.
    """

    model: str = "nano"
    seed: int = 0
    seconds: float = 1320
    steps: int = 0
    stills: int = 5000
    films: int = 240
    clips_per_film: int = 6
    clip_frames: int = 17
    held_out: int = 16
    crop: int = 48
    whole_share: float = 0.15
    still_share: float = 0.35
    batch_still: int = 16
    batch_clip: int = 3
    learning_rate: float = 6e-4
    warmup_steps: int = 30
    weight_decay: float = 0.0
    ema: float = 0.99
    edge_weight: float = 1.0
    levels: int = 2
    kl_weight: float = 3e-4
    decoder_only: bool = False
    latent_noise: float = 0.0
    precision: str = "bf16"
    save_every: float = 100
    log_every: int = 200

    @classmethod
    def load(cls, path: Path) -> VAERecipe:
        return cls(**yaml.safe_load(path.read_text()))

    def learning_rate_factor(self, step: int, progress: float) -> float:
        """Linear warm-up, then a cosine to zero."""
        return min(1.0, (step + 1) / self.warmup_steps) * (0.5 + 0.5 * math.cos(math.pi * min(1.0, progress)))


@dataclass(frozen=True)
class Footage:
    """Rendered pictures: stills uint8 `[N H W 3]`, clips uint8 `[M F H W 3]`."""

    stills: Tensor
    clips: Tensor

    @classmethod
    def render(cls, stills: int, films: int, clips_per_film: int, frames: int, first_seed: int) -> Footage:
        """Renders stills, and clips from random places of films; every second clip holds a cut.

        Clips begin at multiples of 4 frames, so that cuts fall between latent frames, as they do in every film.
        """
        pictures = np.stack([make_still(first_seed + n)[0] for n in range(stills)])
        clips = []
        for seed in range(first_seed, first_seed + films):
            film, rng = make_film(seed), random.Random(seed)
            end = film.shots[-1].end
            cuts = [shot.first for shot in film.shots[1:]]
            for n in range(clips_per_film):
                start = rng.choice(cuts) - rng.randrange(1, frames) if cuts and n % 2 else rng.randrange(end)
                start = max(0, min(start, end - frames)) // GROUP * GROUP
                clips.append(np.asarray(film.render(start, start + frames)))
        return cls(torch.from_numpy(pictures), torch.from_numpy(np.stack(clips)))

    @classmethod
    def cached(cls, folder: Path, *numbers: int) -> Footage:
        """As `render` of these numbers, kept in a file in `folder`."""
        path = folder / f"footage-{'-'.join(map(str, numbers))}.safetensors"
        if not path.exists():
            began = time.monotonic()
            footage = cls.render(*numbers)
            write_tensors(path, {"stills": footage.stills, "clips": footage.clips})
            print(f"rendered {path.name} in {time.monotonic() - began:.0f} s", flush=True)
        return cls(**load_file(path))

    def batch(self, kind: str, count: int, crop: int, rng: random.Random) -> Tensor:
        """`[B 3 F crop crop]` in -1..1: random pictures, places, lengths and mirroring."""
        source = self.stills[:, None] if kind == "still" else self.clips
        frames = 1 if kind == "still" else rng.choice(range(9, source.shape[1] + 1, GROUP))
        out = []
        for _ in range(count):
            film = source[rng.randrange(len(source))]
            t = rng.randrange(0, len(film) - frames + 1, GROUP)
            y, x = (rng.randrange(size - crop + 1) for size in film.shape[1:3])
            piece = film[t : t + frames, y : y + crop, x : x + crop]
            out.append(piece.flip(2) if rng.random() < 0.5 else piece)
        return to_video(torch.stack(out))


def to_video(frames: Tensor) -> Tensor:
    """uint8 `[B F H W 3]` to float `[B 3 F H W]` in -1..1."""
    return frames.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


class RoundTrip(nn.Module):
    """Encode, sample, decode: what one training step runs. decoder_only, latent_noise: as in `VAERecipe`."""

    def __init__(self, vae: WanVAE, decoder_only: bool = False, latent_noise: float = 0.0):
        super().__init__()
        self.vae, self.latent_noise = vae, latent_noise
        for part in (vae.encoder, vae.conv1) if decoder_only else ():
            part.requires_grad_(False)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log variance."""
        mean, logvar, _ = self.vae.encode_moments(video)
        logvar = logvar.clamp(-30, 20)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        if self.latent_noise:
            unit = torch.tensor(WAN21_STD, dtype=mean.dtype).view(1, -1, 1, 1, 1)
            amount = self.latent_noise * torch.rand(len(mean), 1, 1, 1, 1, dtype=mean.dtype)
            sample = sample + amount * unit * torch.randn_like(mean)
        reconstruction, _ = self.vae.decode(sample, clamp=False)
        return reconstruction.float(), mean.float(), logvar.float()


def reconstruction_loss(output: Tensor, video: Tensor, levels: int, edge_weight: float) -> Tensor:
    """L1, and L1 of the differences along time, rows and columns at `levels` scales."""
    error = output - video
    loss = error.abs().mean()
    for level in range(levels):
        if level:
            error = F.avg_pool3d(error, (1, 2, 2))
        edges = [error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1]
        loss = loss + edge_weight * sum(edges) / (len(edges) * levels)
    return loss


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence from the unit normal, mean over elements."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()


@torch.no_grad()
def psnr(vae: WanVAE, films: Sequence[Tensor], noise: float = 0.0) -> float:
    """Mean over films `[F H W 3]` uint8 of the peak signal-to-noise ratio in dB.

    noise: deviation of noise added to the latents, in units of their own deviation.
    """
    values = []
    for frames in films:
        video = to_video(frames[None])
        latent, _ = vae.encode(video)
        generator = torch.Generator().manual_seed(0)
        grain = torch.randn(latent.shape, generator=generator) * latent.std((0, 2, 3, 4), keepdim=True)
        output, _ = vae.decode(latent + noise * grain)
        values.append(-10 * math.log10((output - video).square().mean().item() / 4))
    return sum(values) / len(values)


@torch.no_grad()
def latent_statistics(vae: WanVAE, films: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation per channel of the latents of films `[F H W 3]` uint8."""
    values = torch.cat([vae.encode(to_video(frames[None]))[0][0].flatten(1) for frames in films], dim=1).double()
    return values.mean(1), values.std(1)


@torch.no_grad()
def fold_statistics(vae: WanVAE, mean: Tensor, std: Tensor) -> None:
    """Rescales the latents from `mean` and `std` per channel to Wan2.1's, in place, without changing any picture.

    Exact, because both convolutions next to the latent are 1x1x1 and pad nothing.
    """
    gain = torch.tensor(WAN21_STD, dtype=torch.float64) / std.double()
    shift = torch.tensor(WAN21_MEAN, dtype=torch.float64) - mean.double() * gain
    into, out = vae.conv1, vae.conv2
    size = len(gain)
    weight, bias = into.weight.double(), into.bias.double()
    weight[:size] *= gain.view(-1, 1, 1, 1, 1)
    bias[:size] = bias[:size] * gain + shift
    bias[size:] += 2 * gain.log()  # the log variances
    into.weight.copy_(weight)
    into.bias.copy_(bias)
    weight = out.weight.double() / gain.view(1, -1, 1, 1, 1)
    out.bias.copy_(out.bias.double() - weight[:, :, 0, 0, 0] @ shift)
    out.weight.copy_(weight)


class Trainer:
    def __init__(self, recipe: VAERecipe, work: Path, init: Path | None = None):
        """init: a finished VAE to begin with; without one the beginning is linear."""
        if recipe.decoder_only and init is None:
            raise InputError("decoder_only trains the decoder of a finished VAE: name it with --init")
        self.recipe, self.work, self.init = recipe, work, init
        work.mkdir(parents=True, exist_ok=True)
        frames, few = recipe.clip_frames, recipe.held_out
        self.footage = Footage.cached(work, recipe.stills, recipe.films, recipe.clips_per_film, frames, 0)
        held_out = Footage.cached(work, few, few, 2, frames, HELD_OUT_SEED)
        self.held_out = [still[None] for still in held_out.stills] + list(held_out.clips)
        torch.manual_seed(recipe.seed)
        if init is not None:
            vae = load_vae(init)
        else:
            vae = WanVAE(VAEConfig.preset(recipe.model))
            start_linear(vae, to_video(self.footage.clips[:160]))
        self.model = RoundTrip(vae.requires_grad_(True), recipe.decoder_only, recipe.latent_noise)
        self.ema = WanVAE(VAEConfig.preset(recipe.model)).eval().requires_grad_(False)
        self.ema.load_state_dict(self.model.vae.state_dict())
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
        )
        self.step, self.seconds, self.frames = 0, 0.0, 0.0
        self.path = work / "state.pt"
        if self.path.exists():
            self._resume()

    @property
    def progress(self) -> float:
        return self.step / self.recipe.steps if self.recipe.steps else self.seconds / self.recipe.seconds

    def run(self) -> None:
        saved, losses = time.monotonic(), []
        while self.progress < 1:
            began = time.monotonic()
            losses.append(self.train_step())
            self.seconds += time.monotonic() - began
            if self.step % self.recipe.log_every == 0:
                self._log(sum(losses) / len(losses))
                losses = []
            if time.monotonic() - saved > self.recipe.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def train_step(self) -> float:
        """One update; its randomness depends on the seed and the step only. Returns the reconstruction loss."""
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/{self.step}")
        torch.manual_seed(rng.getrandbits(63))
        kind = "still" if rng.random() < recipe.still_share else "clip"
        count = {"still": recipe.batch_still, "clip": recipe.batch_clip}[kind]
        crop, size = recipe.crop, self.footage.stills.shape[1]
        if self.progress >= 1 - recipe.whole_share:
            count, crop = max(1, count * crop**2 // size**2), size
        video = self.footage.batch(kind, count, crop, rng)
        output, mean, logvar = self._round_trip(video)
        fit = reconstruction_loss(output, video, recipe.levels, recipe.edge_weight)
        loss = fit + recipe.kl_weight * kl_loss(mean, logvar)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * recipe.learning_rate_factor(self.step, self.progress)
        self.optimizer.step()
        self._average()
        self.step += 1
        self.frames += video.shape[0] * video.shape[2] * (crop / size) ** 2
        return fit.item()

    def _round_trip(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.recipe.precision == "fp32":
            return self.model(video)
        halves = {name: parameter.bfloat16() for name, parameter in self.model.named_parameters()}
        return torch.func.functional_call(self.model, halves, (video.bfloat16(),))

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.model.vae.parameters()), 1 - decay)

    def _log(self, loss: float) -> None:
        entry = {
            "step": self.step,
            "seconds": round(self.seconds),
            "loss": round(loss, 4),
            "psnr": round(psnr(self.ema, self.held_out[::4]), 2),
            "frames_per_second": round(self.frames / self.seconds, 1),
        }
        line = json.dumps(entry)
        print(line, flush=True)
        with (self.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def finish(self, command: str) -> Path:
        """Measures the averaged weights, brings their latents to Wan2.1's statistics and writes the file."""
        mean, std = latent_statistics(self.ema, self.held_out)
        if not self.recipe.decoder_only:  # whose latents have them already
            fold_statistics(self.ema, mean, std)
        stills = [film for film in self.held_out if len(film) == 1]
        clips = [film for film in self.held_out if len(film) > 1]
        report = {
            "psnr_stills": round(psnr(self.ema, stills), 2),
            "psnr_clips": round(psnr(self.ema, clips), 2),
            "psnr_clips_latent_noise_0.1": round(psnr(self.ema, clips, 0.1), 2),
            "psnr_clips_latent_noise_0.3": round(psnr(self.ema, clips, 0.3), 2),
            "latent_std": [round(value, 4) for value in std.tolist()],
            "steps": self.step,
            "seconds": round(self.seconds),
        }
        print(json.dumps(report), flush=True)
        metadata = {"config": asdict(self.ema.config), "recipe": asdict(self.recipe), "command": command, **report}
        if self.init is not None:
            metadata["begun_with"] = read_header(self.init, "VAE file").metadata
        path = self.work / "vae.safetensors"
        save_vae(self.ema, path, metadata)
        return path

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "frames": self.frames,
        }
        write_torch(self.path, state)

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.frames = state["step"], state["seconds"], state["frames"]
        print(f"resumed at step {self.step}, {self.seconds:.0f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--work", type=Path, help="where the run keeps its state, log and result; otherwise by the recipe's name"
    )
    parser.add_argument("--init", type=Path, help="a finished VAE to begin with")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    trainer = Trainer(VAERecipe.load(args.recipe), args.work or HOME / args.recipe.stem, args.init)
    trainer.run()
    init = f" --init {args.init}" if args.init else ""
    print(trainer.finish(f"causalcine train vae {args.recipe}{init}"), flush=True)


if __name__ == "__main__":
    main()
