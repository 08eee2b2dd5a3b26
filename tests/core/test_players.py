"""Colours as ordinary players show them: a test card through our writer, ffmpeg's decoder and Chromium's `<video>`."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from causalcine_core.sound import Sound
from causalcine_core.video import VideoWriter, read_video

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
# Colours as its shaders make them. Without a GPU another conversion, libyuv's, has a factor of BT.709 that does not fit its eight
# bits: blue is off by up to 12 levels, whatever the file.
GPU = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
SIDE = 32  # pixels of a patch
BARS = [(255, 255, 255), (255, 255, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255), (255, 0, 0), (0, 0, 255), (0, 0, 0)]
PLUGE = [(level, level, level) for level in (2, 8, 16, 32, 64, 235, 245, 253)]
SKIN = [
    (255, 224, 196),
    (238, 188, 160),
    (214, 160, 128),
    (190, 130, 100),
    (150, 100, 75),
    (110, 70, 50),
    (75, 45, 35),
    (45, 28, 22),
]
DULL = [
    (191, 191, 191),
    (191, 191, 0),
    (0, 191, 191),
    (0, 191, 0),
    (191, 0, 191),
    (191, 0, 0),
    (0, 0, 191),
    (128, 128, 128),
]
ROWS = [BARS, PLUGE, SKIN, DULL]


def card() -> np.ndarray:
    """Rows of patches, then a ramp of grey and one from blue to orange, `[H W 3]`."""
    patches = np.repeat(np.repeat(np.array(ROWS, np.uint8), SIDE, 0), SIDE, 1)
    along = np.linspace(0, 1, patches.shape[1])[None, :, None]
    ends = ((0, 0, 0), (255, 255, 255)), ((20, 60, 160), (250, 150, 40))
    ramps = [np.round((1 - along) * a + along * b).repeat(SIDE, 0).astype(np.uint8) for a, b in np.array(ends, float)]
    return np.concatenate([patches, *ramps])


def check(shown: np.ndarray, most: float = 2) -> None:
    """Each patch, but for its border, where chroma is shared with its neighbour, and each stretch of a ramp is within so many levels
    of the card."""
    wanted, rows = card().astype(float), len(ROWS) * SIDE
    assert shown.shape == wanted.shape
    for y in range(0, len(wanted), SIDE):
        side = SIDE if y < rows else 8
        for x in range(0, wanted.shape[1], side):
            border = 4 if y < rows else 0
            inside = np.s_[y + 4 : y + SIDE - 4, x + border : x + side - border]
            is_, was = shown[inside].astype(float).mean((0, 1)), wanted[inside].mean((0, 1))
            assert np.abs(is_ - was).max() <= most, (x, y, was, is_)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("card") / "a.mp4"
    with VideoWriter(path, 16, (8 * SIDE, (len(ROWS) + 2) * SIDE)) as video:
        video.write(card()[None].repeat(8, 0))
    return path


def test_the_card_survives_ffmpeg(film):
    frames = list(read_video(film))
    assert len(frames) == 8
    check(frames[0])
    check(frames[-1])


def test_the_card_survives_ffmpeg_as_others_call_it(film, tmp_path):
    """Without a word about colours: what the file says of itself is enough. Its quick scaler rounds downwards, by up to 3 levels; with
    another matrix or range than was written it would be tens."""
    picture = tmp_path / "a.png"
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", film, "-frames:v", "1", picture], check=True)
    check(np.asarray(Image.open(picture).convert("RGB")), most=4)


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *GPU])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield browser.new_page()
        browser.close()


def played(page: Any, film: Path, code: str) -> Any:
    """What code gives of `video`, a film of which Chromium has shown a frame."""
    return page.evaluate(
        """async (url) => {
          const video = document.createElement("video"); video.muted = true; video.src = url;
          await new Promise((ok, no) => { video.onloadeddata = ok; video.onerror = () => no(video.error.message); });
          const seen = new Promise((ok) => video.requestVideoFrameCallback(ok));
          await video.play(); await seen; """
        + code
        + "}",
        f"data:video/mp4;base64,{base64.b64encode(film.read_bytes()).decode()}",
    )


def test_the_card_survives_chromium(film, page):
    shown = played(
        page,
        film,
        """video.pause(); const canvas = document.createElement("canvas");
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        canvas.getContext("2d").drawImage(video, 0, 0);
        return canvas.toDataURL("image/png");""",
    )
    check(np.asarray(Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))).convert("RGB")))


def test_chromium_plays_a_film_that_still_grows_to_its_last_chunk(page, tmp_path, frames):
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48), grow=tmp_path / "g.mp4") as video:
        for chunks, part in enumerate(np.split(frames(33), [9, 21]), 1):
            video.write(part)
            end = "await new Promise((ok) => { video.onended = ok; }); return video.currentTime;"
            assert played(page, tmp_path / "g.mp4", end) == pytest.approx((9 + 12 * (chunks - 1)) / 16, abs=0.01)


def test_chromium_plays_the_sound_and_seeks(page, tmp_path, frames):
    sound = Sound.keep(np.sin(np.arange(2 * 48000) / 20)[None].astype(np.float32), 48000, tmp_path / "plain")
    with VideoWriter(tmp_path / "a.mp4", 16, (64, 48), sound=sound) as video:
        video.write(frames(32))
    heard = """video.currentTime = 1.5; await new Promise((ok) => { video.onseeked = ok; });
      return [video.duration, video.currentTime, video.webkitAudioDecodedByteCount]"""
    duration, at, decoded = played(page, tmp_path / "a.mp4", heard)
    assert duration == pytest.approx(2, abs=0.03) and at >= 1.5 and decoded > 0
