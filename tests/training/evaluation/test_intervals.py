"""Means and intervals, against numbers from a textbook and against what must hold."""

from __future__ import annotations

import math

import pytest

from training.evaluation.intervals import NONE, difference, mean, proportion, wilson


def test_wilson_against_published_numbers():
    low, high = wilson(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0, 20)
    assert (low, round(high, 4)) == (0.0, 0.1611)


def test_films_that_agree_within_themselves_widen_the_interval():
    alike = proportion([[True] * 5, [False] * 5] * 10)
    mixed = proportion([[True, False] * 5] * 10)
    assert alike.mean == mixed.mean == 0.5
    assert alike.n == mixed.n == 100
    assert alike.high - alike.low > 1.5 * (mixed.high - mixed.low)


def test_perfect_hits_still_have_an_interval():
    estimate = proportion([[True] * 4] * 10)
    assert estimate.mean == estimate.high == 1.0
    assert 0.9 < estimate.low < 1.0


def test_mean_lies_within_its_interval_and_repeats():
    values = [0.2, 0.9, 1.0, 0.4, 0.7]
    assert mean(values) == mean(values)
    assert mean(values).mean == pytest.approx(0.64)
    assert mean(values).low < 0.64 < mean(values).high


def test_a_paired_gain_is_sharper_than_two_means():
    with_memory = [[True, True], [True, False], [True], [True, True]] * 5
    without = [[False, True], [False, False], [False], [False, True]] * 5
    gain = difference(with_memory, without)
    assert gain.mean == pytest.approx(4 / 7)
    assert gain.low > 0
    with pytest.raises(ValueError, match="same things"):
        difference([[True]], [[]])


def test_nothing_gives_nothing():
    assert proportion([]) == proportion([[]]) == mean([]) == difference([], []) == NONE or math.isnan(mean([]).mean)
    assert proportion([[], []]).n == 0
    assert NONE.to_dict() == {"mean": None, "low": None, "high": None, "n": 0}
