"""Films are written whole or not at all, in the memory of a chunk, and come back as they were."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from PIL import Image

from causalcine_core.errors import InputError
from causalcine_core.pictures import MAX_CARDS, contact_sheet, fit_text, font, sheet_shots
from causalcine_core.video import VideoWriter, read_video, video_info


def test_frames_come_back_in_number_order_and_look(tmp_path, frames):
    film = frames(69)
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video:
        for part in np.split(film, [9, 21, 33]):
            video.write(part)
    back = np.stack(list(read_video(tmp_path / "a.mp4")))
    assert back.shape == film.shape
    assert np.abs(back.astype(int) - film).mean() < 8
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_tensors_are_frames_too_but_floats_are_not(tmp_path, frames):
    import torch

    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video:
        video.write(torch.from_numpy(frames(3)))
        with pytest.raises(ValueError, match="uint8"):
            video.write(frames(1) / 255)
        with pytest.raises(ValueError, match="expected frames of 64x48, got 32x48"):
            video.write(frames(1, 32, 48))
    assert len(list(read_video(tmp_path / "a.mp4"))) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_a_film_that_fails_leaves_nothing_and_spares_the_old_one(tmp_path, frames, error):
    (tmp_path / "a.mp4").write_bytes(b"the old film")
    with pytest.raises(error), VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video:
        video.write(frames(30))
        raise error
    assert os.listdir(tmp_path) == ["a.mp4"]
    assert (tmp_path / "a.mp4").read_bytes() == b"the old film"
    with pytest.raises(ValueError, match="no frames"), VideoWriter(tmp_path / "b.mp4", 16, (64, 48)):
        pass
    assert os.listdir(tmp_path) == ["a.mp4"]


def test_keep_partial_keeps_what_was_made(tmp_path, frames):
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "a.mp4", 16, (64, 48), keep_partial=True) as video:
        video.write(frames(21))
        raise RuntimeError
    assert len(list(read_video(tmp_path / "a.mp4"))) == 21


def test_a_writer_that_dies_is_one_sentence(tmp_path, frames):
    with (
        pytest.raises(OSError, match=r"a\.mp4 failed: ffmpeg stopped"),
        VideoWriter(tmp_path / "a.mp4", 16, (64, 48)) as video,
    ):
        os.kill(video._encoder.pid, signal.SIGKILL)
        for _ in range(100):
            video.write(frames(9))
    assert os.listdir(tmp_path) == []


def test_a_killed_process_leaves_no_film(tmp_path):
    script = textwrap.dedent(f"""
        import numpy as np, sys
        from causalcine_core.video import VideoWriter
        with VideoWriter({str(tmp_path / "a.mp4")!r}, 16, (64, 48)) as video:
            while True:
                video.write(np.zeros((9, 48, 64, 3), np.uint8))
                print(flush=True)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in a background job
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    assert process.wait(20) != 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "fps", "size", "says"),
    [
        ("no/a.mp4", 16, (64, 48), "does not exist"),
        ("a.avi", 16, (64, 48), "ends in .mp4"),
        ("folder.mp4", 16, (64, 48), "is a folder"),
        ("a" * 300 + ".mp4", 16, (64, 48), "cannot be written"),
        ("a\0.mp4", 16, (64, 48), "cannot be written"),
        ("a.mp4", 0, (64, 48), "fps must be a number from 1 to 120"),
        ("a.mp4", float("nan"), (64, 48), "fps"),
        ("a.mp4", 16, (63, 48), "even width and height, got 63x48"),
        ("readonly/a.mp4", 16, (64, 48), "not writable"),
    ],
)
def test_bad_outputs_are_refused_and_nothing_is_made(tmp_path, name, fps, size, says):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "readonly").mkdir(mode=0o555)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as error:
        VideoWriter(tmp_path / name, fps, size)
    assert says in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_metadata_of_any_text_is_kept(tmp_path, frames):
    comment = 'line one\n= ; # \\ "quoted" 场景 ' + "x" * 300_000
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48), metadata={"comment": comment, "workflow": "{}"}) as video:
        video.write(frames(3))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(tmp_path / "a.mp4"), "-f", "ffmetadata", "-"]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    assert "场景" in text
    assert "x" * 300_000 in text
    assert "workflow={}" in text


def test_memory_is_flat_with_length(tmp_path, frames):
    """1,000 frames and 4,000 more: neither we nor ffmpeg grow by even a tenth of the frames."""
    chunk = frames(100, 96, 96)
    me = psutil.Process()
    with VideoWriter(tmp_path / "a.mp4", 16, (96, 96)) as video:
        encoder = psutil.Process(video._encoder.pid)

        def memory() -> int:
            return me.memory_info().rss + encoder.memory_info().rss

        for i in range(50):
            if i == 10:
                before = memory()
            video.write(chunk)
        grown = memory() - before
    assert grown < 0.1 * 40 * chunk.nbytes
    assert video_info(tmp_path / "a.mp4").seconds == pytest.approx(5000 / 16, abs=0.1)


# --- pictures


def test_a_contact_sheet_takes_any_text_and_any_shape(frames):
    captions = ["plain", "场景 一只红狐狸 🎬", "W" * 500, "many words " * 200, "", "line\nline\ttab"]
    for width, height in ((64, 48), (48, 96), (16, 96), (832, 48)):
        pictures = (
            list(frames(6, 64, 48)) if (width, height) == (64, 48) else [np.zeros((height, width, 3), np.uint8)] * 6
        )
        sheet = contact_sheet(pictures, captions, title="T" * 300, subtitle="")
        assert sheet.mode == "RGB"
        assert max(sheet.size) < 4000


def test_a_contact_sheet_of_thousands_of_shots_is_bounded(frames):
    chosen = sheet_shots(9_999)
    assert len(chosen) == len(set(chosen)) == MAX_CARDS
    assert chosen[0] == 0
    assert chosen[-1] == 9_998
    assert sheet_shots(5) == [0, 1, 2, 3, 4]
    sheet = contact_sheet([frames(1)[0]] * MAX_CARDS, ["x"] * MAX_CARDS)
    assert sheet.size[0] * sheet.size[1] < 12_000_000
    with pytest.raises(ValueError, match="expected 1 to"):
        contact_sheet([], [])


def test_captions_stay_inside_their_card():
    for text in ("many words here " * 30, "W" * 300, "场景" * 100):
        rows = fit_text(text, 16, 300, 4).split("\n")
        assert len(rows) <= 4
        assert all(font(16, text).getlength(row) <= 300 for row in rows)


def test_the_first_frame_is_on_the_sheet(frames):
    red = np.full((48, 64, 3), (200, 30, 30), np.uint8)
    sheet = np.asarray(contact_sheet([red, red], ["a", "b"]))
    assert (np.abs(sheet.astype(int) - (200, 30, 30)).max(-1) < 3).mean() > 0.3
    assert Image.fromarray(sheet).size == contact_sheet([red, red], ["a", "b"]).size
