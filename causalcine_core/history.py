"""Footage: a clip or a picture that a film begins with, going on from its last frame, or that its chunks begin from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from .checks import show
from .errors import InputError
from .film import Model, planned
from .plan import Timeline
from .sampling import Recipe, State
from .sampling.restyle import Restyle
from .sampling.state import ChunkRecord
from .story import Shot, Story, check_size, shots_named

LONGEST = 60  # characters of a text in a note


@dataclass(frozen=True)
class Clip:
    """Footage in latents: what a film begins with, written into memory as if it had been made, or what its chunks begin from.

    latents: `[1, C, F, h, w]` in VAE space, encoded as one film, so that its first frame is one pixel frame. story: what is seen,
    shot by shot; lengths that name frames or seconds are of this footage at the film's rate, and its last shot goes on to the end.
    None: one shot, under words of the story that follows. name: of the field that it is given in. notes: sentences about how it was
    cut onto chunks.

    Raises InputError where the latents are no film, or hold what is no number.
    """

    latents: Tensor
    story: Story | None = None
    name: str = "history"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        check_latents(self.latents, self.name)

    @property
    def size(self) -> tuple[int, int]:
        """Latent height and width."""
        return self.latents.shape[3], self.latents.shape[4]

    def fitted(self, recipe: Recipe, temporal: int, following: Story | None = None) -> Clip:
        """The same footage in whole chunks, its cuts where chunks end.

        What fills no chunk is left out at its begin, so that the film goes on from its last frame. following: the story that comes
        after it, whose global text, or first shot, lends words to footage that has none. Raises InputError where it is shorter
        than the first chunk, or nothing says what is seen.
        """
        line = Timeline(recipe.timeline.chunk, recipe.timeline.first_chunk, temporal)
        frames = self.latents.shape[2]
        chunks = line.filled(frames)
        if not chunks:
            raise InputError(
                f"history has {_frames(frames, line)}, but the model's first chunk has {_frames(line.first_chunk, line)}: give a "
                "longer clip, or a single picture to be held that long"
            )
        over, notes = frames - line.latents(chunks), list[str]()
        if over:
            notes.append(
                f"history: its first {over} of {frames} latent frames fill no chunk and are left out, so that the film goes on from "
                f"its last; a clip of {line.frames(chunks)} or {line.frames(chunks + 1)} frames would be kept whole"
            )
        story = self.story
        if story is None:
            words, said = borrowed(following)
            story = Story([Shot(words)])
            notes.append(said)
        ends = [shot.until - over * temporal for shot in planned(replace(story, fps=None), recipe, temporal).shots]
        shots, dropped = _on_chunks(story, ends, line, chunks)
        if dropped:
            notes.append(f"history: {shots_named(dropped)} of it would have no chunk and belong to their neighbours")
        fitted = replace(story, shots=shots, fps=None, width=None, height=None, seed=None, negative=None)
        return replace(self, latents=self.latents[:, :, over:], story=fitted, notes=(*self.notes, *notes))

    def timed(self, story: Story, recipe: Recipe, temporal: int) -> Story:
        """A story with the lengths of this clip's shots, where none of its own names any: its last shot has the rest of the clip."""
        if any(shot.seconds is not None or shot.frames is not None for shot in story.shots):
            return story
        total = 1 + (self.latents.shape[2] - 1) * temporal
        shots = planned(replace(self.story, fps=None), recipe, temporal).shots if self.story is not None else ()
        ends = [min(round(shot.until), total) for shot in shots[: len(story.shots) - 1]]
        bounds = [0, *(end for end in ends if end < total), total]
        lengths = [end - begin for begin, end in pairwise(bounds)]
        if len(lengths) > len(story.shots):
            lengths = [*lengths[: len(story.shots) - 1], total - bounds[len(story.shots) - 1]]
        timed = [replace(shot, frames=n) for shot, n in zip(story.shots, lengths, strict=False)]
        return replace(story, shots=[*timed, *story.shots[len(timed) :]])


def borrowed(following: Story | None) -> tuple[str, str]:
    """Words for footage that has none, from the story that follows on it, and the sentence that says so. Raises InputError where there
    is no story."""
    if following is None:
        raise InputError("history has no words: say what is seen in it, or give a story that follows")
    words, whose = following.global_prompt, "the story's global text"
    if not words:
        words, whose = following.shots[0].prompt, "the first shot's text"
    short = words if len(words) <= LONGEST else words[: LONGEST - 3] + "..."
    return words, f"history is remembered under {whose}: {short}"


