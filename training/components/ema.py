"""Averaged weights: what is previewed, measured and exported."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..recipe import EMA


class Average:
    """The running average of the weights that are trained in a module, by name.

    Weights that were frozen before have none. Those that are frozen later keep theirs, and what is applied is their own value.
    """

    def __init__(self, module: nn.Module, recipe: EMA):
        self.module, self.recipe = module, recipe
        self.weights = {name: parameter.detach().clone() for name, parameter in self._trained().items()}

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: parameter for name, parameter in self.module.named_parameters() if parameter.requires_grad}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After the update of number `step` (from 0)."""
        decay = min(self.recipe.decay, (1 + step) / (10 + step)) if step >= self.recipe.start else 0.0
        trained = self._trained()
        torch._foreach_lerp_([self.weights[name] for name in trained], list(trained.values()), 1 - decay)

    @torch.no_grad()
    def reset(self) -> None:
        """The average begins anew, with the weights as they are."""
        for name, parameter in self._trained().items():
            self.weights[name].copy_(parameter)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with its averaged weights, for a while; nothing may be trained meanwhile."""
        trained = self._trained()
        own = {name: parameter.data for name, parameter in trained.items()}
        try:
            for name, parameter in trained.items():
                parameter.data = self.weights[name]
            yield
        finally:
            for name, parameter in trained.items():
                parameter.data = own[name]

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self.weights)

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])
