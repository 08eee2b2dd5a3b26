"""Footage is rendered once, by one process or several, and is what the world draws."""

from __future__ import annotations

import numpy as np

from training.data.footage import Footage
from training.world import make_film, make_still


def test_footage_is_rendered_once_and_is_what_the_world_draws(tmp_path, monkeypatch):
    made = Footage.cached(tmp_path, stills=2, films=2, frames=5, first_seed=6, workers=2)
    for n, still in enumerate(made.stills):
        assert np.array_equal(still, make_still(6 + n)[0])
    for seed, clip in zip((6, 7), made.clips, strict=True):
        film = make_film(seed)
        found = [t for t in range(0, film.frames - 4, 4) if np.array_equal(film.render(t, t + 1)[0], clip[0])]
        assert any(np.array_equal(film.render(t, t + 5), clip) for t in found)
        assert seed % 2 == 0 or any(t < cut < t + 5 + 3 for t in found for cut in film.cuts)
    monkeypatch.setattr("training.data.footage.drawn", None)  # it is there
    again = Footage.cached(tmp_path, stills=2, films=2, frames=5, first_seed=6)
    assert np.array_equal(again.clips, made.clips)
