"""Stories are read as written, refused by name, and land on chunks without adding up errors."""

from __future__ import annotations

import json
import random

import pytest

from causalcine_core.errors import InputError
from causalcine_core.plan import plan
from causalcine_core.story import MAX_SEED, MAX_SHOTS, Story, check_size

TAGGED = "[global caption] A fox in winter. [per shot caption] It runs. [shot cut] It sleeps. [shot cut] It wakes."


def prompts(story: Story) -> list[str]:
    return [shot.prompt for shot in story.shots]


# --- forms


def test_json_holds_every_field_and_survives_a_round_trip():
    data = {
        "global": "A fox.",
        "fps": 23.976,
        "width": 832,
        "height": 480,
        "seed": MAX_SEED,
        "negative": "blur",
        "shots": [{"prompt": "It runs.", "seconds": 3.5}, {"prompt": "It sleeps.", "frames": 40, "seed": 5}],
    }
    story = Story.parse(json.dumps(data))
    assert story.to_dict() == data
    assert Story.from_dict(story.to_dict()) == story
    assert story.prompt(1) == "A fox. It sleeps."


@pytest.mark.parametrize("wrap", [str, json.dumps, lambda text: json.dumps({"prompt": text})])
def test_holocine_strings_bare_quoted_or_in_an_object(wrap):
    story = Story.parse(wrap(TAGGED))
    assert story.global_prompt == "A fox in winter."
    assert prompts(story) == ["It runs.", "It sleeps.", "It wakes."]


def test_holocine_cuts_are_first_frames_of_the_next_shots():
    story = Story.from_dict({"prompt": TAGGED, "shot_cut_frames": [37, 73], "num_frames": 121})
    assert [shot.frames for shot in story.shots] == [37, 36, 48]
    assert [shot.asked for shot in plan(story).shots] == [(0, 37), (37, 73), (73, 121)]
    without_end = Story.from_dict({"prompt": TAGGED, "shot_cut_frames": [37, 73]})
    assert without_end.shots[2].frames is None


@pytest.mark.parametrize(
    "text",
    [
        "one\n\ntwo\n\nthree",
        "one\r\n\r\ntwo\r\n\r\n\r\nthree\r\n",
        "one\n \t\ntwo\n\nthree",
        "---\none\n---\ntwo\n---\nthree\n",
    ],
)
def test_plain_text_has_a_shot_a_paragraph_or_between_dashes(text):
    assert prompts(Story.parse(text)) == ["one", "two", "three"]


def test_dashes_keep_paragraphs_together():
    assert prompts(Story.parse("one\n\nmore\n---\ntwo")) == ["one more", "two"]


def test_numbered_shots_take_a_global_text_and_lengths():
    story = Story.parse("A fox in winter.\n\n**Shot 1 (2.5s):** it runs\n\nScene 2 - it sleeps")
    assert story.global_prompt == "A fox in winter."
    assert [(shot.prompt, shot.seconds) for shot in story.shots] == [("it runs", 2.5), ("it sleeps", None)]


def test_names_in_brackets_and_speech_are_text():
    assert prompts(Story.parse("[character1] waves")) == ["[character1] waves"]
    assert prompts(Story.parse('"Run!" she says. He answers "No."')) == ['"Run!" she says. He answers "No."']


def test_files_are_utf8_with_or_without_a_mark(tmp_path):
    path = tmp_path / "story.txt"
    path.write_bytes("\ufeff狐狸在雪中奔跑。\r\n\r\nÉté.".encode())
    assert prompts(Story.load(path)) == ["狐狸在雪中奔跑。", "Été."]


def test_rare_line_ends_are_text_in_json_and_lines_in_text(tmp_path):
    (tmp_path / "s.json").write_text('{"shots": [{"prompt": "a\u2028b\x85c"}]}', encoding="utf-8")
    assert prompts(Story.load(tmp_path / "s.json")) == ["a\u2028b\x85c"]
    assert Story.parse((tmp_path / "s.json").read_text(encoding="utf-8")) == Story.load(tmp_path / "s.json")
    assert prompts(Story.parse("a\u2028\u2028b")) == ["a", "b"]


# --- refusals: one sentence, by name


