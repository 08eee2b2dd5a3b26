"""Reading and writing weights. Only safetensors: nothing is ever unpickled here.

An all-in-one file holds `model.diffusion_model.*`, `text_encoder.*` and `vae.*`; its header entry `causalcine` is a
JSON object with the configs, the recipe and the card.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InputError
from .compact import expand
from .config import WanConfig
from .transformer import CausalWanTransformer

FORMAT = 1
PREFIXES = ("model.diffusion_model.", "diffusion_model.")
PARTS = {"model": "model.diffusion_model.", "text": "text_encoder.", "vae": "vae."}
_LARGEST_HEADER = 100 * 1024 * 1024


@dataclass(frozen=True)
class Checkpoint:
    """An all-in-one file, read. Each part is a state dict without its prefix; `header` is the JSON of the card."""

    header: dict[str, Any]
    model: dict[str, Tensor]
    text: dict[str, Tensor]
    vae: dict[str, Tensor]


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


def read_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the metadata of a safetensors file; InputError as in `read_header`."""
    metadata = read_header(path).get("__metadata__", {})
    try:
        return load_file(str(path)), metadata
    except (SafetensorError, OSError) as error:
        raise InputError(f"checkpoint {path} cannot be read ({error})") from error


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read an all-in-one file."""
    weights, metadata = read_weights(path)
    if "causalcine" not in metadata:
        raise InputError(
            f"checkpoint {path} is no CausalCine all-in-one file: its header has no `causalcine` entry (a bare network "
            "is loaded with load_transformer, in ComfyUI with CausalCineModelLoader)"
        )
    try:
        header = json.loads(metadata["causalcine"])
    except ValueError as error:
        raise InputError(f"checkpoint {path} has a broken `causalcine` header ({error})") from None
    if header.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} has format {header.get('format')!r}; this version reads format {FORMAT}")
    parts = {
        part: expand({name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)})
        for part, prefix in PARTS.items()
    }
    return Checkpoint(header, **parts)


def save_checkpoint(
    path: str | os.PathLike[str],
    header: Mapping[str, Any],
    *,
    model: Mapping[str, Tensor],
    text: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
) -> None:
    """Write an all-in-one file; it appears under its name only when it is whole."""
    path = Path(path)
    tensors = {
        PARTS[part] + name: t.detach().contiguous()
        for part, weights in (("model", model), ("text", text), ("vae", vae))
        for name, t in weights.items()
    }
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(tensors, str(partial), metadata={"causalcine": json.dumps({"format": FORMAT, **header})})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_transformer(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: WanConfig | None = None,
) -> CausalWanTransformer:
    """Read a Wan transformer from a safetensors file in Wan's own, or ComfyUI's prefixed, layout."""
    weights, metadata = read_weights(path)
    for prefix in PREFIXES:
        stripped = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
        weights = stripped or weights
    if config is None and "causalcine" in metadata:
        config = WanConfig.from_dict(json.loads(metadata["causalcine"])["model"])
    config = config or infer_config(weights, str(path))
    net = CausalWanTransformer(config, device="meta")
    assign(net, weights, f"checkpoint {path}")
    return net.to(device, dtype).eval().requires_grad_(False)


def infer_config(weights: Mapping[str, Tensor], source: str) -> WanConfig:
    """Shapes to config. Heads are not in the shapes: Wan's head dimension is 128."""
    try:
        dim, in_dim, *patch = weights["patch_embedding.weight"].shape
        out = weights["head.head.weight"].shape[0]
        return WanConfig(
            dim=dim,
            ffn_dim=weights["blocks.0.ffn.0.weight"].shape[0],
            num_heads=dim // 128,
            num_layers=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
            in_dim=in_dim,
            out_dim=out // (patch[0] * patch[1] * patch[2]),
            patch_size=(patch[0], patch[1], patch[2]),
            freq_dim=weights["time_embedding.0.weight"].shape[1],
            text_dim=weights["text_embedding.0.weight"].shape[1],
        )
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise InputError(
            f"checkpoint {source} is no Wan text-to-video transformer: {error} is missing or misshapen"
        ) from None


def assign(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Give every parameter of a module its weight, or say in one sentence which ones do not fit."""
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights))
    extra = sorted(set(weights) - set(expected))
    misshapen = sorted(name for name in set(expected) & set(weights) if expected[name].shape != weights[name].shape)
    for names, what in ((missing, "lacks"), (misshapen, "has another shape for"), (extra, "has unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{source} {what} {names[0]}{more} ({len(expected) - len(missing)} of {len(expected)} weights found): "
                "it is of another architecture or incomplete"
            )
    module.load_state_dict(dict(weights), assign=True)


def _not_safetensors(start: bytes, size: int) -> str | None:
    if size == 0:
        return "is empty: the download has not begun or the disk was full"
    if start.startswith(b"version https://git-lfs"):
        return "looks like a Git LFS pointer: fetch the real file (git lfs pull)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "is a web page, not weights: download the file itself"
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return "is a pickle (.pt): only safetensors files are read, since a pickle can run code"
    if size < 10:
        return f"looks like an incomplete download ({size} bytes)"
    return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        twice = next(name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1)
        raise InputError(f"has the key {twice!r} twice in its header")
    return names
