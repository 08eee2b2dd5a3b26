"""C59: films that cross 1,024 latent frames, where tables of positions and caches of others end."""

from __future__ import annotations

import pytest

from causalcine_core import Pipeline
from causalcine_core.report import build_report, memory_map
from causalcine_core.story import Shot, Story


@pytest.mark.parametrize(("chunk", "chunks"), [(3, 360), (1, 1100)])
def test_a_film_goes_on_beyond_1024_latent_frames(pipe: Pipeline, chunk: int, chunks: int):
    """No crash, no step of brightness where the frame is crossed, and a report and memory map of all of it."""
    recipe = pipe.recipe.changed(chunk=chunk, first_chunk=chunk, steps=1)
    film = Pipeline(pipe.network, pipe.text, pipe.vae, recipe)
    starts, before, state = [], None, None
    for made in film.stream(Story([Shot("a fox runs", frames=4 * chunk * chunks - 3)]), seed=1):
        luma = made.frames.mean((1, 2, 3))
        starts.append(0.0 if before is None else abs(float(luma[0]) - before))
        before, state = float(luma[-1]), made.state
    crossed = 1024 // chunk
    assert len(starts) == chunks and state.film().shape[2] == chunk * chunks > 1024
    around = starts[crossed - 1 : crossed + 3]
    assert max(around) <= max(starts[10 : crossed - 1]) * 1.2
    recalled = state.records[-1].routing
    assert recalled.min() >= 0 and recalled.max() < chunk * (chunks - 1 - recipe.visibility.window)
    report = build_report(state, model=film.describe(), warnings=[])
    assert len(report["chunks"]) == chunks
    assert memory_map(report).size[0] > 100
