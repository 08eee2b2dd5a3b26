"""Teacher forcing on multi-shot films (method.md, 2): one packed pass, clean chunks then noisy chunks.

    causalcine train teacher_forcing training/recipes/nano.yaml [--work DIR]

The recipe's curriculum goes from single frames over short clips to whole films; each phase mixes sample kinds. Everything
that a run needs to go on (weights, EMA, optimisers, step, random state) is in one checkpoint, written often.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from causalcine_core.memory import PackedView, ResolvedMemory
from causalcine_core.model import PRESETS, CausalWanTransformer, TextKV, WanConfig, load_checkpoint, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.model.transformer import View
from causalcine_core.sampling import add_noise, shifted
from causalcine_core.text import NanoTextEncoder, TextConfig

from .. import HOME
from ..data import shards as dataset
from ..data.shards import Reunions, Sample, Shards
from ..losses.pointing import Pointing
from ..world import CAPTION_VOCABULARY


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum. until: share of the run at which it ends. mix: share of steps by kind of sample."""

    until: float
    mix: dict[str, float]


@dataclass(frozen=True)
class TrainRecipe:
    """A run.

    seconds: training time over all sessions. batch: samples a step by kind, of reunions those of 4 frames.
    reunion_lengths: frames of a reunion, drawn for each step. teacher_every: steps after which the averaged weights become
    the teacher (see `packed_loss`): one that followed at once would follow into every disturbance too. auxiliary: weights
    of the losses of `Pointing`. precision: of the linears, `fp32`, `bf16` or `auto`: bf16 where this machine multiplies
    faster in it (weights, norms and attention stay float32).
    """

    model: str = "nano"
    seed: int = 0
    seconds: float = 3600
    learning_rate: float = 1e-3
    muon_learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    cooldown: float = 0.25
    ema: float = 0.999
    teacher_every: int = 5000
    text_dropout: float = 0.1
    shift: float = 3.0
    clip_length: int = 4
    clip_window: int = 1
    reunion_lengths: tuple[int, ...] = (2, 2, 3, 4)
    auxiliary: dict[str, float] = field(default_factory=lambda: {"naming": 0.3, "pointing": 0.3, "binding": 0.3})
    window: int = 3
    top_k: int = 5
    name_only_weight: float = 2.0
    precision: str = "auto"
    batch: dict[str, int] = field(default_factory=lambda: {"still": 48, "reunion": 18, "clip": 6, "take": 6, "film": 1})
    curriculum: tuple[Phase, ...] = ()
    save_every: float = 120
    log_every: int = 50

    @classmethod
    def load(cls, path: Path) -> TrainRecipe:
        data = yaml.safe_load(path.read_text())
        data["curriculum"] = tuple(Phase(**phase) for phase in data["curriculum"])
        return cls(**data)

    def phase(self, progress: float) -> Phase:
        return next((p for p in self.curriculum if progress < p.until), self.curriculum[-1])

    def learning_rate_factor(self, step: int, progress: float) -> float:
        """Linear warm-up, constant, then a cosine to zero over the last `cooldown` of the time."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        left = min(1.0, max(0.0, (1 - progress) / self.cooldown)) if self.cooldown else 1.0
        return warm * (0.5 - 0.5 * math.cos(math.pi * left))


class Model(nn.Module):
    """What is trained together: the text encoder and the transformer."""

    def __init__(self, config: WanConfig, text: TextConfig):
        super().__init__()
        self.text = NanoTextEncoder(text)
        self.net = CausalWanTransformer(config)
        self.net.initialize()


def packed_loss(
    model: Model,
    samples: Sequence[Sample],
    settings: ResolvedMemory,
    levels: Tensor,
    noise: Tensor,
    drop: Sequence[bool],
    teacher: Model | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Flow-matching loss of each chunk, `[B, N]`: every noisy chunk at its sample's level, over clean history. And the
    auxiliary losses of `Pointing`, by name.

    levels: `[B]` in 0..1. noise: `[B, C, F, h, w]`. drop: samples whose text is withheld (for guidance). teacher: who
    answers for chunks that call somebody by name only. Its answer to the same chunk with that character described is
    their target (context distillation, arXiv:2112.00861): it differs from the model's own answer by just what memory
    should supply, while the film itself adds the noise that nobody can predict. Chunks before the first weight above 0
    are history: their loss is 0.
    """
    chunks = list(samples[0].chunks)
    first = next(i for i in range(len(chunks)) if any(s.weights[i] for s in samples))
    clean = torch.stack([s.latents for s in samples])
    _, ph, pw = model.net.config.patch_size
    grid = (clean.shape[3] // ph, clean.shape[4] // pw)
    rope = Rope(model.net.config.head_dim, grid, clean.device)
    packed_view = PackedView(chunks, settings, rope, clean.device, first=first)
    packed = packed_view.pack(clean, add_noise(clean, noise, levels[:, None, None, None, None]))
    timesteps = torch.zeros(len(samples), packed_view.frames, device=clean.device)
    timesteps[:, packed_view.clean :] = 1000 * levels[:, None]
    lengths = torch.tensor(chunks, device=clean.device)
    run = chunks[0] if len(set(chunks)) == 1 else 1

    def answer(who: Model, prompts: Sequence[Sequence[str]], view: View) -> Tensor:
        said = [text for of in prompts for text in of]
        unique = list(dict.fromkeys(said))
        rows = torch.tensor([unique.index(text) for text in said], device=clean.device).view(-1, len(chunks))
        rows = torch.cat([_each(rows[:, :-1], lengths[:-1]), _each(rows[:, first:], lengths[first:])], 1)
        text = TextKV(project_text(who.net, who.text.encode(unique)), rows, run)
        return who.net(packed, timesteps, text, view)[:, :, packed_view.clean :]

    withheld = ("",) * len(chunks)
    prompts = [withheld if dropped else s.prompts for s, dropped in zip(samples, drop, strict=True)]
    described = [withheld if dropped else s.described for s, dropped in zip(samples, drop, strict=True)]
    by_name = [[a != b for a, b in zip(*of, strict=True)] for of in zip(prompts, described, strict=True)]
    pointing = Pointing(packed_view, prompts, by_name, [s.cast for s in samples], grid)
    velocity = answer(model, prompts, pointing)
    target = (noise - clean)[:, :, packed_view.history :]
    if teacher is not None and any(any(of[first:]) for of in by_name):
        with torch.no_grad():
            told = answer(teacher, described, packed_view)
        named = _each(torch.tensor(by_name, device=clean.device)[:, first:], lengths[first:])
        target = torch.where(named[:, None, :, None, None], told, target)
    error = (velocity - target).square().mean((1, 3, 4))  # B F
    losses = torch.stack([part.mean(1) for part in error.split(chunks[first:], 1)], 1)
    return nn.functional.pad(losses, (first, 0)), pointing.losses()


def _each(rows: Tensor, lengths: Tensor) -> Tensor:
    """`[B, N]` of chunks to `[B, F]` of their frames."""
    return rows.repeat_interleave(lengths, 1)


def split_parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices for Muon, everything else for AdamW). Embeddings and the output head stay with AdamW."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, p in module.named_parameters():
        outer = any(part in name for part in ("tokens", "positions", "modulation", "head.head"))
        (matrices if p.ndim == 2 and not outer else rest).append(p)
    return matrices, rest


