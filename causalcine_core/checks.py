"""Checks of single values: one dialect for stories, recipes, settings, configs and the command line.

Each function takes a value of any type and the name of its field, and gives the value back as its type, unchanged.
What does not fit is an `InputError` of one sentence: `NAME must be WHAT IS ALLOWED, got VALUE`. Numbers out of files may
be of any size: infinity, not-a-number and whole numbers of a thousand digits are refused like everything else.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from typing import Any, TypeGuard

from .errors import InputError

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_SEEN = re.compile(r"[^\s\xad\u200b-\u200f\u2060\ufeff]")  # not blank, not a character of no width
_LONGEST = 40  # characters of a value in a sentence


def show(value: object) -> str:
    """A value as JSON spells it, short enough for a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError, RecursionError):
        try:
            text = repr(value)
        except Exception:  # nested without end, or a whole number of more digits than Python spells
            text = f"{type(value).__name__} that cannot be shown"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number; `True` and 2.0 are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number, whole or not, infinity and not-a-number among them; `True` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(value: object, name: str, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both allowed."""
    if not is_whole(value) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {show(value)}")
    return value


def number(value: object, name: str, low: float, high: float, unit: str = "") -> float:
    """A finite number from `low` to `high`, both allowed. unit: such as " of GiB", for the sentence."""
    if not is_number(value) or not low <= value <= high:
        raise InputError(f"{name} must be a number{unit} from {low:.15g} to {high:.15g}, got {show(value)}")
    return value


def positive(value: object, name: str, unit: str = "") -> float:
    """A finite number above 0. unit: as of `number`."""
    if not is_number(value) or not 0 < value < float("inf"):
        raise InputError(f"{name} must be a number{unit} above 0, got {show(value)}")
    return value


def truth(value: object, name: str) -> bool:
    """True or false, and no other spelling of it."""
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, got {show(value)}")
    return value


def wholes(value: object, name: str, low: int, high: int, *, least: int, most: int) -> tuple[int, ...]:
    """A list of `least` to `most` whole numbers, each from `low` to `high`."""
    if not isinstance(value, list | tuple) or not least <= len(value) <= most:
        count = str(least) if least == most else f"{least} to {most}"
        raise InputError(f"{name} must be a list of {count} whole numbers, got {show(value)}")
    return tuple(whole(one, f"{name}[{i}]", low, high) for i, one in enumerate(value))


def text(value: object, name: str, *, empty: str | None = None) -> str:
    """Text that can be written as UTF-8 and holds no NUL. empty: why it may not be blank, as a clause; None: it may."""
    if not isinstance(value, str):
        raise InputError(f"{name} must be text in quotes, got {show(value)}")
    bad = _NO_TEXT.search(value)
    if bad is not None:
        raise InputError(f"{name} holds a character that is not text (U+{ord(bad[0]):04X})")
    if empty is not None and is_blank(value):
        raise InputError(f"{name} is empty; {empty}")
    return value


def is_blank(value: str) -> bool:
    """Whether nothing is seen of a text."""
    return _SEEN.search(value) is None


def choice(value: object, name: str, allowed: Collection[str]) -> str:
    """One of a few words."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {show(value)}")
    return value


def fields(value: object, name: str, allowed: Collection[str], *, needed: Collection[str] = ()) -> dict[str, Any]:
    """An object out of a file, of known fields only. needed: fields that must be there."""
    if not isinstance(value, dict):
        raise InputError(f"{name} must be an object of fields, got {show(value)}")
    for field in value:
        if field not in allowed:
            close = difflib.get_close_matches(str(field)[:_LONGEST], allowed, 1)
            hint = f', did you mean "{close[0]}"?' if close else ";"
            raise InputError(f"{name} has an unknown field {show(field)}{hint} allowed are {', '.join(allowed)}")
    for field in needed:
        if field not in value:
            raise InputError(f"{name}.{field} is missing")
    return value
