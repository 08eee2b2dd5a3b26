"""Sharpness, borders and motion of pictures whose faults are known, and how they drift."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.pictures import drift, picture_figures, quarters, ratios


def moving(frames: int = 40, speed: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth noise that moves to the left by `speed` pixels a frame."""
    wide = np.random.default_rng(seed).integers(40, 200, (32, 400, 3)).astype(np.float32)
    wide = (wide + np.roll(wide, 1, 1) + np.roll(wide, 2, 1) + np.roll(wide, 1, 0)) / 4
    return np.stack([wide[:, speed * t : speed * t + 32] for t in range(frames)]).astype(np.uint8)


def blurred(frames: np.ndarray) -> np.ndarray:
    soft = frames.astype(np.float32)
    return ((soft + np.roll(soft, 1, 1) + np.roll(soft, 1, 2) + np.roll(soft, (1, 1), (1, 2))) / 4).astype(np.uint8)


def against(made: np.ndarray, true: np.ndarray) -> dict[str, float]:
    return {name: one.mean for name, one in ratios([picture_figures(made)], [picture_figures(true)]).items()}


def test_equal_films_are_alike_in_everything():
    assert set(against(moving(), moving()).values()) == {1.0}


def test_a_blurred_film_is_less_sharp_and_one_that_stands_still_does_not_move():
    soft = against(blurred(moving()), moving())
    assert soft["sharpness"] < 0.8 and soft["border_8"] == pytest.approx(1, abs=0.1)
    still = against(np.repeat(moving()[:1], 40, 0), moving())
    assert still["motion"] == 0 and still["sharpness"] == pytest.approx(1, abs=0.05)


def test_a_grid_is_seen_at_borders_of_its_size():
    grid = moving().astype(int)
    grid[..., np.arange(32) // 16 % 2 == 1, :] += 40
    seen = against(np.clip(grid, 0, 255).astype(np.uint8), moving())
    assert seen["border_16"] > seen["border_8"] > 1.1


def test_known_pictures_have_their_figures():
    frames = np.zeros((3, 16, 32, 3), np.uint8)
    frames[:, :, 16:] = 90  # one step of 90 in 31 columns of 16 pixels, none in 15 rows
    frames[1:] += 10
    frames[2:] += 50
    found = picture_figures(frames, cuts=[2])
    assert found["gradient"] == pytest.approx(90 / (31 + 15), rel=1e-4)
    assert found["motion"] == pytest.approx(10, rel=1e-4)  # the step into the cut is none
    assert picture_figures(frames)["motion"] == pytest.approx(30, rel=1e-4)
    flat = picture_figures(np.full((2, 16, 32, 3), 7, np.uint8))
    assert (flat["gradient"], flat["motion"], flat["border_8"]) == (0, 0, 1)


def test_a_film_that_blurs_towards_its_end_drifts_and_its_cuts_are_of_their_quarter():
    true = moving(80)
    made = np.concatenate([true[:60], blurred(true[60:])])
    found = drift([quarters(made, [])], [quarters(true, [])])
    assert found["sharpness"].mean < -0.2
    assert drift([quarters(true, [])], [quarters(true, [])])["motion"].mean == 0
    shown = true.copy()
    shown[50:] = 255 - shown[50:]
    assert quarters(shown, [50])[2]["motion"] < quarters(shown, [])[2]["motion"]


def test_a_mean_of_ratios_has_an_interval_over_films():
    true = [picture_figures(moving(seed=seed)) for seed in range(4)]
    made = [picture_figures(blurred(moving(seed=seed))) for seed in range(4)]
    found = ratios(made, true)["sharpness"]
    assert found.low <= found.mean <= found.high and found.n == 4
