"""ODE initialisation: a student of few steps learns where the many-step model's ODE ends (CausalCine, arXiv, May 2026, Sec. 3.4).

    causalcine train ode_init training/recipes/ode_init.yaml --start-from nano [--resume] [--data DIR] [--work DIR]

For films with their true history the teacher solves its ODE from noise, all chunks side by side; the student predicts the end of
that path, not the film, from where the path passes the student's own levels. What comes next is self-forcing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.model import WanConfig
from causalcine_core.sampling import predict_clean, sampling_levels

from ..components.lora import Lora
from ..components.packed import PackedPass, window_of
from ..components.student import Student, Teacher, begin, make_student
from ..components.text import Text
from ..components.trajectory import MOST_STEPS, Trajectory, solver_levels
from ..data.mixture import Mixture, Source
from ..data.samples import Sample
from ..losses.flow import by_chunk
from ..model import read_model
from ..recipe import EMA, Optimizer, Run
from ..stage import Part, Rows, Stage, Update
from ..trainer import run_stage
from ..world import CAPTION_VOCABULARY
from ..world.preview import Preview, films


@dataclass(frozen=True)
class OdeInitRecipe:
    """A run. It begins with `--start-from`, whose weights student and teacher take.

    model: a preset or the fields of a config, of both. solver_steps: Euler steps of the teacher from noise to the end, at
    the shift of the student's schedule; the student's levels must be among theirs. draws: of the student's levels, how many
    each path is learned from in an update; all chunks of a sample are at one. clip_window: what a chunk of a clip or reunion
    sees, that of a film being `student.window`.
    """

    run: Run
    mixture: Mixture
    optimizer: Optimizer
    ema: EMA = field(default_factory=EMA)
    model: WanConfig = field(default_factory=lambda: read_model("nano", "model"), metadata={"read": read_model})
    text: Text = field(default_factory=Text)
    lora: Lora = field(default_factory=Lora)
    student: Student = field(default_factory=Student)
    teacher: Teacher = field(default_factory=Teacher)
    solver_steps: int = 48
    draws: int = 1
    clip_window: int = 1
    preview: Preview = field(default_factory=Preview)

    def __post_init__(self) -> None:
        checks.whole(self.solver_steps, "solver_steps", 1, MOST_STEPS)
        checks.whole(self.draws, "draws", 1, self.student.steps)
        checks.whole(self.clip_window, "clip_window", 0, 1024)
        self.lora.check(self.optimizer, "optimizer")
        solver_levels(self.student.recipe(), self.solver_steps)


@dataclass(frozen=True)
class Batch:
    """Samples of one shape, each at one of its levels. picked: of each denoised chunk, the number of its level among those that the
    path was kept at, `[B, N]`. weights: of each in the loss, as shares of all of the update's `[B, N]`. prompts: of each sample, what
    the student reads for each chunk."""

    path: Trajectory
    picked: Tensor
    weights: Tensor
    prompts: Sequence[Sequence[str]]


class OdeInit(Stage[Batch]):
    """Trains a student of few steps on the paths that a many-step model takes from noise, over true history."""

    name = "ode_init"
    recipe_type = OdeInitRecipe
    fixed = ("model", "text.encoder", "text.heads", "text.layers", "teacher.file", "lora")
    needs_start = True

    def __init__(self, recipe: OdeInitRecipe, device: torch.device, data: Path):
        self.recipe, self.run, self.device = recipe, recipe.run, device
        self.source = Source(data, recipe.mixture)
        torch.manual_seed(recipe.run.seed)
        self.model, self.teacher = make_student(
            recipe.model, recipe.text, recipe.run, CAPTION_VOCABULARY, device, recipe.lora
        )
        part = Part(self.model, recipe.optimizer, recipe.ema)
        assert part.average is not None
        self.parts, self.average = {"model": part}, part.average
        sampling = recipe.student.recipe()
        self.levels = solver_levels(sampling, recipe.solver_steps)
        of_chunks, of_first = (sampling_levels(sampling, first=first)[:-1].tolist() for first in (False, True))
        self.kept = sorted({*of_chunks, *of_first}, reverse=True)
        self._of_chunks, self._of_first = (
            torch.tensor([self.kept.index(level) for level in of]) for of in (of_chunks, of_first)
        )

    def draw(self, step: int) -> Update[Batch]:
        rng = random.Random(f"{self.run.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        kind, samples = self.source.draw(step / self.run.steps, rng)
        noise = torch.randn(len(samples), *samples[0].latents.shape, generator=generator)
        picked = self.pick(len(samples), len(samples[0].chunks), samples[0].references, generator)
        return Update(kind, self.batches(kind, samples, noise, picked), len(samples))

    def pick(self, count: int, chunks: int, first: int, generator: torch.Generator) -> Tensor:
        """Numbers of levels, of `kept`, `[draws, count, chunks]`: of a sample one for all chunks, drawn without repetition. The film's
        first chunk, number `first`, draws for itself where it has levels of its own."""
        draws, levels = self.recipe.draws, self._of_chunks
        drawn = torch.stack([torch.randperm(len(levels), generator=generator)[:draws] for _ in range(count)], 1)
        picked = levels[drawn][..., None].repeat(1, 1, chunks)
        if self._of_first.tolist() != levels.tolist():
            own = torch.randint(len(self._of_first), (draws, count), generator=generator)
            picked[..., first] = self._of_first[own]
        return picked

    def batches(self, kind: str, samples: Sequence[Sample], noise: Tensor, picked: Tensor) -> list[Batch]:
        """Samples of one kind and shape as the batches of an update: as many to a batch as the recipe computes at a time, once for
        each of their levels. noise: `[B, C, F, h, w]`. picked: as `pick` gives it."""
        recipe, chunks = self.recipe, samples[0].chunks
        weights = torch.tensor([sample.weights for sample in samples])
        first = int(weights.any(0).nonzero()[0])
        memory = replace(recipe.student.memory(), window=window_of(kind, recipe.student.window, recipe.clip_window))
        size, references = (noise.shape[-2], noise.shape[-1]), samples[0].references
        layout = PackedPass(self.model, chunks, size, memory, first=first, references=references)
        shares = (weights / weights.sum() / recipe.draws)[:, first:].to(self.device)
        clean = torch.stack([sample.latents for sample in samples]).to(self.device)
        noise, picked = noise[:, :, layout.view.history :].to(self.device), picked[..., first:].to(self.device)
        read = [sample.prompts for sample in samples]
        told = [sample.described for sample in samples] if recipe.teacher.described else read
        at_a_time = recipe.mixture.micro_batch.get(kind, len(samples))
        out = []
        for part in (slice(start, start + at_a_time) for start in range(0, len(samples), at_a_time)):
            path = Trajectory(
                self.teacher, recipe.teacher, layout, clean[part], noise[part], told[part], self.levels, self.kept
            )
            out += [Batch(path, of_draw[part], shares[part], read[part]) for of_draw in picked]
        return out

    @contextmanager
    def computing(self) -> Iterator[None]:
        with self.model.computing(), self.teacher.computing():
            yield

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        path, layout = batch.path, batch.path.layout
        states, end = path.states[:-1], path.states[-1]
        noisy = at_levels(states, layout.each(batch.picked))
        levels = torch.tensor(self.kept, device=self.device)[batch.picked]
        whole = torch.cat([path.clean[:, :, : layout.view.history], noisy], 2)
        velocity = layout.velocity(self.model, path.clean, whole, levels, batch.prompts)
        predicted = predict_clean(noisy, velocity, layout.each(levels)[:, None, :, None, None])
        errors = by_chunk(predicted, end, layout.chunks[layout.first :])
        return {"x0": (errors * batch.weights).sum()}

    def refresh(self) -> None:
        self.source.refresh()

    def preview(self) -> Rows:
        with self.average.applied():
            student = self.recipe.student
            return films(self.model, self.recipe.preview, student.recipe(), student.routing)

    def start_from(self, path: Path) -> None:
        begin(self.model, self.teacher, path, self.recipe.teacher)
        self.average.reset()

    def state_dict(self) -> dict[str, Any]:
        text = getattr(self.model.text, "config", None)
        return {
            "teacher": self.teacher.state_dict(),
            "data": self.source.state_dict(),
            "text": text.to_dict() if text is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.source.load_state_dict(state["data"])


def at_levels(states: Tensor, numbers: Tensor) -> Tensor:
    """Of each frame the state at the level of its number `[B, F]`. states: `[K, B, C, F, h, w]`. Returns: `[B, C, F, h, w]`."""
    samples, frames = (torch.arange(size, device=numbers.device) for size in numbers.shape)
    chosen = states.permute(0, 1, 3, 2, 4, 5)[numbers, samples[:, None], frames]  # B F C h w
    return chosen.permute(0, 2, 1, 3, 4)


def main(argv: Sequence[str] | None = None) -> None:
    run_stage(OdeInit, argv)


if __name__ == "__main__":
    main()
