"""ffmpeg, which writes our videos: found, tried once a process, and never waited for without end.

Frames go to it through a pipe, by a thread of their own: whoever waits for that thread can be interrupted, sees when ffmpeg dies
and gives up when nothing moves any more.
"""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import re
import signal
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg

PATIENCE = 30.0  # seconds without any progress after which ffmpeg counts as stuck
POLL = 0.05  # seconds between two looks at how far it is
PIECE = 1 << 18  # bytes handed to it at a time: what it takes is progress
CURE = "pip install imageio-ffmpeg brings one that works, and IMAGEIO_FFMPEG_EXE in the environment names another"

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"  # of the scaler: no rounding downwards
_BT709 = "colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"

_started: weakref.WeakSet[Encoder] = weakref.WeakSet()  # those of this process
_starting = threading.Lock()  # held while one is started; whoever forks this process waits for it


class EncoderError(OSError):
    """ffmpeg is missing, fails, or is stuck. One sentence that says so and what to do."""


def check_encoder(on_wait: Callable[[], object] | None = None) -> str:
    """The ffmpeg that writes our videos. The first time in a process it writes a small one, which takes about 0.1 s.

    Raises EncoderError where there is none, or where it cannot be started or does not write H.264. on_wait: as `Encoder`'s.
    """
    try:
        program: str = imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:
        raise EncoderError(f"ffmpeg, which writes the video, is not installed: {CURE}") from None
    if program not in _working():
        _try(program, on_wait)
        _working().add(program)
    return program


@functools.cache
def _working() -> set[str]:
    """Programs that wrote a video in this process."""
    return set()


def _try(program: str, on_wait: Callable[[], object] | None) -> None:
    with tempfile.TemporaryDirectory(prefix="causalcine-") as folder:
        encoder = Encoder(program, Path(folder) / "trial.mp4", 16, (64, 64), on_wait=on_wait)
        try:
            encoder.write(memoryview(bytes(2 * 64 * 64 * 3)))
            encoder.finish()
        except EncoderError as error:
            raise EncoderError(f"ffmpeg ({program}) does not write videos here: {error}") from None
        finally:
            encoder.stop()


