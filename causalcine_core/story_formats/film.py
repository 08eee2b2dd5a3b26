"""The story inside a film: a text field of the mp4, found without reading the film.

The fields lie in `moov/udta/meta` (or `moov/meta`): `keys` names them, `ilst` has their values, each in a box whose kind is the number
of its name, from 1 (QuickTime File Format, "Metadata"). A file is walked box by box; whatever sizes it claims, only the boxes on
that way are read, and never more than a story file may hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError
from .reading import MAX_BYTES

STORY_FIELD = "causalcine_story"
FILM_SUFFIXES = (".mp4", ".m4v", ".mov")

_MOST_BOXES = 10_000  # of one level
_MOST_NAMES = 1 << 20  # bytes of `keys`


def story_text(path: Path) -> str:
    """The story that a film carries, as JSON text. Raises InputError where it carries none, or is no film."""
    try:
        with path.open("rb") as file:
            value = _field(file, STORY_FIELD)
    except OSError as error:
        raise InputError(f"the film cannot be read ({error.strerror})") from None
    if value is None:
        raise InputError("this film carries no story: it was not made by CausalCine, or was encoded anew since")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("the story in this film is not UTF-8 text") from None


def _field(file: BinaryIO, name: str) -> bytes | None:
    """The value of a text field; None: the file has no such field."""
    end = file.seek(0, 2)
    if file.seek(0) or file.read(8)[4:] != b"ftyp":
        raise InputError("this is no mp4 file")
    moov = _find(file, 0, end, b"moov")
    if moov is None:
        raise InputError("the mp4 file is cut short, or was not finished")
    meta = _find(file, *(_find(file, *moov, b"udta") or moov), b"meta")
    if meta is None:
        return None
    inside = (meta[0] + 4, meta[1])  # version and flags stand before the boxes
    keys, values = _find(file, *inside, b"keys"), _find(file, *inside, b"ilst")
    if keys is None or values is None:
        return None
    names = _names(_read(file, *keys, most=_MOST_NAMES))
    if name not in names:
        return None
    item = _find(file, *values, (names.index(name) + 1).to_bytes(4, "big"))
    data = _find(file, *item, b"data") if item is not None else None
    return (
        None if data is None else _read(file, data[0] + 8, data[1], most=MAX_BYTES)
    )  # kind and language stand before it


def _find(file: BinaryIO, begin: int, end: int, kind: bytes) -> tuple[int, int] | None:
    """Where the inside of the first box of a kind begins and ends; None: there is none."""
    return next(((inside, stop) for found, inside, stop in _boxes(file, begin, end) if found == kind), None)


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin of the inside and end of each box in a range of bytes, as far as they make sense."""
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        head = file.read(16)
        size, inside = int.from_bytes(head[:4], "big"), begin + 8
        if size == 1:
            size, inside = int.from_bytes(head[8:], "big"), begin + 16
        stop = begin + size if size else end
        if not inside <= stop <= end:
            return
        yield head[4:8], inside, stop
        begin = stop


def _read(file: BinaryIO, begin: int, end: int, most: int) -> bytes:
    if end - begin > most:
        raise InputError(f"the text fields of this film have {end - begin:,} bytes; at most {most:,} are read")
    file.seek(begin)
    return file.read(max(0, end - begin))


def _names(keys: bytes) -> list[str]:
    """The names in `keys`: version, count, then of each its size, the kind of name, and the name."""
    names, at = list[str](), 8
    while at + 8 <= len(keys):
        size = int.from_bytes(keys[at : at + 4], "big")
        if size < 8:
            break
        names.append(keys[at + 8 : at + size].decode("utf-8", "replace"))
        at += size
    return names
