"""An mp4 that grows plays up to its last chunk at any moment, and is followed by a whole one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from causalcine_core import Story, cli
from causalcine_core.encoder import EncoderError
from causalcine_core.errors import InputError
from causalcine_core.sound import Sound
from causalcine_core.story_formats.film import STORY_FIELD
from causalcine_core.video import VideoWriter, read_video

from .test_sound import clicks, heard, onsets, picture_times, tracks, wav

CHUNKS = [9, 12, 12, 1, 30]


@pytest.mark.parametrize("fps", [16, 23.976, 12.5])
def test_it_plays_up_to_its_last_chunk_at_any_moment(tmp_path, frames, fps):
    film, at = frames(sum(CHUNKS)), 0
    (tmp_path / "a.growing.mp4").write_bytes(b"left over")
    with VideoWriter(
        tmp_path / "a.mp4",
        fps,
        (64, 48),
        grow=tmp_path / "a.growing.mp4",
        metadata={STORY_FIELD: '{"shots": ["a fox"]}'},
    ) as video:
        for count in CHUNKS:
            video.write(film[at : at + count])
            at += count
            copy = shutil.copy(tmp_path / "a.growing.mp4", tmp_path / "copy.mp4")
            shown = np.stack(list(read_video(copy)))
            assert len(shown) == at
            assert np.abs(shown.astype(int) - film[:at]).mean() < 8
            assert picture_times(copy) == pytest.approx(np.arange(at) / fps, abs=1e-4)
            assert not (tmp_path / "a.mp4").exists(), "the whole film appears when it is whole"
        assert Story.load(copy).shots[0].prompt == "a fox", "a film that grows carries its story"
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "copy.mp4"]
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and b"moof" not in data, (
        "in one piece, its index first: it seeks well"
    )
    assert (np.stack(list(read_video(tmp_path / "a.mp4"))) == shown).all(), "nothing is encoded twice"
    assert picture_times(tmp_path / "a.mp4") == pytest.approx(np.arange(at) / fps, abs=1e-4)
    assert Story.load(tmp_path / "a.mp4").shots[0].prompt == "a fox"


def test_its_sound_is_there_when_it_is_whole(tmp_path, frames):
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(5, 16000, 1), 16000))
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48), grow=tmp_path / "g.mp4", sound=sound) as video:
        for part in np.split(frames(48), [9, 21]):
            video.write(part)
        assert len(tracks(tmp_path / "g.mp4")) == 1
    assert onsets(heard(tmp_path / "a.mp4", 16000), 16000) == pytest.approx([0, 1, 2], abs=0.02)


def test_what_was_killed_plays_up_to_its_last_chunk(tmp_path):
    script = textwrap.dedent(f"""
        import numpy as np
        from causalcine_core.video import VideoWriter
        with VideoWriter({str(tmp_path / "a.mp4")!r}, 16, (64, 48), grow={str(tmp_path / "g.mp4")!r}) as video:
            while True:
                video.write(np.zeros((9, 48, 64, 3), np.uint8))
                print(flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.readline()
    process.kill()
    process.stdout.close()
    process.wait(20)
    assert sum(1 for _ in read_video(tmp_path / "g.mp4")) in (18, 27)
    assert not (tmp_path / "a.mp4").exists()


def test_what_failed_stays_as_it_grew(tmp_path, frames):
    (tmp_path / "a.mp4").write_bytes(b"the old film")
    with pytest.raises(KeyError), VideoWriter(tmp_path / "a.mp4", 16, (64, 48), grow=tmp_path / "g.mp4") as video:
        video.write(frames(9))
        raise KeyError
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "g.mp4"] and (tmp_path / "a.mp4").read_bytes() == b"the old film"
    assert sum(1 for _ in read_video(tmp_path / "g.mp4")) == 9
    for grow, says in (("no/g.mp4", "does not exist"), ("g.avi", "ends in .mp4")):
        with pytest.raises(InputError, match=says):
            VideoWriter(tmp_path / "b.mp4", 16, (64, 48), grow=tmp_path / grow)


def test_a_fault_of_ffmpeg_is_one_sentence_and_bounded(tmp_path, monkeypatch, frames):
    from .test_encoder import works_until

    program = tmp_path / "programs/ffmpeg"
    program.parent.mkdir()
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    for script, says in (
        ("sleep 600", "took no more frames for 1 s|did not finish the file for 1 s"),
        ("cat > /dev/null; exit 3", "with code 3"),
    ):
        program.write_text(f"#!/bin/sh\n{works_until(script)}\n")
        program.chmod(0o755)
        with (
            pytest.raises(EncoderError, match=rf"^writing .*/a\.mp4 failed: ffmpeg .*({says})"),
            VideoWriter(tmp_path / "a.mp4", 16, (64, 48), grow=tmp_path / "g.mp4", patience=1) as video,
        ):
            video.write(frames(9))
        assert os.listdir(tmp_path) == ["programs"]


def test_on_the_command_line(tmp_path, checkpoint, capsys, monkeypatch):
    (tmp_path / "a.txt").write_text("a fox\n\nruns")
    model = ["--model", str(checkpoint), "--steps", "1", "--device", "cpu", "--grow"]
    seen = []
    write = VideoWriter.write

    def watched(self, given):
        write(self, given)
        seen.append(sum(1 for _ in read_video(tmp_path / "a.growing.mp4")))

    monkeypatch.setattr(VideoWriter, "write", watched)
    assert cli.main(["generate", f"{tmp_path}/a.txt", "-o", f"{tmp_path}/a.mp4", *model]) == 0
    assert "a.growing.mp4 can be played while the film is made, up to its newest chunk" in capsys.readouterr().err
    report = json.loads((tmp_path / "a.json").read_text())
    assert seen == [chunk["frames"][1] for chunk in report["chunks"]]
    assert not (tmp_path / "a.growing.mp4").exists() and (tmp_path / "a.mp4").exists()


def test_a_film_that_fails_on_the_command_line_says_what_plays_and_how_it_goes_on(
    tmp_path, checkpoint, capsys, monkeypatch
):
    (tmp_path / "a.txt").write_text("a fox\n\nruns")
    wav(tmp_path / "a b.wav", clicks(5, 16000, 1), 16000)
    write, calls = VideoWriter.write, []

    def fails(self, given):
        calls.append(given)
        if len(calls) == 3:
            raise OSError("the disk is gone")
        write(self, given)

    monkeypatch.setattr(VideoWriter, "write", fails)
    command = ["generate", f"{tmp_path}/a.txt", "-o", f"{tmp_path}/a.mp4", "--model", str(checkpoint), "--steps", "1"]
    assert cli.main([*command, "--device", "cpu", "--grow", "--audio", f"{tmp_path}/a b.wav"]) != 0
    said = capsys.readouterr().err
    assert f"what was written so far plays: {tmp_path}/a.growing.mp4" in said
    assert f"--whole --audio '{tmp_path}/a b.wav'" in said
    assert sum(1 for _ in read_video(tmp_path / "a.growing.mp4")) == sum(map(len, calls[:2]))
