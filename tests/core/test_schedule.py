"""Noise and its levels: what a film's numbers hang on, pinned."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.sampling import Recipe, chunk_generator, reshifted, sampling_levels, warped


def test_the_noise_of_a_chunk_is_pinned():
    """Another rule of randomness would make other films of every seed that was ever noted down."""
    assert chunk_generator(0, 0).initial_seed() == 6130494115091502932
    assert chunk_generator(7, 3).initial_seed() == 7295413478194132926
    assert chunk_generator(2**64 - 1, 1, "context").initial_seed() == 8876452264500392114
    drawn = [torch.randn(4, generator=chunk_generator(*given)) for given in ((1, 2), (1, 3), (2, 2), (1, 2, "context"))]
    assert len({tuple(x.tolist()) for x in drawn}) == 4


def test_levels_of_the_first_chunk_are_its_own_and_of_no_other():
    recipe = Recipe.of(levels=(1000.0, 500.0), first_levels=(1000.0, 750.0, 250.0))
    assert sampling_levels(recipe).tolist() == [1.0, 0.5, 0.0]
    assert sampling_levels(recipe, first=True).tolist() == [1.0, 0.75, 0.25, 0.0]
    assert sampling_levels(Recipe.of(levels=(1000.0, 500.0)), first=True).tolist() == [1.0, 0.5, 0.0]


def test_an_even_schedule_is_shifted_towards_noise():
    levels = sampling_levels(Recipe.of(steps=4, shift=5.0)).tolist()
    assert levels == pytest.approx([1.0, 15 / 16, 5 / 6, 5 / 8, 0.0])
    assert warped((1000, 750, 500, 250), 5.0) == pytest.approx([1000 * level for level in levels[:-1]])
    assert reshifted(warped((900, 300), 5.0), 5.0, 8.0) == pytest.approx(warped((900, 300), 8.0))
