"""Every way in which people write a story down: what is read from it, what is said of it, and what is refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from causalcine_core.errors import InputError
from causalcine_core.plan import plan
from causalcine_core.story import MAX_SHOTS, Story
from causalcine_core.story_formats import JSON_FORMS, SHOT_SYNTAX, TEXT_FORMS, load_story

HINT = "if several shots were meant, put a blank line between them"
HEAD = "; a time in brackets at the head of a shot is its length"


def read(text: str) -> list[str | tuple[str, float]]:
    """The shots of a text: each its prompt, with its seconds or frames where the text says them."""
    shots = Story.parse(text).shots
    return [
        (shot.prompt, shot.seconds or shot.frames) if shot.seconds or shot.frames else shot.prompt for shot in shots
    ]


# --- prose is prose, whatever it begins with


@pytest.mark.parametrize(
    "text",
    [
        "[35mm film] a cat",
        "[a cat] walks",
        "[1920s style] a cat",
        "[2] a cat",
        "[-5s] a cat",
        "[true] a cat",
        '["Run!" she says]',
        "[[wiki]] walks",
        "[character1] waves",
        "{red|blue} cat",
        "{a|b|{c|d}} cat",
        "{{char}} walks",
        "{ a cat }",
        '{"red" or "blue"} cat',
        "(red|blue:1.2) cat",
        "a cat [day|night] walks",
        '"3": she counts',
        '"Run!" she says. "No."',
        "5-10s exposure of stars",
        "9:00-17:00 he works",
        "at the bar [12:30] he sits",
        "[99:99:99] a cat",
        "Shot on film: a cat",
        "a 3-5 year old cat",
        "\u202e\u05e9\u05dc\u05d5\u05dd, \u0645\u0631\u062d\u0628\u0627",
        "\U0001f3ac \U0001f468\u200d\U0001f469\u200d\U0001f467 walk",
        "9" * 5000,
        "[" + "9" * 5000 + " cats]",
    ],
)
def test_prose_that_looks_like_something_else_stays_text(text):
    story = Story.parse(text)
    assert [shot.prompt for shot in story.shots] == [text]
    assert story.notes[0] == "read 1 shot: one paragraph"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"shots": [', "not valid JSON: Expecting value at line 1, column 12"),
        ('{"shots"', "not valid JSON"),
        ("{'shots': []}", "not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2"),
        ('{shots: [{prompt: "a"}]}', "not valid JSON"),
        ('{"prompt": "a"} cat', "not valid JSON: Extra data"),
        ("{", "not valid JSON"),
        ("[", "not valid JSON"),
        ('["a", "b"', "not valid JSON"),
        ('[{"prompt": "a"}', "not valid JSON"),
        ('"0": "a", "24": b', "not valid JSON: Expecting value at line 1, column 17"),
        ("{}", 'has no "shots"'),
        ("[]", "shots must be a list"),
        ('["a", 7]', "shots[1] must be an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
    ],
)
def test_what_was_meant_as_json_is_refused_where_it_is_broken(text, says):
    with pytest.raises(InputError, match=r"^[^\n]{1,200}$") as error:
        Story.parse(text)
    assert says in str(error.value)


# --- times


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        ("[0-5s] a", [("a", 5)]),
        ("[0-5s] a\n[5-10s] b", [("a", 5), ("b", 5)]),
        ("[0-5s] a [5-10s] b", [("a", 5), ("b", 5)]),
        ("[0s-5s] a [5s-7.5s] b", [("a", 5), ("b", 2.5)]),
        ("[0 - 5 sec] a [5 to 9 seconds] b", [("a", 5), ("b", 4)]),
        ("[0\u20135s] a [5\u20149s] b", [("a", 5), ("b", 4)]),
        ("[00:00-00:03] a\n\n[00:03-00:07.5] b", [("a", 3), ("b", 4.5)]),
        ("[0:00 - 1:00] a\n[1:00 - 1:00:00] b", [("a", 60), ("b", 3540)]),
        ("\u30100-5s\u3011 a \u30105-9s\u3011 b", [("a", 5), ("b", 4)]),
        ("**[0-5s]** a\n**[5-9s]:** b", [("a", 5), ("b", 4)]),
        ("(0-5s) a\n(5-9s): b", [("a", 5), ("b", 4)]),
        ("0-5s: a\n5-9s: b", [("a", 5), ("b", 4)]),
        ("00:00-00:05: a\n00:05-00:09 - b", [("a", 5), ("b", 4)]),
        ("0:00-0:05\na cat\n0:05-0:09\na dog", [("a cat", 5), ("a dog", 4)]),
        ("[0-5s] a | [5-10s] b", [("a", 5), ("b", 5)]),
        ("[0-5s]\n\na\n\nmore\n\n[5-9s]\n\nb", [("a more", 5), ("b", 4)]),
        ("[0-5s] Shot 1: a\n[5-9s] Shot 2: b", [("a", 5), ("b", 4)]),
        ("1\n00:00:00,000 --> 00:00:03,000\na cat\n\n2\n00:00:03,000 --> 00:00:05,500\na dog", [("a cat", 3), ("a dog", 2.5)]),
        ("[00:00] a [00:05] b [00:09] c", [("a", 5), ("b", 4), "c"]),
        ("[0s] a\n[2.5s] b", [("a", 2.5), "b"]),
        ("Shot 1 (2.5s): a Shot 2: b", [("a", 2.5), "b"]),
        ("Shot 1 (0-5s): a\nShot 2 (5-8s): b", [("a", 5), ("b", 3)]),
        ("Shot 1 [0:00-0:05] a\nShot 2 [0:05-0:08] b", [("a", 5), ("b", 3)]),
        ("[Shot 1: 0-5s] a\n[Shot 2: 5-9s] b", [("a", 5), ("b", 4)]),
        ("Shot 1, 0-5s: a\nShot 2, 5-9s: b", [("a", 5), ("b", 4)]),
        ("Shot 1: 3 seconds of silence", ["3 seconds of silence"]),
    ],
)  # fmt: skip
def test_headers_of_times_are_read_as_shots_of_those_lengths(text, shots):
    assert read(text) == shots
    assert len(Story.parse(text).notes) == 1
    assert Story.parse(text).notes[0].startswith(f"read {len(shots)} shot")


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        ("Shot 1: [0-5s] a\nShot 2: [5-10s] b", [("a", 5), ("b", 5)]),
        ("1) (5s) a\n2) b", [("a", 5), "b"]),
        ("[3s] a\n\n[5s] b", [("a", 3), ("b", 5)]),
        ("[0-5s] a\n---\nb\n---\n[10-12s] c", [("a", 5), "b", ("c", 2)]),
        ("(3s) a | (2 sec) b", [("a", 3), ("b", 2)]),
        ("[per shot caption] [0-5s] a [shot cut] [5-9s] b", [("a", 5), ("b", 4)]),
    ],
)
def test_times_inside_other_forms_are_read_and_said(text, shots):
    assert read(text) == shots
    (how,) = Story.parse(text).notes  # what follows would be warnings
    assert how.endswith(HEAD)


def test_ranges_that_leave_gaps_or_overlap_follow_one_another_and_it_is_said():
    story = Story.parse("[2-5s] a\n[7-10s] b\n[9-12.25s] c\n[12.25-13s] d")
    assert [shot.seconds for shot in story.shots] == [3, 3, 3.25, 0.75]
    assert story.notes[1:] == (
        "each shot is as long as its own times say: before 2-5s the times leave a gap of 2 s, before 7-10s the times leave a gap "
        "of 2 s and before 9-12.25s the times overlap by 1 s",
    )


def test_text_before_the_first_time_is_global():
    story = Story.parse("A fox in winter.\n\n[0-5s] it runs\n[5-8s] it sleeps")
    assert story.global_prompt == "A fox in winter."
    assert story.notes[0] == "read 2 shots: split at times such as 0-5s; the text before them is global"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[0-5s] a [5-4s] b", "the times of shot 2, 5-4s, must end after they begin"),
        ("[0-0s] a", "the times of shot 1, 0-0s, must end after they begin"),
        ("[99:99-99:99] a", "99:99 in shot 1 is no time: its minutes and seconds run to 59"),
        ("[0-9999999s] a", "9999999 in shot 1 is too long"),
        ("[0-5s] a [5-9s]", "the text of shot 2 is empty"),
        ("[0-0.0001s] a", "shots[0].seconds must be a number from 0.001"),
    ],
)
def test_times_that_cannot_be_are_refused_by_name(text, says):
    with pytest.raises(InputError) as error:
        Story.parse(text)
    assert says in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["0-24: a, 24-48: b", "[0-24] a [24-48] b", "[3s] a [5s] b", "00:00-00:05 a\n00:05-00:10 b", "0: a\n24: b", "- a\nb", "- a\n* b"],
)  # fmt: skip
def test_times_and_lists_of_no_form_are_one_shot_with_a_hint(text):
    story = Story.parse(text)
    assert len(story.shots) == 1
    assert story.notes[1:] == (HINT,)


# --- numbers


@pytest.mark.parametrize(
    "text",
    [
        "Shot 1\na\n\nShot 2\nb",
        "## Shot 1\na\n\n## Shot 2\nb",
        "### Shot 1: a\n### Shot 2: b",
        "**Shot 1** \na\n**Shot 2**\nb",
        "Shot 1/2: a Shot 2/2: b",
        "Shot 1 of 2: a Shot 2 of 2: b",
        "SHOT #1 - a\nSHOT #2 - b",
        "[Scene 1] a [Scene 2] b",
        "1: a\n2: b",
        "1.\ta\r\n2.\tb",
    ],
)
def test_numbered_shots_in_the_ways_people_number(text):
    assert read(text) == ["a", "b"]


# --- HoloCine's tags


@pytest.mark.parametrize(
    "tag",
    ["[shot  cut]", "[shot\ncut]", "[shot_cut]", "[shot-cut]", "[shotcut]", "[Shot_Cut]", "[ shot \u2013 cut ]", "[shot cuts]",
     "[shot\u00a0cut]", "[shot\u200bcut]", "\u3010shot cut\u3011", "[shot - cut]"],
)  # fmt: skip
def test_tags_that_are_spelled_otherwise_are_read_and_said(tag):
    story = Story.parse(f"[global_caption] g [per-shot caption] a {tag} b")
    assert (story.global_prompt, [shot.prompt for shot in story.shots]) == ("g", ["a", "b"])
    assert story.notes[1:3] == (
        '"[global_caption]" is read as the tag [global caption]',
        '"[per-shot caption]" is read as the tag [per shot caption]',
    )
    assert story.notes[3].endswith("is read as the tag [shot cut]")
    assert read(f"a {tag} b") == ["a", "b"]


def test_tags_as_they_are_need_no_word():
    for text in ("[per shot caption] a [shot cut] b", "[PER SHOT CAPTION] a [Shot Cut] b"):
        assert len(Story.parse(text).notes) == 1


@pytest.mark.parametrize("tag", ["[shto cut]", "[shot ct]", "(shot cut)", "<shot cut>", "{shot_cut}"])
def test_what_only_looks_like_a_tag_is_text_and_said(tag):
    for text in (f"a {tag} b", '{"prompt": "a ' + tag + ' b"}'):
        story = Story.parse(text)
        assert read(text) == [f"a {tag} b"]
        assert f'"{tag}" looks like the tag [shot cut]; it is kept as text' in story.notes


@pytest.mark.parametrize(
    ("text", "shots", "note"),
    [
        ("[per shot caption] a [shot cut] b [shot cut]", ["a", "b"], "after the last shot"),
        ("[per shot caption] a [shot cut] b [shot cut] [shot cut]\n", ["a", "b"], "after the last shot"),
        ("a [shot cut]", ["a"], "after the last shot"),
        ("[shot cut] a [shot cut] b", ["a", "b"], "before the first shot"),
        ("[per shot caption] [shot cut] a [shot cut] b", ["a", "b"], "before the first shot"),
        (
            '{"prompt": "[per shot caption] a [shot cut] b [shot cut]", "shot_cut_frames": [45]}',
            [("a", 45), "b"],
            "after",
        ),
    ],
)
def test_a_tag_at_either_end_cuts_nothing_off_and_is_said(text, shots, note):
    assert read(text) == shots
    assert any(note in line and "left out" in line for line in Story.parse(text).notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a [shot cut] [shot cut] b", "the text of shot 2 is empty"),
        ("[shot cut] [shot_cut]", "tags but no text"),
        ("[global caption] g [shot cut] a", "needs [per shot caption]"),
        ("[per shot caption] a [per_shot_caption] b", "[per shot caption] stands 2 times"),
    ],
)
def test_tags_that_make_no_story_are_refused_by_name(text, says):
    with pytest.raises(InputError) as error:
        Story.parse(text)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (
            '{"prompt": "[per shot caption] a [shot cut] b [shot cut] c", "shot_cut_frames": [45, 99999]}',
            "shot_cut_frames[1] = 99999 ends a shot of 99,954 frames, 6,247 s at 16 fps",
        ),
        (
            '{"prompt": "a [shot cut] b", "shot_cut_frames": [45], "num_frames": 10000, "fps": 24}',
            "num_frames = 10000 ends a shot of 9,955 frames, 415 s at 24 fps",
        ),
        ('{"0": "a", "99999": "b"}', 'the frame "99999" ends a shot of 99,999 frames, 6,250 s at 16 fps'),
    ],
)
def test_a_length_that_nobody_wrote_down_is_said_where_it_is_long(text, note):
    assert note in Story.parse(text).notes


def test_a_frame_beyond_any_film_is_refused_by_name():
    with pytest.raises(InputError, match=r"shot_cut_frames\[0\] must be a whole number from 1 to 1000000"):
        Story.parse('{"prompt": "a [shot cut] b", "shot_cut_frames": [9999999]}')
    with pytest.raises(InputError, match='the frame "9999999" is too late'):
        Story.parse('{"0": "a", "9999999": "b"}')


# --- bars


@pytest.mark.parametrize(
    ("text", "shots"),
    [
        ("{red|blue} cat | a dog", ["{red|blue} cat", "a dog"]),
        ("a [x|y] b | c | (d|e)", ["a [x|y] b", "c", "(d|e)"]),
        ("a { b | c", ["a { b", "c"]),
        ("a ) b | c (", ["a ) b", "c ("]),
        ("a || b |", ["a", "b"]),
        ("{a|{b|c}|d} | e", ["{a|{b|c}|d}", "e"]),
    ],
)
def test_bars_separate_outside_brackets_only(text, shots):
    assert read(text) == shots


def test_what_is_not_seen_is_no_prompt():
    for text in ("\u200b", "\ufeff\u2060\u200d", "a [shot cut] \u200b [shot cut] b"):
        with pytest.raises(InputError, match=r"empty|no text"):
            Story.parse(text)


# --- the table of forms, and texts of any size


def test_every_form_that_people_are_told_of_is_read_by_itself():
    """A form's own example of itself, with words in place of the dots, is detected by that form first."""
    for form in TEXT_FORMS:
        assert form.syntax in SHOT_SYNTAX
    examples = {
        "longlive": '{"prompts": ["a"]}\n{"prompts": ["b"]}',
        "holocine": "[global caption] g [per shot caption] a [shot cut] b",
        "dashes": "a\n---\nb",
        "numbers": "Shot 1: a Shot 2: b",
        "ranges": "[0-5s] a [5-10s] b",
        "beginnings": "[0:00] a [0:05] b",
        "infinity-rope": "a[5s] | b[5s#]; x | y",
        "lines": "- a\n- b",
        "paragraphs": "a\n\nb",
        "bars": "a | b",
        "paragraph": "a b",
    }
    assert {form.name: next(f.name for f in TEXT_FORMS if f.detect(examples[form.name])) for form in TEXT_FORMS} == {
        name: name for name in examples
    }
    for form in JSON_FORMS:
        assert form.syntax in SHOT_SYNTAX


