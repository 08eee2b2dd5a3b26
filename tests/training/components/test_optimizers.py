"""Muon and AdamW share what a part trains."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.components.ema import Average
from training.components.optimizers import Optimizers, orthogonalized, split_parameters
from training.recipe import EMA, Optimizer

from ..reference import adamw, muon

RATES = Optimizer(0.01, muon_learning_rate=0.02, weight_decay=0.1, betas=(0.8, 0.9))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.kernel = nn.Conv3d(8, 6, (1, 3, 3))
        self.tall = nn.Conv2d(2, 9, (1, 2))
        self.linear = nn.Linear(6, 5)
        self.gate = nn.Conv3d(5, 1, 3)
        self.modulation = nn.Parameter(torch.randn(1, 6, 8))
        self.gamma = nn.Parameter(torch.ones(8, 1, 1, 1))


def named(net: nn.Module, parameters: list[torch.Tensor]) -> set[str]:
    return {name for name, p in net.named_parameters() if any(p is one for one in parameters)}


def test_hidden_matrices_and_kernels_are_muons_but_for_what_lies_at_the_edge():
    net = Net()
    matrices, rest = split_parameters(net, ("first",))
    assert named(net, matrices) == {"kernel.weight", "tall.weight", "linear.weight"}
    assert named(net, matrices) | named(net, rest) == {name for name, _ in net.named_parameters()}
    assert named(net, split_parameters(net)[0]) == {"first.weight", "kernel.weight", "tall.weight", "linear.weight"}


def test_a_kernel_moves_as_its_matrix_would_and_the_rest_by_adamw():
    """Two updates by the reference's optimizers, from the same gradients; without Muon everything is AdamW's."""
    for recipe in (RATES, Optimizer(0.01, weight_decay=0.1, betas=(0.8, 0.9))):
        torch.manual_seed(0)
        net = Net()
        optimizers = Optimizers(net, recipe, ("first",))
        begun = {name: p.detach().double() for name, p in net.named_parameters()}
        seen: dict[str, list[torch.Tensor]] = {name: [] for name in begun}
        for step in range(2):
            optimizers.zero_grad()
            assert all(p.grad is None for p in net.parameters())
            for name, p in net.named_parameters():
                p.grad = torch.randn_like(p)
                seen[name].append(p.grad.double())
            optimizers.step(step, 2)
        for name, p in net.named_parameters():
            if recipe.muon_learning_rate and name in ("kernel.weight", "tall.weight", "linear.weight"):
                expected = muon(begun[name].flatten(1), [g.flatten(1) for g in seen[name]], [0.02, 0.02], 0.1)
                expected, most = expected.view_as(p), 1e-4
            else:
                expected, most = adamw(begun[name], seen[name], [0.01, 0.01], (0.8, 0.9), 0.1), 1e-4
            error = (p.detach().double() - expected).norm() / (expected - begun[name]).norm()
            assert error < most, name


@pytest.mark.parametrize("shape", [(6, 200), (40, 40), (90, 7)])
@pytest.mark.parametrize("directions", [0, 2])
def test_steps_on_the_gram_matrix_are_those_on_the_matrix(shape, directions):
    """Against the plain iteration in float64, also where nearly all singular values are tiny."""
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    if directions:
        matrix = torch.randn(shape[0], directions) @ torch.randn(directions, shape[1]) + 1e-4 * matrix
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    assert (orthogonalized(matrix) - x).norm() < 1e-3 * x.norm()


@pytest.mark.parametrize("name", ["kernel", "linear", "first"])
def test_what_is_frozen_in_the_course_of_a_run_moves_no_bit_and_keeps_its_average(name):
    torch.manual_seed(0)
    net = Net()
    optimizers, average = Optimizers(net, RATES), Average(net, EMA(0.5))
    for step in range(4):
        if step == 2:
            getattr(net, name).requires_grad_(False)
            before = {n: p.detach().clone() for n, p in net.named_parameters()}
            averaged = {n: w.clone() for n, w in average.weights.items()}
        optimizers.zero_grad()
        for p in net.parameters():
            p.grad = torch.randn_like(p) if p.requires_grad else None
        optimizers.step(step, 4)
        average.update(step)
    for n, p in net.named_parameters():
        still = n.startswith(f"{name}.")
        assert torch.equal(p, before[n]) == still and torch.equal(average.weights[n], averaged[n]) == still, n
