"""A shot's own words always reach its encoder: what has no room is taken from the global text, and said by name."""

from __future__ import annotations

import random

import pytest
import torch

from causalcine_core import InputError, Pipeline, Recipe, Shot, State, Story
from causalcine_core.plan import plan
from causalcine_core.story import shots_named
from causalcine_core.text import Reading, fit_notes, fit_prompt, fit_shot, prompt_notes

WORDS = Reading(lambda text: len(text.split()), 56, "words")
GLOBAL = " ".join(f"word{i}" for i in range(64))


def test_a_prompt_that_fits_is_as_it_was_written():
    for shared, own in (("A fox,  in\twinter.", "It  runs."), ("", "It runs."), (" ".join(GLOBAL.split()[:54]), "a b")):
        fitted = fit_prompt(shared, own, WORDS)
        assert fitted.text == f"{shared} {own}".strip()
        assert fitted.dropped == 0


def test_the_end_of_the_global_text_makes_room_for_the_shot():
    fitted = fit_prompt(GLOBAL, "a red cat walks", WORDS)
    assert fitted.text == " ".join([*GLOBAL.split()[:52], "a red cat walks"])
    assert (fitted.words, fitted.kept, fitted.dropped, fitted.last) == (64, 52, 12, "word51")


def test_the_phrase_of_a_cut_stays():
    fitted = fit_prompt(GLOBAL, "a red cat", WORDS, phrase="Cut to a new scene:")
    assert fitted.text.startswith("Cut to a new scene: word0 ")
    assert fitted.text.endswith("word47 a red cat")
    assert len(fitted.text.split()) == 56


@pytest.mark.parametrize(
    ("own", "phrase", "says"),
    [
        ("a " * 61, "", "shot 3: its own text has 61 words and the encoder reads 56: shorten it by 5"),
        ("a " * 54, "and then cut", "shot 3: its own text and the phrase of its cut have 57 words"),
    ],
)
def test_a_shot_that_is_too_long_alone_is_refused_by_name(own, phrase, says):
    with pytest.raises(InputError) as error:
        fit_prompt(GLOBAL, own, WORDS, phrase=phrase, name="shot 3")
    assert says in str(error.value)


def test_whatever_fits_is_kept_and_never_more():
    """With tokens of any length: the longest start of the global text for which all is read."""
    rng = random.Random(1)
    reading = Reading(lambda text: len(text), 60)
    for _ in range(300):
        shared = " ".join("x" * rng.randint(1, 9) for _ in range(rng.randint(0, 30)))
        own = "y" * rng.randint(1, 60)
        fitted = fit_prompt(shared, own, reading)
        words = shared.split()
        most = max(n for n in range(len(words) + 1) if len(" ".join([*words[:n], own])) <= 60)
        assert fitted.text == " ".join([*words[:most], own])


def test_scripts_without_spaces_are_shortened_by_letters():
    reading = Reading(len, 20)
    assert fit_prompt("\u72d0\u72f8\u5728\u96ea\u4e2d\u5954\u8dd1" * 4, "a red cat", reading).kept == 10


def test_the_note_names_shots_count_and_what_went():
    story = Story([Shot("a b c"), Shot("a b c d"), Shot("e f g"), Shot("h i j")], GLOBAL)
    notes = fit_notes(plan(story, start_shot=2, start_chunk=3).shots, WORDS)
    assert notes == [
        "shots 3, 5 and 6: the global text was cut after 'word52' (11 words of 64 left out), the encoder reads 56 words",
        "shot 4: the global text was cut after 'word51' (12 words of 64 left out), the encoder reads 56 words",
    ]
    assert fit_notes(plan(Story([Shot("a " * 56)], "b c")).shots, WORDS) == [
        "shot 1: the global text was left out (2 words), the encoder reads 56 words"
    ]


