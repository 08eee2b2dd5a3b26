"""What users of such tools ran into (design/cases.md): stories, timing, sizes, seeds and files."""

from __future__ import annotations

import json
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from PIL import Image

from causalcine_core import InputError, Pipeline, Shot, State, Story, cli
from causalcine_core.model import load_transformer
from causalcine_core.pictures import contact_sheet
from causalcine_core.plan import cut_notes, plan
from causalcine_core.report import build_report, memory_map
from causalcine_core.story import MAX_SEED, check_size
from causalcine_core.story_formats import SHOT_SYNTAX
from causalcine_core.vae import load_vae
from causalcine_core.video import VideoWriter, read_video, video_info

# --- C05, C06: shot grammar

HINT = "if several shots were meant, put a blank line between them"


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("Shot 1: a\nShot 2: b\nShot 3: c", ["a", "b", "c"]),
        ("Shot 1: a Shot 2: b Shot 3: c", ["a", "b", "c"]),
        ("1) a 2) b", ["a", "b"]),
        ("1. a\n2. b\n3. c", ["a", "b", "c"]),
        ('"0":"a","24":"b"', ["a", "b"]),
        ('{"0": "a", "24": "b"}', ["a", "b"]),
    ],
)
def test_c05_documented_numberings_give_their_shots_and_say_so(text, prompts):
    story = Story.parse(text)
    assert [shot.prompt for shot in story.shots] == prompts
    assert story.notes[0].startswith(f"read {len(prompts)} shots: ")
    assert not any(p in story.prompt(i) for i in range(len(prompts)) for p in prompts if p != prompts[i])


@pytest.mark.parametrize(
    "text", ["0: a\n24: b", "Shot 1: a Shot 3: c", "shot one: a\nshot two: b", "0-24: a, 24-48: b", "2) a 3) b"]
)
def test_c05_other_numberings_are_one_shot_with_a_hint(text):
    story = Story.parse(text)
    assert len(story.shots) == 1
    assert story.notes[0] == "read 1 shot: one paragraph"
    assert story.notes[1:] == (HINT,)


