"""Samples show what they name, and are made out of shards as those say."""

from __future__ import annotations

import random

import pytest

from causalcine_core.vae import normalize
from training.data.samples import Reunions, clip, film, still, take
from training.data.shards import Shards
from training.world.grammar import mentions

from ..conftest import CAPTIONS


def test_samples_show_what_they_name(shards):
    """The last chunk of a clip is of the name-only shot and a chunk of the describing shot comes before it."""
    films = Shards(shards, "films")
    seen = 0
    for i in range(30):
        chosen = clip(films, random.Random(i), 4, 2.0)
        assert len(chosen.chunks) == 4
        assert chosen.latents.shape == (16, 12, 4, 4)
        if chosen.prompts[-1] == "[character1]":
            assert "[character1], a red cat," in chosen.prompts
            assert chosen.weights[-1] == 2.0
            assert chosen.described[-1] == "[character1], a red cat,"
            assert set(chosen.described) == set(chosen.prompts) - {"[character1]"}
            seen += 1
    assert seen > 10
    for i in range(10):
        one = take(films, random.Random(i), 2)
        assert one.prompts in (("[character1], a red cat,",) * 2, ("a cat",) * 2)
        assert one.latents[0, :, 0, 0].diff().gt(0).all()  # frames in a row
    with pytest.raises(ValueError, match="no film has a shot of 4 chunks"):
        take(films, random.Random(0), 4)
    whole = film(films, random.Random(0), 2.0)
    assert whole.chunks == (3,) * 7
    assert still(films, random.Random(0)).latents.shape == (16, 1, 4, 4)


def test_a_reunion_calls_by_name_whom_an_earlier_frame_described(shards):
    """Whoever the last caption names without looks was described under that name before, looking as the frame shows."""
    stills = Shards(shards, "stills")
    reunions = Reunions(stills)
    reunions.refresh()
    values = [float(latent.flatten()[0]) for latent in map(_first_of, range(len(CAPTIONS)), [stills] * len(CAPTIONS))]
    for i in range(60):
        length = 2 + i % 3
        made = reunions.draw(random.Random(i), length)
        assert made.chunks == (1,) * length
        assert made.weights == (0.0,) * (length - 1) + (1.0,)
        *before, last = made.prompts
        assert not mentions(last)
        assert made.described[:-1] == made.prompts[:-1]
        truth = values.index(float(made.latents[0, -1, 0, 0]))  # of the last frame
        shown = mentions(CAPTIONS[truth])
        boxes = [[truth / 10, 0.0, (truth + j + 1) / 10, 1.0] for j in range(len(shown))]
        assert sorted(made.cast[-1].values()) == boxes
        assert [list(at) for at in made.cast] == [[m.name for m in mentions(prompt)] for prompt in made.described]
        named = [f"[character{n}]" for n in "123" if f"[character{n}]" in last]
        described = {m.name: m.looks for prompt in before for m in mentions(prompt) if m.name in named}
        assert sorted(described.values()) == sorted(m.looks for m in shown)
        assert {m.name: m.looks for m in mentions(made.described[-1])} == described
        for prompt in before:
            assert len({m.name for m in mentions(prompt)}) == len(mentions(prompt))
            assert all(m.looks == described[m.name] for m in mentions(prompt) if m.name in described)


def _first_of(i, shards):
    return normalize(shards.latents[i][None].float())[0, 0]