def test_a_long_global_text_is_not_counted_whole_for_every_shot():
    lengths = []
    reading = Reading(lambda text: lengths.append(len(text)) or len(text.split()), 56, "words")
    shots = plan(Story([Shot(f"a {i}", frames=9) for i in range(500)], "harbour " * 60_000)).shots
    assert len(fit_notes(shots, reading)) == 1
    assert max(lengths) < 2000


def test_shots_are_named_from_one_and_in_ranges():
    assert shots_named([2]) == "shot 3"
    assert shots_named([0, 1]) == "shots 1 and 2"
    assert shots_named([0, 1, 2, 6]) == "shots 1-3 and 7"
    assert shots_named(list(range(0, 40, 2))) == "shots 1, 3, 5, 7, 9, 11, 13, 15 and 12 more"


# --- through the pipeline


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline.random(vocabulary=("cat", "dog", "sea", *map(str, range(30))))  # it reads 16 words


LONG = " ".join(map(str, range(20)))


def latents(pipe: Pipeline, story: Story, state: State | None = None) -> torch.Tensor:
    *_, last = pipe.stream(story, state=state, seed=3, decode=False)
    return last.latent


def test_two_shots_behind_a_long_global_text_are_two_films(pipe):
    """The text that was cut used to be the shot's: both films were bit-equal."""
    one, two = (latents(pipe, Story([Shot(text, frames=9)], LONG)) for text in ("cat", "dog"))
    assert not torch.equal(one, two)
    assert torch.equal(one, latents(pipe, Story([Shot("cat", frames=9)], " ".join(LONG.split()[:15]))))


def test_a_shot_too_long_for_the_encoder_is_refused_before_anything_is_made(pipe, tmp_path):
    story = Story([Shot("cat", frames=9), Shot("dog " * 17, frames=9)])
    for refuse in (pipe.stream, pipe.check, lambda story: pipe.generate(story, output=tmp_path / "a.mp4")):
        with pytest.raises(InputError, match="shot 2: its own text has 17 words and marks and the encoder reads 16"):
            refuse(story)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="negative: its own text has 20 words"):
        pipe.stream(Story([Shot("cat")], negative=LONG))


def test_warnings_about_an_appended_story_name_the_films_shots(pipe, tmp_path):
    """As the table does: the third shot of the film is shot 3, whichever story it came in."""
    state = next(pipe.stream(Story([Shot("cat", frames=9)]), decode=False)).state
    *_, last = pipe.stream(Story([Shot("dog", frames=9)]), state=state, decode=False)
    more = Story([Shot("zebra", frames=9), Shot("cat", frames=9)], LONG)
    assert pipe.check(more, last.state) == [
        "shot 3: the model does not know 'zebra' and draws from the words it knows",
        "shots 3 and 4: the global text was cut after '14' (5 words of 20 left out), the encoder reads 16 words and marks",
    ]
    report = pipe.generate(more, state=last.state, output=tmp_path / "a.mp4").report
    assert report["warnings"][:2] == pipe.check(more, last.state)
    assert report["shots"][2]["prompt"] == "zebra"


def test_words_of_the_global_text_that_are_unknown_are_said_once(pipe):
    shots = plan(Story([Shot("cat [zebra]"), Shot("dog."), Shot("zebra")], "in a harbour")).shots
    assert prompt_notes(pipe.text.config, shots) == [
        "the global text: the model does not know 'in', 'a' and 'harbour' and draws from the words it knows",
        "shots 1 and 3: the model does not know 'zebra' and draws from the words it knows",
    ]


def test_a_cuts_phrase_is_fitted_too(pipe):
    recipe = Recipe.of(steps=1, width=32, height=32, seconds=0.5, cut="flush+phrase", cut_phrase="sea sea sea:")
    shots = plan(Story([Shot("cat"), Shot("dog")], LONG), cut=recipe.cut.mode, phrase=recipe.cut.phrase).shots
    assert fit_shot(shots[1], pipe.reading).text == "sea sea sea: 0 1 2 3 4 5 6 7 8 9 10 dog"
