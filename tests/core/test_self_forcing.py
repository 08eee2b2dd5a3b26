"""With no routing and the whole film in view, the engine is Self-Forcing's procedure (arXiv:2506.08009)."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reference import Reference
from causalcine_core.errors import InputError
from causalcine_core.memory import MemorySettings
from causalcine_core.sampling import State, begin, rollout
from causalcine_core.sampling.families import find_family
from causalcine_core.sampling.schedule import chunk_generator
from causalcine_core.vae import normalize

from ..helpers import network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 6)
WARPED = [1.0, 0.9375, 5 * 0.5 / (1 + 4 * 0.5), 0.625]  # 1000, 750, 500, 250 of a table with shift 5


def ours(recipe, chunks):
    state = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=5)
    made = rollout(
        network(tiny_net()), planned(chunks, recipe.timeline.chunk, recipe.timeline.first_chunk), text, state, size=SIZE
    )
    return torch.cat([normalize(chunk.latent) for chunk in made], 2)


@pytest.mark.parametrize(("chunk", "chunks"), [(3, 7), (1, 21)])
def test_the_rollout_is_self_forcings(chunk, chunks):
    levels = tuple(1000 * level for level in WARPED)
    recipe = tiny_recipe(
        chunk=chunk, first_chunk=chunk, levels=levels, sampler="renoise", window=chunks, top_k=0, shift=5.0
    )
    theirs = Reference(tiny_net(), 21).roll(text(0), [chunk] * chunks, [WARPED] * chunks, SIZE, 5)
    torch.testing.assert_close(ours(recipe, chunks), torch.cat(list(theirs), 2), atol=1e-4, rtol=0)


def test_two_steps_frame_by_frame_with_a_longer_first_chunk():
    """Causal-Forcing++: 1000/500 for each frame, 1000/750/500/250 for the first."""
    levels, first = (1000.0, 1000 * WARPED[2]), tuple(1000 * level for level in WARPED)
    recipe = tiny_recipe(
        chunk=1, first_chunk=1, levels=levels, first_levels=first, sampler="renoise", window=21, top_k=0
    )
    passes = [WARPED, *[[1.0, WARPED[2]]] * 20]
    theirs = Reference(tiny_net(), 21).roll(text(0), [1] * 21, passes, SIZE, 5)
    torch.testing.assert_close(ours(recipe, 21), torch.cat(list(theirs), 2), atol=1e-4, rtol=0)


def test_a_window_is_the_reference_s_ring_buffer():
    """Four chunks in view: what left the buffer is seen by neither."""
    recipe = tiny_recipe(levels=tuple(1000 * level for level in WARPED), sampler="renoise", window=3, top_k=0)
    theirs = torch.cat(list(Reference(tiny_net(), 12).roll(text(0), [3] * 7, [WARPED] * 7, SIZE, 5)), 2)
    torch.testing.assert_close(ours(recipe, 7), theirs, atol=1e-4, rtol=0)
    wider = torch.cat(list(Reference(tiny_net(), 21).roll(text(0), [3] * 7, [WARPED] * 7, SIZE, 5)), 2)
    assert (wider - theirs).abs().max() > 1e-2


@pytest.mark.parametrize("window", [1, 2])
def test_a_recomputed_window_is_kreas_procedure(window):
    """Before every chunk the buffers are emptied, and the chunks in view written again under the words of the new one."""
    recipe = tiny_recipe(
        levels=tuple(1000 * level for level in WARPED), sampler="renoise", window=window, top_k=0, recompute=True
    )
    state = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=5)
    shots = [0, 0, 1, 1, 2]
    made = list(rollout(network(tiny_net()), planned(5, shots=shots), text, state, size=SIZE))
    reference, theirs = Reference(tiny_net(), 3 * (window + 1)), []
    for i, shot in enumerate(shots):
        reference.clear(SIZE)
        seen = theirs[max(0, i - window) : i]
        for n, x in enumerate(seen):
            reference.keep(x, text(shot), 3 * n)
        theirs.append(reference.denoise(3, WARPED, text(shot), 3 * len(seen), SIZE, chunk_generator(5, i)))
    ours = torch.cat([normalize(chunk.latent) for chunk in made], 2)
    torch.testing.assert_close(ours, torch.cat(theirs, 2), atol=1e-4, rtol=0)
    with pytest.raises(InputError, match="recompute must be true or false, got 1"):
        recipe.changed(recompute=1)


@pytest.mark.parametrize("changes", [{"window": 2}, {"window": 1, "sink": 1, "top_k": 2}])
def test_a_recomputed_film_goes_on_from_a_file_as_it_would_have(tmp_path, changes):
    """With its memory bit for bit, without it to rounding."""
    recipe = tiny_recipe(recompute=True, **changes)
    start = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=5)
    chunks = planned(7)
    *_, half = rollout(network(tiny_net()), chunks[:4], text, start, size=SIZE)
    *_, whole = rollout(network(tiny_net()), chunks[4:], text, half.state, size=SIZE)
    for memory, exact in ((True, True), (False, False)):
        half.state.save(tmp_path / "state", memory=memory)
        *_, again = rollout(network(tiny_net()), chunks[4:], text, State.load(tmp_path / "state"), size=SIZE)
        if exact:
            assert torch.equal(again.latent, whole.latent)
        torch.testing.assert_close(again.latent, whole.latent, atol=1e-4, rtol=1e-4)


def test_turned_shots_change_what_follows_a_cut_and_survive_a_file(tmp_path):
    """Within the first shot nothing; and a film that goes on without its memory is the same to rounding."""

    def film(angle):
        recipe = tiny_recipe(window=2, top_k=1, shot_angle=angle)
        start = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=5)
        return list(rollout(network(tiny_net()), planned(6, shots=[0, 0, 0, 1, 1, 2]), text, start, size=SIZE))

    turned, plain = film(1 / 6), film(0.0)
    same = [torch.equal(a.latent, b.latent) for a, b in zip(turned, plain, strict=True)]
    assert same == [True, True, True, False, False, False]
    turned[3].state.save(tmp_path / "state", memory=False)
    chunks = planned(6, shots=[0, 0, 0, 1, 1, 2])[4:]
    *_, again = rollout(network(tiny_net()), chunks, text, State.load(tmp_path / "state"), size=SIZE)
    torch.testing.assert_close(again.latent, turned[-1].latent, atol=1e-4, rtol=1e-4)


def test_the_family_s_row_holds_these_levels():
    recipe = find_family("self-forcing").recipe
    assert recipe.schedule.timesteps == pytest.approx([1000 * level for level in WARPED])
    seen, chunk = recipe.visibility, recipe.timeline.chunk
    assert (recipe.schedule.sampler, chunk, seen.top_k + chunk * (seen.window + 1)) == ("renoise", 3, 21)
