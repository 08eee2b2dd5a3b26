"""Sound lies under the film from its first moment on, ends with it, and never drifts; shots may change in its pauses."""

from __future__ import annotations

import os
import re
import subprocess
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from causalcine_core import Pipeline, Story, cli
from causalcine_core.cut_times import cut_at, read_times
from causalcine_core.errors import InputError
from causalcine_core.sound import Sound, cut_to
from causalcine_core.video import VideoWriter

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
CLICK = 0.004  # seconds


def clicks(seconds: float, rate: int, channels: int, every: float = 1.0) -> np.ndarray:
    """A short tone at each multiple of `every`, `[time, channels]`, -1 to 1; each channel another tone."""
    time = np.arange(round(seconds * rate)) / rate
    on = (time % every) < CLICK
    return np.stack([0.8 * on * np.sin(2 * np.pi * (700 + 100 * c) * (time % every)) for c in range(channels)], 1)


def wav(path: Path, samples: np.ndarray, rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((samples.shape[1], 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def heard(path: Path, rate: int) -> np.ndarray:
    """The first channel of a film's sound, as ffmpeg plays it beside the pictures, from the film's time 0 on."""
    command = [FFMPEG, "-v", "error", "-i", path, "-map", "0:a", "-af", "aresample=async=1:first_pts=0,pan=mono|c0=c0"]
    out = subprocess.run(
        [*map(str, command), "-ar", str(rate), "-f", "f32le", "-"], capture_output=True, check=True
    ).stdout
    return np.frombuffer(out, np.float32)


def onsets(samples: np.ndarray, rate: int) -> np.ndarray:
    """Seconds at which a click begins."""
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    return loud[np.insert(np.diff(loud) > 0.1 * rate, 0, True)] / rate


def picture_times(path: Path) -> np.ndarray:
    """Seconds at which each frame is shown: what the file says, not what a player makes of it."""
    command = [FFMPEG, "-v", "error", "-i", str(path), "-map", "0:v", "-c", "copy", "-f", "framecrc", "-"]
    out = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    one, of = re.search(r"#tb 0: (\d+)/(\d+)", out).groups()
    rows = [line.split(",") for line in out.splitlines() if not line.startswith("#")]
    return np.sort([int(row[2]) * int(one) / int(of) for row in rows])


def tracks(path: Path) -> list[str]:
    said = subprocess.run([FFMPEG, "-hide_banner", "-i", str(path)], capture_output=True, text=True, check=False).stderr
    return re.findall(r"Stream #\S+: (.*)", said)


def black(count: int) -> np.ndarray:
    return np.zeros((count, 16, 32, 3), np.uint8)


@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (8000, 1), (48000, 6)])
def test_rate_and_channels_are_as_given_and_both_begin_at_zero(tmp_path, rate, channels):
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(5, rate, channels), rate))
    assert sound.seconds == pytest.approx(5, abs=0.002)
    with VideoWriter(tmp_path / "a.mp4", 16, (32, 16), sound=sound) as video:
        video.write(black(64))
    (picture, track) = tracks(tmp_path / "a.mp4")
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    assert "h264" in picture and "aac" in track and f"{rate} Hz, {layout}" in track
    assert picture_times(tmp_path / "a.mp4") == pytest.approx(np.arange(64) / 16)
    samples = heard(tmp_path / "a.mp4", rate)
    assert len(samples) / rate == pytest.approx(4, abs=0.002), "cut where the film ends"
    assert onsets(samples, rate) == pytest.approx([0, 1, 2, 3], abs=0.02)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat") and sorted(os.listdir(tmp_path)) == ["a.mp4", "a.wav"]


