"""Several chunks made at once, each a step noisier than the one before: the rolling sampler."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reference import Reference
from causalcine_core import MemorySettings, Pipeline
from causalcine_core.errors import InputError
from causalcine_core.sampling import Recipe, State, add_noise, begin, chunk_generator, rollout
from causalcine_core.story import Shot, Story
from causalcine_core.vae import normalize

from ..helpers import network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 6)
LEVELS = [1.0, 0.9, 0.7, 0.4]


def rolling(levels=LEVELS, **changes) -> Recipe:
    fields = {"window": 20, "top_k": 0} | changes
    return tiny_recipe(levels=tuple(1000 * level for level in levels), sampler="rolling", **fields)


def run(recipe: Recipe, shots: list[int], state: State | None = None, texts=text, **options):
    state = state or begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=5)
    chunks = planned(len(shots), recipe.timeline.chunk, recipe.timeline.chunk, shots=shots)[state.chunks :]
    return list(rollout(network(tiny_net()), chunks, texts, state, size=SIZE, **options))


def film(made) -> torch.Tensor:
    return torch.cat([normalize(chunk.latent) for chunk in made], 2)


def reference(levels: list[float], chunk: int, chunks: int) -> torch.Tensor:
    """Rolling-Forcing's procedure: windows of as many chunks as there are levels slide over the film, growing at its beginning
    and shrinking at its end; what is clean is written before the next window."""
    net = Reference(tiny_net(), chunk * (chunks + len(levels)))
    net.clear(SIZE)
    n, x, out = len(levels), {}, []

    def noise(i: int, passes: int) -> torch.Tensor:
        use = f"pass {passes}" if passes else ""
        return torch.randn(1, net.net.config.in_dim, chunk, *SIZE, generator=chunk_generator(5, i, use))

    for window in range(chunks + n - 1):
        first, last = max(0, window - n + 1), min(chunks - 1, window)
        if window < chunks:
            x[window] = noise(window, 0)
        passes = [window - i for i in range(first, last + 1)]
        level = [levels[p] for p in passes for _ in range(chunk)]
        whole = torch.cat([x[i] for i in range(first, last + 1)], 2)
        clean = whole - torch.tensor(level)[:, None, None] * net.forward(whole, level, text(0), first * chunk)
        for i, p, one in zip(range(first, last + 1), passes, clean.split(chunk, 2), strict=True):
            x[i] = one if p + 1 == n else add_noise(one, noise(i, p + 1), levels[p + 1])
        if window - first == n - 1:
            out.append(x[first])
            net.keep(x[first], text(0), first * chunk)
    return torch.cat(out, 2)


@pytest.mark.parametrize(
    ("levels", "chunk", "chunks"), [(LEVELS, 3, 7), (LEVELS, 1, 9), ([1.0, 0.5], 3, 4), (LEVELS, 3, 2)]
)
def test_it_is_rolling_forcings_procedure(levels, chunk, chunks):
    made = run(rolling(levels, chunk=chunk, first_chunk=chunk), [0] * chunks)
    torch.testing.assert_close(film(made), reference(levels, chunk, chunks), atol=1e-4, rtol=0)


def test_it_takes_one_pass_a_chunk_once_it_rolls():
    steps, clean = [], {}

    def on_step(info):
        steps.append((info.chunk.index, info.step, info.steps))
        clean[info.chunk.index] = info.clean

    made = run(rolling(), [0] * 6, on_step=on_step)
    assert steps == [*[(0, i + 1, 4) for i in range(4)], *[(i, 1, 1) for i in range(1, 6)]]
    for chunk in made:  # what is told is of this chunk alone, not of those that are half made with it
        torch.testing.assert_close(clean[chunk.index], normalize(chunk.latent))


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_every_chunk_reads_its_own_shot(guidance):
    """Chunks that were clean before a later shot came into view do not know of it; those that were not, do."""
    negative = text(99) if guidance != 1 else None
    recipe, shots = rolling(window=1, top_k=2, guidance=guidance), [0, 0, 0, 0, 0, 1, 1, 2]
    one = run(recipe, shots, negative=negative)
    two = run(recipe, shots, texts=lambda shot: text(7 if shot == 2 else shot), negative=negative)
    same = [torch.equal(a.latent, b.latent) for a, b in zip(one, two, strict=True)]
    assert same == [True] * 4 + [False] * 4  # four are made at once: chunk 4 is the first to see chunk 7
    first = run(recipe, [0] * 8, negative=negative)
    assert [torch.equal(a.latent, b.latent) for a, b in zip(one, first, strict=True)] == [True] * 2 + [False] * 6


def test_a_film_goes_on_as_it_would_have(tmp_path):
    """From a state in the middle, forked, and from a file; without its memory to rounding."""
    recipe, shots = rolling(window=1, top_k=2), [0, 0, 0, 1, 1, 1, 2]
    whole = run(recipe, shots)
    middle = whole[2].state
    assert [part.passes for part in middle.pending] == [3, 2, 1]
    middle.save(tmp_path / "state")
    for state in (middle, middle, State.load(tmp_path / "state")):
        assert torch.equal(film(run(recipe, shots, state)), film(whole[3:]))
    middle.save(tmp_path / "small", memory=False)
    again = film(run(recipe, shots, State.load(tmp_path / "small")))
    torch.testing.assert_close(again, film(whole[3:]), atol=1e-4, rtol=1e-4)
    assert whole[-1].state.pending == ()


def test_new_shots_drop_what_was_half_made_and_nothing_else():
    recipe = Recipe.of(steps=3, sampler="rolling", width=32, height=32, window=1, top_k=2, seconds=1.5)
    pipe = Pipeline.random(recipe=recipe)
    stream = pipe.stream(Story([Shot("a cat", seconds=6)]), decode=False, seed=1)
    state = [next(stream) for _ in range(3)][-1].state
    assert len(state.pending) == 2
    more = [list(pipe.stream(Story([Shot("a", seconds=1.5)]), state=state, decode=False)) for _ in range(2)]
    assert torch.equal(more[0][-1].state.film(), more[1][-1].state.film())
    assert torch.equal(more[0][-1].state.film()[:, :, : state.film().shape[2]], state.film())
    rest = next(iter(pipe.stream(None, state=state, decode=False)))
    assert torch.equal(rest.latent, next(stream).latent)
    assert not torch.equal(rest.latent, more[0][0].latent)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"first_chunk": 1}, "first_chunk must be 3 with the sampler `rolling`, got 1"),
        ({"first_levels": (1000.0,)}, r"first_levels must be null with the sampler `rolling`, got \[1000.0\]"),
        ({"recompute": True}, "recompute must be false with the sampler `rolling`, got true"),
    ],
)
def test_what_does_not_go_with_it_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        rolling().changed(**changes)
