"""What a stage of training is: a module of `training/stages` defines one, and `trainer.py` runs any of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .components.ema import Average
from .components.optimizers import Optimizers
from .recipe import EMA, Optimizer, Run

Batch = TypeVar("Batch")
Rows = Sequence[NDArray[np.uint8]]  # of a sheet, each of frames `[F, H, W, 3]`


class Part:
    """Something that is trained: a module, its optimizers and, where it is averaged, its average.

    outer: of its parameters, how the names of those begin that Muon never trains (`split_parameters`).
    """

    def __init__(self, module: nn.Module, optimizer: Optimizer, ema: EMA | None = None, outer: Sequence[str] = ()):
        self.module, self.optimizers = module, Optimizers(module, optimizer, outer)
        self.average = Average(module, ema) if ema is not None else None

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.module.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizers": self.optimizers.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.module.load_state_dict(state["weights"])
        self.optimizers.load_state_dict(state["optimizers"])
        if self.average is not None:
            if state["average"] is None:  # it was not averaged before
                self.average.reset()
            else:
                self.average.load_state_dict(state["average"])


@dataclass(frozen=True)
class Update(Generic[Batch]):
    """What one update is made of. kind: its name in the log. batches: that are computed one after the other, so that each fits
    on the device. samples: in all of them. trains: names of the parts that learn from it; none: all of them."""

    kind: str
    batches: Sequence[Batch]
    samples: int
    trains: tuple[str, ...] = ()


class Stage(ABC, Generic[Batch]):
    """What one update does, what it trains and averages, and how what it made is looked at.

    name: as in `causalcine train NAME`. recipe_type: a dataclass with a field `run: Run`. fixed: fields of the recipe that a
    run which is resumed cannot change, since its state would not fit. needs_start: whether a run can begin only with the
    weights of a file. best: the figure of `measure` that is lowest for the best state, which is kept; "": none is.

    The constructor takes the recipe, the device and the folder of what is trained on, sets the random seed of whatever it
    draws, and sets `parts`. It raises InputError for a recipe or data that cannot be trained on.
    """

    name: ClassVar[str]
    recipe_type: ClassVar[type]
    fixed: ClassVar[tuple[str, ...]] = ("model",)
    needs_start: ClassVar[bool] = False
    best: ClassVar[str] = ""

    run: Run
    parts: dict[str, Part]
    weights: Mapping[str, float] = {}  # of losses by name; 1 where there is none

    @abstractmethod
    def __init__(self, recipe: Any, device: torch.device, data: Path): ...

    def start(self) -> None:
        """Called once in a run that begins without the weights of a file."""

    def updating(self, step: int) -> None:
        """Called before update `step` is drawn: what changes in the course of a run, such as weights of losses or what is frozen.

        A parameter whose `requires_grad` is off keeps its value, and its average too.
        """

    @abstractmethod
    def draw(self, step: int) -> Update[Batch]:
        """What update `step` (from 0) is made of; a function of the recipe, its seed, the step and the data."""

    def computing(self) -> AbstractContextManager[Any]:
        """Entered around the losses of a batch and their backward pass: networks as they compute, such as in bfloat16."""
        return nullcontext()

    @abstractmethod
    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Scalars by name: this batch's share of each loss of the update, so that over its batches they sum to it.

        Their weighted sum is differentiated once. Parts that learn against each other in one update, such as a network and its
        discriminator, each have a loss here that reaches only their own weights.
        """

    def updated(self, step: int) -> None:
        """Called after update `step`, averages included, unless it was left out because it was not finite."""

    def curves(self) -> Mapping[str, Tensor]:
        """Scalars of the last update by name, for the log, beside its losses."""
        return {}

    def refresh(self) -> None:
        """Takes in data that has appeared since; called whenever something is logged."""

    def preview(self) -> Rows:
        """Films from fixed seeds, by the averaged weights and the stage's own sampler; none: there is nothing to look at."""
        return []

    def measure(self) -> Mapping[str, float]:
        """Figures of the averaged weights on what is never trained on, for the log; none: there are none."""
        return {}

    def stop_for(self, figures: Mapping[str, float]) -> str:
        """Why a run of such figures should stop; "": it should not."""
        return ""

    def start_from(self, path: Path) -> None:
        """Takes weights from a file, for a run that begins."""
        raise NotImplementedError

    def finish(self, work: Path, state: Mapping[str, Any]) -> Iterable[Path]:
        """Writes what the run is for, as it is by now, into its folder. state: `Trainer.state`, for its card."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What a run needs to go on beside its parts: tensors, numbers, text, lists and dictionaries."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
