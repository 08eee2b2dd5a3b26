"""Self-forced distribution matching (CausalCine, arXiv, May 2026, Sec. 3.4; Self-Forcing, arXiv:2506.08009): a student learns on films
that it makes itself.

    causalcine train self_forcing training/recipes/self_forcing.yaml --start-from STUDENT [--resume] [--data DIR] [--work DIR]

Two denoisers score what it made, chunk by chunk after their history: the frozen teacher, and a fake one that is trained on the
student's films all the while. Their difference moves the student. STUDENT is what `ode_init` made, or the teacher itself.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig
from causalcine_core.sampling import sampling_levels, shifted

from ..components.heads import Heads
from ..components.likeness import chunk_features, energy_distance
from ..components.lora import Lora
from ..components.packed import PackedPass
from ..components.pieces import Films, Piece, Pieces
from ..components.rollouts import Rollouts, TeacherRollouts
from ..components.scores import Adversarial, Scores, Shown
from ..components.student import Student, Teacher, begin, make_student
from ..components.text import Text
from ..components.vitals import VITALS, Range, out_of_range, picture_signs, ranges, vitals
from ..losses.dmd import dmd_gradient
from ..model import OUTER, read_model
from ..recipe import EMA, Optimizer, Run
from ..stage import Part, Rows, Stage, Update
from ..trainer import run_stage
from ..world import CAPTION_VOCABULARY
from ..world.preview import Preview, films

LEVELS = (0.02, 0.98)  # that are scored at: 20 to 980 of 1000
HEADS = ("blocks", "width", "heads", "queries")  # of the adversarial term, that a state must fit
TRUE_FILMS = 64  # at most, whose signs of life make up their range


@dataclass(frozen=True)
class SelfForcingRecipe:
    """A run.

    optimizer, fake_optimizer, heads_optimizer: of the student, the fake denoiser and its heads. lora: adapters of the student and
    of the fake denoiser. ema: of the student. ratio: updates
    of the fake denoiser before each of the student. exit: at which of its passes the student is trained, one drawn for each
    update or always the last one. limits: lowest and highest that a sign of the student's films may come to, in times of the lowest
    and the highest of true ones; beyond them the run is stopped. agreement: largest distance, in shares of the noise, between
    the networks' answers to true films before the first update.
    """

    run: Run
    optimizer: Optimizer
    fake_optimizer: Optimizer
    heads_optimizer: Optimizer = field(default_factory=lambda: Optimizer(3e-4, betas=(0.0, 0.999)))
    ema: EMA = field(default_factory=EMA)
    model: WanConfig = field(default_factory=lambda: read_model("nano", "model"), metadata={"read": read_model})
    text: Text = field(default_factory=Text)
    lora: Lora = field(default_factory=Lora)
    student: Student = field(default_factory=Student)
    teacher: Teacher = field(default_factory=Teacher)
    adversarial: Adversarial = field(default_factory=Adversarial)
    films: Films = field(default_factory=Films)
    ratio: int = 5
    exit: Literal["drawn", "last"] = "drawn"
    limits: dict[str, tuple[float, float]] = field(default_factory=lambda: dict.fromkeys(VITALS[:2], (0.3, 1.5)))
    agreement: float = 0.8
    preview: Preview = field(default_factory=Preview)

    def __post_init__(self) -> None:
        checks.whole(self.ratio, "ratio", 1, 1000)
        self.lora.check(self.optimizer, "optimizer")
        self.lora.check(self.fake_optimizer, "fake_optimizer")
        checks.number(self.agreement, "agreement", 0, 1e6)
        for name in self.limits:
            checks.choice(name, "limits", VITALS)
        if self.adversarial.teacher_steps and self.films.longest:
            raise InputError(
                "adversarial.teacher_steps must be 0 where films live on (films.longest): the teacher's do not"
            )
        if self.adversarial.weight:
            for block in self.adversarial.blocks:
                checks.whole(block, "adversarial.blocks", 0, self.model.num_layers - 1)


@dataclass(frozen=True)
class Batch:
    """A piece that is made and scored. kind: of the update. noise, and nearby for R1: `[B, C, F, h, w]`. levels: that it is scored at,
    `[B]`. share: of the films of the update."""

    kind: str
    piece: Piece
    exit_step: int
    noise: Tensor
    nearby: Tensor
    levels: Tensor
    share: float


class SelfForcing(Stage[Batch]):
    """Trains a student of few steps on its own films, by distribution matching."""

    name = "self_forcing"
    recipe_type = SelfForcingRecipe
    fixed = ("model", "text.encoder", "text.heads", "text.layers", "lora", *(f"adversarial.{name}" for name in HEADS))
    needs_start = True
    best = "distance"

    def __init__(self, recipe: SelfForcingRecipe, device: torch.device, data: Path):
        self.recipe, self.run, self.device = recipe, recipe.run, device
        chunk = recipe.student.recipe().timeline.chunk
        self.pieces = Pieces(data, recipe.films, chunk)
        torch.manual_seed(recipe.run.seed)
        self.student, self.teacher = make_student(
            recipe.model, recipe.text, recipe.run, CAPTION_VOCABULARY, device, recipe.lora
        )
        self.fake = self.teacher.frozen_copy()
        self.fake.net.requires_grad_(True)
        self.fake.adapt(recipe.lora)
        student = Part(self.student, recipe.optimizer, recipe.ema, OUTER)
        assert student.average is not None
        self.parts = {"model": student, "fake": Part(self.fake, recipe.fake_optimizer, outer=OUTER)}
        self.average = student.average
        term, heads = recipe.adversarial, None
        if term.weight:
            heads = Heads(recipe.model.dim, len(term.blocks), term.width, term.heads, term.queries).to(device)
            self.parts["heads"] = Part(heads, recipe.heads_optimizer)
        self.weights = {"adversarial": term.weight, "critic": term.critic_weight, "r1": term.critic_weight * term.r1}
        self.scores = Scores(self.teacher, self.fake, heads, recipe.teacher, term)
        self.rollouts = Rollouts(self.student, recipe.student, chunk, self.pieces.size)
        steps = term.teacher_steps
        self.teachers = TeacherRollouts(self.teacher, recipe.teacher, self.rollouts, steps) if steps else None
        self._curves: dict[str, list[Tensor]] = {}
        self._true: dict[str, Range] = {}

    def updating(self, step: int) -> None:
        self.pieces.updating()
        if step == 0:
            self.check()

    def draw(self, step: int) -> Update[Batch]:
        recipe, count = self.recipe, self.recipe.films.at_once
        rng = random.Random(f"{recipe.run.seed}/{step}")
        generator = torch.Generator().manual_seed(rng.getrandbits(63))
        kind = "student" if step % (recipe.ratio + 1) == recipe.ratio else "fake"
        exit_step = rng.randrange(recipe.student.steps) if recipe.exit == "drawn" else -1
        length = rng.choice(recipe.films.lengths)
        batches = []
        for slot in range(recipe.films.batch // count):
            piece = self.pieces.draw(slot, length, rng)
            noise, nearby = (torch.randn(piece.true.shape, generator=generator).to(self.device) for _ in range(2))
            levels = shifted(torch.rand(count, generator=generator), recipe.student.shift).clamp(*LEVELS)
            share = count / recipe.films.batch
            batches.append(Batch(kind, piece, exit_step, noise, nearby, levels.to(self.device), share))
        learns = ("model",) if kind == "student" else tuple(name for name in self.parts if name != "model")
        return Update(kind, batches, recipe.films.batch, learns)

    @contextmanager
    def computing(self) -> Iterator[None]:
        with ExitStack() as stack:
            for model in (self.student, self.teacher, self.fake):
                stack.enter_context(model.computing())
            yield

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        with torch.set_grad_enabled(batch.kind == "student"):
            made, before = self.pieces.make(self.rollouts, batch.piece, batch.exit_step)
        shown = self.shown(batch, torch.cat([before, made.detach()], 2))
        if batch.kind == "student":
            losses, curves = self.scores.of_student(made, shown)
        else:
            losses, curves = self.scores.of_fake(shown, self.true(batch), batch.nearby)
        signs = {name: of.mean() for name, of in vitals(made).items()}
        self._note(batch.kind, curves | signs)
        return {name: batch.share * loss for name, loss in losses.items()}

    def true(self, batch: Batch) -> Tensor:
        """What the heads take for true: the stories' own films, or the teacher's."""
        if self.scores.heads is None or self.teachers is None:
            return batch.piece.true.to(self.device)
        told = batch.piece.described if self.recipe.teacher.described else batch.piece.prompts
        return self.teachers.make(told, batch.piece.seed)

    def shown(self, batch: Batch, clean: Tensor) -> Shown:
        """Films of a batch's texts as the denoisers see them; clean: all frames."""
        piece = batch.piece
        layout = self._layout(len(piece.prompts[0]), piece.history)
        return Shown(layout, clean, batch.noise, batch.levels, piece.prompts, piece.described)

    def _layout(self, chunks: int, first: int = 0) -> PackedPass:
        rollouts = self.rollouts
        lengths = (rollouts.chunk,) * chunks
        return PackedPass(self.student, lengths, self.pieces.size, rollouts.settings, first=first)

    def _note(self, kind: str, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._curves.setdefault(f"{kind} {name}", []).append(value)

    def curves(self) -> dict[str, Tensor]:
        means = {name: torch.stack(some).mean() for name, some in self._curves.items()}
        self._curves = {}
        return means

    @torch.no_grad()
    def check(self) -> None:
        """Before the first update: says what is in force, and whether the three networks belong together. Raises InputError in one
        sentence where they do not."""
        levels = ", ".join(f"{level:g}" for level in (1000 * sampling_levels(self.rollouts.recipe)[:-1]).tolist())
        memory, guide = self.rollouts.settings, self.recipe.teacher
        sees = f"window {memory.window}, top_k {memory.top_k}, routing {memory.routing}"
        print(f"student: {self.rollouts.recipe.schedule.sampler} at {levels}; {sees}", flush=True)
        print(f"teacher: unguided + {guide.guidance:g} (guided - unguided); described: {guide.described}", flush=True)
        batch = self.draw(0).batches[0]
        level = float(sampling_levels(self.recipe.student.recipe())[-2])
        film = batch.piece.true.to(self.device)
        shown = self.shown(replace(batch, levels=torch.full_like(batch.levels, level)), film)
        noisy = shown.noised(film)
        with self.computing():
            student, real, fake = (
                shown.denoised(noisy, shown.layout.velocity(model, film, noisy, shown.levels, shown.prompts))
                for model in (self.student, self.teacher, self.fake)
            )
        new, noise = shown.new(film), (shown.new(noisy) - real).abs().mean()
        gradient = dmd_gradient(new, real, fake, shown.chunks)
        if gradient.any() or not gradient.isfinite().all():
            raise InputError(
                "the fake denoiser is no copy of the teacher: DMD's gradient is not zero before the first update"
            )
        apart = float((student - real).abs().mean() / noise)
        if not apart <= self.recipe.agreement:
            raise InputError(
                f"student and teacher disagree on true films: at level {level:g} their answers are {apart:.2f} of the noise apart, "
                f"of at most {self.recipe.agreement:g} (agreement): one of them is no model of these films"
            )

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The averaged student on stories that are never trained on, by all of its passes: signs of life, and the energy distance of
        its films from the true ones."""
        signs: dict[str, list[Tensor]] = {}
        points: list[list[Tensor]] = [[], []]
        generator = torch.Generator().manual_seed(0)
        for piece in self.pieces.held_out():
            true = piece.true.to(self.device)
            with self.average.applied(), self.student.computing():
                made, _ = self.rollouts.make(piece.lines, piece.seed)
            noise = torch.randn(true.shape, generator=generator).to(self.device)
            layout = self._layout(len(piece.lines[0]))
            with self.teacher.computing():
                for some, of in zip(points, (made, true), strict=True):
                    some.append(chunk_features(self.teacher, layout, of, noise, piece.described))
            for name, values in vitals(made).items():
                signs.setdefault(name, []).append(values)
        made_points, true_points = (torch.cat(some) for some in points)
        scale = true_points.std(0).clamp(min=1e-6)
        distance = energy_distance(made_points / scale, true_points / scale)
        return {name: torch.cat(some).mean().item() for name, some in signs.items()} | {"distance": distance.item()}

    def stop_for(self, figures: Mapping[str, float]) -> str:
        if not self._true:
            self._true = ranges(self.pieces.true_films(TRUE_FILMS))
        return out_of_range(figures, self._true, self.recipe.limits)

    def updated(self, step: int) -> None:
        self.pieces.updated()

    def refresh(self) -> None:
        self.pieces.shards.refresh()

    def preview(self) -> Rows:
        with self.average.applied():
            student = self.recipe.student
            made = films(self.student, self.recipe.preview, student.recipe(), student.routing)
        if made:
            self._note("preview", picture_signs(made))
        return made

    def start_from(self, path: Path) -> None:
        begin(self.student, self.teacher, path, self.recipe.teacher)
        self.fake.take(self.teacher.weights())
        self.average.reset()

    def state_dict(self) -> dict[str, Any]:
        text = getattr(self.student.text, "config", None)
        return {
            "teacher": self.teacher.state_dict(),
            "text": text.to_dict() if text is not None else None,
            **self.pieces.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.teacher.load_state_dict(state["teacher"])
        self.pieces.load_state_dict(state, self.rollouts)


def main(argv: Sequence[str] | None = None) -> None:
    run_stage(SelfForcing, argv)


if __name__ == "__main__":
    main()
