"""The one error of bad input: a sentence that names the field and what is allowed."""

from __future__ import annotations


class InputError(ValueError):
    """Something the user gave cannot be used. The message is one plain sentence, ready to be shown."""
