"""Video files in bounded memory, and the contact sheet.

`VideoWriter` streams frames into ffmpeg, so that a film of any length costs the memory of one chunk. The file
appears under its name only when it is whole. "Frame" means a pixel frame: uint8 RGB.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import stat
import subprocess
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .errors import InputError
from .story import check_fps

Frames = NDArray[np.uint8]
MAX_CARDS = 48  # of a contact sheet

_EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # of the scaler: no rounding downwards
_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"

INK, DIM, GROUND, CARD = "#f2f2f5", "#9a9ba6", "#121218", "#1e1e27"
SHOT_COLOURS = ("#5aa9e6", "#f4a259", "#7fc29b", "#e5738f", "#b48ee0", "#e0c35c", "#5cc8c8", "#c98f6b")


def to_frames(frames: Any) -> Frames:
    """A uint8 array `[F H W 3]` from an array or a tensor on any device; anything else is a ValueError."""
    array = np.asarray(frames.cpu() if hasattr(frames, "cpu") else frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"expected frames as uint8 [F H W 3], got {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)


def check_output(path: str | os.PathLike[str], suffix: str) -> Path:
    """The path, if a file of that kind can be made there; `InputError` otherwise. Leaves nothing behind."""
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise InputError(f"output {path} must have a name that ends in {suffix}")
    folder = path.parent
    try:
        if not folder.exists():
            raise InputError(f"output folder {folder} does not exist")
        if not folder.is_dir():
            raise InputError(f"output folder {folder} is not a folder")
        with contextlib.suppress(FileNotFoundError):
            mode = os.stat(path).st_mode  # unlike Path.is_dir, says what is wrong with a name
            if stat.S_ISDIR(mode):
                raise InputError(f"output {path} is a folder; it must be the name of a file")
            if not stat.S_ISREG(mode):  # a device or a pipe, which a rename would destroy
                raise InputError(f"output {path} is no ordinary file")
        if not os.access(folder, os.W_OK) or (os.name == "posix" and not folder.stat().st_mode & 0o222):
            raise PermissionError  # the second: root may write where everything says read-only, and should not
        trial = folder / f".{secrets.token_hex(8)}"
        try:
            trial.touch(exist_ok=False)
        finally:  # a Ctrl-C may arrive between the two
            trial.unlink(missing_ok=True)
    except PermissionError:
        raise InputError(f"output folder {folder} is not writable") from None
    except (OSError, ValueError) as error:  # a name too long, a null character, a read-only disk
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"output {path} cannot be written ({reason})") from None
    return path


class VideoWriter:
    """Writes an mp4 (H.264, yuv420p, BT.709, ready to stream) chunk by chunk.

    with VideoWriter("out.mp4", fps=16, size=(832, 480)) as video: for chunk in stream:
    video.write(chunk.frames)  # uint8 [F H W 3]

    fps: 1 to 120, whole or not, kept exactly. size: width and height in pixels, both even; nothing is ever
    rescaled. metadata: text fields stored in the file (`comment`, `prompt`, ...). On an exception inside
    `with`, nothing is left behind, or, with `keep_partial`, the film so far. Raises InputError for a bad
    path, fps or size, ValueError for frames that do not fit, and OSError when ffmpeg fails (a full disk).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        size: tuple[int, int],
        *,
        metadata: Mapping[str, str] | None = None,
        keep_partial: bool = False,
    ):
        self.path = check_output(path, ".mp4")
        self.size = width, height = size
        if width % 2 or height % 2 or width < 2 or height < 2:
            raise InputError(f"a video must have an even width and height, got {width}x{height}")
        rate = Fraction(repr(check_fps(fps)))
        self.frames = 0
        self._keep_partial = keep_partial
        self._partial = self.path.parent / f".causalcine-{secrets.token_hex(6)}.mp4"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by abort)
        self._metadata = _metadata_file(metadata or {})
        # fmt: off
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
            "-r", f"{rate.numerator}/{rate.denominator}", "-i", "-",
            "-f", "ffmetadata", "-i", self._metadata, "-map", "0:v", "-map_metadata", "1",
            "-vf", f"scale=in_range=pc:out_range=tv:out_color_matrix=bt709:flags={_EXACT},setparams={_BT709}",
            "-c:v", "libx264", "-preset", "fast", "-crf", "16", "-pix_fmt", "yuv420p", "-tag:v", "avc1",
            "-movflags", "+faststart+use_metadata_tags", "-f", "mp4", str(self._partial.absolute()),
        ]
        # fmt: on
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not ffmpeg's
            )
        except BaseException:
            self._discard()
            raise

    def write(self, frames: Any) -> None:
        """Append frames: uint8 `[F H W 3]`, an array or a tensor."""
        array = to_frames(frames)
        if array.shape[1:3] != self.size[::-1]:
            raise ValueError(f"expected frames of {self.size[0]}x{self.size[1]}, got {array.shape[2]}x{array.shape[1]}")
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(array.data)
        except BrokenPipeError:
            raise OSError(f"writing {self.path} failed: {self._complaint()}") from None
        self.frames += len(array)

    def close(self) -> None:
        """Finish the file and give it its name. Raises OSError, and leaves nothing, if that fails."""
        assert self._process.stdin is not None
        try:
            if not self.frames:
                raise ValueError(f"no frames were written to {self.path}")
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            if self._process.wait() != 0:
                raise OSError(f"writing {self.path} failed: {self._complaint()}")
            os.replace(self._partial, self.path)
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop and leave nothing behind; does nothing after `close`."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        self._discard()

    def _discard(self) -> None:
        self._log.close()
        for leftover in (self._partial, Path(self._metadata)):
            leftover.unlink(missing_ok=True)

    def _complaint(self) -> str:
        self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ffmpeg stopped with code {self._process.returncode}"

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (self._keep_partial and self.frames):
            self.close()
        else:
            self.abort()