class Encoder:
    """One ffmpeg at work on one mp4: H.264, yuv420p, BT.709, ready to stream.

    Args:
        program: what to start.
        path: of the file that it makes; what there is it replaces.
        rate: frames per second.
        size: width and height in pixels, both even.
        metadata: text fields of the file.
        on_wait: called every POLL seconds while ffmpeg is waited for; what it raises ends the wait.
        patience: seconds without any progress (bytes taken, or written) after which ffmpeg counts as stuck;
            None: PATIENCE.

    Raises EncoderError where it cannot be started. Whoever has one calls `stop` in the end, whatever happened.
    """

    def __init__(
        self,
        program: str,
        path: Path,
        rate: Fraction | int,
        size: tuple[int, int],
        *,
        metadata: Mapping[str, str] | None = None,
        on_wait: Callable[[], object] | None = None,
        patience: float | None = None,
    ):
        self._path, self._on_wait = path, on_wait
        self._patience = PATIENCE if patience is None else patience
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._metadata = _metadata_file(metadata or {})
        self._given: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._taken, self._bytes = threading.Event(), 0
        # fmt: off
        command = [
            program, "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{size[0]}x{size[1]}",
            "-r", f"{rate.numerator}/{rate.denominator}", "-i", "-",
            "-f", "ffmetadata", "-i", str(self._metadata), "-map", "0:v", "-map_metadata", "1",
            "-vf", f"scale=in_range=pc:out_range=tv:out_color_matrix=bt709:flags={EXACT},setparams={_BT709}",
            "-c:v", "libx264", "-preset", "fast", "-crf", "16", "-pix_fmt", "yuv420p", "-tag:v", "avc1",
            "-movflags", "+faststart+use_metadata_tags", "-f", "mp4", str(path.absolute()),
        ]
        # fmt: on
        try:
            with _starting:
                self._process = subprocess.Popen(
                    command,
                    bufsize=0,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=self._log,
                    start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, not ffmpeg's
                )
                _started.add(self)
        except OSError as error:
            self._discard()
            raise EncoderError(
                f"ffmpeg, which writes the video, cannot be started ({program}: {error.strerror or error}): {CURE}"
            ) from None
        except BaseException:
            self._discard()
            raise
        self._feeder = threading.Thread(target=self._feed, name="frames to ffmpeg", daemon=True)
        self._feeder.start()

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def write(self, data: memoryview) -> None:
        """Hand over frames, bytes of rgb24; comes back when ffmpeg has taken them all."""
        if not data.nbytes:
            return
        self._taken.clear()
        self._given.put(data)
        self._wait(lambda: self._taken.wait(POLL), "took no more frames")
        if self._process.poll() is not None:
            raise EncoderError(self._complaint())

    def finish(self) -> None:
        """No more frames: the file is whole when this comes back."""
        self._given.put(None)
        self._wait(lambda: _ended(self._process, POLL), "did not finish the file")
        if self._process.returncode != 0:
            raise EncoderError(self._complaint())

    def stop(self) -> None:
        """End ffmpeg, if it still runs, and whatever it started. Leaves the file that it made or was making."""
        if self._process.poll() is None:
            _kill(self._process)
            _ended(self._process, 5)
        self._given.put(None)
        self._feeder.join(1)
        self._discard()

    def _feed(self) -> None:
        """The thread: what is given goes into the pipe, a piece at a time."""
        pipe = self._process.stdin
        assert pipe is not None
        with contextlib.suppress(OSError), pipe:  # an error: ffmpeg is gone, as whoever waits sees
            while (data := self._given.get()) is not None:
                rest = data.cast("B")
                while rest:
                    count = pipe.write(rest[:PIECE]) or 0
                    rest, self._bytes = rest[count:], self._bytes + count
                self._taken.set()

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        """Until it is done, or ffmpeg has ended."""
        moved, seen = time.monotonic(), self._moved()
        while not done() and self._process.poll() is None:
            if self._on_wait is not None:
                self._on_wait()
            if (now := self._moved()) != seen:
                moved, seen = time.monotonic(), now
            elif time.monotonic() - moved > self._patience:
                raise EncoderError(
                    f"ffmpeg {what} for {self._patience:g} s and was stopped: the disk, or ffmpeg itself, hangs; {CURE}"
                )

    def _moved(self) -> tuple[int, ...]:
        """Differs when anything has moved: what was taken, and the file."""
        try:
            file = self._path.stat()
        except OSError:
            return (self._bytes,)
        return self._bytes, file.st_size, file.st_mtime_ns

    def _complaint(self) -> str:
        """Why it ended, in its own words about the file, and what to do."""
        _ended(self._process, 5)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        if not lines:
            return f"ffmpeg stopped with code {self._process.returncode}: {CURE}"
        said = re.sub(r"^(\[[^]]*\] ?)+", "", lines[0]).rstrip(". ")
        return f"ffmpeg said: {said}; " + ("make room there" if "No space left" in said else CURE)

    def _discard(self) -> None:
        self._log.close()
        self._metadata.unlink(missing_ok=True)


def _let_go() -> None:
    """In a process that was forked from this one: close what it holds of our pipes. Else ffmpeg would see the end of its frames only
    when that process ends too, and we would wait for it."""
    for encoder in list(_started):
        if encoder._process.stdin is not None:
            with contextlib.suppress(OSError):
                encoder._process.stdin.close()
    _started.clear()
    _starting.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_let_go)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether it has ended, within so many seconds."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    return process.poll() is not None


def _kill(process: subprocess.Popen[bytes]) -> None:
    """It and what it started: a script called ffmpeg leaves what it runs with our pipe."""
    with contextlib.suppress(OSError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


def _metadata_file(metadata: Mapping[str, str]) -> Path:
    """A file in ffmpeg's metadata format: an argument could not hold a whole workflow."""

    def escaped(text: str) -> str:
        return "".join("\\" + c if c in "=;#\\\n" else c for c in text.replace("\0", ""))

    lines = [";FFMETADATA1", *(f"{escaped(name)}={escaped(str(value))}" for name, value in metadata.items()), ""]
    with tempfile.NamedTemporaryFile("wb", suffix=".txt", delete=False) as file:
        file.write("\n".join(lines).encode("utf-8", "replace"))
    return Path(file.name)
