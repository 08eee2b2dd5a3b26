"""AdamW for everything, or Muon for hidden matrices and AdamW for the rest, with the recipe's schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from causalcine_core.errors import InputError

from ..recipe import Optimizer


def split_parameters(module: nn.Module, outer: Sequence[str] = ()) -> tuple[list[Tensor], list[Tensor]]:
    """(hidden matrices for Muon, everything else for AdamW) of what is trained in a module.

    A convolution's kernel, which has four or five axes, is a matrix `[out, in * kernel]`. outer: how the names of those begin that are
    AdamW's all the same, since they lie at the edge of a network: what they read or write are pixels, words, latents.
    """
    matrices: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            hidden = _is_matrix(parameter) and not name.startswith(tuple(outer))
            (matrices if hidden else rest).append(parameter)
    return matrices, rest


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim in (2, 4, 5) and min(parameter.shape[:2]) > 1


@torch.no_grad()
def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """Five steps of Newton and Schulz (Jordan, 2024) towards the nearest orthogonal matrix, in float32: singular values come to lie
    around 1.

    The steps are taken on the Gram matrix of the shorter side, which is small where a kernel's matrix is long: x becomes q(x x') x
    each time, so all of them together are one polynomial of the first x x', times x.
    """
    x = matrix.float()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    gram = x @ x.T
    identity = torch.eye(len(gram), device=x.device)
    total = identity
    for step in range(steps):
        q = 3.4445 * identity - 4.7750 * gram + 2.0315 * (gram @ gram)
        total = q @ total
        if step < steps - 1:
            gram = q @ gram @ q
    out: Tensor = total @ x
    return out.T if tall else out


class Muon(torch.optim.Optimizer):
    """Momentum of 0.95 (Nesterov), orthogonalized, by steps whose root mean square is that of AdamW's (Liu and others,
    arXiv:2502.16982). A kernel of a convolution moves as its matrix `[out, in * kernel]`.

    torch's own iterates in bfloat16, which a CPU without it computes many times slower than float32.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": rate, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing is evaluated again
        for group in self.param_groups:
            rate, keep = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                mean = state["momentum_buffer"].lerp_(parameter.grad, 1 - keep)
                moved = orthogonalized(parameter.grad.lerp(mean, keep).flatten(1))
                parameter.mul_(1 - rate * group["weight_decay"])
                parameter.sub_(moved.reshape(parameter.shape), alpha=rate * 0.2 * max(moved.shape) ** 0.5)


class Optimizers:
    """The optimizers of one part, stepped as one. outer: as in `split_parameters`."""

    def __init__(self, module: nn.Module, recipe: Optimizer, outer: Sequence[str] = ()):
        self.recipe = recipe
        matrices, rest = split_parameters(module, outer)
        decay = recipe.weight_decay
        if not recipe.muon_learning_rate:
            matrices, rest = [], matrices + rest
        self.parameters = matrices + rest
        self._all: list[torch.optim.Optimizer] = []
        if rest:
            self._all.append(torch.optim.AdamW(rest, recipe.learning_rate, betas=recipe.betas, weight_decay=decay))
        if matrices:
            self._all.append(Muon(matrices, recipe.muon_learning_rate, decay))
        self._rates = [group["lr"] for one in self._all for group in one.param_groups]

    def zero_grad(self) -> None:
        for one in self._all:
            one.zero_grad(set_to_none=True)

    def clip(self) -> Tensor:
        """Scales the gradient down to the recipe's norm and gives the norm that it had: a scalar, maybe not finite."""
        return nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip or float("inf"))

    def step(self, step: int, steps: int) -> None:
        """One update, the `step`th of a run of `steps`. What has no gradient stays as it is."""
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