def bf16_is_faster() -> bool:
    """Measured here and now: some CPUs multiply bfloat16 in hardware, on others it is many times slower."""
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 768, dtype=dtype)
        best = math.inf
        for _ in range(5):
            began = time.perf_counter()
            a @ b
            best = min(best, time.perf_counter() - began)
        seconds.append(best)
    return seconds[1] < 0.8 * seconds[0]


def draw_levels(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Training levels: logit-normal, shifted; a tenth uniform so that no level is left out."""
    normal = torch.sigmoid(torch.randn(count, generator=generator))
    uniform = torch.rand(count, generator=generator)
    chosen = torch.where(torch.rand(count, generator=generator) < 0.1, uniform, normal)
    return shifted(chosen, shift).clamp(1e-3, 1.0)


class Trainer:
    def __init__(self, recipe: TrainRecipe, data: Path, work: Path, init: Path | None = None):
        self.recipe, self.work = recipe, work
        torch.manual_seed(recipe.seed)
        self.text_config = TextConfig(tuple(sorted(CAPTION_VOCABULARY)), length=PRESETS[recipe.model].text_len)
        self.model = Model(PRESETS[recipe.model], self.text_config)
        self.ema = Model(PRESETS[recipe.model], self.text_config).requires_grad_(False)
        self.ema.load_state_dict(self.model.state_dict())
        self.teacher = Model(PRESETS[recipe.model], self.text_config).requires_grad_(False)
        self.teacher.load_state_dict(self.model.state_dict())
        matrices, rest = split_parameters(self.model)
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)
        ]
        if recipe.muon_learning_rate:
            self.optimizers.append(
                torch.optim.Muon(
                    matrices,
                    lr=recipe.muon_learning_rate,
                    weight_decay=recipe.weight_decay,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        else:
            self.optimizers[0].add_param_group({"params": matrices})
        self.base_rates = [group["lr"] for o in self.optimizers for group in o.param_groups]
        self.bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and bf16_is_faster())
        self.step, self.seconds = 0, 0.0
        self.seen: dict[str, int] = {}
        self.hardware: dict[str, float] = {}  # seconds by what they were spent on, over all sittings
        self.stills, self.films = Shards(data, "stills"), Shards(data, "films")
        self.reunions = Reunions(self.stills)
        self.path = work / "state.pt"
        if self.path.exists():
            self._resume()
        elif init is not None:
            self._start_from(init)

    @property
    def progress(self) -> float:
        return min(1.0, self.seconds / self.recipe.seconds)

    def run(self) -> None:
        saved, machine = time.monotonic(), _machine()
        losses: dict[str, list[float]] = {}
        while self.progress < 1:
            began = time.monotonic()
            step_losses = self.train_step()
            took = time.monotonic() - began
            self.seconds += took
            self.hardware[machine] = self.hardware.get(machine, 0.0) + took
            for name, loss in step_losses.items():
                losses.setdefault(name, []).append(loss)
            if self.step % self.recipe.log_every == 0:
                self._log(losses)
                losses = {}
                self.stills.refresh()
                self.films.refresh()
                self.reunions.refresh()
            if time.monotonic() - saved > self.recipe.save_every:
                self.save()
                saved = time.monotonic()
        self.save()

    def train_step(self) -> dict[str, float]:
        """One update, and its losses by name; its randomness depends on the seed and the step only."""
        recipe = self.recipe
        rng = random.Random(f"{recipe.seed}/{self.step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        kind = self._kind(rng)
        samples = self._samples(kind, rng)
        window = {"still": 0, "take": recipe.window, "film": recipe.window}.get(kind, recipe.clip_window)
        settings = ResolvedMemory(window, recipe.top_k)
        noise = torch.randn(len(samples), *samples[0].latents.shape, generator=generator)
        levels = draw_levels(len(samples), recipe.shift, generator)
        drop = [rng.random() < recipe.text_dropout for _ in samples]

        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            losses, auxiliary = packed_loss(self.model, samples, settings, levels, noise, drop, self.teacher)
        weights = torch.tensor([s.weights for s in samples])
        loss = (losses * weights).sum() / weights.sum()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        (loss + sum(recipe.auxiliary[name] * value for name, value in auxiliary.items())).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        factor = recipe.learning_rate_factor(self.step, self.progress)
        for group, rate in zip((g for o in self.optimizers for g in o.param_groups), self.base_rates, strict=True):
            group["lr"] = rate * factor
        for optimizer in self.optimizers:
            optimizer.step()
        self._average()
        self.step += 1
        if self.step % recipe.teacher_every == 0:
            self.teacher.load_state_dict(self.ema.state_dict())
        self.seen[kind] = self.seen.get(kind, 0) + len(samples)
        return {kind: loss.item()} | {f"{kind} {name}": value.item() for name, value in auxiliary.items()}

    def _kind(self, rng: random.Random) -> str:
        mix = {
            k: share
            for k, share in self.recipe.phase(self.progress).mix.items()
            if k in ("still", "reunion") or len(self.films)
        }
        return rng.choices(list(mix), list(mix.values()))[0] if mix else "still"

    def _samples(self, kind: str, rng: random.Random) -> list[Sample]:
        recipe = self.recipe
        count = recipe.batch[kind]
        if kind == "still":
            sources = [shards for shards in (self.stills, self.films) if len(shards)]
            return [dataset.still(rng.choice(sources), rng) for _ in range(count)]
        if kind == "reunion":
            length = rng.choice(recipe.reunion_lengths)
            count = max(1, count * 4 // length)  # as many packed frames a step at every length
            return [self.reunions.draw(rng, length) for _ in range(count)]
        if kind == "clip":
            return [dataset.clip(self.films, rng, recipe.clip_length, recipe.name_only_weight) for _ in range(count)]
        if kind == "take":
            return [dataset.take(self.films, rng, recipe.clip_length) for _ in range(count)]
        return [dataset.film(self.films, rng, recipe.name_only_weight) for _ in range(count)]

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        theirs: list[Tensor] = list(self.ema.parameters())
        ours: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(theirs, ours, 1 - decay)

    def _log(self, losses: dict[str, list[float]]) -> None:
        entry = {
            "step": self.step,
            "seconds": round(self.seconds),
            "loss": {kind: round(sum(some) / len(some), 4) for kind, some in sorted(losses.items())},
            "seen": self.seen,
            "stills": len(self.stills),
            "films": len(self.films),
        }
        line = json.dumps(entry)
        print(line, flush=True)
        with (self.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def save(self) -> None:
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "seen": self.seen,
            "hardware": self.hardware,
            "recipe": asdict(self.recipe),
            "text": self.text_config.to_dict(),
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def _start_from(self, path: Path) -> None:
        """Weights of an exported checkpoint, fresh optimisers: for going on where the run's own state is lost."""
        checkpoint = load_checkpoint(path)
        for model in (self.model, self.ema, self.teacher):
            model.net.load_state_dict(checkpoint.model)
            model.text.load_state_dict(checkpoint.text)

    def _resume(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.teacher.load_state_dict(state.get("teacher", state["ema"]))
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self.seen, self.hardware = state["seen"], state["hardware"]
        print(f"resumed at step {self.step}, {self.seconds:.0f} s", flush=True)


def _machine() -> str:
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument(
        "--data", type=Path, default=HOME / "data", help="folder of shards made by training.data.shards"
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="where the run keeps its state and log; otherwise by the recipe's name in " + str(HOME),
    )
    parser.add_argument("--init", type=Path, help="checkpoint to start from where the run has no state yet")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    work = args.work or HOME / args.recipe.stem
    work.mkdir(parents=True, exist_ok=True)
    Trainer(TrainRecipe.load(args.recipe), args.data, work, args.init).run()


if __name__ == "__main__":
    main()
