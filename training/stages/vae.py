"""The video codec: a causal VAE in Wan's layout, on films of the procedural world.

    causalcine train vae training/recipes/codec.yaml [--resume] [--start-from VAE] [--data DIR] [--work DIR] [--finish]

Encoder and decoder learn together; from `encoder_until` on the averaged encoder stays as it is, so that transformers can be
trained on its latents while the decoder goes on. From `adversarial_from` on the decoder learns against a discriminator too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.errors import InputError
from causalcine_core.vae import SCALES, VAEConfig, WanVAE, load_vae, save_vae

from ..components.card import card
from ..components.checkpoint import read_state
from ..components.latent_statistics import Statistics, fold_statistics, latent_statistics
from ..components.linear_start import check_layout, start_linear
from ..components.precision import rounded
from ..data.crops import Plan, check_frames
from ..data.footage import Footage, to_video
from ..evaluation.codec import Frames, compared, measure, unseen_films
from ..losses.adversarial_patches import (
    Adversary,
    PatchDiscriminator,
    ReplayBuffer,
    discriminator_loss,
    draw_patches,
    guidance,
    guided_loss,
)
from ..losses.haar import haar_loss
from ..losses.reconstruction import edge_loss, kl_loss, pixel_loss, rhythm_loss
from ..model import pick_precision
from ..recipe import EMA, Optimizer, Run, plain
from ..stage import Part, Rows, Stage, Update
from ..trainer import run_stage
from ..world.rendering import GROUP

LOSSES = ("pixel", "edge", "haar", "rhythm", "kl")
OUTER = ("encoder.conv1.", "encoder.head.", "conv1.", "conv2.", "decoder.conv1.", "decoder.head.")  # not Muon's
MEASURED_FRAMES = 73  # at least, since flicker is told over two windows of 36 frames
STATISTICS_CLIPS = 64  # that the latents' mean and deviation are measured on, at most twice as many


@dataclass(frozen=True)
class VAERecipe:
    """A run.

    weights: of the losses in `LOSSES`, 1 where none is given. squared: in the pixel loss. edge_levels: scales of the edge loss.
    latent_noise: most deviation of noise added to latents, in units of their own, drawn for each crop. linear_start: clips
    whose principal components the run begins with; 0: random weights. encoder_until: share of the run after which the encoder
    stays; 0: the decoder alone is trained. adversarial_from: share of the run; 1: never. measured: unseen films, of so many
    frames each.
    """

    run: Run
    model: VAEConfig
    footage: Plan
    optimizer: Optimizer
    ema: EMA = field(default_factory=EMA)
    adversary: Adversary = field(default_factory=Adversary)
    weights: dict[str, float] = field(default_factory=dict)
    squared: float = 1.0
    edge_levels: int = 2
    latent_noise: float = 0.1
    linear_start: int = 100
    encoder_until: float = 0.6
    adversarial_from: float = 0.67
    measured: tuple[int, int] = (8, 97)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            checks.choice(name, "weights", LOSSES)
            checks.number(weight, f"weights.{name}", 0, 1e6)
        for name, high in (("squared", 1e6), ("latent_noise", 100), ("encoder_until", 1), ("adversarial_from", 1)):
            checks.number(getattr(self, name), name, 0, high)
        checks.whole(self.edge_levels, "edge_levels", 1, 8)
        checks.whole(self.linear_start, "linear_start", 0, self.footage.films)
        checks.whole(self.measured[0], "measured[0]", 0, 10**4)
        check_frames(self.measured[1], "measured[1]", MEASURED_FRAMES)
        for name in ("compile", "checkpointing"):
            if getattr(self.run, name):
                raise InputError(f"run.{name} must be false: a VAE is trained without")
        if self.model.z_dim not in SCALES or self.model.temporal_stride != GROUP:
            channels = " or ".join(map(str, SCALES))
            raise InputError(f"model must have {channels} latent channels, and latent frames of {GROUP} frames")
        if self.linear_start:
            check_layout(self.model)
        self._check_sizes()

    def _check_sizes(self) -> None:
        stride, size = self.model.spatial_stride, self.adversary.size
        if size % stride:
            raise InputError(f"adversary.size must be a multiple of {stride}, got {size}")
        least = size if self.adversarial_from < 1 else stride
        for kind in self.footage.kinds:
            if kind.crop % stride or kind.crop < least:
                raise InputError(
                    f"footage.curriculum: a crop must be a multiple of {stride}, at least {least}, got {kind.crop}"
                )


@dataclass(frozen=True)
class Batch:
    """Crops of one shape. video: `[B 3 F H W]` in -1..1. posterior, disturbance: noise `[B z f h w]` of the latents, that of their
    distribution, and that which is added in units of their own deviation. judged: whether the discriminator takes part; places:
    the seed of where it looks."""

    video: Tensor
    posterior: Tensor
    disturbance: Tensor
    judged: bool
    places: int


class VAETraining(Stage[Batch]):
    """Trains a video codec on films of the world."""

    name = "vae"
    recipe_type = VAERecipe
    fixed = ("model", "adversary.size")

    def __init__(self, recipe: VAERecipe, device: torch.device, data: Path):
        self.recipe, self.run, self.device = recipe, recipe.run, device
        plan = recipe.footage
        threads = torch.get_num_threads()
        workers = threads if threads > 1 else 0
        self.footage = Footage.cached(data / "footage", plan.stills, plan.films, plan.clip_frames, 0, workers)
        edge = min(self.footage.clips.shape[2:4])
        if any(kind.crop > edge for kind in plan.kinds):
            raise InputError(f"footage.curriculum: a crop must be at most {edge} pixels, as the films are")
        torch.manual_seed(recipe.run.seed)
        self.vae = WanVAE(recipe.model).to(device)
        self.discriminator = PatchDiscriminator(recipe.model.z_dim).to(device)
        part = Part(self.vae, recipe.optimizer, recipe.ema, OUTER)
        assert part.average is not None
        self.parts, self.average = (
            {"vae": part, "discriminator": Part(self.discriminator, recipe.adversary.optimizer)},
            part.average,
        )
        dtype = pick_precision(recipe.run, device)
        self._dtypes = {name: dtype for name, _ in self.vae.named_parameters()} if dtype != torch.float32 else {}
        self.weights = recipe.weights
        self.encoder_end = round(recipe.encoder_until * recipe.run.steps)
        self.adversary_start = round(recipe.adversarial_from * recipe.run.steps)
        self.kept = False  # whether the encoder stays as it is
        self.given = False  # whether the latents are those of a file that the run began with
        self.deviation = torch.ones(recipe.model.z_dim, device=device)  # running, of each latent channel
        self.fakes = ReplayBuffer(recipe.adversary.buffer)
        self._seen = self.deviation  # in the update under way
        self._made: tuple[Tensor, Tensor] | None = None  # fakes of the update under way, and their latents

    # --- a run's beginning and course

    def start(self) -> None:
        if self.recipe.linear_start:
            vae = WanVAE(self.recipe.model)
            start_linear(vae, to_video(torch.from_numpy(np.array(self.footage.clips[: self.recipe.linear_start]))))
            self.vae.load_state_dict(vae.state_dict())
            self.average.reset()

    def start_from(self, path: Path) -> None:
        """The weights of a VAE file in any known layout, or of a run's state. Where the encoder is trained its latents come to have
        unit deviation, as the losses expect; where the decoder alone is, they stay what they are.

        Raises InputError where they do not fit.
        """
        state = read_state(path) if path.suffix == ".pt" else None
        if state is not None and "vae" not in state["parts"]:
            raise InputError(f"--start-from {path} is the state of a run that trains no VAE")
        if state is None:
            vae = load_vae(path, dtype=torch.float32)
            weights, config = vae.state_dict(), plain(vae.config)
        else:
            part = state["parts"]["vae"]
            weights, config = {**part["weights"], **part["average"]}, state["recipe"]["model"]
        if config != plain(self.recipe.model):
            raise InputError(f"--start-from {path} holds a VAE of another shape than the recipe's model")
        self.vae.load_state_dict(weights)
        found = self._statistics(self.vae)
        if self.encoder_end:
            fold_statistics(self.vae, found, (torch.zeros_like(found[0]), torch.ones_like(found[1])))
        else:
            self.deviation.copy_(found[1])
            self.given = state is None or state["own"]["given"]
        self.average.reset()

    @torch.no_grad()
    def updating(self, step: int) -> None:
        plan, keep = self.recipe.adversary, step >= self.encoder_end
        adversarial = plan.weight * min(1.0, (step + 1 - self.adversary_start) / max(1, plan.ramp))
        self.weights = {**self.recipe.weights, "adversarial": adversarial}
        if keep and not self.kept:  # the averaged encoder stays, and the decoder that belongs to it goes on
            with self.average.applied():
                averaged = {name: parameter.clone() for name, parameter in self.vae.named_parameters()}
            self.vae.load_state_dict(averaged)
        self.kept = keep
        for part in (self.vae.encoder, self.vae.conv1):
            part.requires_grad_(not keep)

    def updated(self, step: int) -> None:
        if not self.kept:
            self.deviation.lerp_(self._seen, 0.1 if step < 100 else 0.01)
        if self._made is not None:
            self.fakes.add(*self._made, random.Random(f"{self.run.seed}/{step}/fakes"))

    # --- an update

    def draw(self, step: int) -> Update[Batch]:
        recipe, rng = self.recipe, random.Random(f"{self.run.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        kind = recipe.footage.draw(step / self.run.steps, rng)
        video = self.footage.batch(kind.count, kind.frames, kind.crop, rng)
        side = kind.crop // recipe.model.spatial_stride
        shape = (kind.count, recipe.model.z_dim, 1 + kind.frames // GROUP, side, side)
        posterior, disturbance = torch.randn(2, *shape, generator=generator)
        disturbance *= recipe.latent_noise * torch.rand(kind.count, 1, 1, 1, 1, generator=generator)
        judged = step >= self.adversary_start
        video, posterior, disturbance = (part.to(self.device) for part in (video, posterior, disturbance))
        batch = Batch(video, posterior, disturbance, judged, rng.getrandbits(63))
        return Update(
            "still" if kind.frames == 1 else "clip", [batch], kind.count, tuple(self.parts) if judged else ("vae",)
        )

    @contextmanager
    def computing(self) -> Iterator[None]:
        with rounded(self.vae, self._dtypes):
            yield

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        video, (output, mean, logvar) = batch.video, self.round_trip(batch)
        self._seen, self._made = mean.detach().std((0, 2, 3, 4)), None
        losses = {
            "pixel": pixel_loss(output, video, self.recipe.squared),
            "edge": edge_loss(output, video, self.recipe.edge_levels),
            "haar": haar_loss(output, video),
            "rhythm": rhythm_loss(output, video),
            "kl": kl_loss(mean, logvar),
        }
        return losses | (self._adversarial(output, mean, batch) if batch.judged else {})

    def round_trip(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction, and mean and log variance of the latents, in float32, of disturbed samples of them."""
        mean, logvar, _ = self.vae.encode_moments(batch.video.to(next(self.vae.parameters()).dtype))
        logvar = logvar.clamp(-30, 20)
        sample = mean + batch.posterior.to(mean) * torch.exp(0.5 * logvar)
        sample = sample + batch.disturbance.to(mean) * self.deviation.to(mean).view(1, -1, 1, 1, 1)
        output, _ = self.vae.decode(sample, clamp=False)
        return output.float(), mean.float(), logvar.float()

    def _adversarial(self, output: Tensor, mean: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The decoder's loss, and that of the discriminator, which sees earlier fakes too. Neither reaches the other's weights."""
        plan, rng = self.recipe.adversary, random.Random(batch.places)
        latent = (mean / self.deviation.view(1, -1, 1, 1, 1)).detach()
        stride = self.recipe.model.spatial_stride
        fake, true, latent = draw_patches(output, batch.video, latent, plan.patches, plan.size, stride, rng)
        self._made = (fake.detach(), latent)
        shown = self.fakes.mixed(fake.detach(), latent, rng)
        return {
            "adversarial": guided_loss(fake, guidance(self.discriminator, fake, true, latent), plan.reach),
            "discriminator": discriminator_loss(self.discriminator(true, latent), self.discriminator(*shown)),
        }

    # --- what it makes

    @cached_property
    def _unseen(self) -> Sequence[tuple[Frames, Sequence[int]]]:
        return unseen_films(*self.recipe.measured)

    def preview(self) -> Rows:
        """Unseen films, and below each how it is decoded."""
        with self.average.applied(), self.computing():
            return compared(self.vae, self._unseen)

    def measure(self) -> Mapping[str, float]:
        with self.average.applied(), self.computing():
            return measure(self.vae, self._unseen) if self._unseen else {}

    def _statistics(self, vae: WanVAE) -> Statistics:
        clips = self.footage.clips
        return latent_statistics(vae, list(clips[:: max(1, len(clips) // STATISTICS_CLIPS)]))

    def finish(self, work: Path, state: Mapping[str, Any]) -> Iterable[Path]:
        """The averaged weights as vae.safetensors; latents that are the run's own in the published statistics."""
        vae = WanVAE(self.recipe.model).to(self.device).requires_grad_(False)
        with self.average.applied():
            vae.load_state_dict(self.vae.state_dict())
        if not (self.given and self.encoder_end == 0):
            mean, std = torch.tensor(SCALES[self.recipe.model.z_dim], dtype=torch.float64)
            fold_statistics(vae, self._statistics(vae), (mean, std))
        path = work / "vae.safetensors"
        save_vae(vae.cpu(), path, {"config": plain(self.recipe.model), "card": card(state)})
        return [path]

    def state_dict(self) -> dict[str, Any]:
        return {"kept": self.kept, "given": self.given, "deviation": self.deviation, "fakes": self.fakes.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.kept, self.given = state["kept"], state["given"]
        self.deviation.copy_(state["deviation"])
        self.fakes.load_state_dict(state["fakes"], self.device)


def main(argv: Sequence[str] | None = None) -> None:
    run_stage(VAETraining, argv)


if __name__ == "__main__":
    main()
