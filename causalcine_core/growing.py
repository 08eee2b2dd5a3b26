"""An mp4 that players can follow while it grows: fragments, each a whole piece of film, appended one by one.

What is written stands: at any moment, also after the program was killed, the file plays up to its last fragment. It has no sound,
which is laid under the pictures when it is known where they end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from .encoder import Encoder
from .mp4 import fragment, time_scale


class GrowingFile:
    """One such file. It appears with its first fragment, instead of one that is there.

    Args:
        path: of the file.
        rate: frames per second.
        size: width and height in pixels, both even.
        metadata: of `mp4.metadata_file`, there until the first fragment is written.
        start: starts ffmpeg on a file with some arguments.
    """

    def __init__(
        self,
        path: Path,
        rate: Fraction,
        size: tuple[int, int],
        metadata: Path,
        start: Callable[[Path, Sequence[str]], Encoder],
    ):
        self.path, self._rate, self._start = path, rate, start
        self._arguments = fragment(rate, size, metadata)
        self._fragments = self._frames = 0

    def add(self, data: memoryview, frames: int, part: Path) -> None:
        """Append frames, bytes of rgb24, as one fragment. part: of a file to make meanwhile. Raises EncoderError, or OSError where the
        file cannot be written."""
        encoder = self._start(part, self._arguments)
        try:
            encoder.write(data)
            encoder.finish()
            made = bytearray(part.read_bytes())
        finally:
            encoder.stop()
            part.unlink(missing_ok=True)
        begin = round(self._frames * time_scale(self._rate) / self._rate)
        head = _placed(made, self._fragments + 1, begin)
        try:
            if not self._fragments:
                self.path.unlink(missing_ok=True)  # who plays an older one goes on with it
            with self.path.open("ab") as file:
                file.write(made if not self._fragments else made[head:])
        except OSError as error:
            raise OSError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._fragments, self._frames = self._fragments + 1, self._frames + frames

    def discard(self) -> None:
        """The whole film has a file of its own now."""
        with contextlib.suppress(OSError):
            os.unlink(self.path)


def _placed(made: bytearray, number: int, begin: int) -> int:
    """Give the fragments of a file of ffmpeg's their number and place in time; where the first of them begins."""
    first = len(made)
    for kind, start, inside, end in _boxes(made, 0, len(made)):
        if kind != b"moof":
            continue
        first = min(first, start)
        for name, _, at, stop in _boxes(made, inside, end):
            if name == b"mfhd":
                made[at + 4 : at + 8] = number.to_bytes(4, "big")
            for deeper, _, where, last in _boxes(made, at, stop) if name == b"traf" else ():
                if deeper == b"tfdt":  # behind version and flags
                    place = int.from_bytes(made[where + 4 : last], "big") + begin
                    made[where + 4 : last] = place.to_bytes(last - where - 4, "big")
    return first


def _boxes(data: bytearray, begin: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind, begin, begin of the inside and end of each box (ISO/IEC 14496-12, 4.2); ffmpeg's, which are whole."""
    while begin < end:
        size = int.from_bytes(data[begin : begin + 4], "big")
        long = size == 1
        size = int.from_bytes(data[begin + 8 : begin + 16], "big") if long else size
        yield bytes(data[begin + 4 : begin + 8]), begin, begin + (16 if long else 8), begin + size
        begin += size
