"""Trains the built-in video codec on films of the procedural world.

    python -m training.stages.vae training/recipes/codec.yaml [--work DIR] [--stop-after SECONDS]

It goes on from its state in DIR, if there is one, and ends after the recipe's steps. Encoder and decoder learn together;
from `encoder_until` on the averaged encoder stays as it is, so that transformers can be trained on its latents while
the decoder goes on, against a discriminator of patches from `adversarial_from` on. `python -m training.stages.vae RECIPE
--export FILE` writes the averaged weights of any moment, their latents brought to Wan2.1's mean and deviation per channel.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn

from causalcine_core.vae import VAEConfig, WanVAE, save_vae

from .. import HOME
from ..components.checkpoint import StateFile
from ..components.latent_statistics import fold_statistics, latent_statistics
from ..components.muon import Optimizer
from ..data.footage import Footage, to_video
from ..evaluation.codec import Frames, measure, sheet, unseen_films
from ..linear_start import start_linear
from ..losses.adversarial_patches import (
    PatchDiscriminator,
    ReplayBuffer,
    discriminator_loss,
    draw_patches,
    guidance,
    guided_loss,
)
from ..losses.haar import haar_loss
from ..losses.reconstruction import edge_loss, kl_loss, pixel_loss, rhythm_loss


@dataclass(frozen=True)
class Batch:
    """One kind of training step. share: of all steps; frames: 1, or 1 + 4n; crop: edge in pixels."""

    share: float
    count: int
    frames: int
    crop: int


@dataclass(frozen=True)
class Phase:
    """Kinds of batches until a share of the run is over."""

    until: float
    batches: tuple[Batch, ...]


@dataclass(frozen=True)
class Adversary:
    """The adversarial part. patches: per step, of `size` pixels; reach: as in `guided_loss`; buffer: fakes kept; weight: of
    the loss, reached in `ramp` steps, because a discriminator that has learnt nothing guides as strongly as one that has."""

    patches: int = 16
    size: int = 48
    reach: float = 0.1
    weight: float = 1.0
    ramp: int = 1000
    buffer: int = 1024
    learning_rate: float = 3e-4


@dataclass(frozen=True)
class CodecRecipe:
    """A run of `steps` updates. Schedules follow steps; time is never part of one.

    model: fields of `VAEConfig`. stills, films, clip_frames: rendered to train on. linear_start: clips whose principal
    components the run begins with; 0 for weights at random. weights: of the losses by name. latent_noise: most deviation
    of noise added to latents, in units of their own, drawn for each sample. encoder_until, adversarial_from: shares of
    the run. learning_rate: of AdamW. muon_rate: of Muon, which has the convolutions between the first and the last of
    each network; 0 for AdamW everywhere. ema: decay per step. precision: of the passes, 'bf16' or 'fp32'; weights are
    always float32. measured: unseen films, of so many frames. *_every: in steps, but `save_every` in seconds.
    """

    steps: int
    model: dict[str, Any]
    phases: tuple[Phase, ...]
    weights: dict[str, float] = field(
        default_factory=lambda: {"squared": 1.0, "edge": 1.0, "haar": 1.0, "rhythm": 0.0, "kl": 1e-4}
    )
    adversary: Adversary = Adversary()
    seed: int = 0
    linear_start: int = 100
    stills: int = 8000
    films: int = 3600
    clip_frames: int = 33
    edge_levels: int = 2
    latent_noise: float = 0.1
    encoder_until: float = 0.6
    adversarial_from: float = 0.67
    learning_rate: float = 1e-3
    muon_rate: float = 0.0
    final_rate: float = 0.02
    warmup_steps: int = 200
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    precision: str = "bf16"
    measured: tuple[int, int] = (8, 97)
    log_every: int = 100
    measure_every: int = 2000
    save_every: float = 120

    @classmethod
    def load(cls, path: Path) -> CodecRecipe:
        data = yaml.safe_load(path.read_text())
        data["phases"] = tuple(
            Phase(phase["until"], tuple(Batch(**batch) for batch in phase["batches"])) for phase in data["phases"]
        )
        data["adversary"] = Adversary(**data.get("adversary", {}))
        for name in ("betas", "measured"):
            if name in data:
                data[name] = tuple(data[name])
        return cls(**data)

    def factor(self, step: int) -> float:
        """Of the learning rates at a step: linear warm-up, then a cosine down to `final_rate`."""
        wave = 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.steps))
        return min(1.0, (step + 1) / self.warmup_steps) * (self.final_rate + (1 - self.final_rate) * wave)

    def batch(self, step: int, rng: random.Random) -> Batch:
        phase = next((p for p in self.phases if step < p.until * self.steps), self.phases[-1])
        return rng.choices(phase.batches, [batch.share for batch in phase.batches])[0]


class Trainer:
    """One run in a folder: its state, its log, its sheets."""

    def __init__(self, recipe: CodecRecipe, work: Path, footage: Footage):
        self.recipe, self.work, self.footage = recipe, work, footage
        self.file = StateFile(work / "state.pt")
        work.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(recipe.seed)
        config = VAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in recipe.model.items()})
        self.vae = WanVAE(config)
        if recipe.linear_start and not (work / "state.pt").exists():
            start_linear(self.vae, to_video(torch.from_numpy(np.array(footage.clips[: recipe.linear_start]))))
        self.ema = WanVAE(config).eval().requires_grad_(False)
        self.ema.load_state_dict(self.vae.state_dict())
        self.optimizer = Optimizer(self.vae, recipe.learning_rate, recipe.betas, recipe.muon_rate)
        self.judge = PatchDiscriminator(config.z_dim)
        self.judge_optimizer = torch.optim.AdamW(
            self.judge.parameters(), recipe.adversary.learning_rate, (0.5, 0.99), weight_decay=0
        )
        self.fakes = ReplayBuffer(recipe.adversary.buffer)
        self.step, self.seconds, self.frames = 0, 0.0, 0.0
        self.stopped = False  # set from outside, to end after the step under way
        self.sums: dict[str, list[Any]] = {}  # total and count of each loss since the last line of the log
        self.latent_std = torch.ones(config.z_dim)  # running, of each channel
        if (work / "state.pt").exists():
            self._resume()

    # --- a step

    def train_step(self) -> None:
        """One update; its randomness depends on the seed and the step only."""
        recipe, began = self.recipe, time.monotonic()
        rng = random.Random(f"{recipe.seed}/{self.step}")
        torch.manual_seed(rng.getrandbits(63))
        if self.step == self._encoder_end:
            self._keep_encoder()
        kind = recipe.batch(self.step, rng)
        video = self.footage.batch(kind.count, kind.frames, kind.crop, rng)
        output, mean, logvar = self._round_trip(video)
        losses = self._losses(output, video, mean, logvar)
        if self.step >= self._adversary_start:
            losses["adversarial"] = self._adversarial_loss(output, video, mean, rng)
        total = sum(self._weight(name) * loss for name, loss in losses.items())
        self.vae.zero_grad(set_to_none=True)
        total.backward()
        losses["norm"] = nn.utils.clip_grad_norm_(self.vae.parameters(), 1.0)
        self.optimizer.step(recipe.factor(self.step))
        self._average(mean)
        self.step += 1
        self.seconds += time.monotonic() - began
        self.frames += kind.count * kind.frames * (kind.crop / self.footage.stills.shape[1]) ** 2
        suffix = "_still" if kind.frames == 1 else ""
        for name, loss in losses.items():
            sums = self.sums.setdefault(name + suffix, [0.0, 0])
            sums[0], sums[1] = sums[0] + float(loss.detach()), sums[1] + 1

    @property
    def _encoder_end(self) -> int:
        return round(self.recipe.encoder_until * self.recipe.steps)

    @property
    def _adversary_start(self) -> int:
        return round(self.recipe.adversarial_from * self.recipe.steps)

    def _weight(self, name: str) -> float:
        if name != "adversarial":
            return self.recipe.weights.get(name, 1.0)
        plan = self.recipe.adversary
        return plan.weight * min(1.0, (self.step - self._adversary_start) / max(1, plan.ramp))

    def _losses(self, output: Tensor, video: Tensor, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
        weights = self.recipe.weights
        return {
            "pixel": pixel_loss(output, video, weights["squared"]),
            "edge": edge_loss(output, video, self.recipe.edge_levels),
            "haar": haar_loss(output, video),
            "rhythm": rhythm_loss(output, video),
            "kl": kl_loss(mean, logvar),
        }

    def _round_trip(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, mean and log variance, in float32; the passes run in the recipe's precision."""
        half = self.recipe.precision == "bf16"
        parameters = {name: p.bfloat16() if half else p for name, p in self.vae.named_parameters()}
        noise = (self.recipe.latent_noise, self.latent_std)
        call = torch.func.functional_call(
            _RoundTrip(self.vae),
            {f"vae.{n}": p for n, p in parameters.items()},
            (
                video.bfloat16() if half else video,
                *noise,
            ),
        )
        return tuple(part.float() for part in call)

    def _adversarial_loss(self, output: Tensor, video: Tensor, mean: Tensor, rng: random.Random) -> Tensor:
        """Trains the discriminator on this batch, then returns the decoder's loss against it."""
        plan = self.recipe.adversary
        latent = (mean / self.latent_std.view(1, -1, 1, 1, 1)).detach()
        stride = self.vae.config.spatial_stride
        size = min(plan.size, output.shape[-1])
        fake, true, latent = draw_patches(output, video, latent, plan.patches, size, stride, rng)
        if size == plan.size:
            shown, shown_latent = self.fakes.exchange(fake.detach(), latent, rng)
            loss = discriminator_loss(self.judge(true, latent), self.judge(shown, shown_latent))
            self.judge_optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.judge_optimizer.step()
        return guided_loss(fake, guidance(self.judge, fake, true, latent), plan.reach)

    @torch.no_grad()
    def _average(self, mean: Tensor) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.parameters()), list(self.vae.parameters()), 1 - decay)
        if self.step < self._encoder_end:
            self.latent_std.lerp_(mean.detach().std((0, 2, 3, 4)), 0.1 if self.step < 100 else 0.01)

    def _keep_encoder(self) -> None:
        """From here on the averaged encoder stays: the trained weights become the averaged ones."""
        self.vae.load_state_dict(self.ema.state_dict())
        self._freeze()

    def _freeze(self) -> None:
        for part in (self.vae.encoder, self.vae.conv1):
            part.requires_grad_(False)
            for parameter in part.parameters():
                parameter.grad = None

    # --- a run

    def run(self, stop_after: float = math.inf) -> None:
        """Trains to the end, for so many seconds, or until `stopped`; the state is saved then."""
        began = saved = time.monotonic()
        films = unseen_films(*self.recipe.measured)
        while self.step < self.recipe.steps and time.monotonic() - began < stop_after and not self.stopped:
            self.train_step()
            if self.step % self.recipe.log_every == 0:
                self._log()
            if self.step % self.recipe.measure_every == 0 or self.step == self.recipe.steps:
                self._measure(films)
            if time.monotonic() - saved > self.recipe.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def _log(self, **more: Any) -> None:
        entry = {"step": self.step, "seconds": round(self.seconds), "rate": round(self.recipe.factor(self.step), 4)}
        entry |= {name: round(total / count, 5) for name, (total, count) in self.sums.items()}
        entry["frames_per_second"] = round(self.frames / max(self.seconds, 1e-9), 1)
        self.sums = {}
        self._write(entry)

    def _measure(self, films: Sequence[tuple[Frames, Sequence[int]]]) -> None:
        vae = self.half_ema()
        self._write({"step": self.step, "measured": measure(vae, films)})
        sheet(vae, films, self.work / f"sheet-{self.step:07d}.png")

    def half_ema(self) -> WanVAE:
        """The averaged weights in the recipe's precision."""
        vae = WanVAE(self.ema.config).eval().requires_grad_(False)
        vae.load_state_dict(self.ema.state_dict())
        return vae.bfloat16() if self.recipe.precision == "bf16" else vae

    def _write(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry)
        print(line, flush=True)
        with (self.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    # --- files

    def save(self) -> None:
        state = {
            "step": self.step,
            "recipe": json.dumps(asdict(self.recipe)),
            "vae": self.vae.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge": self.judge.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "fakes": self.fakes.state(),
            "latent_std": self.latent_std,
            "sums": self.sums,
            "counts": (self.step, self.seconds, self.frames),
        }
        told = self.file.save(state)
        if told:
            print(f"{told}; the state before it is whole, and the run goes on", flush=True)

    def _resume(self) -> None:
        state = torch.load(self.work / "state.pt", weights_only=True)
        for name in ("vae", "ema", "optimizer", "judge", "judge_optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.fakes.load(state["fakes"])
        self.latent_std, self.sums = state["latent_std"], state["sums"]
        self.step, self.seconds, self.frames = state["counts"]
        if self.step > self._encoder_end:
            self._freeze()
        before = json.loads(state["recipe"])
        for name, now in json.loads(json.dumps(asdict(self.recipe))).items():
            if (then := before.get(name)) != now:
                print(f"changed since the state was saved: {name} was {then}, is {now}", flush=True)
        print(f"resumed at step {self.step}, {self.seconds:.0f} s", flush=True)

    def export(self, path: Path, command: str) -> None:
        """Writes the averaged weights, with their latents in Wan2.1's statistics."""
        vae = WanVAE(self.ema.config).eval().requires_grad_(False)
        vae.load_state_dict(self.ema.state_dict())
        films = [
            self.footage.clips[n] for n in range(0, len(self.footage.clips), max(1, len(self.footage.clips) // 64))
        ]
        fold_statistics(vae, *latent_statistics(vae, films))
        metadata: dict[str, object] = {"config": asdict(vae.config), "recipe": asdict(self.recipe), "command": command}
        metadata |= {"steps": self.step, "seconds": round(self.seconds)}
        save_vae(vae, path, metadata)


class _RoundTrip(nn.Module):
    """Encode, sample, disturb, decode."""

    def __init__(self, vae: WanVAE):
        super().__init__()
        self.vae = vae

    def forward(self, video: Tensor, noise: float, unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, logvar, _ = self.vae.encode_moments(video)
        logvar = logvar.clamp(-30, 20)
        sample = mean + torch.randn_like(mean) * torch.exp(0.5 * logvar)
        if noise:
            amount = noise * torch.rand(len(mean), 1, 1, 1, 1, dtype=mean.dtype)
            sample = sample + amount * unit.to(mean).view(1, -1, 1, 1, 1) * torch.randn_like(mean)
        output, _ = self.vae.decode(sample, clamp=False)
        return output, mean, logvar


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.stages.vae", description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, help="where state, log and sheets are; otherwise by the recipe's name")
    parser.add_argument("--footage", type=Path, help="where rendered films are kept; otherwise in the work folder")
    parser.add_argument("--stop-after", type=float, default=math.inf, help="seconds; the state is saved then")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--export", type=Path, help="write the averaged weights to this file, and do not train")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe = CodecRecipe.load(args.recipe)
    work = args.work or HOME / args.recipe.stem
    numbers = (recipe.stills, recipe.films, recipe.clip_frames, 0)
    trainer = Trainer(recipe, work, Footage.cached(args.footage or work / "footage", *numbers))
    if args.export is None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: setattr(trainer, "stopped", True))
        trainer.run(args.stop_after)
    else:
        trainer.export(args.export, f"python -m training.stages.vae {args.recipe}")


if __name__ == "__main__":
    main()
