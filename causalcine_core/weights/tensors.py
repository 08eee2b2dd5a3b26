"""Tensors in and out of safetensors files: what every reader and writer of such a file calls."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..atomic import write_atomic
from ..errors import InputError
from .header import Header, read_header


def read_tensors(
    path: str | os.PathLike[str], what: str = "checkpoint", names: Iterable[str] | None = None
) -> tuple[dict[str, Tensor], Header]:
    """Tensors of a safetensors file on the CPU, and its header, which is checked first (`read_header`).

    what: the kind of file for the sentence, such as "state file". names: of the tensors to read; all by default.

    Raises InputError in one sentence that begins with `what` and the path.
    """
    header = read_header(path, what)
    wanted = list(header.tensors) if names is None else list(names)
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in wanted}, header
    except (
        SafetensorError,
        OSError,
        AttributeError,
        TypeError,
        ValueError,
    ) as error:  # a type that torch lacks, no memory
        raise InputError(f"{what} {path} cannot be read ({error})") from error


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file. It appears under its name only when it is whole; raises OSError as `write_atomic` does."""
    whole = _apart({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    texts = dict(metadata) if metadata else None

    def write(partial: Path) -> None:
        try:
            save_file(whole, partial, metadata=texts)
        except SafetensorError as error:  # its way to say that the disk is full
            found = re.search(r"\(os error (\d+)\)|code: (\d+)", str(error))
            if found is None:
                raise
            number = int(found[1] or found[2])
            raise OSError(number, os.strerror(number)) from error

    write_atomic(path, write)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors, those copied whose memory another one holds too: the format's writer refuses tied weights."""
    end = 0
    for name in sorted(tensors, key=lambda name: tensors[name].data_ptr()):
        begin = tensors[name].data_ptr()
        if begin < end:
            tensors[name] = tensors[name].clone()
        else:
            end = begin + tensors[name].nbytes
    return tensors


def write_torch(path: str | os.PathLike[str], data: object) -> None:
    """Write what `torch.save` writes (tensors and plain values: a trainer's state). It appears under its name only when it is
    whole; raises OSError as `write_atomic` does."""

    def write(partial: Path) -> None:
        try:
            with partial.open("wb") as file:  # by its name torch would call the archive inside
                torch.save(data, file)
        except RuntimeError as error:  # its way to say that the disk is full
            if "inline_container" not in str(error):
                raise
            raise OSError("not all of it could be written: the disk is full, or files may not be that large") from error

    write_atomic(path, write)


def check_numbers(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse what is no weight: not-a-number, infinity, complex numbers. InputError that names `source`, the tensor, and what
    usually causes it. Reads every number."""
    for name, tensor in tensors.items():
        if tensor.is_complex():
            raise InputError(f"{source} holds complex numbers in {name}: it is no file of weights")
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if tensor.element_size() == 1:  # eight-bit floats know no arithmetic
            tensor = tensor.to(torch.bfloat16)
        low, high = (float(end) for end in tensor.aminmax())
        if math.isfinite(low) and math.isfinite(high):
            continue
        found = "not-a-number" if math.isnan(low) or math.isnan(high) else "infinity"
        raise InputError(
            f"{source} holds {found} in {name}: usually it was saved in half precision, where a number became too large, or "
            "the file is broken"
        )
