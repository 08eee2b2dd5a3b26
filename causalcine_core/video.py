"""Video files in bounded memory.

`VideoWriter` streams frames into ffmpeg, so that a film of any length costs the memory of one chunk. The file
appears under its name only when it is whole; on request another one grows beside it meanwhile, which players can follow.
"Frame" means a pixel frame: uint8 RGB.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from .atomic import check_output, write_atomic
from .encoder import PATIENCE, Encoder, EncoderError, check_encoder
from .errors import InputError
from .growing import GrowingFile
from .mp4 import EXACT, joined, metadata_file, pictures
from .sound import Sound
from .story import check_fps

Frames = NDArray[np.uint8]


def to_frames(frames: Any) -> Frames:
    """A uint8 array `[F H W 3]` from an array or a tensor on any device; anything else is a ValueError."""
    array = np.asarray(frames.cpu() if hasattr(frames, "cpu") else frames)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"expected frames as uint8 [F H W 3], got {array.dtype} {list(array.shape)}")
    return np.ascontiguousarray(array)


class VideoWriter:
    """Writes an mp4 (H.264, yuv420p, BT.709, AAC where there is sound, ready to stream) chunk by chunk.

        with VideoWriter("out.mp4", fps=16, size=(832, 480)) as video:
            for chunk in stream:
                video.write(chunk.frames)  # uint8 [F H W 3]

    Args:
        path: of the file, which ends in .mp4 and appears when it is whole, instead of one that is there.
        fps: frames per second, 1 to 120, whole or not, kept exactly.
        size: width and height in pixels, both even; nothing is ever rescaled.
        metadata: text fields stored in the file (`comment`, `prompt`, ...).
        sound: a track under the pictures, cut where they end; where it ends before them, nothing follows.
        begin: seconds of the film at which this video begins: its sound begins there too.
        grow: of another file, which ends in .mp4 and can be played while the film is made, up to what the last `write` brought
            (`growing`); it goes when the whole film has its name, and stays where that fails.
        keep_partial: on an exception inside `with`, keep the film so far; otherwise nothing is left behind.
        on_wait: called again and again while the encoder is waited for; what it raises goes on, and ends the file.
        called: what errors call the file, where `path` is not the name that the user knows.
        patience: seconds without any progress after which the encoder counts as stuck; None: `encoder.PATIENCE`.

    Raises InputError for a bad path, fps or size, ValueError for frames that do not fit, and EncoderError, an OSError, where
    ffmpeg is missing, fails (a full disk) or is stuck.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fps: float,
        size: tuple[int, int],
        *,
        metadata: Mapping[str, str] | None = None,
        sound: Sound | None = None,
        begin: float = 0,
        grow: str | os.PathLike[str] | None = None,
        keep_partial: bool = False,
        on_wait: Callable[[], object] | None = None,
        called: str | None = None,
        patience: float | None = None,
    ):
        self.path = check_output(path, ".mp4")
        self.size = width, height = size
        if width % 2 or height % 2 or width < 2 or height < 2:
            raise InputError(f"a video must have an even width and height, got {width}x{height}")
        self._rate = Fraction(repr(check_fps(fps)))
        self.frames = 0
        self._called, self._keep_partial = called or str(self.path), keep_partial
        self._sound, self._begin = sound, begin
        self._patience = PATIENCE if patience is None else patience
        self._start = partial(Encoder, check_encoder(on_wait), on_wait=on_wait, patience=patience)
        self._partial, self._joined = (self.path.parent / f".causalcine-{secrets.token_hex(6)}.mp4" for _ in "12")
        self._fields = metadata_file(metadata or {})
        self._growing: GrowingFile | None = None
        self._encoder: Encoder | None = None
        try:
            if grow is not None:
                place = check_output(grow, ".mp4")
                self._growing = GrowingFile(place, self._rate, size, self._fields, self._start)
            else:
                self._encoder = self._start(self._partial, pictures(self._rate, size, self._fields))
        except BaseException:
            self._fields.unlink(missing_ok=True)
            raise

    def write(self, frames: Any) -> None:
        """Append frames: uint8 `[F H W 3]`, an array or a tensor."""
        array = to_frames(frames)
        if array.shape[1:3] != self.size[::-1]:
            raise ValueError(f"expected frames of {self.size[0]}x{self.size[1]}, got {array.shape[2]}x{array.shape[1]}")
        with self._named():
            if self._encoder is not None:
                self._encoder.write(array.data)
            elif self._growing is not None and len(array):
                self._growing.add(array.data, len(array), self._partial)
        self.frames += len(array)

    def close(self) -> None:
        """Finish the file and give it its name. Raises EncoderError or OSError, and leaves nothing, if that fails."""
        try:
            if not self.frames:
                raise ValueError(f"no frames were written to {self._called}")
            with self._named():
                if self._encoder is not None:
                    self._encoder.finish()
                    self._encoder.stop()
                done = self._whole()
            write_atomic(self.path, lambda place: os.replace(done, place))
            if self._growing is not None:
                self._growing.discard()
        finally:
            self.abort()

    def _whole(self) -> Path:
        """The file of all frames, or one that has them, in one piece, and the sound."""
        track = self._sound.track(self._begin, float(self.frames / self._rate)) if self._sound else None
        if track is None and self._growing is None:
            return self._partial
        film = self._growing.path if self._growing is not None else self._partial
        patience = self._patience + self._begin / 20  # nothing is written while ffmpeg hears what comes before
        self._encoder = self._start(self._joined, joined(film, self._fields, track), patience=patience)
        self._encoder.finish()
        return self._joined

    def abort(self) -> None:
        """Stop and leave nothing behind, but for a file that grew; does nothing after `close`."""
        if self._encoder is not None:
            self._encoder.stop()
        for path in (self._partial, self._joined, self._fields):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors are about the file that was asked for, not the temporary one."""
        try:
            yield
        except EncoderError as error:
            said = str(error)
            for path in (self._partial, self._joined):
                said = said.replace(str(path.absolute()), self._called)
            raise EncoderError(f"writing {self._called} failed: {said}") from None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (self._keep_partial and self.frames):
            self.close()
        else:
            self.abort()


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
    reader = imageio_ffmpeg.read_frames(str(path), output_params=["-sws_flags", EXACT])
    try:
        width, height = next(reader)["size"]
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    finally:
        reader.close()
