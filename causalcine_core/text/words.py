"""Words of the built-in model: how a prompt is split, and what of it the model cannot read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_TOKEN = re.compile(r"\[character\d+\]|[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")


def tokenize(text: str) -> list[str]:
    """Split into lower-case words, numbers, punctuation marks and names such as `[character1]`."""
    return _TOKEN.findall(text.lower())


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text encoder. vocabulary: known tokens. length: tokens that a prompt may have."""

    vocabulary: tuple[str, ...]
    dim: int = 256
    heads: int = 4
    layers: int = 2
    length: int = 64

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TextConfig:
        return cls(**{**data, "vocabulary": tuple(data["vocabulary"])})


def unknown_words(config: TextConfig, prompt: str) -> list[str]:
    """Words of a prompt that the vocabulary lacks, each once, in order. Punctuation is not a word."""
    known = set(config.vocabulary)
    words = (word for word in tokenize(prompt) if word not in known and re.match(r"[\w\[]", word))
    return list(dict.fromkeys(words))


def prompt_problems(config: TextConfig, prompt: str) -> list[str]:
    """What of a prompt will not be read as written, as clauses: unknown words, words cut off."""
    out = []
    unknown = unknown_words(config, prompt)
    if unknown:
        out.append(f"the model does not know {', '.join(map(repr, unknown))} and draws from the words it knows")
    over = len(tokenize(prompt)) - config.length
    if over > 0:
        out.append(f"the last {over} words do not fit into {config.length} and are not read")
    return out


def prompt_warnings(config: TextConfig, prompts: Sequence[str]) -> list[str]:
    """The problems of all prompts of a story, each with its shot."""
    return [f"shots[{i}]: {problem}" for i, prompt in enumerate(prompts) for problem in prompt_problems(config, prompt)]
