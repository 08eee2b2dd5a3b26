"""The Fréchet distance where it is known in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.frechet import frechet, frechet_between


def gaussian(mean, covariance, n: int = 4000, seed: int = 0) -> np.ndarray:
    """Samples whose mean and covariance are exactly these."""
    drawn = np.random.default_rng(seed).normal(size=(n, len(mean)))
    drawn -= drawn.mean(0)
    drawn = drawn @ np.linalg.inv(np.linalg.cholesky(np.cov(drawn.T))).T
    return drawn @ np.linalg.cholesky(covariance).T + mean


def test_of_two_gaussians_that_share_their_axes_it_is_the_distance_of_means_and_deviations():
    mean, other = np.array([1.0, 0.0, -2.0]), np.array([0.0, 0.5, -2.0])
    deviation, others = np.array([1.0, 2.0, 0.5]), np.array([3.0, 1.0, 0.25])
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    found = frechet(
        gaussian(mean, turn @ np.diag(deviation**2) @ turn.T),
        gaussian(other, turn @ np.diag(others**2) @ turn.T, seed=2),
    )
    assert found == pytest.approx(np.square(mean - other).sum() + np.square(deviation - others).sum())


def test_of_two_gaussians_with_other_axes_it_is_the_formula_of_covariances():
    """In two dimensions tr((AB)^1/2) is the root of tr(AB) + 2 det(AB)^1/2."""
    a, b = np.array([[2.0, 0.6], [0.6, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    shared = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    found = frechet(gaussian([0, 0], a), gaussian([1, 2], b, seed=2))
    assert found == pytest.approx(5 + np.trace(a) + np.trace(b) - 2 * shared)


def test_equal_sets_are_at_no_distance_even_with_fewer_samples_than_features():
    few = np.random.default_rng(0).normal(size=(7, 192)).astype(np.float32)
    assert frechet(few, few[::-1]) == pytest.approx(0, abs=1e-9)
    moved = few + np.float32(0.5)
    assert frechet(few, moved) == pytest.approx(192 * 0.25, rel=1e-4)
    with pytest.raises(ValueError, match="two samples"):
        frechet(few[:1], few)


def test_the_interval_narrows_with_the_number_of_stories_and_holds_the_distance():
    rng = np.random.default_rng(3)

    def films(n, shift):
        return [rng.normal(shift, 1, (20, 4)) + rng.normal(0, 0.5, 4) for _ in range(n)]

    few, many = (frechet_between(films(n, 1.0), films(n, 0.0)) for n in (8, 200))
    assert many.high - many.low < few.high - few.low
    assert many.low < 4 < many.high  # four means that differ by 1, deviations alike
    assert (many.n, few.n) == (200, 8)
    assert frechet_between(films(1, 0), films(1, 0)).n == 0
