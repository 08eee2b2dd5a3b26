"""The cast of a command line: how it is spelled, and a film made with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from causalcine_core import InputError
from causalcine_core.cli import main
from causalcine_core.commands.casting import parse
from causalcine_core.pictures import read_picture
from causalcine_core.references import load_cast


@pytest.fixture
def here(tmp_path, monkeypatch, frames):
    """A folder with two pictures of other sizes than the film's, one of them with a colon in its name, and a story."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(frames(1, 90, 48)[0]).save("fox.png")
    Image.fromarray(frames(1, 30, 70)[0]).save("C:snow.png")
    (tmp_path / "story.json").write_text(json.dumps({"shots": [{"prompt": "a fox runs", "seconds": 3}]}))
    return tmp_path


def test_the_path_is_the_longest_that_is_there(here):
    assert parse("fox=fox.png") == ("fox", "fox.png", None)
    assert parse("fox=fox.png:a fox: it runs = fast") == ("fox", "fox.png", "a fox: it runs = fast")
    assert parse("snow=C:snow.png") == ("snow", "C:snow.png", None)
    assert parse("snow=C:snow.png:the snow") == ("snow", "C:snow.png", "the snow")
    assert parse(f"fox={here}/fox.png:") == ("fox", f"{here}/fox.png", None)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("fox.png", "--cast must be NAME=PICTURE"),
        ("=fox.png", "--cast must be NAME=PICTURE"),
        ("fox=", "--cast must be NAME=PICTURE"),
        ("fox=none.png:a fox", "there is no picture none.png of fox"),
        (r"fox=C:\none.png:a fox", r"there is no picture C:\\none.png of fox"),
    ],
)
def test_a_cast_that_is_spelled_wrongly_is_asked_back(here, value, said):
    with pytest.raises(InputError, match=said):
        parse(value)


def test_a_picture_is_scaled_and_cut_in_its_middle(here):
    picture = read_picture("fox.png", 48, 48)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    right = np.asarray(Image.open("fox.png").convert("RGB"))[:, 21:69].astype(int)
    assert np.abs(picture - right).max() <= 2
    (here / "no.png").write_text("no picture")
    with pytest.raises(InputError, match=r"picture no\.png cannot be read"):
        read_picture("no.png", 48, 48)


def test_a_film_with_a_cast_from_the_command_line(here, checkpoint, capsys):
    common = ["--model", str(checkpoint), "--device", "cpu", "--json"]
    cast = ["--cast", "fox=fox.png:a fox sleeps", "--cast", "snow=C:snow.png", "--save-cast", "cast.safetensors"]
    main(["generate", "story.json", "-o", "one.mp4", "--top-k", "4", *cast, "--save-state", "one", *common])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["cast"] == [{"name": "fox", "caption": "a fox sleeps"}, {"name": "snow", "caption": "snow"}]
    assert {-2, -3} <= {number for chunk in report["chunks"] for row in chunk["routing"] for number in row}
    assert [one.name for one in load_cast("cast.safetensors")] == ["fox", "snow"]
    main(["generate", "story.json", "-o", "two.mp4", "--top-k", "4", "--cast", "cast.safetensors", *common])
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [chunk["routing"] for chunk in again["chunks"]] == [chunk["routing"] for chunk in report["chunks"]]
    main(
        [
            "continue",
            "one",
            "story.json",
            "-o",
            "three.mp4",
            "--cast",
            "cast.safetensors",
            "--cast",
            "in=fox.png",
            *common,
        ]
    )
    more = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [one["name"] for one in more["cast"]] == ["fox", "snow", "in"]
    with Image.open("three.memory.png") as shown, Image.open("two.memory.png") as before:
        assert shown.height > before.height
