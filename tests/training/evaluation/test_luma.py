"""C18: flicker with the period of the chunk or of the window is seen, and honest motion is not."""

from __future__ import annotations

import numpy as np
import pytest

from training.evaluation.luma import PEAK, flicker, luma_steps, phase_means

FIRST, CHUNK, WINDOW = 9, 12, 36


def drifting(frames: int = 957, seed: int = 0) -> np.ndarray:
    """A texture that drifts: every frame-to-frame step is about alike."""
    rng = np.random.default_rng(seed)
    texture = np.kron(rng.integers(40, 216, (12, 140)), np.ones((4, 4))).astype(np.float32)
    out = [texture[:, t % 400 : t % 400 + 48] + rng.normal(0, 1, (48, 48)) for t in range(frames)]
    return np.clip(np.stack(out), 0, 255).astype(np.uint8)[..., None].repeat(3, -1)


def lit(frames: np.ndarray, period: int, amount: int) -> np.ndarray:
    """Another brightness in every other stretch of `period` frames, from the first chunk's end on."""
    stretch = (np.arange(len(frames)) - FIRST) // period % 2
    return np.clip(frames.astype(int) + (amount * stretch)[:, None, None, None], 0, 255).astype(np.uint8)


def test_an_even_film_does_not_flicker():
    found = flicker(drifting(), [])
    assert not found.visible
    assert found.chunk == pytest.approx(1, abs=0.1)


def test_a_jump_at_every_chunk_is_seen():
    found = flicker(lit(drifting(), CHUNK, 40), [])
    assert found.chunk > PEAK
    assert found.visible


def test_a_jump_at_every_window_is_seen_where_chunks_hide_it():
    found = flicker(lit(drifting(), WINDOW, 40), [])
    assert found.window > PEAK
    assert found.window > found.chunk
    assert found.visible


def test_a_jump_inside_chunks_is_not_blamed_on_their_start():
    film = drifting()
    other = np.roll(lit(film, CHUNK, 40), 5, 0)
    assert flicker(other, []).chunk < PEAK


def test_cuts_are_left_out():
    film = drifting()
    cuts = list(range(FIRST + 4 * CHUNK, len(film), 4 * CHUNK))
    shot = np.searchsorted(cuts, np.arange(len(film)), side="right")
    film = np.where((shot % 2 == 1)[:, None, None, None], 255 - film, film)
    assert not flicker(film, cuts).visible
    assert flicker(film, []).visible


def test_steps_and_phases_by_hand():
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    frames[1:] = 10
    frames[3] = 30
    steps = luma_steps(frames)
    assert np.isnan(steps[0])
    assert steps[1:].tolist() == pytest.approx([10, 0, 20], abs=1e-4)
    means = phase_means(np.array([np.nan, 2, 4, 2, 4, 2, 100], np.float32), [6], 2, 1)
    assert means.tolist() == pytest.approx([1.0, 2.0])


def test_a_short_film_is_refused():
    with pytest.raises(ValueError, match="at least 72 frames"):
        flicker(drifting(50), [])
