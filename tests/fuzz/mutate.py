"""Changes to a file that keep it close to valid: what gets past the first check is what finds faults in the second.

A safetensors file is taken apart into tensors and texts, changed there, and put together again with lengths and offsets that
fit; only some mutations break the file itself.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

TYPES = {
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F64": 8,
    "I64": 8,
    "I32": 4,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "C64": 8,
}
ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 1000, 2**31, 2**63, 2**64, 10**30, 10**4000, -(10**12), 0.0, -0.5, 0.5, 1.5, 1e-300,
    1e308, float("inf"), float("-inf"), float("nan"), "", "0", "1", "a", "nano", "\ud800", "\0", "\x1b[2J", "../../a", "a" * 10_000,
    "full", "8bit", "soft", "unipc", "rolling", "1/0", "inf", "nan", [], {}, [[]], [0, 1], [1, 0], [-1, 5], [0, 10**9], [0.5, 0.5],
    [None], ["a"], [True, False], {"a": 1}, {"": None}, [1] * 5000,
)  # fmt: skip


@dataclass
class File:
    """A safetensors file, taken apart. tensors: dtype, shape and bytes by name. entries: metadata, JSON ones parsed."""

    tensors: dict[str, tuple[str, list[int], bytes]]
    entries: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> File:
        (length,) = struct.unpack("<Q", data[:8])
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        texts = header.pop("__metadata__", {})
        tensors = {
            name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])])
            for name, entry in header.items()
        }
        return cls(tensors, {name: _parsed(text) for name, text in texts.items()})

    def header(self) -> dict[str, Any]:
        header: dict[str, Any] = {}
        if self.entries:
            header["__metadata__"] = {
                name: value if isinstance(value, str) else json.dumps(value) for name, value in self.entries.items()
            }
        at = 0
        for name, (dtype, shape, data) in self.tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
            at += len(data)
        return header

    def body(self) -> bytes:
        return b"".join(data for _, _, data in self.tensors.values())


def whole(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def mutated(data: bytes, rng: Random) -> bytes:
    """A safetensors file, changed in one to three places."""
    file = copy.copy(File.parse(data))
    raw: list[Callable[[bytes, Random], bytes]] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.choice((_entries, _entries, _entries, _tensors, _tensors, _numbers, None))
        if kind is None:
            raw.append(rng.choice((_header, _header, damaged)))
        else:
            kind(file, rng)
    made = whole(json.dumps(file.header()).encode(), file.body())
    for change in raw:
        made = change(made, rng)
    return made


def mutated_json(data: bytes, rng: Random) -> bytes:
    """A JSON file, changed in one to three places; now and then as bytes."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        value = change_value(value, rng)
    made = dumped(value, rng).encode("utf-8", "surrogatepass")
    return damaged(made, rng) if rng.random() < 0.2 else made


def mutated_table(data: bytes, rng: Random) -> bytes:
    """A table of comma-separated values, changed in one to three places; now and then as bytes."""
    rows = list(csv.reader(data.decode().splitlines()))
    for _ in range(rng.choice((1, 1, 2, 3))):
        changed = change_value(rows, rng)
        rows = [row for row in changed if isinstance(row, list)] if isinstance(changed, list) else []
    text = io.StringIO(newline="")
    csv.writer(text).writerows([cell if isinstance(cell, str) else _spelled(cell) for cell in row] for row in rows)
    made = text.getvalue().encode("utf-8", "surrogatepass")
    return damaged(made, rng) if rng.random() < 0.2 else made


