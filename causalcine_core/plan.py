"""Shots onto chunks: the only place where seconds and pixel frames turn into chunks and latent frames.

"Frame" means a pixel frame here and every range is `[first, end)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from .cut import Cut
from .errors import InputError
from .story import MAX_FRAMES, MAX_SECONDS, MIN_SECONDS, Story, check_fps, number, whole

BLEND = 3  # chunks over which a soft cut's text goes over, where it names none


@dataclass(frozen=True)
class PlannedShot:
    """A shot on the film's timeline: `prompt` is what the encoder gets, `caption` the shot's own text.

    `asked` and `frames` are pixel ranges `[first, end)` of the whole film: as the story says and as it will
    be.
    """

    index: int
    prompt: str
    asked: tuple[int, int]
    frames: tuple[int, int]
    caption: str = ""
    seed: int | None = None
    cut: str = "native"


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk on the film's timeline: ranges `[first, end)` in latent and in pixel frames of the whole film.

    take: the chunk at which what it goes on from begins, its shot or, through soft cuts, an earlier one; cut: how that
    began. text: shots whose texts it reads, with weights that add up to 1 (empty: its own). rewrite: the window is
    written once more under this text first.
    """

    index: int
    shot: int
    latents: tuple[int, int]
    frames: tuple[int, int]
    take: int = 0
    cut: str = "native"
    text: tuple[tuple[int, float], ...] = ()
    rewrite: bool = False

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents[1] - self.latents[0]

    @property
    def mixture(self) -> tuple[tuple[int, float], ...]:
        """Shots whose texts it reads, with their weights."""
        return self.text or ((self.shot, 1.0),)


@dataclass(frozen=True)
class Plan:
    """Where every shot of a story lands."""

    shots: tuple[PlannedShot, ...]
    chunks: tuple[PlannedChunk, ...]
    fps: float

    @property
    def frames(self) -> int:
        """Pixel frames of the whole film once this plan is done, what came before `start_chunk` included."""
        return self.shots[-1].frames[1]


