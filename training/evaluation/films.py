"""Films of a model from their stories alone, and what the readers find in a film, shot by shot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causalcine_core import Pipeline, Story
from causalcine_core.memory import MemorySettings
from causalcine_core.sampling import State
from training.world import Film

from .probe import Probe, judge, read_shot

Frames = NDArray[np.uint8]
Result = dict[str, Any]


def generate(
    pipe: Pipeline, film: Film, seed: int, memory: MemorySettings | None = None
) -> tuple[Frames, State, State | None]:
    """A film from its story's text: frames, the last state, and the state at which routing begins to matter (None: never)."""
    frames, fork, state = [], None, None
    for chunk in pipe.stream(Story.from_dict(film.story()), seed=seed, memory=memory):
        frames.append(chunk.frames)
        state = chunk.state
        if chunk.index == state.settings.window and state.planned:
            fork = state  # the next chunk is the first with a past beyond its window
    assert state is not None
    return np.concatenate(frames), state, fork


def without_memory(pipe: Pipeline, fork: State, frames: Frames, end: int) -> Frames:
    """The same film from `fork` on, up to pixel frame `end`, with `top_k` 0: same text, same noise."""
    out = [frames[: fork.frames]]
    for chunk in pipe.stream(None, state=fork, memory=MemorySettings(top_k=0)):
        out.append(chunk.frames)
        if chunk.state.frames >= end:
            break
    return np.concatenate(out)


def read_film(probe: Probe, film: Film, ranges: Sequence[tuple[int, int]], frames: Frames, window: int) -> list[Result]:
    """Shot by shot what was read as asked. ranges: where each shot lies in `frames`; shots that are not there are left out.

    window: pixel frames of the local window. A character `recalled` is called by its name alone and was last seen before
    that window.
    """
    out: list[Result] = []
    for shot, (first, end) in zip(film.shots, ranges, strict=True):
        if end > len(frames):
            break
        reading = read_shot(probe, frames[first:end], len(shot.cast))
        seen = judge(reading, shot)
        for one, actor in zip(seen["cast"], shot.cast, strict=True):
            one |= {"name": actor.character.name, "by_name": actor.name_only, "gap": actor.gap}
            one["recalled"] = actor.name_only and actor.gap >= window
        looks = [f"{look.colour} {look.kind}" for look in reading.looks]
        out.append(seen | {"frames": [first, end], "read": f"{' and '.join(looks)}, {reading.setting}, {reading.time}"})
    return out


def is_recalled(film: Film, window: int) -> list[int]:
    """The shots in which somebody is called by name only after a gap beyond the window."""
    return [s.index for s in film.shots if any(a.name_only and a.gap >= window for a in s.cast)]
