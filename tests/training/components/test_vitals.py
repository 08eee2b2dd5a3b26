"""Signs of life of films, and how far apart two sets of points are, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.components.likeness import energy_distance
from training.components.vitals import Range, out_of_range, picture_signs, ranges, vitals


def films() -> torch.Tensor:
    return torch.randn(2, 4, 5, 3, 3, generator=torch.Generator().manual_seed(0))


def test_signs_are_their_formulas():
    found = vitals(films())
    for b, film in enumerate(films()):
        changes = [abs(float(v)) for f in range(4) for v in (film[:, f + 1] - film[:, f]).flatten()]
        assert found["motion"][b].item() == pytest.approx(sum(changes) / len(changes), rel=1e-5)
        variances = [float(channel.double().var()) for channel in film]
        assert found["variance"][b].item() == pytest.approx(sum(variances) / 4, rel=1e-5)
        sizes = sorted(abs(float(v)) for v in film.flatten())  # 180 numbers, of which two are larger
        assert found["saturation"][b].item() == pytest.approx(sizes[177], rel=1e-6)


def test_signs_of_pictures_are_their_formulas():
    film = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 3)).astype(np.uint8)
    found = picture_signs([film, film[:2]])
    for name, of in {
        "motion": lambda f: np.abs(np.diff(f.astype(float), axis=0)).mean(),
        "saturation": lambda f: np.mean([max(p) - min(p) for p in f.reshape(-1, 3).tolist()]),
    }.items():
        assert found[name].item() == pytest.approx((of(film) + of(film[:2])) / 2, rel=1e-5)


def test_each_sign_tells_its_own_fault():
    whole = vitals(films())
    frozen, flat, burned = films(), 0.1 * films(), films()
    frozen[:] = frozen[:, :, :1]
    burned[films().abs() > 1.5] *= 3
    assert vitals(frozen)["motion"].eq(0).all()
    assert (vitals(flat)["variance"] < 0.02 * whole["variance"]).all()
    assert (vitals(burned)["saturation"] > 2 * whole["saturation"]).all()


def test_what_leaves_the_true_films_range_is_told_with_the_numbers():
    true = ranges([films()[0], films()[1], 3 * films()[0]])
    motions = vitals(films())["motion"].tolist()
    assert true["motion"] == Range(min(motions), pytest.approx(3 * motions[0]), 3)
    limits = {"motion": (0.5, 2.0), "variance": (0.5, 2.0)}
    true = {"motion": Range(1.0, 2.0, 3), "variance": Range(1.0, 2.0, 3)}
    assert out_of_range({"motion": 0.5, "variance": 4.0}, true, limits) == ""
    assert "motion of the student's films is 0.49, outside of 0.5 to 4" in out_of_range(
        {"motion": 0.49, "variance": 1.0}, true, limits
    )
    assert "times the highest of 3 true films (limits.variance)" in out_of_range(
        {"motion": 1.0, "variance": 4.01}, true, limits
    )
    assert out_of_range({"motion": float("nan"), "variance": 1.0}, true, limits)


def test_energy_distance_is_its_formula():
    one, other = torch.randn(4, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 1

    def mean(pairs):
        lengths = [float((a - b).norm()) for a, b in pairs]
        return sum(lengths) / len(lengths)

    expected = 2 * mean([(a, b) for a in one for b in other])
    for points in (one, other):
        expected -= mean([(a, b) for i, a in enumerate(points) for j, b in enumerate(points) if i != j])
    assert energy_distance(one, other).item() == pytest.approx(expected)


def test_energy_distance_is_zero_on_average_between_alike_and_grows_with_what_differs():
    generator = torch.Generator().manual_seed(0)

    def draws(shift=0.0, scale=1.0):
        return shift + scale * torch.randn(40, 8, generator=generator)

    alike = [energy_distance(draws(), draws()).item() for _ in range(50)]
    assert abs(sum(alike) / 50) < 0.02
    assert energy_distance(draws(), draws(shift=0.5)) > max(alike)
    assert energy_distance(draws(), draws(scale=0.5)) > max(alike)
