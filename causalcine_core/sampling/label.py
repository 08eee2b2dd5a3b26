"""What a state file says at a glance: read from its header alone, however large the file is."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..errors import InputError
from ..plan import cut_short
from ..weights.header import Header
from ..weights.metadata import LABEL_ENTRY
from .state import State

MOST_PICTURE = 8 * 1024  # bytes: the header is read whole by whoever looks at it


@dataclass(frozen=True)
class Label:
    """A film on disk. memory: bytes of keys and values in the file. chunks, shots: that were made. frames, seconds: pixel frames made,
    and how long they play; words: of the newest shot; picture: a small JPEG or PNG. The last four are None or empty where the file
    does not say."""

    memory: int
    chunks: int
    shots: int
    frames: int | None = None
    seconds: float | None = None
    words: str = ""
    picture: bytes = b""


def label_entry(state: State, picture: bytes = b"") -> dict[str, str]:
    """The header's entry with what a film says at a glance. picture: JPEG or PNG. Raises InputError where it is too large."""
    if len(picture) > MOST_PICTURE:
        raise InputError(f"picture must be at most {MOST_PICTURE} bytes, got {len(picture)}")
    shots = cut_short(state.shots, state.frames)
    entry = {
        "shots": len(shots),
        "frames": state.frames,
        "seconds": state.frames / float(state.recipe.timeline.fps),
        "words": shots[-1].caption if shots else "",
        "picture": base64.b64encode(picture).decode(),
    }
    return {LABEL_ENTRY: json.dumps(entry, ensure_ascii=False)}


def label_of(header: Header, entry: dict[str, Any], told: dict[str, Any], memory: str) -> Label:
    """The label of a state file.

    Args:
        header: of the file.
        entry: its description, checked.
        told: its label, not checked yet.
        memory: how the names of its keys and values begin.

    Raises InputError.
    """
    try:
        picture = base64.b64decode(checks.text(told.get("picture", ""), "picture"), validate=True)
    except binascii.Error:
        raise InputError("picture is no base64") from None
    ends = [tensor.offsets for name, tensor in header.tensors.items() if name.startswith(memory)]
    return Label(
        sum(end - first for first, end in ends),
        entry["chunks"],
        checks.whole(told.get("shots", entry["shots"]), "shots", 0, entry["shots"]),
        checks.whole(told["frames"], "frames", 0, 2**40) if "frames" in told else None,
        checks.number(told["seconds"], "seconds", 0, 1e12) if "seconds" in told else None,
        checks.text(told.get("words", ""), "words"),
        picture,
    )
