"""The benchmark in open vocabulary: always the same hundred stories, which our readers of stories read."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise

import pytest

from causalcine_core import Story
from causalcine_core.errors import InputError
from causalcine_core.plan import plan
from training.evaluation.stories import main, open_story, world_story
from training.world.benchmark import SHOTS, STORIES, STORY_KINDS

ALL = [open_story(number) for number in range(STORIES)]


def test_the_stories_are_these():
    """A change here is another benchmark: figures of before and after cannot be compared."""
    text = json.dumps([one.story for one in ALL])
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "d994e9989d211bf3247ccf2ff9b3b7c8a66ee7536b500f5cf75e6f859c75d84d"
    )


def test_there_are_twenty_of_each_kind_no_two_alike_and_each_is_a_story_of_15_seconds():
    assert len({json.dumps(one.story) for one in ALL}) == STORIES
    assert {kind: sum(one.kind == kind for one in ALL) for kind in STORY_KINDS} == dict.fromkeys(STORY_KINDS, 20)
    for one in ALL[:10]:
        planned = plan(Story.from_dict(one.story))
        assert len(planned.shots) == SHOTS and planned.chunks[-1].frames[1] == pytest.approx(240, abs=6)


def test_the_truth_says_who_is_in_which_shot_and_the_global_text_how_they_look():
    for one in ALL:
        for shot, cast in zip(one.story["shots"], one.cast, strict=True):
            assert {name for name in ("[character1]", "[character2]", "[character3]") if name in shot["prompt"]} == set(
                cast
            )
        assert all(f"{name} is " in one.story["global"] for cast in one.cast for name in cast)


def test_each_kind_is_what_its_name_says():
    for one in ALL:
        if one.kind == "long gap":
            assert one.cast[0] == one.cast[4] and not any(one.cast[0][0] in cast for cast in one.cast[1:4])
        elif one.kind == "shot-reverse-shot":
            assert all(a != b for a, b in pairwise(one.cast)) and one.cast[:3] == one.cast[2:]
        elif one.kind in ("scene change", "viewpoint change"):
            assert len(set(one.cast)) == 1
        else:
            returned = [
                name
                for i, cast in enumerate(one.cast)
                for name in cast
                if i > 1 and name not in one.cast[i - 1] and any(name in before for before in one.cast[: i - 1])
            ]
            assert returned


@pytest.mark.parametrize(("options", "of"), [([], open_story), (["--world"], world_story)])
def test_the_command_writes_story_files_and_their_truth(tmp_path, options, of):
    main(["-o", str(tmp_path), "--count", "6", *options])
    index = json.loads((tmp_path / "index.json").read_text())
    assert len(index) == 6 == len(list(tmp_path.glob("0*.json")))
    for number, entry in enumerate(index):
        Story.load(tmp_path / entry["file"])
        one = of(number)
        assert json.loads((tmp_path / entry["file"]).read_text()) == one.story
        assert (entry["kind"], [tuple(cast) for cast in entry["cast"]]) == (one.kind, list(one.cast))
    with pytest.raises(InputError, match="count must be from 1 to 100"):
        main(["-o", str(tmp_path), "--count", "0"])