def test_c05_story_check_prints_how_many_and_why(tmp_path, checkpoint, capsys):
    path = tmp_path / "s.txt"
    path.write_text("0: a\n24: b")
    assert cli.main(["story", "check", str(path), "--model", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "read 1 shot: one paragraph" in out
    assert HINT in out


@pytest.mark.parametrize(
    ("text", "prompts", "note"),
    [
        ("a | b|c", ["a", "b", "c"], "split at every | of a single paragraph"),
        ("a | b\n\nc", ["a | b", "c"], "| is kept as text"),
        ("Shot 1: a | b Shot 2: c", ["a | b", "c"], "| is kept as text"),
        ('{"shots": [{"prompt": "a | b"}]}', ["a | b"], "| is kept as text"),
        ('{"prompt": "a | b"}', ["a | b"], "| is kept as text"),
        ("[per shot caption] a | b [shot cut] c", ["a | b", "c"], "| is kept as text"),
    ],
)
def test_c06_a_bar_splits_and_is_reported_or_stays_text_and_is_reported(text, prompts, note):
    story = Story.parse(text)
    assert [shot.prompt for shot in story.shots] == prompts
    assert any(note in line for line in story.notes)


def test_c06_the_help_names_the_separators(capsys):
    with pytest.raises(SystemExit):
        cli.main(["story", "check", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for word in ("---", "Shot 1:", "blank lines", "|", "[shot cut]"):
        assert word in text
        assert word in SHOT_SYNTAX


# --- C07: shots run forward, and later text never reaches back


def test_c07_shots_run_in_order_and_a_later_text_changes_nothing_before(pipe: Pipeline):
    lengths = (9, 24, 12, 30, 12, 20)
    words = ["a fox", "the snow", "a fox runs", "the fox sleeps", "in the snow", "a"]
    other = [*words[:4], "runs runs runs", words[5]]
    one, two = (
        list(pipe.stream(Story([Shot(p, frames=n) for p, n in zip(texts, lengths)]), seed=1))
        for texts in (words, other)
    )
    order = [chunk.shot for chunk in one]
    assert order == sorted(order)
    assert set(order) == set(range(6))
    for a, b in zip(one, two):
        assert (a.latent.equal(b.latent)) == (a.shot < 4)


# --- C08: lengths that are no multiple of anything


@pytest.mark.parametrize(
    ("frames", "by_three", "by_one"),
    [
        (1, 9, 1),
        (2, 9, 1),
        (8, 9, 9),
        (9, 9, 9),
        (15, 9, 13),
        (16, 21, 17),
        (33, 33, 33),
        (73, 69, 73),
        (77, 81, 77),
        (80, 81, 81),
        (81, 81, 81),
        (82, 81, 81),
        (121, 117, 121),
    ],
)
def test_c08_every_length_goes_to_the_nearest_chunk_end(frames, by_three, by_one):
    story = Story([Shot("a", frames=frames)])
    made = plan(story)
    assert made.shots[0].asked == (0, frames)
    assert made.shots[0].frames == (0, by_three)
    assert ("half way" in " ".join(cut_notes(made.shots, 12))) == (frames == 15)
    assert plan(story, chunk=1, first_chunk=1).frames == by_one


@pytest.mark.parametrize("frames", [16, 82])
def test_c08_the_file_has_the_frames_of_the_report(tmp_path, pipe: Pipeline, frames):
    video = pipe.generate(Story([Shot("a fox", frames=frames)]), output=tmp_path / "a.mp4", steps=1)
    assert sum(1 for _ in read_video(video.path)) == video.report["frames"] == video.report["shots"][0]["frames"][1]


@pytest.mark.parametrize("frames", [-1, 0, 80.5, True, "81"])
def test_c08_no_length_is_refused_by_name(frames):
    with pytest.raises(InputError, match=r"shots\[0\]\.frames must be a whole number"):
        Story.from_dict({"shots": [{"prompt": "a", "frames": frames}]})


# --- C09: sizes


@pytest.mark.parametrize("size", [(848, 480), (480, 848), (96, 16), (16, 16)])
def test_c09_multiples_of_the_stride_pass_either_way_round(size):
    assert check_size(*size) == size


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ((104, 96), "96x96 or 112x96"),
        ((96, 104), "96x96 or 96x112"),
        ((720, 536), "720x528 or 720x544"),
        ((536, 720), "528x720 or 544x720"),
        ((16384, 16384), "about 768 GiB"),
        ((832.0, 480), "width must be a whole number of pixels"),
        ((480, "832"), 'height must be a whole number of pixels, a multiple of 16, got "832"'),
        ((0, 16), "width"),
        ((True, 16), "width"),
    ],
)
def test_c09_other_sizes_are_refused_with_what_would_do(size, says):
    with pytest.raises(InputError, match=r"^[^\n]*$") as error:
        check_size(*size)
    assert says in str(error.value)


def test_c09_refused_before_sampling_and_in_the_same_words(tmp_path, pipe: Pipeline, checkpoint, capsys):
    with pytest.raises(InputError) as error:
        check_size(720, 536)
    with pytest.raises(InputError) as from_pipe:
        pipe.stream(Story([Shot("a")], width=720, height=536))
    (tmp_path / "s.txt").write_text("a")
    args = ["generate", str(tmp_path / "s.txt"), "-o", str(tmp_path / "a.mp4"), "--model", str(checkpoint)]
    assert cli.main([*args, "--width", "720", "--height", "536"]) == 2
    assert str(from_pipe.value) == str(error.value)
    assert str(error.value) in capsys.readouterr().err


# --- C28: the seed


def test_c28_a_seed_changes_the_film_and_changes_it_back(pipe: Pipeline):
    story = Story([Shot("a fox", frames=21)])
    a, b, c = (next(pipe.stream(story, seed=seed)).latent for seed in (7, 8, 7))
    assert a.equal(c)
    assert not a.equal(b)


# --- C43 to C47: the file


@pytest.fixture
def mp4(tmp_path: Path, frames) -> Path:
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video:
        video.write(frames(9))
        video.write(frames(60))
    return tmp_path / "a.mp4"


def ffmpeg(*args: str) -> str:
    done = subprocess.run(
        [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *args], capture_output=True, text=True, check=False
    )
    return done.stderr


def test_c43_browsers_and_editors_can_play_it(mp4):
    said = ffmpeg("-i", str(mp4))
    for word in ("h264", "avc1", "yuv420p(tv, bt709", "64x48", "16 fps"):
        assert word in said
    data = mp4.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat"), "ready to stream: the index stands before the pictures"
    assert video_info(mp4).seconds == pytest.approx(69 / 16, abs=0.02)
    assert sum(1 for _ in read_video(mp4)) == 69


def test_c43_it_seeks_to_the_last_second(mp4, tmp_path):
    errors = ffmpeg("-v", "error", "-ss", "3.5", "-i", str(mp4), str(tmp_path / "%d.png"))
    assert errors == ""
    assert len(list(tmp_path.glob("*.png"))) == 69 - 56


@pytest.mark.parametrize("size", [(16, 16), (16, 96), (112, 16), (848, 48), (48, 1088)])
def test_c44_no_size_is_rescaled(tmp_path, size):
    with VideoWriter(tmp_path / "a.mp4", 16, size) as video:
        video.write(np.zeros((3, size[1], size[0], 3), np.uint8))
    assert video_info(tmp_path / "a.mp4").size == size


def test_c44_odd_sizes_are_refused_not_rescaled(tmp_path):
    with pytest.raises(InputError, match="even width and height, got 63x48"):
        VideoWriter(tmp_path / "a.mp4", 16, (63, 48))


@pytest.mark.parametrize("fps", [12, 16, 24, 23.976, 1, 120])
def test_c45_seconds_asked_are_seconds_got(tmp_path, pipe: Pipeline, fps):
    seconds = max(2.0, 24 / fps)
    video = pipe.generate(Story([Shot("a fox", seconds=seconds)], fps=fps), output=tmp_path / "a.mp4", steps=1)
    info = video_info(video.path)
    assert info.fps == pytest.approx(fps, abs=0.01)
    assert info.seconds == pytest.approx(seconds, abs=6.5 / fps)
    assert info.seconds == pytest.approx(video.report["frames"] / fps, abs=0.02)
    assert video.report["fps"] == fps


@pytest.mark.parametrize(
    "colour", [(255, 255, 255), (0, 0, 0), (200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)]
)
def test_c46_colours_come_back_within_two_levels(tmp_path, colour):
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video:
        video.write(np.full((12, 48, 64, 3), colour, np.uint8))
    means = np.stack(list(read_video(tmp_path / "a.mp4"))).mean((0, 1, 2))
    assert np.abs(means - colour).max() <= 2


def test_c46_a_film_has_one_mean_in_chunks_and_file(tmp_path, pipe: Pipeline):
    chunks = []
    story = Story([Shot("a fox", frames=33)])
    pipe.generate(story, output=tmp_path / "a.mp4", steps=1, on_chunk=lambda chunk: chunks.append(chunk.frames))
    made, read = np.concatenate(chunks), np.stack(list(read_video(tmp_path / "a.mp4")))
    assert made.dtype == np.uint8
    assert made.shape == read.shape
    assert np.abs(made.mean((0, 1, 2)) - read.mean((0, 1, 2))).max() <= 2


def test_c47_ten_thousand_frames_cost_no_more_than_a_few(tmp_path, frames):
    chunk, me = frames(12, 96, 96), psutil.Process()
    before = me.memory_info().rss
    highest = 0
    with VideoWriter(tmp_path / "a.mp4", 16, (96, 96)) as video:
        for _ in range(834):
            video.write(chunk)
            highest = max(highest, me.memory_info().rss)
    film = 834 * chunk.nbytes
    assert highest - before < film / 20
    assert me.memory_info().rss - before < film / 20


def test_c44_c47_pictures_of_a_film_of_any_size_are_bounded(pipe: Pipeline):
    *_, last = pipe.stream(Story([Shot("a", frames=21)], width=16, height=96), steps=1)
    report = build_report(last.state, model={})
    picture = memory_map(report, {0: last.frames[0]})
    sheet = contact_sheet([last.frames[0]], ["a"])
    assert isinstance(sheet, Image.Image)
    assert max(*picture.size, *sheet.size) < 2000


# --- C51: files that are no weights


def safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
BROKEN = {
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n",
        "Git LFS pointer",
    ),
    "last byte missing": (safetensors(f'{{"a":{ENTRY}}}'.encode(), bytes(7)), "incomplete download"),
    "header of a terabyte": (safetensors(b"{}", length=2**40), "incomplete download"),
    "keys twice": (safetensors(f'{{"a":{ENTRY},"a":{ENTRY}}}'.encode(), bytes(8)), "twice"),
    "tensors in one place": (
        safetensors(f'{{"a":{ENTRY},"b":{ENTRY.replace("[0,8]", "[4,12]")}}}'.encode(), bytes(12)),
        "overlaps another",
    ),
    "nested without end": (safetensors(b'{"a":' + b"[" * 100_000), "nested too deeply"),
    "no JSON": (safetensors(b"{" + bytes(20)), "broken safetensors header"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
    "empty": (b"", "empty"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "pickle"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_c51_broken_downloads_are_named_everywhere_and_cost_no_memory(tmp_path, capsys, checkpoint, kind):
    data, says = BROKEN[kind]
    path, story, out = tmp_path / "model.safetensors", tmp_path / "s.txt", tmp_path / "a.safetensors"
    path.write_bytes(data)
    story.write_text("a")
    before = psutil.Process().memory_info().rss
    commands = {
        "inspect": ["inspect", path],
        "generate": ["generate", story, "-o", tmp_path / "a.mp4", "--model", path],
        "story check": ["story", "check", story, "--model", path],
        "convert": ["convert", path, out],
        "convert --lora": ["convert", checkpoint, out, "--lora", path],
        "continue": ["continue", path, story, "-o", tmp_path / "a.mp4", "--model", checkpoint],
    }
    if kind == "pickle":  # the two that read one say what is wrong inside
        del commands["inspect"], commands["convert"], commands["convert --lora"]
    for name, args in commands.items():
        assert cli.main([str(arg) for arg in args]) == 2, name
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line, name
        assert str(path) in line, name
    for load in (load_vae, load_transformer, State.load):
        with pytest.raises(InputError, match=says):
            load(path)
    assert psutil.Process().memory_info().rss - before < 50_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "s.txt"]


# --- C55: seeds of the whole range


@pytest.mark.parametrize("seed", [0, 2**32, 2**53 + 1, 2**63, MAX_SEED])
def test_c55_every_seed_works_in_story_command_line_report_and_state(tmp_path, checkpoint, capsys, seed):
    story = {"seed": seed, "shots": [{"prompt": "a fox", "frames": 21}]}
    (tmp_path / "s.json").write_text(json.dumps(story))
    del story["seed"]
    (tmp_path / "bare.json").write_text(json.dumps(story))
    for name, args in (("a", ["s.json"]), ("b", ["bare.json", "--seed", str(seed)])):
        story_path, *rest = args
        where = ["-o", str(tmp_path / f"{name}.mp4"), "--save-state", str(tmp_path / name), "--model", str(checkpoint)]
        assert cli.main(["generate", str(tmp_path / story_path), *rest, *where, "--steps", "1"]) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert json.loads((tmp_path / "a.json").read_text())["seed"] == seed
    assert State.load(tmp_path / "a").seed == seed
    capsys.readouterr()


def test_c55_twelve_chunks_of_the_largest_seed_differ(pipe: Pipeline):
    chunks = [
        chunk.latent for chunk in pipe.stream(Story([Shot("a", frames=141)]), seed=MAX_SEED, steps=1, decode=False)
    ]
    assert len(chunks) == 12
    assert not any(a.equal(b) for a, b in pairwise(chunks[1:]))


@pytest.mark.parametrize("seed", [-1, 1.5, MAX_SEED + 1, True, "7"])
def test_c55_other_seeds_are_refused_by_name(pipe: Pipeline, seed):
    for call in (lambda: Story([Shot("a")], seed=seed), lambda: pipe.stream(Story([Shot("a")]), seed=seed)):
        with pytest.raises(InputError, match="seed must be a whole number from 0 to 18446744073709551615"):
            call()
