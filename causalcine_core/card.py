"""What an all-in-one file says of itself, as values: the one place that reads its header's configs and recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import about
from .model import WanConfig
from .sampling import Recipe
from .text import TextConfig
from .weights.checkpoint import read_fields


@dataclass(frozen=True)
class Card:
    """model, text: shapes of network and text encoder. recipe: how it wants to be run. fields: all, as they stand in the file."""

    model: WanConfig
    text: TextConfig
    recipe: Recipe
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, fields: Mapping[str, Any], source: str) -> Card:
        """From the header of a `Checkpoint`. Raises InputError that begins with `source`, such as "checkpoint a.safetensors"."""
        with about(source):
            model, text = WanConfig.from_dict(fields["model"]), TextConfig.from_dict(fields["text"])
            return cls(model, text, Recipe.from_dict(fields["recipe"]), fields)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Card:
        """Of a file, whose weights are not read. Raises InputError where it is no all-in-one file, or broken."""
        return cls.of(read_fields(path), f"checkpoint {path}")