@pytest.mark.parametrize(("fps", "seconds"), [(23.976, 300), (12.5, 20), (29.97, 20)])
def test_five_minutes_do_not_drift(tmp_path, fps, seconds):
    """Clicks, once a second, and frames: their times agree to the last second, at any rate. An hour goes the same way."""
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(seconds + 1, 8000, 1), 8000))
    with VideoWriter(tmp_path / "a.mp4", fps, (16, 16), sound=sound) as video:
        video.write(np.zeros((round(seconds * fps), 16, 16, 3), np.uint8))
    times = picture_times(tmp_path / "a.mp4")
    assert len(times) == round(seconds * fps) and np.abs(times - np.arange(len(times)) / fps).max() < 1e-4
    found = onsets(heard(tmp_path / "a.mp4", 8000), 8000)
    assert len(found) == pytest.approx(seconds, abs=1)
    assert np.abs(found - np.arange(len(found))).max() < 0.02


def test_a_sound_that_is_shorter_ends_and_nothing_follows(tmp_path):
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(2.5, 48000, 2), 48000))
    assert sound.notes(0, 4) == ["the sound ends at 2.50 s and the pictures at 4.00 s: nothing is heard in the rest"]
    assert sound.notes(0, 2) == ["the sound is cut where the pictures end, at 2.00 s of its 2.50 s"]
    assert sound.notes(0, 2.5) == []
    with VideoWriter(tmp_path / "a.mp4", 16, (32, 16), sound=sound) as video:
        video.write(black(64))
    assert len(picture_times(tmp_path / "a.mp4")) == 64
    assert len(heard(tmp_path / "a.mp4", 48000)) / 48000 == pytest.approx(2.5, abs=0.03)
    with VideoWriter(tmp_path / "b.mp4", 16, (32, 16), sound=sound, begin=3) as video:
        video.write(black(16))
    assert len(tracks(tmp_path / "b.mp4")) == 1 and "no" not in tracks(tmp_path / "b.mp4")
    assert sound.notes(3, 1) == ["the sound ends at 2.50 s, before this part of the film begins: it gets none"]


def test_a_later_part_has_the_sound_of_its_own_place(tmp_path):
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(5, 48000, 1), 48000))
    with VideoWriter(tmp_path / "a.mp4", 16, (32, 16), sound=sound, begin=1.75) as video:
        video.write(black(32))
    assert onsets(heard(tmp_path / "a.mp4", 48000), 48000) == pytest.approx([0.25, 1.25], abs=0.02)


@pytest.mark.parametrize("form", ["mp3", "ogg", "mp4 with pictures"])
def test_any_file_that_ffmpeg_reads_keeps_its_times(tmp_path, form):
    source = wav(tmp_path / "a.wav", clicks(4, 44100, 2), 44100)
    path = tmp_path / f"it's: 100% {form.split()[0]}.{form.split()[0]}"
    pictures = ["-f", "lavfi", "-i", "color=s=32x16:d=4"] if "pictures" in form else []
    subprocess.run([FFMPEG, "-v", "error", "-i", source, *pictures, "-strict", "-2", f"file:{path}"], check=True)
    sound = Sound.read(path)
    assert sound.seconds == pytest.approx(4, abs=0.06)
    with VideoWriter(tmp_path / "a.mp4", 16, (32, 16), sound=sound) as video:
        video.write(black(48))
    assert onsets(heard(tmp_path / "a.mp4", 44100), 44100) == pytest.approx([0, 1, 2], abs=0.02)


def test_samples_are_a_sound_too(tmp_path):
    samples = clicks(3, 32000, 2).T.astype(np.float32)
    sound = Sound.keep(samples, 32000, tmp_path / "plain")
    same = Sound.read(wav(tmp_path / "a.wav", samples.T, 32000))
    assert sound.seconds == same.seconds == 3
    assert np.array(sound.pauses()) == pytest.approx(np.array(same.pauses()), abs=0.02)
    with VideoWriter(tmp_path / "a.mp4", 16, (32, 16), sound=sound) as video:
        video.write(black(48))
    assert "32000 Hz, stereo" in tracks(tmp_path / "a.mp4")[1]
    assert onsets(heard(tmp_path / "a.mp4", 32000), 32000) == pytest.approx([0, 1, 2], abs=0.02)
    for bad in (samples * np.nan, np.zeros((2, 0)), np.zeros((9, 100)), np.zeros(5)):
        with pytest.raises(
            InputError, match=r"audio must be finite samples of 1 to 8 channels, \[channels, time\], got \["
        ):
            Sound.keep(bad, 32000, tmp_path / "plain")


