"""The one error of bad input, a sentence that names the field and what is allowed, and those of a film that cannot go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one plain sentence, ready to be shown."""


class FilmStoppedError(RuntimeError):
    """A film cannot go on. `state` is that of the film so far: what was made is not lost."""

    state: Any = None


@contextlib.contextmanager
def about(source: str) -> Iterator[None]:
    """Say of which file or thing an InputError speaks: inside, its sentence gets `source` and a colon in front."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


class WorkerLostError(FilmStoppedError):
    """Another worker of a team went away, or the launcher stops this one."""


class NotFiniteError(FilmStoppedError):
    """A chunk holds not-a-number or infinity."""
