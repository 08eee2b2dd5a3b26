"""Files of weights: what lies in them, before any tensor is read.

A file is safetensors, or a folder of them with an index and a `config.json` (diffusers, and Wan's own releases). `.pt`
files are opened for `causalcine convert` only, and only as tensors: nothing that could run code is unpickled.
"""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import show
from ..errors import InputError
from .header import Shape, is_text, looks_pickled, read_header
from .metadata import parse_entry
from .tensors import read_tensors

SAFE_TORCH = (2, 6)  # before it, weights_only could be got around (CVE-2025-32434)


@dataclass(frozen=True)
class Source:
    """An opened file. shapes: by key. config: of a `config.json` beside it. read: gives the tensors of some keys."""

    path: Path
    shapes: dict[str, Shape]
    read: Callable[[Iterable[str]], dict[str, Tensor]]
    metadata: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def open_source(path: str | os.PathLike[str], *, pickles: bool = False) -> Source:
    """Open a safetensors file, a part of several, or a folder; with `pickles` also a `.pt`. InputError in a sentence."""
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if pickles and is_pickle(path):
        return _open_pickle(path)
    index = _index_of(path)
    if index is not None:
        return _open_parts(path.parent, index)
    return _open_files(path, [path])


def _open_folder(folder: Path) -> Source:
    if (folder / "transformer").is_dir():
        if (folder / "transformer_2").is_dir():
            raise InputError(
                f"checkpoint {folder} holds two experts (transformer and transformer_2), as Wan 2.2 A14B does: only models of "
                "one network can be rolled out"
            )
        return _open_folder(folder / "transformer")
    if (folder / "high_noise_model").is_dir():
        raise InputError(
            f"checkpoint {folder} holds two experts (high_noise_model and low_noise_model), as Wan 2.2 A14B does: only models "
            "of one network can be rolled out"
        )
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        return _open_parts(folder, indices[0])
    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        what = "no safetensors file" if not files else f"{len(files)} safetensors files and no index of them"
        raise InputError(f"checkpoint {folder} is a folder with {what}: name one file, or a diffusers folder")
    return _open_files(folder, files, config=_config(folder))


def _open_parts(folder: Path, index: Path) -> Source:
    files = [folder / name for name in sorted(set(_weight_map(index).values()))]
    gone = [file for file in files if not file.is_file()]
    if gone:
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise InputError(f"checkpoint {folder} is incomplete: {gone[0].name}{more} of {len(files)} parts is missing")
    return _open_files(folder, files, config=_config(folder))


def _open_files(path: Path, files: list[Path], config: Mapping[str, Any] | None = None) -> Source:
    shapes: dict[str, Shape] = {}
    where: dict[str, Path] = {}
    metadata: dict[str, str] = {}
    for file in files:
        header = read_header(file)
        metadata |= header.metadata
        for key, shape in header.shapes.items():
            if key in where:
                raise InputError(
                    f"checkpoint {path} has the key {key!r} in two files, {where[key].name} and {file.name}"
                )
            where[key], shapes[key] = file, shape

    def read(keys: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(keys)
        tensors: dict[str, Tensor] = {}
        for file in files:
            tensors |= read_tensors(file, names=[key for key in wanted if where[key] == file])[0]
        return tensors

    notes = (f"read from {len(files)} parts",) if len(files) > 1 else ()
    return Source(path, shapes, read, metadata, dict(config or {}), notes)


def _open_pickle(path: Path) -> Source:
    if path.suffix.lower() == ".safetensors":  # torch would go by the name
        raise InputError(f"checkpoint {path} is a pickle under the name of a safetensors file: rename it to .pt")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise InputError(
            f"checkpoint {path} is a pickle, which torch {torch.__version__} cannot read safely: install torch 2.6 or newer"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = _load_pickle(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f", such as {found[1]}" if found else ""
        raise InputError(
            f"checkpoint {path} is a pickle of more than tensors{what}: it is not read, since that could run code"
        ) from None
    except Exception as error:  # a damaged pickle is a damaged program: it can fail in any way
        why = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"checkpoint {path} is a pickle that cannot be read: it looks incomplete ({why})") from None
    tensors = dict(_flat(data))
    if not tensors:
        raise InputError(f"checkpoint {path} holds no tensors")
    for key, tensor in tensors.items():
        if not is_text(key) or tensor.layout is not torch.strided or tensor.is_quantized:
            raise InputError(f"checkpoint {path} holds {show(key)}, which is no plain tensor with a name")

    def read(keys: Iterable[str]) -> dict[str, Tensor]:
        return {key: tensors[key] for key in keys}

    return Source(path, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, read)


def _load_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, ValueError):  # an old file that is no zip archive
        return torch.load(path, map_location="cpu", weights_only=True)


def _flat(data: Any, prefix: str = "", depth: int = 0) -> Iterable[tuple[str, Tensor]]:
    """Nested dictionaries as one, keys joined by dots. Numbers, lists and the like are no weights, nor is what lies deeper than any
    training script goes (a dictionary may hold itself)."""
    if isinstance(data, Tensor):
        yield prefix[:-1], data
    elif isinstance(data, Mapping) and depth < 16:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}{key}.", depth + 1)


def is_pickle(path: Path) -> bool:
    """Whether a file is a `.pt`, told by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return looks_pickled(file.read(16))


def _index_of(path: Path) -> Path | None:
    """The index that lists this file as one of several parts."""
    for index in sorted(path.parent.glob("*.safetensors.index.json")):
        parts = set(_weight_map(index).values())
        if path.name in parts and len(parts) > 1:
            return index
    return None


def _weight_map(index: Path) -> dict[str, str]:
    parts = _json(index).get("weight_map")
    if not isinstance(parts, dict) or not parts or not all(isinstance(name, str) for name in parts.values()):
        raise InputError(f"checkpoint index {index} is broken: it has no weight_map of file names")
    for name in parts.values():
        if Path(name).name != name:
            raise InputError(f"checkpoint index {index} names a file outside its folder")
        if len(name.encode()) > 255 or "\0" in name:
            raise InputError(f"checkpoint index {index} names a file that no disk can hold ({show(name)})")
    return parts


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    return _json(file) if file.is_file() else {}


def _json(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read ({error})") from None
    return parse_entry(text, str(file))