def check_latents(latents: object, name: str) -> None:
    """Raise InputError where these are no film in VAE space. name: of the field."""
    if not isinstance(latents, Tensor) or latents.ndim != 5 or len(latents) != 1 or 0 in latents.shape:
        shape = list(latents.shape) if isinstance(latents, Tensor) else show(latents)
        raise InputError(f"{name} must be the latent of one clip, [1, channels, frames, height, width], got {shape}")
    if not latents.is_floating_point() or not torch.isfinite(latents).all():
        raise InputError(f"{name} must hold finite numbers: its latent has some that are none (NaN or infinity)")


def check_fits(latents: Tensor, name: str, model: Model, channels: int, size: tuple[int, int]) -> None:
    """Raise InputError where footage is of another VAE than the model's, or of another size than the film. size: latent height and
    width."""
    if latents.shape[1] != channels:
        raise InputError(
            f"{name} has {latents.shape[1]} latent channels and the model {channels}: encode it with the model's own VAE"
        )
    given = latents.shape[3], latents.shape[4]
    if given != size:
        have, want = (f"{w * model.spatial}x{h * model.spatial}" for h, w in (given, size))
        raise InputError(f"{name} is {have} pixels and the film {want}: scale the clip, or leave width and height out")


def size_of(clip: Clip, model: Model) -> tuple[int, int]:
    """Width and height in pixels of a film that begins with this. Raises InputError where the model cannot make it."""
    height, width = (side * model.spatial for side in clip.size)
    try:
        return check_size(width, height, model.stride)
    except InputError as error:
        raise InputError(f"{clip.name}: {error}") from None


def begun_with(state: State, history: Clip, temporal: int, layers: int) -> State:
    """A film that was begun and not made, with its first chunks given. history: as `fitted` to it. layers: of the network."""
    assert history.story is not None  # of what is fitted
    plan = planned(history.story, state.recipe, temporal)
    nothing = torch.full((layers, state.recipe.branches, 0), -1, dtype=torch.int64)
    seeds = {shot.index: state.seed if shot.seed is None else shot.seed for shot in plan.shots}
    latents = history.latents.detach().float().cpu().split([chunk.length for chunk in plan.chunks], 2)
    return replace(
        state,
        latents=tuple(latent.contiguous() for latent in latents),
        records=tuple(ChunkRecord(chunk, 0.0, nothing, seeds[chunk.shot]) for chunk in plan.chunks),
        shots=plan.shots,
        history=len(plan.chunks),
    )


def restyled(state: State, video: Clip, strength: float) -> State:
    """A film whose next chunks begin from a clip under noise. At strength 1 there is nothing left of it."""
    if strength == 1:
        return replace(state, restyle=None)
    first = state.records[-1].plan.latents[1] if state.records else 0
    return replace(state, restyle=Restyle(video.latents.detach().float().cpu(), strength, first))


def _on_chunks(story: Story, ends: Sequence[Fraction], line: Timeline, chunks: int) -> tuple[list[Shot], list[int]]:
    """Shots of footage that has so many chunks, each with at least one, and the numbers of those that have none of their own. ends: of
    each shot, in pixel frames."""
    total, at, begin = line.frames(chunks), 0, 0
    kept: list[tuple[Shot, int]] = []
    dropped = []
    for number, (shot, until) in enumerate(zip(story.shots, ends, strict=True)):
        end = total if number == len(ends) - 1 else min(round(until), total)
        last = min(line.nearest(end), chunks) if 2 * end > line.frames(1) else 0
        if last > at:
            kept.append((shot, end))
            at = last
        else:
            dropped.append(number)
    kept[-1] = kept[-1][0], total
    shots = []
    for shot, end in kept:
        shots.append(Shot(shot.prompt, frames=end - begin, cut=shot.cut, blend=shot.blend))
        begin = end
    return shots, dropped


def _frames(latents: int, line: Timeline) -> str:
    return f"{latents} latent frame{'s' * (latents != 1)} ({1 + (latents - 1) * line.stride} pixel frame{'s' * (latents != 1)})"
