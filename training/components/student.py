"""A student of few steps and the many-step model that it learns from: what both distillations share (CausalCine, arXiv, May 2026,
Sec. 3.4).

Both begin as copies of the tuned multi-shot model. The student is the part `model` of its stage, so that whatever reads a run's
state (`--start-from`, `training.export`) finds it where it finds any other transformer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from causalcine_core import checks
from causalcine_core.errors import InputError
from causalcine_core.memory import ROUTINGS, ResolvedMemory
from causalcine_core.model import WanConfig
from causalcine_core.sampling import Recipe
from causalcine_core.weights.built_in import model_path
from causalcine_core.weights.checkpoint import find_fields
from causalcine_core.weights.header import read_header

from ..model import Model, how
from ..recipe import Run
from .checkpoint import read_state
from .lora import Lora
from .text import Text, make_text


@dataclass(frozen=True)
class Student:
    """How a student makes a film, in training and for ever after: what is written into its file.

    steps: passes a chunk. levels: explicit timesteps instead, shifted already, which `steps` then counts; first_levels: those of a
    film's first chunk, where it takes others; both as in `sampling.ScheduleSettings`. shift: of the schedule, the
    teacher's own unless there is a reason. sampler: `renoise` predicts the clean chunk and adds fresh noise at the next
    level, the others take steps on the ODE. window, top_k, routing: chunks before the current one that it sees, frames that
    it recalls from before them, and by what it chooses them.
    """

    steps: int = 4
    levels: tuple[float, ...] | None = None
    first_levels: tuple[float, ...] | None = None
    shift: float = 3.0
    sampler: Literal["renoise", "euler", "unipc"] = "renoise"
    window: int = 3
    top_k: int = 5
    routing: str = "every_step"

    def __post_init__(self) -> None:
        checks.choice(self.routing, "routing", ROUTINGS)
        object.__setattr__(self, "steps", self.recipe().schedule.steps)

    def recipe(self, **others: Any) -> Recipe:
        """The recipe of a rollout, without guidance. others: further flat fields of it, such as width and height."""
        return Recipe.of(
            steps=self.steps,
            levels=self.levels,
            first_levels=self.first_levels,
            shift=self.shift,
            sampler=self.sampler,
            window=self.window,
            top_k=self.top_k,
            guidance=1.0,
            **others,
        )

    def memory(self) -> ResolvedMemory:
        """What it sees of the past of a film."""
        return ResolvedMemory(self.window, self.top_k, self.routing)


@dataclass(frozen=True)
class Teacher:
    """The frozen many-step model whose answers a student learns.

    file: its weights, a checkpoint in any known layout, a run's state.pt or nano; empty: those that the student begins with
    (`--start-from`). guidance: s of unguided + s (guided - unguided), the usual form; 1: none. negative: text of the
    unguided branch. described: whether it reads, where somebody is called by name only, what they look like; the student
    never does, so that memory has to supply it (context distillation, arXiv:2112.00861).
    """

    file: str = ""
    guidance: float = 3.0
    negative: str = ""
    described: bool = True

    def __post_init__(self) -> None:
        checks.number(self.guidance, "guidance", 0, 100)


def make_student(
    config: WanConfig, text: Text, run: Run, vocabulary: Sequence[str], device: torch.device, lora: Lora | None = None
) -> tuple[Model, Model]:
    """A student and its teacher, of fresh weights, all of the teacher's frozen. The student's text encoder is frozen too, nano's as a
    UMT5 is: it reads as the model did that it begins with. lora: adapters of the student."""
    dtype, compute = how(run, device)
    student = Model(config, make_text(text, config, vocabulary, device), dtype, compute, device)
    teacher = student.frozen_copy()
    if isinstance(student.text, nn.Module):
        student.text.requires_grad_(False)
    student.adapt(lora or Lora())
    return student, teacher


def begin(student: Model, teacher: Model, path: Path, recipe: Teacher) -> None:
    """The student takes the weights of `--start-from`, the teacher the same or those of its own file. Raises InputError where they do
    not fit, or where the teacher would be a student itself."""
    student.start_from(path)
    option, told = ("teacher.file", Path(model_path(recipe.file))) if recipe.file else ("--start-from", path)
    if holds_student(told):
        raise InputError(
            f"{option} {told} holds a student of few steps, which can be no teacher: give the many-step model by teacher.file"
        )
    if recipe.file:
        teacher.start_from(Path(model_path(recipe.file)), "teacher.file")
    else:
        teacher.take(student.weights())


def holds_student(path: Path) -> bool:
    """Whether a file of weights says that they are a student's."""
    if path.suffix == ".pt":
        return "student" in read_state(path)["recipe"]
    fields = find_fields(read_header(path), path)
    return fields is not None and fields["recipe"].get("sampler") in ("renoise", "rolling")
