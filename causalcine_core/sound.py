"""Sound for a film: whatever ffmpeg reads, laid under the pictures from the film's first moment on, and where it pauses."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cut_times import cut_at
from .encoder import EncoderError, run_ffmpeg
from .errors import InputError
from .story import Story

_BLOCKS = 100  # a second, of which the loudness is one number each
_RATE = 8000  # samples a second by which the loudness of a file is measured
_FILLED = "aresample=async=1:first_pts=0"  # gaps in its times are silence: what follows keeps its place
_QUIET = 10 ** (-30 / 20)  # of what is loud in it
_SHORTEST = 0.3  # seconds of a pause


@dataclass(frozen=True)
class Sound:
    """A sound track, the first of its file.

    path: of the file. seconds: that it lasts. loudness: root mean square, 100 numbers a second. plain: rate and channels, where the
    file is bare float32 samples, those of one moment side by side.
    """

    path: Path
    seconds: float
    loudness: NDArray[np.float32] = field(repr=False, compare=False)
    plain: tuple[int, int] | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str], on_wait: Callable[[], object] | None = None) -> Sound:
        """The sound of any file that ffmpeg reads, heard once to its end. on_wait: called again and again meanwhile; what it raises
        ends it. Raises InputError for a file without sound, EncoderError where ffmpeg does not work."""
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"audio {path} must be a file with sound: {'it is a folder' if path.is_dir() else 'there is none'}"
            )
        with tempfile.TemporaryDirectory(prefix="causalcine-") as folder:
            heard = Path(folder) / "sound"
            trial = ["-map", "0:a:0", "-t", "1", "-c:a", "aac", "-f", "null", "-"]  # as the film will need it
            mono = ["-map", "0:a:0", "-af", _FILLED, "-ac", "1", "-ar", str(_RATE), "-f", "s16le"]
            try:
                run_ffmpeg(heard, [*_opened(path), *trial, *mono], on_wait)
            except EncoderError as error:
                if error.said is None:
                    raise
                why = "it has none" if "matches no streams" in error.said else f"ffmpeg said: {error.said}"
                raise InputError(f"audio {path} must be a file with sound: {why}") from None
            samples = np.fromfile(heard, np.int16)
        if not len(samples):
            raise InputError(f"audio {path} must be a file with sound: it is empty")
        return cls(path, len(samples) / _RATE, _loudness(samples[:, None], _RATE))

    @classmethod
    def keep(cls, samples: Any, rate: int, path: Path) -> Sound:
        """Samples, float32 `[channels, time]`, written to a file of their own, which is the caller's. Raises InputError where they are
        no sound."""
        array = np.asarray(samples, np.float32).T
        if array.ndim != 2 or not array.size or array.shape[1] > 8 or not np.isfinite(array).all():
            shape = list(np.shape(samples))
            raise InputError(f"audio must be finite samples of 1 to 8 channels, [channels, time], got {shape}")
        with path.open("wb") as file:
            for at in range(0, len(array), 1 << 20):
                file.write(np.ascontiguousarray(array[at : at + (1 << 20)]).data)
        return cls(path, len(array) / rate, _loudness(array, rate), (rate, array.shape[1]))

    def track(self, begin: float, seconds: float) -> tuple[list[str], str] | None:
        """What lies under a video of so many seconds that begins at `begin` of the film: the arguments that open it, and the filter
        that cuts it. None: it is over by then."""
        if begin >= self.seconds:
            return None
        cut = f"{_FILLED},atrim=start={begin:.6f}:end={begin + seconds:.6f},asetpts=PTS-STARTPTS"
        return _opened(self.path, self.plain), cut

    def notes(self, begin: float, seconds: float) -> list[str]:
        """What there is to say of a video that begins at `begin` of the film and has so many seconds."""
        left = self.seconds - begin
        if abs(left - seconds) < 1 / _BLOCKS:
            return []
        if left <= 0:
            return [f"the sound ends at {self.seconds:.2f} s, before this part of the film begins: it gets none"]
        if left < seconds:
            return [f"the sound ends at {left:.2f} s and the pictures at {seconds:.2f} s: nothing is heard in the rest"]
        return [f"the sound is cut where the pictures end, at {seconds:.2f} s of its {left:.2f} s"]

    def pauses(self, begin: float = 0) -> list[tuple[float, float]]:
        """Where it is quiet, 30 dB below its loud parts, for 0.3 s or more: begin and end in seconds, in their order; but not at its
        own begin or end, nor before `begin`."""
        quiet = np.concatenate([[False], self.loudness <= _QUIET * np.percentile(self.loudness, 95), [False]])
        edges = np.flatnonzero(quiet[1:] != quiet[:-1]).reshape(-1, 2)
        inside = [(a, b) for a, b in edges.tolist() if a > begin * _BLOCKS and b < len(self.loudness)]
        return [(a / _BLOCKS, b / _BLOCKS) for a, b in inside if b - a >= _SHORTEST * _BLOCKS]

    def cuts(self, shots: int, begin: float = 0) -> list[float]:
        """Times at which shots end so that they change in its pauses: in the middle of the longest ones, and at its end. begin: of the
        first shot. Raises InputError where there are too few pauses."""
        found = self.pauses(begin)
        if len(found) < shots - 1:
            raise InputError(
                f"the sound has {len(found)} pauses of 0.3 s or more, and {shots} shots need {shots - 1}: write fewer shots, or give "
                "their lengths"
            )
        longest = sorted(found, key=lambda pause: pause[0] - pause[1])[: shots - 1]
        return [*(round((a + b) / 2, 3) for a, b in sorted(longest)), round(self.seconds, 3)]


def cut_to(story: Story, sound: Sound, begin: float = 0) -> Story:
    """The story with its shots changing in the longest pauses of a sound, and ending with it. begin: of the first shot in it.
    Raises InputError where a shot names a length, or there are too few pauses."""
    cut = cut_at(story, sound.cuts(len(story.shots), begin), begin)
    pauses, needed = len(sound.pauses(begin)), len(story.shots) - 1
    note = [f"the sound has {pauses} pauses: shots change in the {needed} longest"] if pauses > needed else []
    return replace(cut, notes=(*story.notes, *note))


def _opened(path: Path, plain: tuple[int, int] | None = None) -> list[str]:
    """Arguments that open a file as a file, whatever its name looks like, and nothing that it points to elsewhere."""
    form = ["-f", "f32le", "-ar", str(plain[0]), "-ac", str(plain[1])] if plain else []
    return ["-protocol_whitelist", "file", *form, "-i", f"file:{path.absolute()}"]


def _loudness(samples: NDArray[Any], rate: int) -> NDArray[np.float32]:
    """Root mean square of each hundredth of a second of samples `[time, channels]`."""
    count = -(-len(samples) * _BLOCKS // rate)
    edges = np.minimum(np.arange(count + 1) * rate // _BLOCKS, len(samples))
    found = np.zeros(count, np.float32)
    for first in range(0, count, 6000):  # a minute at a time
        at = edges[first : first + 6001]
        power = np.square(samples[at[0] : at[-1]], dtype=np.float64).mean(1)
        found[first : first + 6000] = np.add.reduceat(power, at[:-1] - at[0]) / np.maximum(np.diff(at), 1)
    return np.sqrt(found)
