"""All-in-one files: model, text encoder and VAE together. Only safetensors: nothing is ever unpickled here.

An all-in-one file holds `model.diffusion_model.*`, `text_encoder.*` and `vae.*`; its header entry `causalcine` is a
JSON object with the configs, the recipe and the card.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..checks import show
from ..errors import InputError, about
from .header import Header, read_header
from .int8 import expand
from .metadata import ENTRY, read_entry
from .tensors import read_tensors, write_tensors

FORMAT = 1
NETWORK = "network"  # `kind` of a file that holds a network alone
PARTS = {"model": "model.diffusion_model.", "text": "text_encoder.", "vae": "vae."}


@dataclass(frozen=True)
class Checkpoint:
    """An all-in-one file, read. Each part is a state dict without its prefix; `header` is the JSON of the card."""

    header: dict[str, Any]
    model: dict[str, Tensor]
    text: dict[str, Tensor]
    vae: dict[str, Tensor]


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The `causalcine` entry of an all-in-one file: configs, recipe and card. Reads no weights; InputError in a sentence."""
    return _fields(read_header(path), path)


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read an all-in-one file. Raises InputError in one sentence that names it."""
    weights, header = read_tensors(path)
    fields = _fields(header, path)
    with about(f"checkpoint {path}"):
        parts = {
            part: expand({name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)})
            for part, prefix in PARTS.items()
        }
    return Checkpoint(fields, **parts)


def find_fields(header: Header, path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The `causalcine` entry of an all-in-one file. None where the file is of another kind; InputError where it is broken."""
    fields = read_entry(header.metadata, ENTRY, f"checkpoint {path}")
    if fields is None or fields.get("kind") == NETWORK:
        return None
    if fields.get("format") != FORMAT:
        raise InputError(
            f"checkpoint {path} has format {show(fields.get('format'))}; this version reads format {FORMAT}"
        )
    for part in ("model", "text", "recipe"):
        if not isinstance(fields.get(part), dict):
            raise InputError(f"checkpoint {path} is no CausalCine all-in-one file: its header has no {part}")
    return fields


def _fields(header: Header, path: str | os.PathLike[str]) -> dict[str, Any]:
    fields = find_fields(header, path)
    if fields is None and ENTRY in header.metadata:
        raise InputError(
            f"checkpoint {path} holds a network without text encoder and VAE: load it with load_transformer, in ComfyUI with "
            "CausalCineModelLoader"
        )
    if fields is None:
        raise InputError(
            f"checkpoint {path} is no CausalCine all-in-one file: its header has no `{ENTRY}` entry (a bare network is "
            "loaded with load_transformer, in ComfyUI with CausalCineModelLoader)"
        )
    return fields


def save_checkpoint(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    *,
    model: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
) -> None:
    """Write an all-in-one file; it appears under its name only when it is whole."""
    parts = (("model", model), ("text", text), ("vae", vae))
    tensors = {PARTS[part] + name: t for part, weights in parts for name, t in weights.items()}
    save_weights(path, tensors, {"format": FORMAT, **header})


def save_weights(path: str | os.PathLike[str], weights: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write tensors with a `causalcine` entry in the header; the file appears under its name only when it is whole."""
    write_tensors(path, weights, {ENTRY: json.dumps(header)})


def check_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Say in one sentence which parameters of a module lack their weight, or which weights do not fit."""
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    both = sorted(set(expected) & set(weights))
    misshapen = [name for name in both if expected[name].shape != weights[name].shape]
    mistyped = [name for name in both if expected[name].is_floating_point() != weights[name].is_floating_point()]
    for names, what in (
        (missing, "lacks"),
        (misshapen, "has another shape for"),
        (mistyped, "has another type of number for"),
        (extra, "has unknown"),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{source} {what} {names[0]}{more} ({len(expected) - len(missing)} of {len(expected)} weights found): "
                "it is of another architecture or incomplete"
            )


def assign(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give every parameter of a module its weight, in the dtype that the module keeps it in; checked as above."""
    check_weights(module, weights, source)
    module.load_state_dict(cast_like(module, weights), assign=True)


def cast_like(module: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the number types that a module keeps them in."""
    return {name: weights[name].to(tensor.dtype) for name, tensor in module.state_dict().items()}
