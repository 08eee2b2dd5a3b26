"""Prompts that fit their encoder: a shot's own words are never lost.

An encoder reads so many tokens and no more. What it cannot read is taken from the end of the global text, which all shots
share; a shot whose own text is too long is refused, because a film of half its words is not what was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..errors import InputError
from ..numbering import called
from ..plan import PlannedShot
from ..story import join_prompt, shots_named

# letters of scripts that put no space between words stand for words here: Chinese, Japanese, Thai, Lao, Khmer, Burmese
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ua4cf\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_SPACELESS}]|[^\s{_SPACELESS}]+")


@dataclass(frozen=True)
class Reading:
    """How much an encoder reads: `count` tells the tokens of a text, at most `limit` of them are read. unit: what they are
    called in sentences."""

    count: Callable[[str], int]
    limit: int
    unit: str = "tokens"


@dataclass(frozen=True)
class Fitted:
    """A prompt that an encoder reads whole. words: of the global text; kept: how many of these are in `text`, up to `last`."""

    text: str
    words: int = 0
    kept: int = 0
    last: str = ""

    @property
    def dropped(self) -> int:
        """Words of the global text that were left out, from its end."""
        return self.words - self.kept


def fit_prompt(shared: str, own: str, reading: Reading, *, phrase: str = "", name: str = "the prompt") -> Fitted:
    """The prompt of one shot, its global text (`shared`) shortened from the end until an encoder reads all of it.

    phrase: words that announce a cut, which stand first and stay. A prompt that fits is given back as it is. Raises InputError,
    beginning with `name`, where the phrase and the shot's own words alone are too many.
    """
    needed = reading.count(join_prompt(phrase, own))
    if needed > reading.limit:
        what = "its own text and the phrase of its cut have" if phrase else "its own text has"
        raise InputError(
            f"{name}: {what} {needed:,} {reading.unit} and the encoder reads {reading.limit:,}: shorten it by "
            f"{needed - reading.limit:,}"
        )
    ends = _word_ends(shared)

    def cut(kept: int) -> str:
        """The prompt with so many words of the global text."""
        return join_prompt(
            phrase, join_prompt(shared if kept == len(ends) else shared[: ends[kept - 1] if kept else 0], own)
        )

    kept = _most(len(ends), reading.limit, lambda n: reading.count(cut(n)) <= reading.limit)
    last = shared[ends[kept - 2] if kept > 1 else 0 : ends[kept - 1]] if kept else ""
    return Fitted(cut(kept), len(ends), kept, re.sub(r"^\W+|\W+$", "", last) or last.strip())


@lru_cache(maxsize=2)
def _word_ends(text: str) -> tuple[int, ...]:
    """Where each word of a global text ends; asked for every shot anew."""
    return tuple(match.end() for match in _WORD.finditer(text))


def _most(count: int, start: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 0 to `count` that fits, where 0 does. From `start` upwards, so that a text of a megabyte is not
    counted whole."""
    low, high = 0, min(count, start)
    while high < count and fits(high):
        low, high = high, min(count, 2 * high)
    if fits(high):
        return high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fit_shot(shot: PlannedShot, reading: Reading, of: str = "") -> Fitted:
    """The prompt of a planned shot as its encoder reads it whole. Raises InputError, which names the shot, where it cannot. of: what
    its number counts in, behind it, where that is not the whole film."""
    return fit_prompt(shot.shared, shot.caption, reading, phrase=shot.phrase, name=f"{called(shot.index)}{of}")


def fit_notes(shots: Sequence[PlannedShot], reading: Reading) -> list[str]:
    """Sentences about shots whose global text is shortened: which, after what word, how much is left out. Raises InputError where
    a shot does not fit."""
    cut: dict[str, list[int]] = {}
    for shot in shots:
        fitted = fit_shot(shot, reading)
        if fitted.dropped:
            where = f"was cut after {fitted.last!r}" if fitted.kept else "was left out"
            what = (
                f"({fitted.dropped:,} words of {fitted.words:,} left out)"
                if fitted.kept
                else f"({fitted.words:,} words)"
            )
            cut.setdefault(f"the global text {where} {what}", []).append(shot.index)
    return [
        f"{shots_named(indices)}: {what}, the encoder reads {reading.limit:,} {reading.unit}"
        for what, indices in cut.items()
    ]
