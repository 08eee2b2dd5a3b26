"""JSON as text, and its objects by our names: what every reader of a JSON form shares."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .. import checks
from ..errors import InputError

_FILM: Mapping[str, Sequence[str]] = {
    "global_prompt": ("global", "global_caption", "global_prompt"),
    "fps": ("fps",),
    "width": ("width",),
    "height": ("height",),
    "seed": ("seed",),
    "negative": ("negative", "negative_prompt"),
    "cut": ("cut",),
}

_ALIKE = 0.8  # of a field's name and a known one: more is a slip of the pen
_MOST_COMPARED = 1000  # names that are compared with the known ones


def decoded(text: str, *, column: int = 0) -> Any:
    """What JSON text holds. Raises InputError that says where it is broken. column: added to the column there, of the first line."""
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        at = error.colno + (column if error.lineno == 1 else 0)
        raise InputError(f"this is not valid JSON: {error.msg} at line {error.lineno}, column {at}") from error
    except RecursionError as error:
        raise InputError("this is not a story: the JSON is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"this is not valid JSON: {error}") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in pairs:
        if name in data:
            raise InputError(f"the field {checks.show(name)} is given twice")
        data[name] = value
    return data


def film_fields(*others: str) -> dict[str, Sequence[str]]:
    """What holds for the whole film, by our names, each with the names that files give it; and other fields of a form."""
    return {**_FILM, **{name: (name,) for name in others}}


class Fields:
    """Takes what is known out of JSON objects, and collects the names of all that is not.

    ignored: fields that mean nothing here, such as `title` and `shots[].camera`. renamed: our names of what stands under another.
    """

    def __init__(self) -> None:
        self.ignored: dict[str, None] = {}  # for its order
        self.renamed: dict[str, str] = {}

    def of(self, data: object, name: str, known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """The values of an object called `name`, by our names; JSON null means "not given". known: the names that files may give
        each, of which the first that is there counts. A name that is nearly one of them is an InputError."""
        if not isinstance(data, dict):
            raise InputError(f"{name} must be an object of fields, got {checks.show(data)}")
        given = {field: value for field, value in data.items() if value is not None}
        taken = {ours: next((field for field in names if field in given), None) for ours, names in known.items()}
        names = [field for fields in known.values() for field in fields]
        for field in data:
            if field in taken.values() or (field in names and data[field] is None):
                continue
            few = len(self.ignored) < _MOST_COMPARED
            near = difflib.get_close_matches(field[:40], names, 1, _ALIKE) if few and field not in names else []
            if near and near[0] not in data:
                raise InputError(
                    f'{name} has an unknown field {checks.show(field)}, did you mean "{near[0]}"? allowed are {", ".join(names)}'
                )
            place = "" if name == "the story" else re.sub(r"\[\d+\]", "[]", name) + "."
            self.ignored[place + (field[:40] if field.isprintable() else checks.show(field))] = None
        found = {ours: field for ours, field in taken.items() if field is not None}
        self.renamed |= {ours: field for ours, field in found.items() if field != known[ours][0]}
        return {ours: given[field] for ours, field in found.items()}
