"""ffmpeg is tried before anything is made, never waited for without end, and its faults are told about the file asked for."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import imageio_ffmpeg
import numpy as np
import psutil
import pytest

from causalcine_core import encoder
from causalcine_core.encoder import EncoderError, check_encoder
from causalcine_core.video import VideoWriter, read_video

FILM = np.zeros((60, 96, 96, 3), np.uint8)  # more than a pipe holds
REAL = imageio_ffmpeg.get_ffmpeg_exe()


class Interrupted(Exception):  # noqa: N818
    """What ComfyUI raises when its user presses stop."""


def interrupt() -> None:
    raise Interrupted


@pytest.fixture
def ffmpeg(tmp_path_factory, monkeypatch) -> Callable[[str], Path]:
    """`ffmpeg(script)`: a shell script in ffmpeg's stead. One that was not tried yet."""

    def put(script: str) -> Path:
        path = tmp_path_factory.mktemp("programs") / "ffmpeg"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(path))
        return path

    yield put
    for child in psutil.Process().children(recursive=True):
        assert child.status() == psutil.STATUS_ZOMBIE, f"{child} still runs"


def works_until(script: str) -> str:
    """An ffmpeg that passes its trial and then does this. `$out` is the file that it should make."""
    return f'for out; do :; done\ncase "$out" in *trial.mp4) exec {REAL} "$@";; esac\n{script}'


