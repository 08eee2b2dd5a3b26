"""A film carries its story: written into the mp4, read back from it, and made again from it."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from causalcine_core import Pipeline, cli
from causalcine_core.errors import InputError
from causalcine_core.plan import plan
from causalcine_core.story import Story
from causalcine_core.story_formats.film import STORY_FIELD
from causalcine_core.video import VideoWriter, read_video


@pytest.fixture
def film(tmp_path, frames):
    """`film(**fields)`: a small mp4 with text fields."""

    def make(name: str = "a.mp4", **fields: str) -> Path:
        with VideoWriter(tmp_path / name, 16, (32, 16), metadata=fields) as video:
            video.write(frames(2, 32, 16))
        return tmp_path / name

    return make


ODD = 'a "fox" = ;#\\ runs\nand 狐 \U0001f98a {red|blue} [shot cut] \u2028 sleeps'


def test_the_story_of_a_film_comes_back_and_other_programs_read_it_too(film):
    told = {
        "global": "Snow.",
        "fps": 24,
        "seed": 2**64 - 1,
        "shots": [{"prompt": ODD, "seconds": 1 / 3, "seed": 4}, {"prompt": "b", "frames": 9}],
    }
    long = {"shots": [{"prompt": f"shot {i} " + "snow " * 200} for i in range(1000)]}
    for story in (told, long):
        path = film(prompt='{"3": 1}', workflow='{"é": "=;#"}', **{STORY_FIELD: json.dumps(story, ensure_ascii=False)})
        read = Story.load(path)
        assert read == Story.from_dict(story)
        assert read.form == "film" and read.notes[0].startswith(
            f"read {len(story['shots'])} shots: the story that this film carries"
        )
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "ffmetadata", "-"]
        said = subprocess.run(command, capture_output=True, check=True).stdout.decode()
        fields = dict(
            line.split("=", 1) for line in said.splitlines() if line.startswith((STORY_FIELD, "workflow", "prompt"))
        )
        if story is told:
            assert json.loads(fields["workflow"].replace("\\=", "=").replace("\\;", ";").replace("\\#", "#")) == {
                "é": "=;#"
            }
        assert STORY_FIELD in fields


def test_films_that_carry_no_story_are_refused_in_a_sentence(film, tmp_path):
    whole = film(**{STORY_FIELD: '{"shots": ["a"]}'}).read_bytes()
    at = whole.index(STORY_FIELD.encode())
    value = whole.index(b'{"shots"')
    cases = {
        "plain": (
            film("plain.mp4").read_bytes(),
            "this film carries no story: it was not made by CausalCine, or was encoded anew",
        ),
        "graph": (film("graph.mp4", prompt="{}").read_bytes(), "this film carries no story"),
        "other": (whole[:at] + b"c" * len(STORY_FIELD) + whole[at + len(STORY_FIELD) :], "carries no story"),
        "text": (b"not a film at all", "this is no mp4 file"),
        "empty": (b"", "this is no mp4 file"),
        "short": (whole[: whole.index(b"moov") + 20], "cut short, or was not finished"),
        "broken": (whole.replace(b'{"shots"', b'{"shots['), "the story in this film: this is not valid JSON"),
        "wrong": (whole.replace(b'["a"]}', b'["a",7'), "the story in this film"),
        "bytes": (whole.replace(b'["a"]', b'["\xff"]'), "the story in this film is not UTF-8 text"),
        "huge": (whole[: value - 16] + (2**31).to_bytes(4, "big") + whole[value - 12 :], "carries no story"),
    }
    for name, (data, says) in cases.items():
        path = tmp_path / f"{name}.mp4"
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            Story.load(path)
        assert says in str(error.value) and "\n" not in str(error.value) and name in str(error.value), name


def test_a_field_that_is_too_long_is_not_read(film, tmp_path, monkeypatch):
    path = film(**{STORY_FIELD: json.dumps({"shots": ["a" * 2000]})})
    monkeypatch.setattr("causalcine_core.story_formats.film.MAX_BYTES", 1000)
    with pytest.raises(InputError, match=r"the text fields of this film have 2,0\d\d bytes; at most 1,000 are read"):
        Story.load(path)


def test_films_with_damaged_heads_are_read_or_refused(film, tmp_path):
    whole = bytearray(film(**{STORY_FIELD: '{"shots": ["a fox", "b"]}'}).read_bytes())
    end, rng, path, refused = whole.index(b"mdat"), random.Random(0), tmp_path / "b.mp4", 0
    for _ in range(200):
        data = bytearray(whole)
        for at in (
            rng.randrange(end) if rng.random() < 0.5 else rng.randrange(end - 300, end)
            for _ in range(rng.randint(1, 4))
        ):
            data[at] = rng.choice((0, 1, 255, rng.randrange(256)))
        path.write_bytes(data)
        try:
            assert Story.load(path).shots
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 400
    assert 10 < refused < 195


# --- the story that a film tells

STORIES = [
    {"shots": [{"prompt": "a fox", "frames": 21}, {"prompt": "runs", "seconds": 2.4}, {"prompt": "sleeps"}]},
    {"global": "Snow.", "fps": 23.976, "width": 48, "height": 16, "seed": 5, "negative": "a fox",
     "shots": [{"prompt": "a fox", "seconds": 1.7, "seed": 3}, {"prompt": "runs", "seconds": 0.1}]},
    {"cut": "flush", "shots": [{"prompt": "a fox", "frames": 21}, {"prompt": "runs", "frames": 60, "cut": "soft"},
                               {"prompt": "sleeps", "frames": 24, "cut": "soft", "blend": 5},
                               {"prompt": "in the snow", "frames": 60, "cut": "soft+rewrite", "blend": 2},
                               {"prompt": "a fox", "frames": 30, "cut": "soft+rewrite"},
                               {"prompt": "runs", "frames": 12, "cut": "native"}]},
]  # fmt: skip


@pytest.mark.parametrize("told", STORIES)
def test_a_film_tells_the_story_that_makes_it(pipe: Pipeline, told):
    begun = pipe.start(Story.from_dict(told))
    again = pipe.start(Story.from_dict(pipe.told(begun).to_dict()))
    assert again.planned == begun.planned
    for name in ("recipe", "size", "seed"):
        assert getattr(again, name) == getattr(begun, name)
    same = ("caption", "shared", "asked", "frames", "until", "cut")
    assert [[getattr(shot, name) for name in same] for shot in again.shots] == [
        [getattr(shot, name) for name in same] for shot in begun.shots
    ]
    assert [shot.seed or again.seed for shot in again.shots] == [shot.seed or begun.seed for shot in begun.shots]


def test_texts_of_appended_stories_keep_their_own_global_text(pipe: Pipeline):
    stories = [
        Story.from_dict({"global": g, "shots": [{"prompt": "a fox", "frames": 9}]}) for g in ("Snow.", "In the snow.")
    ]
    first = list(pipe.stream(stories[0], seed=1, decode=False))[-1].state
    both = pipe.start(stories[1], state=first, seed=2)
    told = pipe.told(both)
    assert [shot.prompt for shot in told.shots] == ["Snow. a fox", "In the snow. a fox"]
    assert ([shot.seed for shot in told.shots], told.seed) == ([1, None], 2)
    rest = pipe.told(both, first.frames)
    assert (rest.global_prompt, [shot.prompt for shot in rest.shots]) == ("In the snow.", ["a fox"])
    assert plan(rest).frames == 9


# --- the command


def pictures(path: str) -> np.ndarray:
    return np.stack(list(read_video(path)))


def test_a_film_is_made_again_from_its_mp4_whole_or_continued(tmp_path, monkeypatch, checkpoint, capsys):
    monkeypatch.chdir(tmp_path)
    model = ("--model", str(checkpoint))
    story = {
        "shots": [{"prompt": "a fox", "seconds": 0.6}, {"prompt": "runs", "seconds": 0.6, "cut": "soft", "blend": 1}]
    }
    Path("s.json").write_text(json.dumps(story))
    Path("more.txt").write_text("(0.8s) sleeps")

    def run(*args: str) -> list[str]:
        assert cli.main([*args]) == 0
        return capsys.readouterr().out.splitlines()

    run("generate", "s.json", "-o", "a.mp4", "--seed", "4", "--width", "48", "--save-state", "film", *model)
    assert Story.load("a.mp4").to_dict() == story | {"seed": 4, "width": 48}
    assert run("story", "check", "a.mp4", *model)[0] == "read 2 shots: the story that this film carries (form: film)"
    run("story", "convert", "a.mp4", "b.txt")
    assert "Shot 2 (0.6s): runs" in Path("b.txt").read_text()
    run("continue", "film", "more.txt", "-o", "part.mp4", *model)
    assert Story.load("part.mp4").to_dict() == {"seed": 4, "shots": [{"prompt": "sleeps", "seconds": 0.8}]}
    run("continue", "film", "part.mp4", "-o", "whole.mp4", "--whole", *model)
    run("generate", "whole.mp4", "-o", "again.mp4", *model)
    assert [shot.prompt for shot in Story.load("whole.mp4").shots] == ["a fox", "runs", "sleeps"]
    assert (pictures("again.mp4") == pictures("whole.mp4")).all()