def _spelled(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # a whole number of more digits than Python spells
        return "1" * 5000


def change_value(value: Any, rng: Random) -> Any:
    """One place somewhere in a JSON value, changed. Big lists are entered at their ends, so that all places get their turn."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value = dict(value)
        name = rng.choice(list(value))
        what = rng.random()
        if what < 0.7:
            value[name] = change_value(value[name], rng)
        elif what < 0.85:
            del value[name]
        elif what < 0.95:
            value[rng.choice(("a", "", "\ud800", name + "_", *value))] = value.pop(name)
        else:
            value["extra"] = rng.choice(ODD)
        return value
    if isinstance(value, list) and value and rng.random() < 0.85:
        value = list(value)
        at = rng.choice((0, len(value) - 1, rng.randrange(len(value))))
        what = rng.random()
        if what < 0.7:
            value[at] = change_value(value[at], rng)
        elif what < 0.8:
            del value[at]
        elif what < 0.9:
            value.insert(at, value[at])
        else:
            value.reverse()
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        half = value / 2 if abs(value) < 1e300 else value // 2
        return rng.choice((value + 1, value - 1, -value, 2 * value, half, half * 2, str(half), [value]))
    return rng.choice(ODD)


def dumped(value: Any, rng: Random) -> str:
    """As JSON, seldom with nesting without end or a key twice."""
    text = json.dumps(value)
    what = rng.random()
    if what < 0.03:
        depth = rng.choice((900, 5000, 100_000))
        return text.replace("1", "[" * depth + "1" + "]" * depth, 1)
    if what < 0.05:
        return "[" * 100_000
    if what < 0.08 and text.startswith("{"):
        return text[:-1] + "," + text[1:]
    return text


def _entries(file: File, rng: Random) -> None:
    if not file.entries:
        file.entries["causalcine"] = rng.choice(ODD[-30:])
        return
    file.entries = dict(file.entries)
    name = rng.choice(list(file.entries))
    value = file.entries[name]
    if isinstance(value, dict):
        changed = change_value(value, rng)
        file.entries[name] = dumped(changed, rng)
        if isinstance(changed, dict):
            file.entries[name] = changed if rng.random() < 0.9 else file.entries[name]
    elif rng.random() < 0.5:
        del file.entries[name]
    else:
        file.entries[name] = rng.choice([text for text in ODD if isinstance(text, str)])


def _tensors(file: File, rng: Random) -> None:
    """Another set of tensors, every one of them whole: missing, renamed, of another type, rank or size."""
    if not file.tensors:
        return
    file.tensors = dict(file.tensors)
    name = rng.choice(list(file.tensors))
    dtype, shape, data = file.tensors[name]
    what = rng.randrange(8)
    if what == 0:
        del file.tensors[name]
    elif what == 1:
        new = rng.choice(
            (name + ".weight", "a." + name, name.replace("0", "999999999"), name[:-1], "", "\ud800", name.upper())
        )
        file.tensors[new] = file.tensors.pop(name)
    elif what == 2:
        prefix = rng.choice(("model.", "ema.", name.split(".")[0] + "."))
        file.tensors = {prefix + key: value for key, value in file.tensors.items()}
    elif what == 3:
        file.tensors[name + rng.choice((".int8_scale", "_scale", ".alpha", ".lora_A", ".lora_B", ".diff"))] = (
            dtype,
            shape,
            data,
        )
    elif what == 4:  # another type of as many bytes a number
        same = [other for other, size in TYPES.items() if size == TYPES.get(dtype)] or ["F32"]
        file.tensors[name] = (rng.choice(same), shape, data)
    elif what == 5:  # another rank
        options = [
            [*shape, 1],
            [1, *shape],
            [_product(shape)],
            list(reversed(shape)),
            [*shape[:-2], _product(shape[-2:])],
        ]
        file.tensors[name] = (dtype, rng.choice(options), data)
    else:  # another size and type
        new_type = rng.choice((dtype, *TYPES))
        new = [rng.choice((0, 1, 2, 3, n, max(0, n - 1), n + 1, 2 * n)) for n in shape] if shape else [rng.randrange(3)]
        if rng.random() < 0.3:
            new = [rng.choice((0, 1, 2, 5)) for _ in range(rng.randrange(7))]
        size = _product(new) * TYPES[new_type]
        if size < 1_000_000:
            file.tensors[name] = (new_type, new, (data * (size // len(data) + 1))[:size] if data else bytes(size))


def _numbers(file: File, rng: Random) -> None:
    """Other numbers in a tensor: not-a-number, infinity, huge, negative, noise."""
    if not file.tensors:
        return
    file.tensors = dict(file.tensors)
    name = rng.choice(list(file.tensors))
    dtype, shape, data = file.tensors[name]
    noise = bytes(rng.randrange(256) for _ in range(8))
    pattern = rng.choice((b"\xff", b"\x00", b"\x7f", b"\x00\x00\x80\x7f", b"\x80\x7f", b"\x00\x7c", noise))
    filled = (pattern * (len(data) // len(pattern) + 1))[: len(data)]
    at = rng.randrange(len(data) + 1)
    file.tensors[name] = (
        dtype,
        shape,
        rng.choice((filled, data[:at] + filled[at:], filled[: min(at, 8)] + data[min(at, 8) :])),
    )


def _header(data: bytes, rng: Random) -> bytes:
    """The header's own JSON changed, which may make it wrong."""
    if len(data) < 8:
        return damaged(data, rng)
    (length,) = struct.unpack("<Q", data[:8])
    try:
        header = json.loads(data[8 : 8 + length])
    except (ValueError, RecursionError):
        return damaged(data, rng)
    return whole(dumped(change_value(header, rng), rng).encode("utf-8", "surrogatepass"), data[8 + length :])


def damaged(data: bytes, rng: Random) -> bytes:
    """Bytes cut off, added, flipped; a length that is wrong."""
    what = rng.randrange(5)
    if what == 0:
        return data[: rng.choice((0, 1, 7, 8, 9, len(data) // 2, max(0, len(data) - 1), rng.randrange(len(data) + 1)))]
    if what == 1:
        return data + bytes(rng.randrange(1, 100))
    if what == 2:
        return (
            struct.pack("<Q", rng.choice((0, 1, 2**16, 2**40, 2**64 - 1, len(data), max(0, len(data) - 8)))) + data[8:]
        )
    made = bytearray(data)
    near = min(len(made), 4000) if what == 3 else len(made)  # the header, or anywhere
    for _ in range(rng.choice((1, 1, 4, 32))):
        if near:
            made[rng.randrange(near)] ^= 1 << rng.randrange(8)
    return bytes(made)


def _product(shape: list[int]) -> int:
    out = 1
    for n in shape:
        out *= n
    return out