BROKEN = {
    "refuses": ("echo \"[vost#0:0 @ 0x55] Unknown encoder 'libx264'\" >&2; exit 8", "Unknown encoder 'libx264'"),
    "dies": ("exit 3", "stopped with code 3"),
    "is killed": ("kill -9 $$", "stopped with code -9"),
    "hangs": ("sleep 600", "took no more frames|did not finish"),  # not exec: the pipe is a child's too
    "hangs on close": ("cat > /dev/null; sleep 600", "did not finish the file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_encoder_that_does_not_work_is_found_before_anything_is_made(tmp_path, ffmpeg, monkeypatch, kind):
    script, says = BROKEN[kind]
    path = ffmpeg(script)
    monkeypatch.setattr(encoder, "PATIENCE", 1 if "hangs" in kind else 30)
    for make in (check_encoder, lambda: VideoWriter(tmp_path / "a.mp4", 16, (96, 96))):
        with pytest.raises(EncoderError, match=says) as error:
            make()
        assert str(path) in str(error.value)
        assert "IMAGEIO_FFMPEG_EXE" in str(error.value)
    assert os.listdir(tmp_path) == []


def test_one_that_is_not_there_is_named_with_the_cure(tmp_path, monkeypatch):
    (tmp_path / "no program").write_text("")
    for name in ("nope", str(tmp_path), str(tmp_path / "no program")):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", name)
        with pytest.raises(EncoderError, match=r"^ffmpeg, which writes the video, cannot be started .*pip install"):
            check_encoder()
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", mock.Mock(side_effect=RuntimeError))
    with pytest.raises(EncoderError, match="not installed: pip install imageio-ffmpeg"):
        check_encoder()


def test_it_is_tried_once_a_process(ffmpeg, tmp_path):
    path = ffmpeg(f'echo tried >> {tmp_path}/log; exec {REAL} "$@"')
    assert check_encoder() == check_encoder() == str(path)
    assert (tmp_path / "log").read_text() == "tried\n"


FAULTS = {
    "dies": ("head -c 9999 > /dev/null; exit 3", "ffmpeg stopped with code 3"),
    "full disk": (
        'head -c 9999 > /dev/null; echo "[out#0/mp4 @ 0x5] [a] Error opening $out: No space left on device." >&2; exit 228',
        "ffmpeg said: Error opening .*a.mp4: No space left on device; make room there",
    ),
    "fails on close": ("cat > /dev/null; exit 1", "ffmpeg stopped with code 1"),
    "stuck": ("sleep 600", "ffmpeg took no more frames for 1 s"),
    "stops reading": ("head -c 9999 > /dev/null; sleep 600", "ffmpeg took no more frames for 1 s"),
    "hangs on close": ("cat > /dev/null; sleep 600", "ffmpeg did not finish the file for 1 s"),
    "hangs and will not go": ("trap '' TERM INT; cat > /dev/null; sleep 600", "ffmpeg did not finish the file"),
}


PATIENCE = {kind: 1 if "for 1 s" in says or "not finish" in says else 30 for kind, (_, says) in FAULTS.items()}


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_one_sentence_about_the_file_that_was_asked_for(tmp_path, ffmpeg, kind):
    script, says = FAULTS[kind]
    ffmpeg(works_until(script))
    (tmp_path / "a.mp4").write_bytes(b"an older film")
    with (
        pytest.raises(EncoderError, match=rf"^writing .*/a\.mp4 failed: {says}") as error,
        VideoWriter(tmp_path / "a.mp4", 16, (96, 96), patience=PATIENCE[kind]) as video,
    ):
        video.write(FILM)
    assert ".causalcine" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert (tmp_path / "a.mp4").read_bytes() == b"an older film"
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_errors_call_the_file_as_the_user_does(tmp_path, ffmpeg):
    ffmpeg(works_until('echo "$out: bad" >&2; exit 1'))
    with (
        pytest.raises(EncoderError, match=r"^writing video/fox failed: ffmpeg said: video/fox: bad"),
        VideoWriter(tmp_path / "a.mp4", 16, (96, 96), called="video/fox") as video,
    ):
        video.write(FILM)


@pytest.mark.parametrize("script", ["sleep 600", "cat > /dev/null; sleep 600"])
def test_every_wait_can_be_interrupted(tmp_path, ffmpeg, script):
    ffmpeg(works_until(script))
    waits = iter(range(3))
    with (
        pytest.raises(Interrupted),
        VideoWriter(
            tmp_path / "a.mp4", 16, (96, 96), on_wait=lambda: next(waits, None) is None and interrupt()
        ) as video,
    ):
        video.write(FILM)
    assert os.listdir(tmp_path) == []


def test_the_trial_can_be_interrupted(tmp_path, ffmpeg):
    ffmpeg("sleep 600")
    with pytest.raises(Interrupted):
        VideoWriter(tmp_path / "a.mp4", 16, (96, 96), on_wait=interrupt)
    assert os.listdir(tmp_path) == []


def test_one_that_is_slow_is_waited_for(tmp_path, ffmpeg):
    """It may take much longer than the patience, as long as it takes something: here a tenth of it at a time."""
    ffmpeg(works_until(f'for i in 1 2 3 4 5 6; do head -c 276480; sleep 0.4; done | {REAL} "$@"'))
    began = time.monotonic()
    with VideoWriter(tmp_path / "a.mp4", 16, (96, 96), patience=1.5) as video:
        video.write(FILM)
    assert time.monotonic() - began > 1.5
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_frames_of_nothing_are_none(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 16, (96, 96)) as video:
        video.write(FILM[:0])
        video.write(FILM)
        video.write(FILM[:0])
    assert sum(1 for _ in read_video(tmp_path / "a.mp4")) == len(FILM)


def forked(seconds: float) -> Callable[[], None]:
    """A process forked from this one, as it is, for so many seconds; ended by what comes back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: of the threads here, the child has none
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(seconds,))
        process.start()
    return process.kill


def spawned(seconds: float) -> Callable[[], None]:
    """A program that is given everything it may inherit."""
    return subprocess.Popen(["sleep", str(seconds)], close_fds=False).kill


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
@pytest.mark.parametrize("other", [forked, spawned])
@pytest.mark.parametrize("when", ["while it is open", "while it starts"])
def test_a_process_that_begins_beside_it_does_not_keep_it_waiting(tmp_path, monkeypatch, other, when):
    """ffmpeg ends when all who hold the other end of its pipe have closed it: only we do."""
    check_encoder()
    ends: list[Callable[[], None]] = []
    start = subprocess.Popen._execute_child
    if when == "while it starts":
        # in another thread, at the moment when the pipe is made and ffmpeg is not there yet
        beside = threading.Thread(target=lambda: ends.append(other(60)))

        def execute(process, args, *given):
            if args[0] == REAL and not ends and not beside.ident:
                beside.start()
                beside.join(0.5)
            return start(process, args, *given)

        monkeypatch.setattr(subprocess.Popen, "_execute_child", execute)
    try:
        with VideoWriter(tmp_path / "a.mp4", 16, (96, 96), patience=5) as video:
            if when == "while it is open":
                ends.append(other(60))
            else:
                beside.join()
            video.write(FILM)
        assert sum(1 for _ in read_video(tmp_path / "a.mp4")) == len(FILM)
    finally:
        for end in ends:
            end()


def test_a_film_that_is_replaced_keeps_its_mode(tmp_path):
    (tmp_path / "a.mp4").write_text("old")
    (tmp_path / "a.mp4").chmod(0o600)
    with VideoWriter(tmp_path / "a.mp4", 16, (96, 96)) as video:
        video.write(FILM)
    assert (tmp_path / "a.mp4").stat().st_mode & 0o777 == 0o600
