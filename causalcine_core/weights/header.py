"""The header of a safetensors file: the one place that reads it, and that says what it must be.

A file is 8 bytes with the length of the header, the header, and the numbers. The header is a JSON object with an entry
for each tensor, `{"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}`, offsets counted from the end of the header, and
`__metadata__`, an object of texts.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ..checks import show
from ..errors import InputError

Shape = tuple[int, ...]

# bits of a number, by the format's name of its type
TYPES = {"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64}
TYPES |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64}
TYPES |= {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8}
TYPES |= {"F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8}

_LARGEST_HEADER = 100 * 1024 * 1024  # the format's own limit
_MOST_AXES = 16


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies. dtype: the format's name, such as BF16. offsets: first byte and end, from the header's end."""

    dtype: str
    shape: Shape
    offsets: tuple[int, int]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file holds, in the order of its header. metadata: texts that were stored beside the tensors."""

    tensors: dict[str, TensorEntry]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: entry.shape for name, entry in self.tensors.items()}


def read_header(path: str | os.PathLike[str], what: str = "checkpoint") -> Header:
    """The header of a safetensors file, checked whole: what it says of the tensors is so, and fits the file's length.

    what: the kind of file for the sentence, such as "state file". Reads no tensor, and never more than the header.

    Raises InputError in one sentence that begins with `what` and the path: for what users really have (a missing file, a Git LFS
    pointer, a web page, a pickle, a download that stopped) and for every header that is not what the format says.
    """
    path = Path(path)
    try:
        raw, data_bytes = _read_raw(path)
        return _parse(raw, data_bytes)
    except InputError as error:
        raise InputError(f"{what} {path} {error}") from None


def looks_pickled(start: bytes) -> bool:
    """Whether the first bytes of a file are a pickle's, or a zip archive's of pickles. A safetensors header of the right
    length begins with the same two bytes, but always goes on with a brace."""
    magic = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
    return start.startswith(magic) and start[8:9] != b"{"


def _read_raw(path: Path) -> tuple[bytes, int]:
    """The bytes of the header, and how many follow it."""
    try:
        if not path.exists():
            raise InputError("does not exist")
        if not path.is_file():
            raise InputError("is not a file")
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(64)
            problem = _not_safetensors(start, size)
            if problem:
                raise InputError(problem)
            (length,) = struct.unpack("<Q", start[:8])
            if length > _LARGEST_HEADER and start[8:9] != b"{":
                raise InputError("is no safetensors file")
            if length > min(size - 8, _LARGEST_HEADER):
                raise InputError(
                    f"looks like an incomplete download or no safetensors file: its header needs {length} bytes, the "
                    f"file has {size}"
                )
            file.seek(8)
            return file.read(length), size - 8 - length
    except InputError:
        raise
    except (OSError, ValueError) as error:  # not readable, a name too long, a null character in it
        raise InputError(f"cannot be read ({getattr(error, 'strerror', None) or error})") from None


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


def _parse(raw: bytes, data_bytes: int) -> Header:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except InputError as error:
        raise _broken(f"it {error}") from None
    except RecursionError:
        raise _broken("it is nested too deeply") from None
    except ValueError as error:
        raise _broken(str(error)) from None
    if not isinstance(header, dict):
        raise _broken("it is no JSON object")
    metadata = _metadata(header.pop("__metadata__", {}))
    tensors = {name: _entry(name, entry) for name, entry in header.items()}
    _check_offsets(tensors, 8 + len(raw), data_bytes)
    return Header(tensors, metadata)


def _metadata(found: object) -> dict[str, str]:
    if not isinstance(found, dict):
        raise _broken("its __metadata__ is no JSON object")
    for name, value in found.items():
        if not isinstance(value, str) or not is_text(value):
            raise _broken(f"__metadata__.{show(name)} is no text")
    return found


def _entry(name: str, found: object) -> TensorEntry:
    """One tensor's entry; the offsets must hold as many bytes as shape and type say."""
    place = f"the tensor {show(name)}"
    if not isinstance(found, dict):
        raise _broken(f"{place} has no entry of dtype, shape and data_offsets")
    for field in ("dtype", "shape", "data_offsets"):
        if field not in found:
            raise _broken(f"{place} has no {field}")
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise _broken(f"{place} has the dtype {show(dtype)}, which is none that is known")
    if not _is_sizes(shape) or len(shape) > _MOST_AXES:
        raise _broken(f"{place} has a shape that is no list of up to {_MOST_AXES} whole numbers from 0 on")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _broken(f"{place} has data_offsets that are no two rising whole numbers from 0 on")
    bits = math.prod(shape) * TYPES[dtype]
    begin, end = offsets
    if bits != 8 * (end - begin):
        raise _broken(f"{place} of {dtype} {shape} needs {bits / 8:g} bytes, its data_offsets hold {end - begin}")
    return TensorEntry(dtype, tuple(shape), (begin, end))


def _check_offsets(tensors: dict[str, TensorEntry], begin: int, data_bytes: int) -> None:
    """Tensors must lie one behind the other, from the header's end to the file's."""
    at = 0
    for name, entry in sorted(tensors.items(), key=lambda item: item[1].offsets):
        if entry.offsets[0] != at:
            how = "overlaps another one" if entry.offsets[0] < at else "does not begin where the one before it ends"
            raise _broken(f"the tensor {show(name)} {how}")
        at = entry.offsets[1]
    if at > data_bytes:
        raise InputError(f"looks like an incomplete download ({begin + data_bytes} of {begin + at} bytes)")
    if at < data_bytes:
        raise _broken(f"it accounts for {at} of the {data_bytes} bytes that follow it")


def _is_sizes(found: object) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(n) is int and 0 <= n < 2**63 for n in found)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object whose keys are text, each once."""
    names = dict(pairs)
    for name in names:
        if not is_text(name):
            raise InputError(f"has the key {show(name)}, which cannot be written as text")
    if len(names) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise InputError(f"has the key {show(twice)} twice")
    return names


def is_text(text: str) -> bool:
    """Whether text can be written: half a character pair (a lone surrogate) cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _broken(why: str) -> InputError:
    return InputError(f"has a broken safetensors header ({why})")
