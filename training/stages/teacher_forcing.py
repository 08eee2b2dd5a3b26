"""Teacher forcing on multi-shot films (CausalCine, arXiv, May 2026, Sec. 3.2): flow matching in one packed pass.

    causalcine train teacher_forcing training/recipes/nano.yaml [--resume] [--data DIR] [--work DIR]

The recipe's curriculum goes from single frames over short clips to whole films; each phase mixes kinds of samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.memory import ROUTINGS, ResolvedMemory
from causalcine_core.model import WanConfig
from causalcine_core.sampling import add_noise

from ..components.lora import Lora
from ..components.packed import PackedPass, window_of
from ..components.text import Text, make_text
from ..data.mixture import Mixture, Source
from ..data.samples import Sample
from ..losses.flow import by_chunk, draw_levels
from ..losses.pointing import LOSSES, Pointing, Truth
from ..model import OUTER, Model, how, read_model
from ..recipe import EMA, Optimizer, Run
from ..stage import Part, Rows, Stage, Update
from ..trainer import run_stage
from ..world import CAPTION_VOCABULARY
from ..world.preview import ManySteps, films


@dataclass(frozen=True)
class TeacherForcingRecipe:
    """A run.

    model: a preset or the fields of a config. shift: of the noise levels that are drawn. text_dropout: share of samples whose
    text is withheld, for guidance. window, top_k, routing: what a chunk of a film sees, as in inference; clip_window: of a clip
    or reunion. teacher_every: updates after which the averaged weights become the teacher (see `targets`): one that followed at
    once would follow into every disturbance too; 0: there is none. auxiliary: weights of the losses of `Pointing`.
    """

    run: Run
    mixture: Mixture
    optimizer: Optimizer
    ema: EMA = field(default_factory=EMA)
    model: WanConfig = field(default_factory=lambda: read_model("nano", "model"), metadata={"read": read_model})
    text: Text = field(default_factory=Text)
    lora: Lora = field(default_factory=Lora)
    shift: float = 3.0
    text_dropout: float = 0.1
    window: int = 3
    top_k: int = 5
    routing: str = "every_step"
    clip_window: int = 1
    teacher_every: int = 0
    auxiliary: dict[str, float] = field(default_factory=dict)
    preview: ManySteps = field(default_factory=ManySteps)

    def __post_init__(self) -> None:
        checks.number(self.shift, "shift", 0.01, 100)
        checks.number(self.text_dropout, "text_dropout", 0, 1)
        for name in ("window", "top_k", "clip_window"):
            checks.whole(getattr(self, name), name, 0, 1024)
        checks.choice(self.routing, "routing", ROUTINGS)
        self.lora.check(self.optimizer, "optimizer")
        checks.whole(self.teacher_every, "teacher_every", 0, 10**9)
        for name, weight in self.auxiliary.items():
            checks.choice(name, "auxiliary", LOSSES)
            checks.number(weight, f"auxiliary.{name}", 0, 1e6)


Prompts = Sequence[Sequence[str]]  # of samples, of each its chunks


@dataclass(frozen=True)
class Batch:
    """Samples of one shape. clean, noise: `[B, C, F, h, w]`. levels: `[B]` in 0..1. weights: of each chunk `[B, N]`, as shares of
    all of the update's. prompts, described: of each chunk the text, and the same with the looks of everybody whom it calls by
    name only. truth: for the auxiliary losses, where there are any; counts: its `counts`, over the update."""

    clean: Tensor
    noise: Tensor
    levels: Tensor
    weights: Tensor
    prompts: Prompts
    described: Prompts
    layout: PackedPass
    truth: Truth | None
    counts: Mapping[str, int]


class TeacherForcing(Stage[Batch]):
    """Trains a transformer, and nano's text encoder with it, on films cut into chunks."""

    name = "teacher_forcing"
    recipe_type = TeacherForcingRecipe
    fixed = ("model", "text.encoder", "text.heads", "text.layers", "lora")

    def __init__(self, recipe: TeacherForcingRecipe, device: torch.device, data: Path):
        self.recipe, self.run, self.device = recipe, recipe.run, device
        self.source = Source(data, recipe.mixture)
        torch.manual_seed(recipe.run.seed)
        dtype, compute = how(recipe.run, device)
        self.model = Model(
            recipe.model, make_text(recipe.text, recipe.model, CAPTION_VOCABULARY, device), dtype, compute, device
        )
        self.teacher = self.model.frozen_copy() if recipe.teacher_every else None
        self.model.adapt(recipe.lora)
        part = Part(self.model, recipe.optimizer, recipe.ema, OUTER)
        assert part.average is not None
        self.parts, self.average = {"model": part}, part.average
        self.weights = {name: recipe.auxiliary.get(name, 0.0) for name in LOSSES}

    def draw(self, step: int) -> Update[Batch]:
        recipe = self.recipe
        rng = random.Random(f"{recipe.run.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        kind, samples = self.source.draw(step / recipe.run.steps, rng)
        noise = torch.randn(len(samples), *samples[0].latents.shape, generator=generator)
        levels = draw_levels(len(samples), recipe.shift, generator)
        dropped = [rng.random() < recipe.text_dropout for _ in samples]
        return Update(kind, self.batches(kind, samples, noise, levels, dropped), len(samples))

    def batches(
        self, kind: str, samples: Sequence[Sample], noise: Tensor, levels: Tensor, dropped: Sequence[bool]
    ) -> list[Batch]:
        """Samples of one kind and shape as the batches of an update, as many to a batch as the recipe computes at a time.

        noise: `[B, C, F, h, w]`. levels: `[B]` in 0..1. dropped: whose text is withheld.
        """
        recipe, chunks = self.recipe, samples[0].chunks
        weights = torch.tensor([sample.weights for sample in samples])
        window = window_of(kind, recipe.window, recipe.clip_window)
        first = int(weights.any(0).nonzero()[0])
        height, width = noise.shape[-2:]
        memory = ResolvedMemory(window, recipe.top_k, recipe.routing)
        references = samples[0].references
        layout = PackedPass(self.model, chunks, (height, width), memory, first=first, references=references)
        withheld = ("",) * len(chunks)
        prompts = [withheld if drop else s.prompts for s, drop in zip(samples, dropped, strict=True)]
        described = [withheld if drop else s.described for s, drop in zip(samples, dropped, strict=True)]
        size = recipe.mixture.micro_batch.get(kind, len(samples))
        parts = [slice(start, start + size) for start in range(0, len(samples), size)]
        truths = [self._truth(layout, prompts[part], described[part], samples[part]) for part in parts]
        of_parts = [truth.counts() for truth in truths if truth]
        counts = {name: sum(of[name] for of in of_parts) for name in LOSSES}
        clean = torch.stack([sample.latents for sample in samples]).to(self.device)
        noise, levels, weights = (t.to(self.device) for t in (noise, levels, weights / weights.sum()))
        return [
            Batch(
                clean[part],
                noise[part],
                levels[part],
                weights[part],
                prompts[part],
                described[part],
                layout,
                truth,
                counts,
            )
            for part, truth in zip(parts, truths, strict=True)
        ]

    def _truth(
        self, layout: PackedPass, prompts: Prompts, described: Prompts, samples: Sequence[Sample]
    ) -> Truth | None:
        if not any(self.weights.values()):
            return None
        by_name, cast = calls_by_name(prompts, described), [sample.cast for sample in samples]
        return Truth(layout.view, prompts, by_name, cast, layout.grid, self.device)

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self.model.computing(), self.teacher.computing() if self.teacher is not None else nullcontext():
            yield

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        layout, levels = batch.layout, batch.levels
        noisy = add_noise(batch.clean, batch.noise, levels[:, None, None, None, None])
        pointing = Pointing(layout.view, batch.truth) if batch.truth else None
        velocity = layout.velocity(self.model, batch.clean, noisy, levels, batch.prompts, pointing)
        errors = by_chunk(velocity, self.targets(batch, noisy), layout.chunks[layout.first :])
        flow = (errors * batch.weights[:, layout.first :]).sum()
        return {"flow": flow} | (pointing.losses(batch.counts) if pointing else {})

    @torch.no_grad()
    def targets(self, batch: Batch, noisy: Tensor) -> Tensor:
        """The velocity that is to be learned, `[B, C, F, h, w]` of the denoised frames.

        A chunk that calls somebody by name only is compared with what the teacher answers to the same noisy chunk when that
        character is described (context distillation, arXiv:2112.00861): the two differ by just what memory should supply,
        while the film itself adds the noise that nobody can predict.
        """
        layout = batch.layout
        film = (batch.noise - batch.clean)[:, :, layout.view.history :]
        by_name = torch.tensor(calls_by_name(batch.prompts, batch.described), device=film.device)[:, layout.first :]
        if self.teacher is None or not by_name.any():
            return film
        told = layout.velocity(self.teacher, batch.clean, noisy, batch.levels, batch.described)
        return torch.where(layout.each(by_name)[:, None, :, None, None], told, film)

    def updated(self, step: int) -> None:
        if self.teacher is not None and (step + 1) % self.recipe.teacher_every == 0:
            self.teacher.take(self.model.weights(self.average.state_dict()))

    def refresh(self) -> None:
        self.source.refresh()

    def preview(self) -> Rows:
        recipe = self.recipe
        how = recipe.preview.recipe(shift=recipe.shift, window=recipe.window, top_k=recipe.top_k)
        with self.average.applied():
            return films(self.model, recipe.preview, how, recipe.routing)

    def start_from(self, path: Path) -> None:
        self.model.start_from(path)
        self.average.reset()
        if self.teacher is not None:
            self.teacher.take(self.model.weights())

    def state_dict(self) -> dict[str, Any]:
        text = getattr(self.model.text, "config", None)
        return {
            "followed": self.teacher.state_dict() if self.teacher is not None else None,
            "data": self.source.state_dict(),
            "text": text.to_dict() if text is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if self.teacher is not None:
            self.teacher.take(state["followed"] or self.model.weights(self.average.state_dict()))
        self.source.load_state_dict(state["data"])


def calls_by_name(prompts: Prompts, described: Prompts) -> list[list[bool]]:
    """Of each sample's chunks, whether its text leaves somebody's looks to memory."""
    return [[a != b for a, b in zip(*of, strict=True)] for of in zip(prompts, described, strict=True)]


def main(argv: Sequence[str] | None = None) -> None:
    run_stage(TeacherForcing, argv)


if __name__ == "__main__":
    main()