UNITS = [
    " ", "\n", "\r", "\x0b", "[", "]", "{", "}", "(", "|", "-", "*", "#", "'", '"', "\\", ",", "0", "_", "\u200b", "\u202e",
    "\U0001f3ac", "shot ", "Shot 1", "Shot 1: ", "Shot 1 (", "# Shot 1\n", "scene 1, ", "1) ", "1\n", "[0", "[0-5s] ", "[0-5s",
    "0-5s: a\n", "\t\n", "---\n", "[shot cut] a ", "[shot cut]", "[shot ", '{"', '"a":', '["a",', "12:30-", "[12:30] ", "(5s) ",
    "[5s]\n\n", "a\n\n", "[a|b]", "[abcdefgh] ", "9:",
]  # fmt: skip


def test_much_of_anything_is_read_or_refused_in_one_sentence():
    """Every rule goes through a text once: one that begins anew at every letter would take hours for a megabyte, minutes here."""
    rng = random.Random(0)
    for unit in [*UNITS, *("".join(rng.choices(UNITS, k=3)) for _ in range(20))]:
        try:
            Story.parse("a" + unit * (40_000 // len(unit)) + "b")
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 300
    assert len(Story.parse("word " * 200_000).shots) == 1


def test_as_many_shots_as_a_story_may_have_and_no_more():
    for separator in ("\n\n", " [shot cut] "):
        story = Story.parse(separator.join(["a"] * MAX_SHOTS))
        assert len(plan(story).shots) == len(story.shots) == MAX_SHOTS
    for text in ("a\n\n", "a | ", "a\n---\n", "a [shot cut] ", "[0-5s] a\n"):
        with pytest.raises(InputError, match=r"1 to 9,999 shots, got 20,000 of them"):
            Story.parse(text * 20_000)


def test_any_mixture_of_what_means_something_is_read_or_refused():
    rng, read = random.Random(5), 0
    for _ in range(4000):
        try:
            story = Story.parse("".join(rng.choices([*UNITS, "a ", "b "], k=rng.randint(1, 8))))
        except InputError as error:
            assert "\n" not in str(error)
            continue
        read += 1
        assert Story.from_dict(story.to_dict()) == story
        plan(story)
    assert read > 1500


def test_a_file_without_end_is_not_read_without_end():
    with pytest.raises(InputError, match="at most 33,554,432 bytes"):
        load_story(Path("/dev/zero"))


def test_a_single_paragraph_has_its_length_at_its_head_too():
    for text in ("(5s) a cat walks", "[5s] a cat walks", "[5 s] a cat walks"):
        story = Story.parse(text)
        assert [(shot.prompt, shot.seconds) for shot in story.shots] == [("a cat walks", 5.0)]
        assert story.notes == (f"read 1 shot: one paragraph{HEAD}",)
    assert Story.parse("[35mm film] a cat").shots[0].prompt == "[35mm film] a cat"


WRAPPED = "A red fox runs through the deep snow of a\nforest in the north. It stops, looks back, and is\ngone."


def test_a_paragraph_that_is_wrapped_is_prose_without_a_hint():
    for text in (WRAPPED, WRAPPED.replace("\n", " "), WRAPPED.replace("\n", "\r\n")):
        assert Story.parse(text).notes == ("read 1 shot: one paragraph",)
    for text in (
        WRAPPED + " Shot 2: a cat",
        "a fox runs\na cat sleeps",
        "The red fox runs through deep snow.\nThe cat sleeps.",
    ):
        assert Story.parse(text).notes == ("read 1 shot: one paragraph", HINT)
