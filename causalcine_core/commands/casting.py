"""The cast that a command line names: pictures as they are to be in the film, and cast files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from ..errors import InputError
from ..pictures import read_picture
from ..pipeline import Pipeline
from ..references import Reference, load_cast
from ..sampling import State

FORM = "NAME=PICTURE[:CAPTION] or a cast file"


def named_cast(given: Sequence[str], pipe: Pipeline, begun: State) -> tuple[Reference, ...]:
    """What `--cast` says, each time it was given, behind the cast that a film has. begun: that film. Raises InputError."""
    height, width = (side * pipe.model.spatial for side in begun.size)
    new = [one for value in given for one in _read(value, pipe, width, height)]
    return (*begun.references, *(one for one in new if not any(one.same(other) for other in begun.references)))


def _read(value: str, pipe: Pipeline, width: int, height: int) -> Iterator[Reference]:
    if value.lower().endswith(".safetensors") and ("=" not in value or os.path.isfile(value)):
        yield from load_cast(value)
        return
    name, path, caption = parse(value)
    yield pipe.reference(name, read_picture(path, width, height), caption)


def parse(value: str) -> tuple[str, str, str | None]:
    """Name, path of the picture, and caption if there is one. The path is the longest there is up to a colon or the end, so that it
    may hold colons itself, as Windows' do. Raises InputError."""
    name, equals, rest = value.partition("=")
    if not equals or not name.strip() or not rest:
        raise InputError(
            f"--cast must be {FORM}, such as anna=anna.png or anna=anna.png:a woman in a red coat, got {value!r}"
        )
    ends = [len(rest), *(i for i in range(len(rest) - 1, 0, -1) if rest[i] == ":")]
    for end in ends:
        if os.path.isfile(rest[:end]):
            return name.strip(), rest[:end], rest[end + 1 :].strip() or None
    drive = 2 if re.match(r"[A-Za-z]:[\\/]", rest) else 0
    path = rest[:drive] + rest[drive:].partition(":")[0]
    raise InputError(f"--cast: there is no picture {path} of {name.strip()}")
