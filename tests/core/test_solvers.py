"""Samplers: UniPC is diffusers', all of them end in the same place where the flow is straight."""

from __future__ import annotations

import pytest
import torch
from diffusers import UniPCMultistepScheduler

from causalcine_core.sampling import SAMPLERS, Recipe, add_noise, sampling_levels
from causalcine_core.sampling.solvers import SOLVERS


def solve(name, levels, velocity, x):
    solver = SOLVERS[name]()
    noise = torch.Generator().manual_seed(1)
    for level, following in zip(levels, levels[1:], strict=False):
        clean = x - level * velocity(x, level)
        draw = lambda like=x: torch.randn(like.shape, generator=noise, dtype=like.dtype)  # noqa: E731
        x = clean if following == 0 else solver.step(x, clean, level, following, draw)
    return x


def curved(x, level):
    return torch.sin(1.3 * x) * (1 - level) + (x - 0.5) * level


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 12])
def test_unipc_equals_diffusers(steps):
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas.tolist()
    start = torch.randn(1, 4, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = start
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        x = scheduler.step(curved(x, level), time, x).prev_sample
    torch.testing.assert_close(solve("unipc", levels, curved, start), x, atol=1e-5, rtol=1e-5)


def test_unipc_needs_fewer_steps_than_euler():
    start = torch.randn(1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact, errors = solve("euler", sampling_levels(Recipe.of(steps=1000, shift=3.0)).tolist(), curved, start), {}
    for name in ("euler", "unipc"):
        film = solve(name, sampling_levels(Recipe.of(steps=8, shift=3.0)).tolist(), curved, start)
        errors[name] = float((film - exact).abs().mean())
    assert errors["unipc"] < 0.6 * errors["euler"]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_straight_flow_is_followed_exactly(name):
    """Where the clean latents are known from the start, every sampler gives them."""
    clean, noise = torch.full((1, 8), 0.7), torch.randn(1, 8, generator=torch.Generator().manual_seed(2))
    levels = sampling_levels(Recipe.of(steps=5)).tolist()
    out = solve(name, levels, lambda x, level: (x - clean) / level, add_noise(clean, noise, 1.0))
    torch.testing.assert_close(out, clean)
    assert {*SOLVERS, "rolling"} == set(SAMPLERS)  # which re-noises many chunks at once
