"""Shots onto chunks: the only place where seconds and pixel frames turn into chunks and latent frames.

"Frame" means a pixel frame here and every range is `[first, end)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

from . import checks
from .cut import Cut
from .errors import InputError
from .lora import LoRA
from .story import MAX_FRAMES, MAX_SECONDS, MIN_SECONDS, Story, check_fps, exact, join_prompt, shots_named

BLEND = 3  # chunks over which a soft cut's text goes over, where it names none


@dataclass(frozen=True)
class PlannedShot:
    """A shot on the film's timeline.

    index: in the whole film, from 0. caption: the shot's own text; shared: the global text before it; phrase: what the
    recipe puts before both to announce a cut. asked, frames: pixel ranges `[first, end)` of the whole film, as the story
    says and as it will be. until: pixel frames that were asked for up to this shot's end, exact; `asked[1]` is this, rounded.
    seed: of its chunks' noise; None: the film's. lora: what the network is changed by for it.
    """

    index: int
    caption: str
    asked: tuple[int, int]
    frames: tuple[int, int]
    until: Fraction
    shared: str = ""
    phrase: str = ""
    seed: int | None = None
    cut: str = "native"
    lora: tuple[LoRA, ...] = ()

    @property
    def prompt(self) -> str:
        """The whole text: phrase, global text, the shot's own."""
        return join_prompt(self.phrase, join_prompt(self.shared, self.caption))

    def to_dict(self) -> dict[str, Any]:
        """The shot in values that JSON has; `until` is a pair of whole numbers, numerator and denominator."""
        return asdict(self) | {"until": list(self.until.as_integer_ratio())}


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

    @property
    def asked(self) -> Fraction:
        """Pixel frames of the whole film that were asked for, exact: where a story that is appended begins."""
        return self.shots[-1].until


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
            checks.whole(getattr(self, name), name, 1, 10_000)

    def latents(self, chunks: int) -> int:
        """Latent frames in the first `chunks` chunks."""
        return self.first_chunk + (chunks - 1) * self.chunk if chunks else 0

    def frames(self, chunks: int) -> int:
        """Pixel frames in the first `chunks` chunks."""
        return 1 + (self.latents(chunks) - 1) * self.stride if chunks else 0

    def filled(self, latents: int) -> int:
        """How many whole chunks there are in so many latent frames."""
        return 0 if latents < self.first_chunk else 1 + (latents - self.first_chunk) // self.chunk

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
    asked: Fraction | None = None,
    seconds: float = 3.0,
    cut: str = "native",
    phrase: str = "",
    before: PlannedChunk | None = None,
) -> Plan:
    """Lays a story onto chunks, O(shots + chunks).

    `chunk` and `first_chunk` are latent frames, `fps` holds where the story names none, `seconds` is the
    length of shots that name none. A cut is the sum of all lengths asked for so far (each at least one frame), so that
    roundings do not add up; it goes to the nearest chunk end (a tie to the earlier) that leaves every shot at least one chunk.

    With `start_chunk` and `start_shot` > 0 the story is appended to a film that has so many chunks and shots, `before` being
    its last chunk; indices and ranges are the film's. `asked` is what was asked for up to there, exact pixel frames at the
    film's rate: `Plan.asked` of the plan before, or where that was not carried out to its end `cut_short`'s; None: as many
    as were made. Plans that hand it on lay shots down as one plan of all of them does.

    `cut` holds for shots that name none, `phrase` is what a cut with
    `phrase` puts before the prompt. A film of more than 1,000,000 frames is an `InputError`.
    """
    line = Timeline(chunk, first_chunk, temporal_stride)
    checks.whole(start_chunk, "start_chunk", 0, MAX_FRAMES)
    checks.whole(start_shot, "start_shot", 0, MAX_FRAMES)
    checks.number(seconds, "seconds", MIN_SECONDS, MAX_SECONDS)
    rate = story.fps if story.fps is not None else check_fps(fps)
    until, at = Fraction(line.frames(start_chunk)) if asked is None else asked, start_chunk
    shots: list[PlannedShot] = []
    chunks: list[PlannedChunk] = []
    for i, shot in enumerate(story.shots):
        begin = _rounded(until)
        until += max(shot.frames or exact(shot.seconds or seconds) * exact(rate), 1)
        end = _rounded(until)
        last = max(at + 1, line.nearest(end))
        if end > MAX_FRAMES or line.frames(at + 1) > MAX_FRAMES:
            raise InputError(
                f"{shots_named([start_shot + i])} ends at frame {max(end, line.frames(at + 1)):,}; a film may have at most "
                f"{MAX_FRAMES:,} frames ({MAX_FRAMES / rate / 3600:.1f} hours at {rate:g} fps)"
            )
        named = shot.cut or story.cut or cut
        how = Cut.parse(named)
        previous = chunks[-1] if chunks else before
        for n in range(at, last):
            latents, frames = (line.latents(n), line.latents(n + 1)), (line.frames(n), line.frames(n + 1))
            if how.soft and previous is not None:
                text = _blended(previous, start_shot + i, n - at, shot.blend, how)
                rewrite = how.rewrite and n == at
                chunks.append(
                    PlannedChunk(n, start_shot + i, latents, frames, previous.take, previous.cut, text, rewrite)
                )
            else:
                chunks.append(PlannedChunk(n, start_shot + i, latents, frames, at, "native" if how.soft else named))
        shots.append(
            PlannedShot(
                start_shot + i,
                shot.prompt,
                (begin, end),
                (line.frames(at), line.frames(last)),
                until,
                story.global_prompt,
                phrase if how.phrase and previous is not None else "",
                shot.seed,
                named,
                shot.lora,
            )
        )
        at = last
    return Plan(tuple(shots), tuple(chunks), rate)


def cut_short(shots: Sequence[PlannedShot], made: int) -> tuple[PlannedShot, ...]:
    """The shots of a film of which `made` pixel frames, up to the end of a chunk, were made or kept.

    What was not begun is left out. A shot that is broken off counts as asked for up to where it was made, so that what is
    appended begins there and not where the shot should have ended.
    """
    kept = [shot for shot in shots if shot.frames[0] < made]
    if kept and kept[-1].frames[1] > made:
        last = kept[-1]
        kept[-1] = replace(last, asked=(last.asked[0], made), frames=(last.frames[0], made), until=Fraction(made))
    return tuple(kept)


def _rounded(frames: Fraction) -> int:
    """The nearest whole frame, of two equally near ones the later."""
    return math.floor(frames + Fraction(1, 2))


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
    """Sentences about ends that are not simply the nearest chunk end.

    `chunk_frames` is the length of a chunk.
    """
    late = [shot.index for shot in shots if 2 * (shot.frames[1] - shot.asked[1]) > chunk_frames]
    ties = [shot.index for shot in shots if 2 * (shot.asked[1] - shot.frames[1]) == chunk_frames]
    notes = [_said(ties, "ends half way between two chunk ends; the earlier is taken")] if ties else []
    if late:
        notes.append(_said(late, "ends later than asked, since every shot has at least one chunk"))
    return notes


def _said(indices: Sequence[int], what: str) -> str:
    return f"{shots_named(indices)}{': each' if len(indices) > 1 else ''} {what}"
