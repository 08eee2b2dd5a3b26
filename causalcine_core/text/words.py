"""Words of the built-in model: how a prompt is split, and what of it the model cannot read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import checks
from ..errors import InputError
from ..plan import PlannedShot
from ..story import listed, shots_named
from .fit import Reading, fit_notes

MAX_WORDS = 1_000_000
_TOKEN = re.compile(r"\[character\d+\]|[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")


def tokenize(text: str) -> list[str]:
    """Split into lower-case words, numbers, punctuation marks and names such as `[character1]`."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text encoder. vocabulary: known tokens. length: tokens that a prompt may have. Raises InputError that names
    the field."""

    vocabulary: tuple[str, ...]
    dim: int = 256
    heads: int = 4
    layers: int = 2
    length: int = 64

    def __post_init__(self) -> None:
        words = self.vocabulary
        if not isinstance(words, list | tuple) or not 1 <= len(words) <= MAX_WORDS:
            raise InputError(f"text.vocabulary must be a list of 1 to {MAX_WORDS} words, got {checks.show(words)}")
        known = tuple(checks.text(word, f"text.vocabulary[{i}]") for i, word in enumerate(words))
        object.__setattr__(self, "vocabulary", known)
        for name, most in (("dim", 8192), ("heads", 256), ("layers", 64), ("length", 65_536)):
            checks.whole(getattr(self, name), f"text.{name}", 1, most)
        if self.dim % self.heads:
            raise InputError(f"text.dim must be a multiple of heads ({self.heads}), got {self.dim}")

    def to_dict(self) -> dict[str, Any]:
        """The fields, as a header holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> TextConfig:
        """A config out of a header. Raises InputError that names the field, such as text.dim."""
        return cls(**checks.fields(data, "text", [field.name for field in fields(cls)], needed=["vocabulary"]))


def unknown_words(config: TextConfig, prompt: str) -> list[str]:
    """Words of a prompt that the vocabulary lacks, each once, in order. Punctuation is not a word."""
    known = set(config.vocabulary)
    words = (word for word in tokenize(prompt) if word not in known and re.match(r"\w|\[.", word))
    return list(dict.fromkeys(words))


def vocabulary_notes(config: TextConfig, shots: Sequence[PlannedShot]) -> list[str]:
    """Sentences about words that the vocabulary lacks: of the text before the shots once, of their own with the shots that have
    them."""
    before = dict.fromkeys(text for shot in shots for text in (shot.phrase, shot.shared))
    lacking = {"the global text": unknown_words(config, "\n".join(before))}
    own: dict[tuple[str, ...], list[int]] = {}
    for shot in shots:
        own.setdefault(tuple(unknown_words(config, shot.caption)), []).append(shot.index)
    lacking |= {shots_named(indices): list(words) for words, indices in own.items()}
    return [
        f"{who}: the model does not know {listed(list(map(repr, words)))} and draws from the words it knows"
        for who, words in lacking.items()
        if words
    ]


def reading(config: TextConfig) -> Reading:
    """How much of a prompt the encoder reads."""
    return Reading(lambda text: len(tokenize(text)), config.length, "words and marks")


def prompt_notes(config: TextConfig, shots: Sequence[PlannedShot]) -> list[str]:
    """What of a story will not be read as written, in sentences that name the shots: unknown words, global text left out. Raises
    InputError where a shot does not fit at all."""
    return [*vocabulary_notes(config, shots), *fit_notes(shots, reading(config))]
