"""The adversarial losses against their formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from training.losses.adversarial import approximate_r1, critic_loss, generator_loss

TRUE, MADE = [[2.0, -0.5], [0.25, 0.0]], [[-1.0, 3.0], [0.5, -40.0]]


def f(u: float) -> float:
    return math.log(1 + math.exp(u))


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def flat(rows):
    return [value for row in rows for value in row]


def test_the_critic_s_loss_is_its_formula():
    expected = mean(f(-u) for u in flat(TRUE)) + mean(f(u) for u in flat(MADE))
    assert critic_loss(torch.tensor(TRUE), torch.tensor(MADE)).item() == pytest.approx(expected, rel=1e-6)
    zero = torch.zeros(3, 7)
    assert critic_loss(zero, zero).item() == pytest.approx(2 * math.log(2), rel=1e-6)


def test_the_generator_s_loss_is_its_formula_and_raises_logits():
    made = torch.tensor(MADE, requires_grad=True)
    loss = generator_loss(made)
    assert loss.item() == pytest.approx(mean(f(-u) for u in flat(MADE)), rel=1e-6)
    loss.backward()
    expected = torch.tensor([[-1 / (1 + math.exp(u)) / 4 for u in row] for row in MADE])  # -sigmoid(-u), of a mean of 4
    torch.testing.assert_close(made.grad, expected)


def test_far_logits_stay_finite():
    far = torch.tensor([1e4, -1e4])
    assert critic_loss(far, far).isfinite() and generator_loss(far).isfinite()


def test_r1_is_its_formula_and_about_sigma_squared_times_the_square_gradient():
    """Of a critic that is a plane, over many draws, which is what it stands for."""
    true, nearby = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([1.5, 2.0, 1.0])
    assert approximate_r1(true, nearby).item() == pytest.approx((0.25 + 0 + 4) / 3)
    generator = torch.Generator().manual_seed(0)
    slope, sigma = torch.randn(8, generator=generator), 0.1
    x = torch.randn(200_000, 8, generator=generator)
    noise = torch.randn(200_000, 8, generator=generator)
    found = approximate_r1(x @ slope, (x + sigma * noise) @ slope).item()
    assert found == pytest.approx(sigma**2 * slope.square().sum().item(), rel=0.02)
