"""A chunk that is written in the first pass of the next one: the same film as with a pass of its own, one pass a chunk less."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from causalcine_core import MemorySettings
from causalcine_core.model.transformer import Compute
from causalcine_core.sampling import Runner, State, begin, rollout

from ..helpers import network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 6)
ROWS = 3 * 6  # tokens of a chunk of three frames
SHOTS = [0, 0, 1, 1, 1, 2, 0, 0]


def folding(fold: int) -> Runner:
    return replace(network(tiny_net()), compute=Compute(fused_rows=fold))


def passes(
    fold: int, state: State, shots=SHOTS, rewrite: int | None = None, until: int | None = None
) -> tuple[State, int]:
    """The film gone on with, and how often the network was asked."""
    recipe, net, asked = state.recipe, folding(fold), []
    chunks = planned(len(shots), recipe.timeline.chunk, recipe.timeline.first_chunk, shots=list(shots))[
        state.chunks : until
    ]
    chunks = [replace(chunk, rewrite=chunk.index == rewrite) for chunk in chunks]
    hook = net.net.patch_embedding.register_forward_hook(lambda *given: asked.append(1))
    films = state.memory.store.batch if not recipe.guidance.on else 1
    for chunk in rollout(net, chunks, lambda shot: text(shot, films), state, size=SIZE, negative=text(9)):
        state = chunk.state
    hook.remove()
    return state, len(asked)


def fresh(settings: MemorySettings | None = None, batch: int = 1, **changes) -> State:
    return begin(
        network(tiny_net()), tiny_recipe(**changes), settings or MemorySettings(), size=SIZE, seed=4, batch=batch
    )


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({}, {}),
        ({"chunk": 1, "first_chunk": 1}, {}),
        ({"guidance": 3.0, "context_noise": 0.1}, {}),
        ({"sampler": "unipc", "steps": 3, "sink": 1}, {}),
        ({"shot_angle": 0.3, "cut": "flush"}, {}),
        ({"window": 0}, {"top_k": 4}),
        ({}, {"routing": "first_step"}),
        ({}, {"storage": "host_8bit"}),
    ],
)
def test_the_film_is_the_same_and_takes_a_pass_a_chunk_less(changes, settings):
    settings = MemorySettings(**settings)
    apart, many = passes(0, fresh(settings, **changes))
    folded, few = passes(10**6, fresh(settings, **changes))
    steps = len(SHOTS) * apart.recipe.schedule.steps
    assert (many, few) == (steps + len(SHOTS) - 1, steps)
    torch.testing.assert_close(folded.film(), apart.film(), atol=1e-4, rtol=1e-4)
    for one, other in zip(folded.records, apart.records, strict=True):
        assert torch.equal(one.routing, other.routing)
    for name, kept in apart.memory.tensors().items():
        torch.testing.assert_close(
            kept, folded.memory.tensors()[name], atol=2 if kept.dtype == torch.int8 else 1e-4, rtol=1e-4
        )


def test_films_side_by_side_are_folded_too():
    films = [passes(fold, fresh(batch=2))[0].film() for fold in (0, 10**6)]
    assert films[0].shape[0] == 2
    torch.testing.assert_close(*films, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_one_pass_is_two():
    """A first chunk of another length; a window that is written once more; more rows than pay."""
    steps = 2 * len(SHOTS)
    assert passes(10**6, fresh(first_chunk=1))[1] == steps + 1
    assert passes(10**6, fresh(window=2), rewrite=4)[1] == steps + 2
    assert passes(10**6, fresh(recompute=True, window=2, top_k=0))[1] == steps + 1 + 2 * (len(SHOTS) - 2)
    assert passes(ROWS, fresh())[1] == steps
    assert passes(ROWS - 1, fresh())[1] == steps + len(SHOTS) - 1
    assert passes(ROWS, fresh(guidance=3.0))[1] == steps + len(SHOTS) - 1


@pytest.mark.parametrize("fold", [0, 10**6])
def test_a_film_goes_on_bit_for_bit_wherever_it_was_left(fold, tmp_path):
    """From a state that was kept and from its file, in the middle of a shot and at its end; the state is as it was."""
    whole, _ = passes(fold, fresh())
    for made in (1, 3, 5):
        state, _ = passes(fold, fresh(), until=made)
        state.save(tmp_path / "state")
        for start in (state, state, State.load(tmp_path / "state")):
            assert torch.equal(passes(fold, start)[0].film(), whole.film())


def test_a_pass_that_is_given_up_leaves_nothing_behind():
    """Cancelled after the pass that writes a chunk, the store has what the state holds, and the film goes on the same."""
    state, _ = passes(10**6, fresh(), until=4)
    used, store = state.memory.store.used, state.memory.store

    def cancel(info):
        raise KeyboardInterrupt

    chunks = planned(len(SHOTS), shots=SHOTS)[4:]
    with pytest.raises(KeyboardInterrupt):
        next(rollout(folding(10**6), chunks, text, state, size=SIZE, on_step=cancel))
    assert store.used == used
    assert torch.equal(passes(10**6, state)[0].film(), passes(10**6, fresh())[0].film())
