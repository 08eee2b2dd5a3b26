"""ffmpeg, which writes our videos and reads sound: found, tried once a process, and never waited for without end.

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
from collections.abc import Callable, Sequence
from pathlib import Path

import imageio_ffmpeg

from .mp4 import pictures

PATIENCE = 30.0  # seconds without any progress after which ffmpeg counts as stuck
POLL = 0.05  # seconds between two looks at how far it is
PIECE = 1 << 18  # bytes handed to it at a time: what it takes is progress
CURE = "pip install imageio-ffmpeg brings one that works, and IMAGEIO_FFMPEG_EXE in the environment names another"

_started: weakref.WeakSet[Encoder] = weakref.WeakSet()  # those of this process
_starting = threading.Lock()  # held while one is started; whoever forks this process waits for it


class EncoderError(OSError):
    """ffmpeg is missing, fails, or is stuck. One sentence that says so and what to do. said: ffmpeg's own words in it, if any."""

    said: str | None = None


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
        encoder = Encoder(program, Path(folder) / "trial.mp4", pictures(16, (64, 64)), on_wait=on_wait)
        try:
            encoder.write(memoryview(bytes(2 * 64 * 64 * 3)))
            encoder.finish()
        except EncoderError as error:
            raise EncoderError(f"ffmpeg ({program}) does not write videos here: {error}") from None
        finally:
            encoder.stop()


class Encoder:
    """One ffmpeg at work on one file, of frames that are handed to it or of other files.

    Args:
        program: what to start.
        path: of the file that it makes; what there is it replaces.
        arguments: what it is told (`mp4`), but for that path.
        on_wait: called every POLL seconds while ffmpeg is waited for; what it raises ends the wait.
        patience: seconds without any progress (bytes taken, or written) after which ffmpeg counts as stuck;
            None: PATIENCE.

    Raises EncoderError where it cannot be started. Whoever has one calls `stop` in the end, whatever happened.
    """

    def __init__(
        self,
        program: str,
        path: Path,
        arguments: Sequence[str],
        *,
        on_wait: Callable[[], object] | None = None,
        patience: float | None = None,
    ):
        self._path, self._on_wait = path, on_wait
        self._patience = PATIENCE if patience is None else patience
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by stop)
        self._given: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._taken, self._bytes = threading.Event(), 0
        command = [program, "-hide_banner", "-loglevel", "error", "-y", *arguments, str(path.absolute())]
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
            self._log.close()
            raise EncoderError(
                f"ffmpeg, which writes the video, cannot be started ({program}: {error.strerror or error}): {CURE}"
            ) from None
        except BaseException:
            self._log.close()
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
            raise self._complaint()

    def finish(self) -> None:
        """No more frames: the file is whole when this comes back."""
        self._given.put(None)
        self._wait(lambda: _ended(self._process, POLL), "did not finish the file")
        if self._process.returncode != 0:
            raise self._complaint()

    def stop(self) -> None:
        """End ffmpeg, if it still runs, and whatever it started. Leaves the file that it made or was making."""
        if self._process.poll() is None:
            _kill(self._process)
            _ended(self._process, 5)
        self._given.put(None)
        self._feeder.join(1)
        self._log.close()

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

    def _complaint(self) -> EncoderError:
        """Why it ended, in its own words about the file, and what to do."""
        _ended(self._process, 5)
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        if not lines:
            return EncoderError(f"ffmpeg stopped with code {self._process.returncode}: {CURE}")
        said = re.sub(r"^(\[[^]]*\] ?)+", "", lines[0]).rstrip(". ")
        error = EncoderError(f"ffmpeg said: {said}; " + ("make room there" if "No space left" in said else CURE))
        error.said = said
        return error


def run_ffmpeg(path: Path, arguments: Sequence[str], on_wait: Callable[[], object] | None = None) -> None:
    """Have ffmpeg make a file of other files, as an `Encoder` of these arguments. Raises EncoderError."""
    encoder = Encoder(check_encoder(on_wait), path, arguments, on_wait=on_wait)
    try:
        encoder.finish()
    finally:
        encoder.stop()


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
