"""The header of a safetensors file, read with care: what is no such file is named in one sentence."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

from ..errors import InputError

_LARGEST_HEADER = 100 * 1024 * 1024


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header of a safetensors file, checked against the file's length.

    Raises InputError in one sentence for what users really have: a missing file, a Git LFS pointer, a web page, a
    pickle, a download that stopped.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"checkpoint {path} does not exist")
    if not path.is_file():
        raise InputError(f"checkpoint {path} is not a file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        problem = _not_safetensors(start, size)
        if problem:
            raise InputError(f"checkpoint {path} {problem}")
        (length,) = struct.unpack("<Q", start[:8])
        if length > min(size - 8, _LARGEST_HEADER):
            raise InputError(
                f"checkpoint {path} looks like an incomplete download or no safetensors file: its header needs {length} "
                f"bytes, the file has {size}"
            )
        file.seek(8)
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_unique)
        needed = (
            8
            + length
            + max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        )
    except InputError as error:
        raise InputError(f"checkpoint {path} {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"checkpoint {path} has a broken safetensors header ({error})") from None
    if needed > size:
        raise InputError(f"checkpoint {path} looks like an incomplete download ({size} of {needed} bytes)")
    return header


def looks_pickled(start: bytes) -> bool:
    """Whether the first bytes of a file are a pickle's, or a zip archive's of pickles. A safetensors header of the right
    length begins with the same two bytes, but always goes on with a brace."""
    magic = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    return start.startswith(magic) and start[8:9] != b"{"


def _not_safetensors(start: bytes, size: int) -> str | None:
    if size == 0:
        return "is empty: the download has not begun or the disk was full"
    if start.startswith(b"version https://git-lfs"):
        return "looks like a Git LFS pointer: fetch the real file (git lfs pull)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not weights: download the file itself"
    if looks_pickled(start):
        return "is a pickle (.pt), which can run code: causalcine convert FILE OUT.safetensors rewrites a network's"
    if start.startswith(b"GGUF"):
        return "is a GGUF file: in ComfyUI load it with a GGUF loader and connect CausalCine Recipe"
    if size < 10:
        return f"looks like an incomplete download ({size} bytes)"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise InputError(f"has the key {twice!r} twice in its header")
    return names
