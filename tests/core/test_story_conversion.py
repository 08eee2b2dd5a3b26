"""Stories as other tools keep them: each form is read, named, written and read again; each fault is one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from causalcine_core import cli
from causalcine_core.errors import InputError
from causalcine_core.story import Story
from causalcine_core.story_formats import FILE_FORMS, JSON_FORMS, TEXT_FORMS
from causalcine_core.story_formats.conversion import WRITTEN, convert_story

R, S = "a fox runs", "it sleeps"
A, B = {"prompt": R}, {"prompt": S}
TWO = [A, B]


def timed(a: float, b: float | None = None, unit: str = "seconds") -> list[dict]:
    return [A | {unit: a}, B | ({unit: b} if b is not None else {})]


def soft(shots: list[dict], cut: str = "soft") -> list[dict]:
    return [shots[0], *(shot | {"cut": cut} for shot in shots[1:])]


# form, the name of its file, what lies there (text, or JSON), the story in it as our own fields, what of it is not understood
SAMPLES: list[tuple[str, str, object, dict, tuple[str, ...]]] = [
    ("json", "s.json",
     {"fps": 12, "seed": 7, "cut": "flush", "shots": [A | {"seed": 3, "frames": 9}, B | {"cut": "soft", "blend": 2}]},
     {"fps": 12, "seed": 7, "cut": "flush", "shots": [A | {"seed": 3, "frames": 9}, B | {"cut": "soft", "blend": 2}]}, ()),
    ("json", "s.json", [R, S], {"shots": TWO}, ()),
    ("json", "s.json", {"shots": [R, B | {"seconds": 2}]}, {"shots": [A, B | {"seconds": 2}]}, ()),
    ("json", "s.json", {"title": "t", "global_caption": "Snow.", "negative_prompt": "blur", "scenes": [
        {"scene_number": 1, "description": R, "duration": 2.5, "camera": "wide"}, {"text": S, "duration": "4s"}]},
     {"global": "Snow.", "negative": "blur", "shots": timed(2.5, 4.0)}, ("title", "scenes[].scene_number", "scenes[].camera")),
    ("json", "s.json", {"prompts": [R, S], "version": 2}, {"shots": TWO}, ("version",)),
    ("json", "s.json", {"shots": [{"caption": R, "duration": "0:03"}, {"caption": "x", "prompt": S, "duration": None}]},
     {"shots": timed(3.0)}, ("shots[].caption",)),
    ("captions", "s.json", {"global_caption": "Snow.", "shot_captions": [R, S], "shot_cut_frames": [37], "num_frames": 81},
     {"global": "Snow.", "shots": timed(37, 44, "frames")}, ()),
    ("shotstream", "s.json", {"global_caption": "Snow.", "shot1": R, "shot2": S, "video": "x.mp4"},
     {"global": "Snow.", "shots": TWO}, ("video",)),
    ("shotstream", "s.json", {"shot0": R, "shot1": S}, {"shots": TWO}, ()),
    ("storymem", "s.json", {"story_name": "n", "story_overview": "o", "scenes": [
        {"scene_num": 1, "video_prompts": [R, S], "cut": [True, False]}, {"scene_num": 2, "video_prompts": ["snow"]}]},
     {"shots": [A, B | {"cut": "soft"}, {"prompt": "snow"}]}, ("story_name", "story_overview", "scenes[].scene_num")),
    ("scope", "s.json", {"settings": {}, "prompts": [
        {"startTime": 0, "endTime": 2.5, "prompts": [{"text": R, "weight": 100}]},
        {"id": "p", "startTime": 2.5, "endTime": 4, "text": S, "transitionSteps": 4}]},
     {"cut": "soft", "shots": [A | {"seconds": 2.5}, B | {"seconds": 1.5, "blend": 4}]}, ("settings", "prompts[].id")),
    ("ltx-director", "s.json", {"global_prompt": "Snow.", "retakeMode": False, "motionSegments": [], "segments": [
        {"id": "b", "start": 61, "length": 36, "prompt": S}, {"id": "a", "start": 0, "length": 61, "prompt": R, "type": "text"}]},
     {"global": "Snow.", "cut": "soft", "shots": timed(61 / 24, 1.5)},
     ("retakeMode", "motionSegments", "segments[].id", "segments[].type")),
    ("echoshot", "s.json", {"inner_t": [[7, 11]], "cap_list": [[R, S]], "style": "x"},
     {"shots": timed(25, 44, "frames")}, ("style",)),
    ("echoshot", "s.json", {"cap_list": [[R, S]]}, {"shots": TWO}, ()),
    ("holocine-json", "s.json", {"prompt": "[global caption] Snow. [per shot caption] a fox runs [shot cut] it sleeps",
                                 "shot_cut_frames": [37], "model": "full"},
     {"global": "Snow.", "shots": timed(37, unit="frames")}, ("model",)),
    ("by-frame", "s.json", {"0": R, "24": S}, {"shots": timed(24, unit="frames")}, ()),
    ("longlive", "s.jsonl", '{"prompts": ["a fox runs", "it sleeps"], "id": 1}\n', {"cut": "soft+rewrite", "shots": TWO}, ("id",)),
    ("longlive", "s.jsonl", '{"prompts": ["a fox runs", "it sleeps"], "switch_frame_indices": "40"}',
     {"cut": "soft+rewrite", "shots": timed(157, unit="frames")}, ()),
    ("holocine", "s.txt", "[global caption] Snow. [per shot caption] a fox runs [shot cut] it sleeps",
     {"global": "Snow.", "shots": TWO}, ()),
    ("dashes", "s.txt", "[2.5s] a fox runs\n---\nit sleeps", {"shots": timed(2.5)}, ()),
    ("numbers", "s.txt", "Snow.\n\nShot 1 (2.5s): a fox runs\nShot 2: it sleeps", {"global": "Snow.", "shots": timed(2.5)}, ()),
    ("numbers", "s.txt", "[1] a fox runs [2] it sleeps", {"shots": TWO}, ()),
    ("ranges", "s.txt", "Snow. [0-2.5s] a fox runs [2.5-4s] it sleeps", {"global": "Snow.", "shots": timed(2.5, 1.5)}, ()),
    ("beginnings", "s.txt", "[0:00] a fox runs [0:05] it sleeps", {"shots": timed(5.0)}, ()),
    ("infinity-rope", "s.txt", "a fox runs[5s] | it sleeps[2.5s#]", {"shots": timed(5.0, 2.5)}, ()),
    ("infinity-rope", "s.txt", "a fox runs[5s#] | it sleeps [10s]; running | sleeping", {"shots": soft(timed(5.0, 10.0))},
     ("the subtitles after ;",)),
    ("lines", "s.txt", "- a fox runs\n\n- it sleeps", {"shots": TWO}, ()),
    ("paragraphs", "s.txt", "(2s) a fox runs\n\nit sleeps", {"shots": timed(2.0)}, ()),
    ("bars", "s.txt", "a fox runs | it sleeps", {"shots": TWO}, ()),
    ("paragraph", "s.txt", R, {"shots": [A]}, ()),
    ("shotstream-csv", "s.csv",
     {"demo/s.csv": 'shot_num_from_caption,json_path,video_path,frame_number\n2,demo/a.json,x,"[[0, 81], [81, 162]]"\n',
      "demo/a.json": {"global_caption": "Snow.", "shot1": R, "shot2": S}},
     {"global": "Snow.", "shots": timed(81, 81, "frames")}, ("video_path",)),
    ("longlive2", "s", {"s/0.json": {"caption": R, "fps": 24}, "s/1.json": {"caption": S}, "s/a.mp4": "",
                        "s/shot_durations.txt": "2 3\n"}, {"shots": timed(8 / 3, 4.0)}, ("*.json.fps", "a.mp4")),
    ("longlive2-images", "s", {"s/prompts/fox.txt": "a fox runs\n\nit sleeps\n", "s/images/fox.png": ""}, {"shots": TWO}, ("images",)),
    ("helios-csv", "s.csv", {"demo/s.csv": 'id,prompt_index,prompt,action_keys\n7,1,it sleeps,W\n7,0,"a fox runs",A\n'},
     {"cut": "soft", "shots": TWO}, ("action_keys",)),
    ("helios-csv", "s.csv", {"demo/s.csv": "id, prompt_index, prompt\n8, 1, a fox runs\n8, 2, it sleeps\n"},
     {"cut": "soft", "shots": TWO}, ()),
]  # fmt: skip


def put(folder: Path, name: str, files: object) -> Path:
    """Writes a sample, and says where it is."""
    spread = name.endswith(".csv") or "." not in name
    for place, content in files.items() if spread and isinstance(files, Mapping) else [(name, files)]:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder / "demo" / name if name.endswith(".csv") else folder / name


@pytest.mark.parametrize(
    ("form", "name", "files", "told", "ignored"), SAMPLES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_every_form_is_read_named_written_and_read_again(form, name, files, told, ignored, tmp_path):
    expected = Story.from_dict(told)
    story = Story.load(put(tmp_path, name, files))
    assert story == expected
    assert (story.form, story.ignored) == (form, ignored)
    assert story.notes[0].startswith(f"read {len(expected.shots)} shot")
    assert all(any(field in note for note in story.notes) for field in ignored)
    ours = convert_story(story, tmp_path / "ours.json")
    assert ours.lost == "" and ours.story == Story.load(tmp_path / "ours.json") == expected
    if form not in WRITTEN:
        assert form in ("beginnings", "paragraph")
        return
    kept = convert_story(story, tmp_path / f"again{Path(name).suffix}", form)
    again = Story.load(kept.path)
    assert again.form == form
    assert again == kept.story == story, kept.lost
    assert kept.lost == ""


def test_every_form_of_the_table_has_a_sample():
    names = [form.name for form in (*JSON_FORMS, *TEXT_FORMS, *FILE_FORMS)]
    assert len(set(names)) == len(names)
    assert set(names) - {sample[0] for sample in SAMPLES} == {"film"}  # tests/core/test_film_story.py


def test_files_of_several_stories_need_a_number(tmp_path):
    lines = '{"prompts": ["a", "b"]}\n\n{"prompts": ["c"]}\n'
    table = "shot_num_from_caption,json_path,frame_number\n1,a.json,\n1,b.json,\n"
    helios, echo = (
        "id,prompt_index,prompt\nx,0,a\ny,0,c\nx,1,b\n",
        '{"cap_list": [["a", "b"], ["c"]], "inner_t": [[2, 3], [4]]}',
    )
    several = [
        ("s.jsonl", lines),
        ("s.txt", lines),
        ("i.txt", "a[5s] | b[5s]\nc[1s#]; x"),
        ("t.csv", table),
        ("h.csv", helios),
    ]
    put(tmp_path, "folder", {"folder/prompts/1.txt": "a\nb", "folder/prompts/2.txt": "c"})
    for name, text in (*several, ("e.json", echo), ("folder", None)):
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        for shot in "ac", "bc":
            (tmp_path / f"{shot[0]}.json").write_text(json.dumps({"shot1": shot[1]}))
        with pytest.raises(
            InputError, match=r"this holds 2 stories; name one of them behind the file's name: #1 to #2$"
        ):
            Story.load(path)
        assert Story.load(f"{path}#2").shots[0].prompt == "c"
        with pytest.raises(InputError, match="holds 2 stories, and none of number 3"):
            Story.load(f"{path}#3")
    for name in ("a.json", "p.txt"):
        (tmp_path / "p.txt").write_text("a\n\nb")
        assert Story.load(f"{tmp_path / name}#1") == Story.load(tmp_path / name)
        with pytest.raises(InputError, match="this holds 1 story, and none of number 2"):
            Story.load(f"{tmp_path / name}#2")
    (tmp_path / "odd#2").write_text("a name with a number")
    assert Story.load(tmp_path / "odd#2").shots[0].prompt == "a name with a number"


FAULTS = [
    ("s.json", {"shot1": "a", "shot3": "b"}, '"shot2" is missing: shots are numbered from shot1 without a gap'),
    ("s.json", {"shot1": "a", "shot01": "b"}, '"shot1" and "shot01" are the same shot'),
    ("s.json", {"shot1": 7}, "shot1 must be text"),
    ("s.json", {"shot1": "a", "global_captoin": "b"}, 'unknown field "global_captoin", did you mean "global_caption"?'),
    ("s.json", {"scenes": [{"video_prompts": ["a"], "cut": [1]}]}, "scenes[0].cut[0] must be true or false, got 1"),
    ("s.json", {"scenes": [{"video_prompts": ["a"], "cut": []}]}, "scenes[0].cut must be a list of true or false for each of its 1"),
    ("s.json", {"scenes": [{"video_prompts": ["a"]}, {"video_prompts": []}]}, "scenes[1].video_prompts must be a list of 1 to 9,999"),
    ("s.json", {"scenes": [{"video_prompts": ["a"]}, "b"]}, "scenes[1] must be an object"),
    ("s.json", {"prompts": [{"startTime": 1, "endTime": 1, "text": "a"}]},
     "the times of shot 1, 1.0 to 1.0 s, must end after they begin"),
    ("s.json", {"prompts": [{"startTime": "0", "endTime": 1, "text": "a"}]}, "prompts[0].startTime must be a number from 0"),
    ("s.json", {"prompts": [{"startTime": 0, "endTime": 1}]}, "prompts[0].text must be text"),
    ("s.json", {"prompts": [{"startTime": 0, "endTime": 1, "prompts": [{"text": "a", "weight": -1}]}]},
     "prompts[0].prompts[0].weight"),
    ("s.json", {"shots": [A | {"duration": "long"}]}, 'shots[0].duration must be a number from 0.001 to 86400, got "long"'),
    ("s.json", {"shots": [A | {"duration": -1}]}, "shots[0].duration"),
    ("s.json", {"shots": [{"promt": "x"}]}, 'shots[0] has an unknown field "promt", did you mean "prompt"?'),
    ("s.json", {"shot_captions": "a"}, "shot_captions must be a list"),
    ("s.json", {"shot_captions": ["a", "b"], "shot_cut_frames": [0]}, "shot_cut_frames[0] must be a whole number from 1"),
    ("s.json", {"global": "x", "prompt": "[global caption] y [per shot caption] a"}, "has a global text twice"),
    ("s.jsonl", '{"prompts": []}', "prompts must be a list of 1 to 9,999 shots"),
    ("s.jsonl", '{"prompts": ["a", "b"], "switch_frame_indices": [4, 8]}', "switch_frame_indices must be a list of 1 whole numbers"),
    ("s.jsonl", '{"prompts": ["a", "b", "c"], "switch_frame_indices": [40, 40]}',
     "switch_frame_indices[1] must be a whole number from 41"),
    ("s.jsonl", "not json", "this is not valid JSON"),
    ("s.txt", "a[0s] | b[5s#]", "shots[0].seconds must be a number from 0.001"),
    ("s.csv", {"demo/s.csv": "json_path\nno.json\n"}, 'json_path of row 1 names no file: "no.json", sought from'),
    ("s.csv", {"demo/s.csv": "json_path,frame_number\n,\n"}, "this holds no stories"),
    ("s.csv", {"demo/s.csv": "json_path,x\n,y\n"}, "json_path of row 1 is empty"),
    ("s.csv", {"demo/s.csv": "shot_num_from_caption,json_path\n2,a.json\n", "a.json": {"shot1": "a"}},
     'shot_num_from_caption of row 1 is "2", but a.json has 1 shots'),
    ("s.csv", {"demo/s.csv": 'json_path,frame_number\na.json,"[[5, 5]]"\n', "a.json": {"shot1": "a"}},
     "the end of frame_number[0] of row 1"),
    ("s.csv", {"demo/s.csv": 'json_path,frame_number\na.json,"[[0, 5], [5, 9]]"\n', "a.json": {"shot1": "a"}},
     "must be a list of 1 pairs"),
    ("s.csv", {"demo/s.csv": "json_path\na.json\n", "a.json": {"prompt": "a"}}, 'a.json of row 1 has no "shot1"'),
    ("s.csv", {"demo/s.csv": "id,prompt_index,prompt\n1,0,a\n1,2,b\n"}, "prompt_index 1 is missing beside row 1"),
    ("s.csv", {"demo/s.csv": "id,prompt_index,prompt\n1,0,a\n1,0,b\n"}, "prompt_index of row 2 is 0, and so is that of row 1"),
    ("s.csv", {"demo/s.csv": "id,prompt_index,prompt\n1,x,a\n"}, 'prompt_index of row 1 must be a whole number from 0 to'),
    ("s.csv", {"demo/s.csv": "id,prompt_index,prompt\n1,0,\n"}, "prompt of row 1"),
    ("s.csv", {"demo/s.csv": "id,prompt_index,prompt\n"}, "this holds no stories"),
    ("s.json", {"segments": [{"start": 0, "length": 0, "prompt": "a"}]}, "segments[0].length must be a whole number from 1"),
    ("s.json", {"segments": [{"start": 0, "length": 9, "prompt": " "}]}, "segments[0].prompt"),
    ("s.json", {"segments": [{"start": 0, "length": 9, "prompt": "a"}], "frame_rate": 0}, "frame_rate must be a number from 1 to 120"),
    ("s.json", {"cap_list": [["a", 7]]}, "text 2 of cap_list must be text"),
    ("s.json", {"cap_list": [["a"]], "inner_t": [[7, 8]]}, "each of inner_t must be a list of 1 whole number"),
    ("s.json", {"cap_list": [["a"]], "inner_t": 7}, "inner_t must be a list of 1 lists of latent frames"),
    ("s", {"s/prompts/a.txt": "\n"}, "a.txt in prompts is empty; it needs a line for each shot"),
    ("s", {"s/prompts/a.md": "a"}, "this holds no stories"),
    ("s", {"s/x.txt": "a"}, "this folder holds no story: one of LongLive 2.0 has 0.json"),
    ("s", {"s/0.json": {"caption": "a"}, "s/2.json": {"caption": "a"}}, "1.json is missing"),
    ("s", {"s/0.json": {"text": "a"}}, "caption in 0.json must be text"),
    ("s", {"s/0.json": {"caption": "a"}, "s/shot_durations.txt": "2 2"},
     'shot_durations.txt must hold 1 whole numbers of chunks, got "2 2"'),
    ("s", {"s/caption/x/0.json": {"caption": "a"}, "s/caption/y/0.json": {"caption": "a"}}, "this folder holds 2 stories; name one"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "files", "says"), FAULTS)
def test_every_fault_is_one_sentence_that_names_the_field(name, files, says, tmp_path):
    path = put(tmp_path, name, files)
    with pytest.raises(InputError) as error:
        Story.load(path)
    assert says in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_names_that_are_left_out_are_told_in_one_line_however_they_are_spelled():
    data = {"a\nb\ud800": 1, **{f"field {i}": i for i in range(20_000)}, "shots": ["a"]}
    story = Story.from_dict(data)
    assert story.ignored[:2] == ('"a\\nb\\ud800"', "field 0") and len(story.ignored) == 20_001
    assert "\n" not in story.notes[1] and story.notes[1].endswith("field 6 and 19,993 more")


def test_segments_that_lie_apart_are_told():
    story = Story.from_dict(
        {"segments": [{"start": 0, "length": 24, "prompt": "a"}, {"start": 30, "length": 24, "prompt": "b"}]}
    )
    assert story.notes[1] == "each shot is as long as its own segment: frame 30 begins where 24 was expected"
    assert [shot.seconds for shot in story.shots] == [1.0, 1.0]


def test_prose_with_bullets_brackets_or_semicolons_stays_text():
    for text in (
        "- a fox runs",
        "a fox [5s] runs; it sleeps",
        "- a\nand b",
        "a list: - a - b",
        "a cat [5s]\na dog [3s]",
        "as told in [1] a fox runs [2] and sleeps",
        "[2] a fox runs [3] it sleeps",
    ):
        assert [shot.prompt for shot in Story.parse(text).shots] == [" ".join(text.split())], text


# --- what a form cannot hold

FULL = {
    "global": "Snow.", "fps": 24, "width": 64, "height": 32, "seed": 3, "negative": "blur",
    "shots": [A | {"seconds": 2, "seed": 5}, B | {"seconds": 1.5, "cut": "soft", "blend": 2}, {"prompt": "it wakes", "frames": 36}],
}  # fmt: skip
REST = "the seed of shot 1, the cut of shot 2 and the blend of shot 2"
HEAD = "fps, width, height, seed, negative"
JOINED = "the global text, now part of each prompt"
LOST = {
    "json": "",
    "numbers": f"numbers cannot hold {HEAD}, {REST}; changed: frames, now seconds at 24 fps",
    "captions": f"captions cannot hold {REST}; changed: seconds, now frames at 24 fps",
    "storymem": f"storymem cannot hold {HEAD}, the length of shots 1-3, the seed of shot 1 and the blend of shot 2; changed: {JOINED}",
    "longlive2": f"longlive2 cannot hold {HEAD}, {REST}; changed: the length of shots 1-3, frames, now seconds at 24 fps and {JOINED}",
}


@pytest.mark.parametrize("form", WRITTEN)
def test_a_full_story_keeps_its_texts_in_every_form_and_the_rest_is_said(form, tmp_path):
    story = Story.from_dict(FULL)
    ends = {
        ".json": [f.name for f in JSON_FORMS],
        ".jsonl": ["longlive"],
        ".csv": ["shotstream-csv", "helios-csv"],
        "": ["longlive2", "longlive2-images"],
    }
    suffix = next((end for end, names in ends.items() if form in names), ".txt")
    made = convert_story(story, tmp_path / f"out{suffix}", form)
    again = Story.load(made.path)
    assert again == made.story
    assert [again.prompt(i) for i in range(3)] == [story.prompt(i) for i in range(3)]
    assert (made.lost == "") is (form == "json")
    assert made.lost == LOST.get(form, made.lost)
    for field in ("fps", "width", "height", "seed", "negative"):
        assert getattr(again, field) == getattr(story, field) or field in made.lost


@pytest.mark.parametrize(
    ("told", "form", "says"),
    [
        ({"shots": ["a | b", "c"]}, "bars",
         "bars cannot hold this story: shot 1 would be read back as another text; choose another form"),
        ({"shots": ["a [shot cut] b", "c"]}, "holocine", "shot 1 would be read back as another text"),
        ({"shots": ["a\n---\nb", "c"]}, "dashes", "shot 1 would be read back"),
        ({"shots": ["[3s] a", "c"]}, "numbers", "shot 1 would be read back"),
        ({"shots": ["a", "b"]}, "infinity-rope",
         "infinity-rope needs the length of each shot; none is named for shots 1 and 2"),
        ({"shots": ["a", "b"]}, "scope", "scope needs the length of each shot"),
        ({"shots": ["a", "b"]}, "by-frame", "by-frame needs the length of each shot; none is named for shot 1"),
        ({"shots": ["a"]}, "film", "--to must be one of scope, storymem, ltx-director"),
    ],
)  # fmt: skip
def test_what_would_be_another_story_is_not_written(told, form, says, tmp_path):
    with pytest.raises(InputError) as error:
        convert_story(
            Story.from_dict(told), tmp_path / ("out.json" if form in ("scope", "by-frame") else "out.txt"), form
        )
    assert says in str(error.value)
    assert os.listdir(tmp_path) == []


def test_line_breaks_are_said_where_a_form_has_none(tmp_path):
    made = convert_story(Story.from_dict({"shots": ["a\nb", "c"]}), tmp_path / "s.txt", "dashes")
    assert made.lost == "changed: the line breaks in prompts, now blanks"


# --- the command


def run(capsys, *args: object) -> tuple[int, list[str], list[str]]:
    code = cli.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def test_convert_writes_says_what_is_lost_and_leaves_nothing_beside(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s.json").write_text(json.dumps({"fps": 24, "title": "t", "shots": timed(2.5)}))
    assert run(capsys, "story", "convert", "s.json", "out.txt") == (
        0,
        ['read 2 shots: JSON, 2 in the list "shots"', "not understood and left out: title", "out.txt: 2 shots, form numbers",
         "numbers cannot hold fps"],
        [],
    )  # fmt: skip
    assert run(capsys, "story", "convert", "s.json", "folder", "--to", "longlive2")[0] == 0
    assert run(capsys, "story", "convert", "s.json", "table.csv")[0] == 0
    assert sorted(os.listdir()) == ["folder", "out.txt", "s.json", "table.csv", "table.shots.json"]
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    for args, says in (
        (["s.json"], "would be overwritten, but it is the story"),
        (["x.md"], "the form of x.md is not clear from its name; end it in .json, .jsonl, .csv, .txt, or say --to"),
        (["x.txt", "--to", "json"], "must have a name that ends in .json"),
        (["x.json", "--to", "dashes"], "must have a name that ends in .txt"),
        (["folder", "--to", "longlive2"], "folder is there already"),
        (["no/x.txt"], "output folder no does not exist"),
        (["x.txt", "--to", "poem"], "invalid choice: 'poem'"),
    ):
        code, out, err = run(capsys, "story", "convert", "s.json", *args)
        assert (code, out, len(err)) == (2, [], 1)
        assert says in err[0]
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("s.txt").write_text("a\n\nb")
    Path("out.csv").write_text("old")

    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("causalcine_core.story_formats.conversion.write_atomic", full)
    code, _, err = run(capsys, "story", "convert", "s.txt", "out.csv")
    assert (code, len(err)) == (1, 1) and "No space left on device" in err[0]
    assert sorted(os.listdir()) == ["out.csv", "s.txt"] and Path("out.csv").read_text() == "old"


def test_story_check_names_the_form_and_what_was_left_out(tmp_path, capsys, checkpoint):
    path = put(tmp_path, "s.json", {"story_name": "n", "scenes": [{"video_prompts": ["a fox"]}]})
    code, out, _ = run(capsys, "story", "check", path, "--model", checkpoint)
    assert code == 0
    assert out[0] == "read 1 shot: JSON of StoryMem, the video_prompts of its scenes (form: storymem)"
    assert out[1] == "not understood and left out: story_name"
    report = json.loads(run(capsys, "story", "check", path, "--model", checkpoint, "--json")[1][-1])
    assert (report["form"], report["ignored"]) == ("storymem", ["story_name"])