def shots(**fields) -> dict:
    return {"shots": [{"prompt": "a", "seconds": 1}, {"prompt": "b", **fields}]}


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (shots(seconds=0), "shots[1].seconds must be a number from 0.001"),
        (shots(seconds=-3), "shots[1].seconds"),
        (shots(seconds=True), "shots[1].seconds"),
        (shots(seconds="3"), 'shots[1].seconds must be a number from 0.001 to 86400, got "3"'),
        (shots(seconds=1e9), "shots[1].seconds"),
        (shots(seconds=float("nan")), "got NaN"),
        (shots(seconds=float("inf")), "got Infinity"),
        (shots(frames=0), "shots[1].frames must be a whole number from 1"),
        (shots(frames=80.5), "shots[1].frames"),
        (shots(frames=80.0), "shots[1].frames"),
        (shots(frames=True), "shots[1].frames must be a whole number from 1 to 1000000, got true"),
        (shots(frames="81"), "shots[1].frames"),
        (shots(frames=5, seconds=1), 'shots[1] has both "seconds" and "frames"'),
        (shots(prompt=""), "shots[1].prompt is empty"),
        (shots(prompt=" \n"), "shots[1].prompt is empty"),
        (shots(prompt=7), "shots[1].prompt must be text"),
        (shots(prompt="\ud800"), "shots[1].prompt holds a character that is not text (U+D800)"),
        (shots(second=3), 'shots[1] has an unknown field "second", did you mean "seconds"?'),
        (shots(seed=-1), "shots[1].seed must be a whole number from 0 to 18446744073709551615, got -1"),
        (shots(cut="smooth"), "shots[1].cut must be one of native, "),
        (shots(blend=3), "shots[1].blend"),
        ({"shots": []}, "shots must be a list of 1 to 9,999 shots"),
        ({"shots": {}}, "shots must be a list"),
        ({"shots": [7]}, "shots[0] must be an object"),
        ({"shots": ["a", " "]}, "shots[1] is empty"),
        ({"shots": [{}]}, 'shots[0] has no "prompt"'),
        ({"shots": [{"prompt": "a"}] * (MAX_SHOTS + 1)}, "got 10,000 of them"),
        ({}, 'has no "shots"'),
        ([], "shots must be a list of 1 to 9,999 shots, got []"),
        (shots() | {"negatives": "x"}, 'the story has an unknown field "negatives", did you mean "negative"?'),
        (shots() | {"fps": 0}, "fps must be a number from 1 to 120, got 0"),
        (shots() | {"fps": 121}, "fps"),
        (shots() | {"fps": True}, "fps"),
        (shots() | {"fps": "16"}, "fps"),
        (shots() | {"width": 832.0}, "width"),
        (shots() | {"height": -16}, "height"),
        (shots() | {"seed": MAX_SEED + 1}, "seed"),
        (shots() | {"seed": 1.5}, "seed must be a whole number from 0 to 18446744073709551615, got 1.5"),
        (shots() | {"global": 3}, "global must be text"),
        ({"prompt": TAGGED, "shot_cut_frames": [37]}, "shot_cut_frames must be a list of 2 frames"),
        ({"prompt": TAGGED, "shot_cut_frames": [37, 37]}, "shot_cut_frames[1] must be a whole number from 38"),
        ({"prompt": TAGGED, "shot_cut_frames": [0, 37]}, "shot_cut_frames[0]"),
        ({"prompt": "[global caption] a [shot cut] b"}, "[per shot caption]"),
        ({"prompt": "[per shot caption] a [shot cut] [shot cut] b"}, "shot 2 is empty"),
        ({"24": "a", "48": "b"}, 'must begin with "0"'),
        ({"0": "a", "00": "b"}, "same frame"),
        ({"0": ""}, 'the text at frame "0" is empty'),
    ],
)
def test_bad_stories_are_refused_by_name(data, says):
    with pytest.raises(InputError) as error:
        Story.from_dict(data)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError) as error:
        Story.parse(json.dumps(data))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"shots": [', "not valid JSON"),
        ('{"shots": [\n  {"prompt": "a" "seconds": 3}]}', "line 2, column 18"),
        ('[{"prompt": "a"]', "line 1"),
        ('{"shots": [{"prompt": "a"}]} and more', "Extra data at line 1, column 30"),
        ('{"shots": [], "shots": []}', 'the field "shots" is given twice'),
        ("[" * 100_000, "nested"),
        ('{"seed": ' + "9" * 5000 + "}", "not valid JSON"),
        ("", "the story is empty"),
        (" \n\n", "the story is empty"),
        ("---\n---", "no text"),
        ("Shot 1: a\nShot 2:\nShot 3: c", "shot 2 is empty"),
        ("a\0b", "U+0000"),
    ],
)
def test_broken_texts_are_refused(text, says):
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        Story.parse(text)
    assert says in str(error.value)


def test_files_that_are_no_stories_are_refused_with_their_name(tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "words.json").write_text("not json at all")
    for name, says in {
        "no.json": "no such",
        ".": "folder",
        "latin.txt": "UTF-8",
        "words.json": "line 1, column 1",
    }.items():
        with pytest.raises(InputError) as error:
            Story.load(tmp_path / name)
        assert says in str(error.value)
        assert str(tmp_path) in str(error.value)


def test_anything_that_is_read_can_be_planned_and_written_again():
    """Random texts from the pieces that mean something: a story or an InputError, nothing else."""
    pieces = [
        "a",
        "Shot 1:",
        "Shot 2:",
        "1)",
        "2)",
        "|",
        "\n",
        "\n\n",
        "---",
        '"0":',
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        " ",
    ]
    pieces += ["[shot cut]", "[global caption]", "[per shot caption]", "seconds", "é", "\ufeff", "\r"]
    rng = random.Random(0)
    read = 0
    for _ in range(3000):
        try:
            story = Story.parse("".join(rng.choices(pieces, k=rng.randint(1, 9))))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert Story.from_dict(json.loads(json.dumps(story.to_dict()))) == story
        assert len(plan(story).shots) == len(story.shots)
    assert read > 500


@pytest.mark.parametrize("text", ["|", "| |", "-----"])
def test_separators_alone_are_no_story(text):
    with pytest.raises(InputError):
        Story.parse(text)


def test_a_size_below_the_stride_names_the_one_size_above():
    with pytest.raises(InputError, match=r"nearest are 16x16$"):
        check_size(8, 8)