def _metadata_file(metadata: Mapping[str, str]) -> str:
    """A file in ffmpeg's metadata format: an argument could not hold a whole workflow."""

    def escaped(text: str) -> str:
        return "".join("\\" + c if c in "=;#\\\n" else c for c in text.replace("\0", ""))

    with tempfile.NamedTemporaryFile(
        "w", suffix=".txt", delete=False, encoding="utf-8", errors="replace", newline="\n"
    ) as file:
        file.write(";FFMETADATA1\n")
        file.writelines(f"{escaped(name)}={escaped(str(value))}\n" for name, value in metadata.items())
    return file.name


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says of itself. size: width and height in pixels; seconds: its duration."""

    size: tuple[int, int]
    fps: float
    seconds: float
    codec: str


def video_info(path: str | os.PathLike[str]) -> VideoInfo:
    """Size, frame rate and duration of a video file; OSError where there is none."""
    reader = imageio_ffmpeg.read_frames(str(path))
    try:
        meta = next(reader)
    finally:
        reader.close()
    return VideoInfo(tuple(meta["size"]), meta["fps"], meta["duration"], meta["codec"])


def read_video(path: str | os.PathLike[str]) -> Iterator[Frames]:
    """The frames of a video file, one after another: uint8 `[H W 3]`. OSError where there is none."""
    reader = imageio_ffmpeg.read_frames(str(path), output_params=["-sws_flags", _EXACT])
    try:
        width, height = next(reader)["size"]
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    finally:
        reader.close()


# --- pictures


@functools.lru_cache
def _font(size: int, wide: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or one of the system's for scripts that it lacks (boxes where there is none)."""
    names = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
    for name in names if wide else ():
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow without FreeType has one small font
        return ImageFont.load_default()


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that suits a text, `size` pixels high."""
    return _font(size, any(ord(c) > 0x24F and not 0x2000 <= ord(c) <= 0x206F for c in text))


def fit_text(text: str, size: int, width: int, lines: int) -> str:
    """Text wrapped to a width in pixels and at most so many lines; what does not fit ends in an ellipsis."""
    face = font(size, text)
    text = " ".join(text.split())[: 40 * lines * max(1, width // size)].encode("utf-8", "replace").decode("utf-8")
    letter = max(face.getlength(text) / max(len(text), 1), 1)
    columns = max(int(width / letter), 4)
    while True:
        rows = textwrap.wrap(text, columns, max_lines=lines, placeholder=" \u2026")
        if columns <= 4 or all(face.getlength(row) <= width for row in rows):
            return "\n".join(rows)
        columns -= 1


def sheet_shots(shots: int) -> list[int]:
    """Which shots a contact sheet shows: all, or `MAX_CARDS` of them at even distances."""
    if shots <= MAX_CARDS:
        return list(range(shots))
    return [i * (shots - 1) // (MAX_CARDS - 1) for i in range(MAX_CARDS)]


def contact_sheet(
    frames: Sequence[Any],
    captions: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    title: str = "CausalCine",
    subtitle: str = "",
) -> Image.Image:
    """One card a shot: its picture (uint8 `[H W 3]`), a label such as its number and time, and its caption.

    Shows at most `MAX_CARDS` cards; callers with more shots choose them with `sheet_shots`.
    """
    if not 0 < len(frames) == len(captions) <= MAX_CARDS:
        raise ValueError(f"expected 1 to {MAX_CARDS} frames with a caption each, got {len(frames)} and {len(captions)}")
    labels = labels or [f"Shot {i + 1}" for i in range(len(frames))]
    height, width = np.asarray(frames[0]).shape[:2]
    columns = _columns(len(frames), width / height)
    card_w = {1: 560, 2: 460, 3: 380}.get(columns, 320)
    picture_h = min(max(round(card_w * height / width), 40), 2 * card_w)
    gap, margin, head, lines = 22, 36, 96, 4
    card_h = picture_h + 44 + lines * 21 + 16
    rows = -(-len(frames) // columns)
    size = (2 * margin + columns * (card_w + gap) - gap, head + margin + rows * (card_h + gap) - gap)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 28), fit_text(title, 30, size[0] - 2 * margin, 1), INK, font(30, title))
    draw.text((margin, 66), fit_text(subtitle, 16, size[0] - 2 * margin, 1), DIM, font(16, subtitle))
    for i, (frame, caption, label) in enumerate(zip(frames, captions, labels, strict=True)):
        x, y = margin + i % columns * (card_w + gap), head + i // columns * (card_h + gap)
        draw.rounded_rectangle((x, y, x + card_w, y + card_h), 12, CARD)
        picture = Image.fromarray(np.asarray(frame)).resize((card_w, picture_h), Image.Resampling.BICUBIC)
        sheet.paste(picture, (x, y), _rounded_top(card_w, picture_h, 12))
        draw.text((x + 16, y + picture_h + 12), label, SHOT_COLOURS[i % len(SHOT_COLOURS)], font(16, label))
        text = fit_text(caption, 16, card_w - 32, lines)
        draw.multiline_text((x + 16, y + picture_h + 38), text, INK, font(16, text), spacing=5)
    return sheet


def _columns(cards: int, aspect: float) -> int:
    """As many columns as make the sheet about as wide as a screen."""
    wide = max(1, round((cards / max(aspect, 0.2) * 2.2) ** 0.5)) if aspect < 1 else round((cards * 1.6) ** 0.5)
    return max(1, min(wide, cards, 8))


def _rounded_top(width: int, height: int, radius: int) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width, height + radius), radius, 255)
    return mask
