"""The story benchmark: always the same hundred stories, twenty of each kind, with the truth that each kind is about."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest

from causalcine_core import Story
from training.world import tokenize
from training.world.benchmark import SHOTS, STORIES, STORY_KINDS, benchmark_film, kind_of
from training.world.grammar import CAPTION_VOCABULARY

FILMS = [benchmark_film(number) for number in range(STORIES)]


def of_kind(kind: str):
    return [film for number, film in enumerate(FILMS) if kind_of(number) == kind]


def test_the_stories_are_these():
    """A change here is another benchmark: figures of before and after cannot be compared."""
    text = json.dumps([film.story() for film in FILMS])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "e43744b8b91e679384fc36a5a5614e67c0d5485c5e405d5cc653b578ea279d66"
    )


def test_there_are_twenty_of_each_kind_and_no_two_alike():
    assert len({json.dumps(film.story()) for film in FILMS}) == STORIES == 100
    assert {kind: len(of_kind(kind)) for kind in STORY_KINDS} == dict.fromkeys(STORY_KINDS, 20)
    with pytest.raises(ValueError, match="from 0 to 99"):
        benchmark_film(100)


@pytest.mark.parametrize("film", FILMS[:10], ids=lambda film: str(film.seed))
def test_each_has_five_shots_in_15_seconds_in_words_that_nano_knows(film):
    assert len(film.shots) == SHOTS and film.frames == 237
    assert all(shot.frames >= 33 and (shot.first + 3) % 12 == 0 for shot in film.shots[1:])
    Story.from_dict(film.story())
    assert {word for shot in film.shots for word in tokenize(shot.caption)} <= set(CAPTION_VOCABULARY)


def test_whoever_comes_back_is_called_by_name_only_and_whoever_is_new_is_described():
    for film in FILMS:
        known = set()
        for shot in film.shots:
            for actor in shot.cast:
                assert actor.name_only == (actor.character.name in known) != actor.introduced
            known |= {actor.character.name for actor in shot.cast}


def test_somebody_reappears_after_a_shot_or_two_of_others():
    for film in of_kind("reappearance"):
        assert all(a.setting != b.setting for a, b in pairwise(film.shots))
        assert any(actor.gap >= 36 for shot in film.shots for actor in shot.cast if actor.name_only)


def test_a_scene_changes_at_every_cut_and_its_character_does_not():
    for film in of_kind("scene change"):
        assert len({shot.setting for shot in film.shots}) == SHOTS
        assert len(film.characters) == 1


def test_shot_and_reverse_shot_take_turns_in_one_place_each_from_its_side():
    for film in of_kind("shot-reverse-shot"):
        assert len({(shot.setting, shot.time, shot.place) for shot in film.shots}) == 1
        for a, b in pairwise(film.shots):
            assert {a.viewpoint, b.viewpoint} == {"left", "right"} and a.characters != b.characters
        assert all(a.characters == b.characters for a, b in zip(film.shots, film.shots[2:], strict=False))


def test_viewpoints_change_on_the_same_people_in_the_same_place():
    for film in of_kind("viewpoint change"):
        assert len({(shot.setting, shot.time, shot.place, shot.characters) for shot in film.shots}) == 1
        assert all(a.viewpoint != b.viewpoint and a.framing != b.framing for a, b in pairwise(film.shots))


def test_a_long_gap_is_three_shots_long():
    for film in of_kind("long gap"):
        last = film.shots[-1].cast[0]
        assert last.character == film.shots[0].cast[0].character and last.name_only
        assert last.gap == film.shots[-1].first - film.shots[0].end >= 3 * 36
