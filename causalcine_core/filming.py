"""A film into a file: a stream of chunks, written as they are made."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .errors import FilmStoppedError, InputError
from .film import first
from .sampling import Chunk, State
from .story import Story
from .story_formats.film import STORY_FIELD
from .video import VideoWriter


@dataclass(frozen=True)
class Video:
    """A finished film on disk."""

    path: Path
    state: State
    report: dict[str, Any]


@dataclass(frozen=True)
class Filming:
    """A film that was checked and is made when this is called, once.

    stream: its chunks, with frames. how: arguments of the `VideoWriter` beside path and size. report: makes that of a state.
    on_chunk: called with every chunk as soon as it is made, before it is written: whatever fails later, its state is good.
    """

    stream: Iterator[Chunk]
    output: Path
    how: Mapping[str, Any]
    report: Callable[[State], dict[str, Any]]
    on_chunk: Callable[[Chunk], None] | None = None

    def __call__(self) -> Video:
        """Make it. Where the film stops early, the file holds what was made, and the FilmStoppedError has its state."""
        state: State | None = None
        writer: VideoWriter | None = None
        try:
            for chunk in self.stream:
                state = chunk.state
                if self.on_chunk is not None:
                    self.on_chunk(chunk)
                if writer is None:
                    size = (chunk.frames.shape[2], chunk.frames.shape[1])
                    writer = VideoWriter(self.output, size=size, **self.how)
                    writer.__enter__()
                writer.write(chunk.frames)
        except FilmStoppedError as stopped:
            if writer is not None:
                writer.__exit__(None, None, None)
                stopped.state = state
            raise
        except BaseException as error:
            if writer is not None:
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        if writer is None or state is None:
            raise InputError("nothing is left to make: the film is finished; give a story that goes on from there")
        writer.__exit__(None, None, None)
        return Video(self.output, state, self.report(state))


def carried(story: Story | None, begun: State, asked: Mapping[str, Any]) -> dict[str, str]:
    """What a video says of itself: its story, with the film's seed and the size that was asked for. None: there will be no video."""
    if story is None:
        return {}
    sides = {name: first(asked.get(name), getattr(story, name)) for name in ("width", "height")}
    return {STORY_FIELD: json.dumps(replace(story, seed=begun.seed, **sides).to_dict(), ensure_ascii=False)}
