"""AdamW for everything, or Muon for hidden matrices and AdamW for the rest, with the recipe's schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from causalcine_core.errors import InputError

from ..recipe import Optimizer

OUTER = ("tokens", "positions", "modulation", "head.head")  # what lies at the edge is AdamW's


def split_parameters(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices for Muon, everything else for AdamW) of what is trained in a module."""
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            outer = any(part in name for part in OUTER)
            (matrices if parameter.ndim == 2 and not outer else rest).append(parameter)
    return matrices, rest


class Optimizers:
    """The optimizers of one part, stepped as one."""

    def __init__(self, module: nn.Module, recipe: Optimizer):
        self.recipe = recipe
        matrices, rest = split_parameters(module)
        decay = recipe.weight_decay
        if not recipe.muon_learning_rate:
            matrices, rest = [], matrices + rest
        self.parameters = matrices + rest
        self._all: list[torch.optim.Optimizer] = []
        if rest:
            self._all.append(torch.optim.AdamW(rest, recipe.learning_rate, betas=recipe.betas, weight_decay=decay))
        if matrices:
            rate = recipe.muon_learning_rate
            self._all.append(torch.optim.Muon(matrices, rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
        self._rates = [group["lr"] for one in self._all for group in one.param_groups]

    def zero_grad(self) -> None:
        for one in self._all:
            one.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scales the gradient down to the recipe's norm and gives the norm that it had: a scalar, maybe not finite."""
        return nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or float("inf"))

    def step(self, step: int, steps: int) -> None:
        """One update, the `step`th of a run of `steps`."""
        factor = self.recipe.factor(step, steps)
        groups = (group for one in self._all for group in one.param_groups)
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for one in self._all:
            one.step()

    def state_dict(self) -> list[Any]:
        return [one.state_dict() for one in self._all]

    def load_state_dict(self, state: list[Mapping[str, Any]]) -> None:
        """The moments that were saved. Rates, betas and weight decay stay this recipe's."""
        if len(state) != len(self._all):
            raise InputError("muon_learning_rate cannot become 0, or more than 0, in a run that goes on")
        for one, saved in zip(self._all, state, strict=True):
            own = [{key: value for key, value in group.items() if key != "params"} for group in one.param_groups]
            one.load_state_dict(dict(saved))
            for group, values in zip(one.param_groups, own, strict=True):
                group.update(values)