@dataclass(frozen=True)
class Timeline:
    """Where chunks end: `first_chunk` latent frames, then `chunk` at a time.

    Latent frame 0 is one pixel frame, every later one is `stride`.
    """

    chunk: int = 3
    first_chunk: int = 3
    stride: int = 4

    def __post_init__(self) -> None:
        for name in ("chunk", "first_chunk", "stride"):
            whole(getattr(self, name), name, 1, 10_000)

    def latents(self, chunks: int) -> int:
        """Latent frames in the first `chunks` chunks."""
        return self.first_chunk + (chunks - 1) * self.chunk if chunks else 0

    def frames(self, chunks: int) -> int:
        """Pixel frames in the first `chunks` chunks."""
        return 1 + (self.latents(chunks) - 1) * self.stride if chunks else 0

    def nearest(self, frame: int) -> int:
        """How many chunks end nearest to a pixel frame, at least one; of two equally near ends the
        earlier."""
        step = self.chunk * self.stride
        return 1 + max(0, -(-(2 * (frame - self.frames(1)) - step) // (2 * step)))


def plan(
    story: Story,
    *,
    chunk: int = 3,
    first_chunk: int = 3,
    fps: float = 16,
    temporal_stride: int = 4,
    start_chunk: int = 0,
    start_shot: int = 0,
    seconds: float = 3.0,
    cut: str = "native",
    phrase: str = "",
    before: PlannedChunk | None = None,
) -> Plan:
    """Lays a story onto chunks, O(shots + chunks).

    `chunk` and `first_chunk` are latent frames, `fps` holds where the story names none, `seconds` is the
    length of shots that name none. A cut is the sum of all asked lengths so far, so that roundings do not add
    up; it goes to the nearest chunk end (a tie to the earlier) that leaves every shot at least one chunk.
    With `start_chunk` and `start_shot` > 0 the story is appended to a film that has so many chunks and shots, `before` being
    its last chunk; indices and ranges are the film's. `cut` holds for shots that name none, `phrase` is what a cut with
    `phrase` puts before the prompt. A film of more than 1,000,000 frames is an `InputError`.
    """
    line = Timeline(chunk, first_chunk, temporal_stride)
    whole(start_chunk, "start_chunk", 0, MAX_FRAMES)
    whole(start_shot, "start_shot", 0, MAX_FRAMES)
    number(seconds, "seconds", MIN_SECONDS, MAX_SECONDS)
    rate = story.fps if story.fps is not None else check_fps(fps)
    begin, at, position = line.frames(start_chunk), start_chunk, Fraction(line.frames(start_chunk))
    shots: list[PlannedShot] = []
    chunks: list[PlannedChunk] = []
    for i, shot in enumerate(story.shots):
        # exact decimals: 23.976 is 2997/125 here, so that sums of any length stay exact
        position += shot.frames or Fraction(repr(shot.seconds or seconds)) * Fraction(repr(rate))
        end = max(begin + 1, math.floor(position + Fraction(1, 2)))
        if end > MAX_FRAMES:
            raise InputError(
                f"shots[{i}] ends at frame {end:,}; a film may have at most {MAX_FRAMES:,} frames "
                f"({MAX_FRAMES / rate / 3600:.1f} hours at {rate:g} fps)"
            )
        last = max(at + 1, line.nearest(end))
        named = shot.cut or story.cut or cut
        how = Cut.parse(named)
        previous = chunks[-1] if chunks else before
        for n in range(at, last):
            one = PlannedChunk(
                n, start_shot + i, (line.latents(n), line.latents(n + 1)), (line.frames(n), line.frames(n + 1))
            )
            if how.soft and previous is not None:
                texts = _blended(previous, start_shot + i, n - at, shot.blend, how)
                rewrite = how.rewrite and n == at
                chunks.append(replace(one, take=previous.take, cut=previous.cut, text=texts, rewrite=rewrite))
            else:
                chunks.append(replace(one, take=at, cut="native" if how.soft else named))
        prompt = f"{phrase} {story.prompt(i)}".strip() if how.phrase and previous is not None else story.prompt(i)
        frames = (line.frames(at), line.frames(last))
        shots.append(PlannedShot(start_shot + i, prompt, (begin, end), frames, shot.prompt, shot.seed, named))
        begin, at = end, last
    return Plan(tuple(shots), tuple(chunks), rate)


def _blended(
    previous: PlannedChunk, shot: int, chunk: int, blend: int | None, how: Cut
) -> tuple[tuple[int, float], ...]:
    """Texts of chunk number `chunk` of a soft shot: what was in force before it, giving way to its own."""
    over = blend if blend is not None else (0 if how.rewrite else BLEND)
    if chunk >= over:
        return ()
    new = (chunk + 1) / (over + 1)
    old = previous.mixture
    return (*((number, weight * (1 - new)) for number, weight in old), (shot, new))


def cut_notes(shots: Sequence[PlannedShot], chunk_frames: int) -> list[str]:
    """Sentences about ends that are not simply the nearest chunk end, with shots counted from 1 as pictures do.

    `chunk_frames` is the length of a chunk.
    """
    late = [shot.index for shot in shots if 2 * (shot.frames[1] - shot.asked[1]) > chunk_frames]
    ties = [shot.index for shot in shots if 2 * (shot.asked[1] - shot.frames[1]) == chunk_frames]
    notes = [_named(ties, "ends half way between two chunk ends; the earlier is taken")] if ties else []
    if late:
        notes.append(_named(late, "ends later than asked, since every shot has at least one chunk"))
    return notes


def _named(indices: list[int], what: str) -> str:
    names = ", ".join(str(i + 1) for i in indices[:5]) + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")
    return f"shot {names} {what}" if len(indices) == 1 else f"shots {names}: each {what}"