def test_files_without_sound_are_refused_in_a_sentence(tmp_path, frames):
    with VideoWriter(tmp_path / "mute.mp4", 16, (64, 48)) as video:
        video.write(frames(4))
    (tmp_path / "text.mp3").write_text("no sound at all " * 100)
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    wav(tmp_path / "empty.wav", np.zeros((0, 1)), 8000)
    for name in ("nope.wav", ".", "mute.mp4", "text.mp3", "list.m3u8", "empty.wav"):
        with pytest.raises(InputError, match=r"^audio .* must be a file with sound: ") as error:
            Sound.read(tmp_path / name)
        assert "\n" not in str(error.value) and "pip install" not in str(error.value), name


# --- cuts


def speech(tmp_path: Path, *parts: tuple[float, float]) -> Sound:
    """Noise for so many seconds, then near silence for so many, and again."""
    rng, rate = np.random.default_rng(0), 16000
    pieces = [
        scale * rng.standard_normal(round(s * rate))
        for part in parts
        for scale, s in zip((0.2, 0.001), part, strict=True)
    ]
    return Sound.read(wav(tmp_path / "speech.wav", np.clip(np.concatenate(pieces), -1, 1)[:, None], rate))


def test_shots_change_in_the_longest_pauses_and_end_with_the_sound(tmp_path):
    sound = speech(tmp_path, (2, 0.5), (1, 0.1), (1, 0.8), (2, 0.4), (1, 0.6))
    assert np.array(sound.pauses()) == pytest.approx(np.array([[2, 2.5], [4.6, 5.4], [7.4, 7.8]]), abs=0.02), (
        "not its end"
    )
    three = Story.parse("a fox\n\nruns\n\nsleeps")
    cut = cut_to(three, sound)
    assert [shot.seconds for shot in cut.shots] == pytest.approx([2.25, 2.75, 4.4], abs=0.03)
    assert cut.notes[-1] == "the sound has 3 pauses: shots change in the 2 longest"
    four = cut_to(Story.parse("a\n\nb\n\nc\n\nd"), sound)
    assert sum(shot.seconds for shot in four.shots) == pytest.approx(sound.seconds) and "longest" not in four.notes[-1]
    with pytest.raises(
        InputError, match=r"the sound has 3 pauses of 0.3 s or more, and 5 shots need 4: write fewer shots"
    ):
        cut_to(Story.parse("a\n\nb\n\nc\n\nd\n\ne"), sound)
    assert sound.pauses(3)[0][0] > 3 and cut_to(Story.parse("a"), sound, 5.0).shots[0].seconds == pytest.approx(4.4)
    silence = Sound.read(wav(tmp_path / "s.wav", np.zeros((8000, 1)), 8000))
    assert silence.pauses() == []


