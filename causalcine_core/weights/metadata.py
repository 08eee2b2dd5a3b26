"""Our own entries in a file's metadata: JSON objects that say what a checkpoint or a film's state is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError, about
from .header import is_text, unique

ENTRY = "causalcine"  # of a checkpoint
STATE_ENTRY = "causalcine_state"
LABEL_ENTRY = "causalcine_label"  # what a state says at a glance


def read_entry(metadata: Mapping[str, str], name: str, source: str) -> dict[str, Any] | None:
    """An entry, parsed: a JSON object of finite numbers and of texts that can be written. None where there is none.

    metadata: of a safetensors header. source: the file, for the sentence, such as "checkpoint a.safetensors". Raises InputError.
    """
    if name not in metadata:
        return None
    with about(source):
        return parse_entry(metadata[name], f"its {name} entry")


def parse_entry(text: str, name: str) -> dict[str, Any]:
    """A JSON object of finite numbers and of texts that can be written, every key once; InputError that begins with `name`."""
    try:
        entry = json.loads(text, object_pairs_hook=unique, parse_constant=_refuse)
        _check(entry)
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except RecursionError:
        raise InputError(f"{name} is nested too deeply") from None
    except ValueError as error:
        raise InputError(f"{name} is no valid JSON ({error})") from None
    if not isinstance(entry, dict):
        raise InputError(f"{name} is no JSON object")
    return entry


def _refuse(constant: str) -> None:
    raise InputError(f"holds {constant}, which is no number")


def _check(value: object) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check(item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError("holds a number that is too large")
    elif isinstance(value, str) and not is_text(value):
        raise InputError("holds text that cannot be written (half a character pair)")
