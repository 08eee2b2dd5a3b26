"""Samples show what they name, and are made out of shards as those say."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from causalcine_core.errors import InputError
from causalcine_core.vae import normalize
from training.data.cast import cast
from training.data.mixture import Mixture, Phase, Source
from training.data.samples import Reunions, clip, film, spread_out, still, take
from training.data.shards import Shards
from training.world.grammar import mentions

from ..conftest import CAPTIONS


def test_chunks_that_are_spread_out_leave_every_stretch_its_share():
    assert spread_out(20, 20, 0.0) == spread_out(20, 20, 0.999) == list(range(20))
    for phase in (0.0, 0.3, 0.999):
        numbers = spread_out(20, 7, phase)
        assert sorted(set(numbers)) == numbers and len(numbers) == 7
        assert {b - a for a, b in pairwise(numbers)} <= {2, 3} and numbers[0] <= 2 and numbers[-1] >= 17


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


def test_a_cast_shows_in_pictures_whom_its_film_calls_by_name(shards):
    """Frames of the pictures lead back to the stills that they are, and these look as the film has it; nobody who has a picture
    is described in the film, in no chunk."""
    stills, films = Shards(shards, "stills"), Shards(shards, "films")
    reunions = Reunions(stills)
    striped(films)
    values = [float(latent.flatten()[0]) for latent in map(_first_of, range(len(CAPTIONS)), [stills] * len(CAPTIONS))]
    captions, strangers = set(), 0
    for i in range(60):
        references = 1 + i % 3
        made = cast(films, reunions, random.Random(i), 3, references, 4.0)
        assert (made.references, made.chunks) == (references, (1,) * references + (3,) * 3)
        assert made.latents.shape == (16, references + 9, 4, 4) and len(made.cast) == references + 9
        assert made.weights[:references] == (0.0,) * references
        for n in range(references):
            truth = values.index(float(made.latents[0, n, 0, 0]))
            (shown,) = mentions(CAPTIONS[truth])  # alone
            (described,) = mentions(made.described[n])
            assert described.looks == shown.looks and list(made.cast[n]) == [described.name]
            assert described.name in made.prompts[n]
            if described.name == "[character1]":  # of the film
                assert shown.looks == ("red", "cat", "stripes")
            else:
                assert shown.looks != ("red", "cat", "stripes")
                strangers += 1
            text = made.prompts[n]
            captions.add("name" if text == described.name else "all" if mentions(text) else "no looks")
        for n in range(references, references + 3):
            assert not mentions(made.prompts[n])
            if "[character1]" in made.prompts[n]:
                assert [m.looks for m in mentions(made.described[n])] == [("red", "cat", "stripes")]
                assert made.weights[n] == 4.0
            else:
                assert (made.described[n], made.weights[n]) == (made.prompts[n], 1.0)
        assert any("[character1]" in prompt for prompt in made.prompts[references:])
    assert captions == {"all", "no looks", "name"} and strangers > 10


def test_a_mixture_draws_casts_of_one_shape_an_update(shards):
    source = Source(shards, Mixture((Phase(1.0, {"cast": 1.0}),), {"cast": 3}, references=(1, 2)))
    striped(source.shards["films"])
    shapes = set()
    for i in range(8):
        kind, made = source.draw(0.5, random.Random(i))
        assert kind == "cast" and len(made) == 3 and len({sample.chunks for sample in made}) == 1
        shapes.add(made[0].chunks)
    assert shapes == {(1, 3, 3, 3, 3), (1, 1, 3, 3, 3, 3)}


def test_a_cast_that_no_still_shows_is_told(shards):
    with pytest.raises(InputError, match="no still shows anybody of the films alone"):
        cast(Shards(shards, "films"), Reunions(Shards(shards, "stills")), random.Random(0), 3, 1, 1.0)


def striped(films):
    """Their character looks as two of the stills do that show somebody alone."""
    for shot in films.records[0]["shots"]:
        shot["prompt"] = shot["prompt"].replace("a red cat,", "a red cat with stripes,")
    for record in films.records:
        record["shots"] = films.records[0]["shots"]


def _first_of(i, shards):
    return normalize(shards.latents[i][None].float())[0, 0]