def test_cut_times_are_lengths_or_a_sentence(tmp_path):
    story = Story.parse("a fox\n\nruns\n\nsleeps")
    (tmp_path / "cuts.txt").write_text("2.5\n4, 9.1\n")
    assert (
        read_times("2.5,4,9.1") == read_times(" 2.5; 4 9.1,") == read_times(str(tmp_path / "cuts.txt")) == [2.5, 4, 9.1]
    )
    assert [shot.seconds for shot in cut_at(story, [2.5, 4, 9.1]).shots] == [2.5, 1.5, 5.1]
    assert [shot.seconds for shot in cut_at(story, [2.5, 4]).shots] == [2.5, 1.5, None]
    assert [shot.seconds for shot in cut_at(story, [12.5, 14], 10).shots] == [2.5, 1.5, None]
    for times, says in [
        (
            [1],
            r"1 cut times do not fit 3 shots: give 2, where shots begin after the first, or 3, where the last one ends too",
        ),
        ([1, 2, 3, 4], "4 cut times do not fit 3 shots"),
        ([2, 1], "cut times must rise, and begin after 0 s, got 1 in place 2"),
        ([0, 1], "cut times must rise, and begin after 0 s, got 0 in place 1"),
        ([1, 1e9], r"cut_times\[1\] must be a number from 0 to 86400"),
    ]:
        with pytest.raises(InputError, match=says):
            cut_at(story, times)
    with pytest.raises(InputError, match="shot 1 of the story names a length of its own"):
        cut_at(Story.parse("[0-5s] a fox"), [2])
    for text in ("nope.txt", "1.2.3", "", "a,b"):
        with pytest.raises(InputError, match=r"cut times must be seconds such as 2\.5,4,9\.1"):
            read_times(text)


# --- on the command line and in Python


def test_films_that_go_on_take_the_sound_of_their_own_place(tmp_path, checkpoint, capsys):
    wav(tmp_path / "a.wav", clicks(4, 16000, 1, every=0.5), 16000)
    (tmp_path / "a.txt").write_text("a fox\n\nruns")
    (tmp_path / "b.txt").write_text("sleeps")
    model = ["--model", str(checkpoint), "--audio", str(tmp_path / "a.wav"), "--steps", "1", "--device", "cpu"]
    state = str(tmp_path / "film.state")
    assert (
        cli.main(
            [
                "generate",
                f"{tmp_path}/a.txt",
                "-o",
                f"{tmp_path}/a.mp4",
                *model,
                "--save-state",
                state,
                "--cut-times",
                "0.6,1.3",
            ]
        )
        == 0
    )
    assert "the sound is cut where the pictures end, at 1.31 s of its 4.00 s" in capsys.readouterr().err
    assert [shot.seconds for shot in Story.load(tmp_path / "a.mp4").shots] == [0.6, 0.7]
    for whole in ([], ["--whole"]):
        out = tmp_path / f"b{len(whole)}.mp4"
        more = ["continue", state, f"{tmp_path}/b.txt", "-o", str(out), *model, "--cut-times", "2.8"]
        assert cli.main([*more, *whole]) == 0
        begin = 0 if whole else 21 / 16
        found = onsets(heard(out, 16000), 16000) + begin
        assert found == pytest.approx(np.arange(0 if whole else 1.5, 2.8, 0.5), abs=0.02)
    assert Story.load(tmp_path / "b0.mp4").shots[0].seconds == pytest.approx(1.5)
    assert cli.main(["continue", state, f"{tmp_path}/b.txt", "-o", str(out), *model, "--cut-times", "1.2"]) == 2
    assert "cut times must rise, and begin after 1.3 s" in capsys.readouterr().err
    assert cli.main(["story", "check", f"{tmp_path}/a.txt", "--cut-times", "sound", "--model", str(checkpoint)]) == 2
    assert "--cut-times sound needs --audio FILE" in capsys.readouterr().err


def test_in_python_and_where_a_film_stops_early(tmp_path, pipe: Pipeline):
    sound = Sound.read(wav(tmp_path / "a.wav", clicks(5, 16000, 1, every=0.5), 16000))
    made = pipe.generate(Story.parse("a fox"), output=tmp_path / "a.mp4", sound=sound, steps=1)
    assert "the sound is cut where the pictures end" in made.report["warnings"][-1]
    length = made.report["frames"] / 16
    assert len(heard(tmp_path / "a.mp4", 16000)) / 16000 == pytest.approx(length, abs=0.003)
    pipe.generate(Story.parse("a fox"), output=tmp_path / "b.mp4", steps=1)
    assert len(tracks(tmp_path / "b.mp4")) == 1, "no track where none was given"
