"""A bare Wan transformer out of any layout: weights under Wan's own names, its config, and what was found."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, about
from ..weights.checkpoint import assign
from ..weights.diagnose import no_network, wrong_network
from ..weights.header import Shape
from ..weights.int8 import expand, scaled
from ..weights.layouts import COMPANIONS, Layout, find_layout, is_lora
from ..weights.lora import merge_lora
from ..weights.metadata import ENTRY, read_entry
from ..weights.source import Source, open_source
from .config import PRESETS, WanConfig
from .transformer import CausalWanTransformer

HEAD_DIM = 128  # of every public Wan; shapes do not tell it


@dataclass(frozen=True)
class NetworkInfo:
    """What a file holds, from its header. layout: Wan, ComfyUI, diffusers or training. part: which of several networks
    was taken, such as `generator_ema`. matched of total: weights of the architecture found. header: the `causalcine`
    entry. notes: what else there is to say, a sentence each."""

    path: Path
    config: WanConfig
    layout: str
    part: str
    matched: int
    total: int
    header: dict[str, Any]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        part = f", {self.part}" if self.part else ""
        found = f"{self.matched} of {self.total} weights matched ({self.layout} layout{part})"
        return "; ".join((found, *self.notes))


@dataclass(frozen=True)
class NetworkFile(NetworkInfo):
    """The same with its weights, under Wan's own names, in the file's number types."""

    weights: dict[str, Tensor]


def describe_network_file(
    path: str | os.PathLike[str], *, config: WanConfig | None = None, part: str | None = None, pickles: bool = False
) -> NetworkInfo:
    """What `read_network` would find; raises what it would raise, and reads no tensor of a safetensors file."""
    return describe_source(open_source(path, pickles=pickles), config, part)


def describe_source(source: Source, config: WanConfig | None = None, part: str | None = None) -> NetworkInfo:
    """The same of a source that is open already."""
    return _find(source, config, part)[0]


def read_network(
    path: str | os.PathLike[str],
    *,
    config: WanConfig | None = None,
    part: str | None = None,
    lora: str | os.PathLike[str] | None = None,
    alpha: float | None = None,
    pickles: bool = False,
) -> NetworkFile:
    """Read the transformer of a file or folder in any known layout.

    Args:
        path: safetensors file, one part of several, or folder; with `pickles` also a `.pt`.
        config: of the network; by default the file's own, else told from shapes.
        part: which of several networks to take; by default the averaged weights.
        lora: a file to be merged in, beside one that the checkpoint itself holds.
        alpha: of LoRAs that name none; by default their rank.

    Raises InputError in one sentence that names the first missing weight, how many, and the likely cause.
    """
    source = open_source(path, pickles=pickles)
    info, layout = _find(source, config, part)
    held = source.read([*layout.sources.values(), *layout.lora])
    with about(f"checkpoint {path}"):
        weights = _plain({name: held[key] for name, key in layout.sources.items()})
    notes = list(info.notes)
    if layout.lora:
        merged = merge_lora(weights, {k: held[k] for k in layout.lora}, alpha=alpha, source=f"the LoRA in {path}")
        weights = merged.weights
        notes.append(f"the LoRA that the file holds: {merged}")
    if lora is not None:
        weights, note = _with_lora(weights, lora, alpha, pickles)
        notes.append(note)
    found = {f: getattr(info, f) for f in info.__dataclass_fields__} | {"notes": tuple(notes)}
    return NetworkFile(**found, weights=weights)


def load_transformer(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    config: WanConfig | None = None,
) -> CausalWanTransformer:
    """A Wan transformer out of a file or folder in any known layout, ready to run.

    dtype: of the large layers; what must not be rounded stays in float32 (see `CausalWanTransformer`).
    """
    file = read_network(path, config=config)
    net = CausalWanTransformer(file.config, device="meta", dtype=dtype)
    assign(net, file.weights, f"checkpoint {path}")
    return net.to(device).eval().requires_grad_(False)


def infer_config(shapes: Mapping[str, Shape], source: str, config: Mapping[str, Any] | None = None) -> WanConfig:
    """Shapes by Wan's names to a config. config: of a `config.json`, for what shapes do not tell (heads).

    Where a weight is missing, Wan's usual number stands in, so that the rest can be checked against it.
    """
    config = config or {}

    def size(name: str, axis: int, usual: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if len(shape) > axis else usual

    blocks = [name for name in shapes if name.startswith("blocks.") and name.split(".")[1].isdigit()]
    first = min((int(name.split(".")[1]) for name in blocks), default=0)
    patch = shapes.get("patch_embedding.weight", ())
    cell = (patch[2], patch[3], patch[4]) if len(patch) == 5 else (1, 2, 2)
    dim = patch[0] if patch else size(f"blocks.{first}.self_attn.q.weight", 0, 0)
    ffn = size(f"blocks.{first}.ffn.0.weight", 0, 4 * dim)
    layers = 1 + max((int(name.split(".")[1]) for name in blocks), default=0)
    known = [p.num_layers for p in PRESETS.values() if (p.dim, p.ffn_dim) == (dim, ffn) and p.dim >= 1536]
    heads = config.get("num_attention_heads", config.get("num_heads"))
    if not isinstance(heads, int) or heads < 1 or dim % heads:
        heads = dim // HEAD_DIM
        if not heads or dim % HEAD_DIM:
            raise InputError(
                f"checkpoint {source} is {dim} wide, which is no multiple of Wan's head size {HEAD_DIM}: the number of heads "
                "must be given in a config"
            )
    channels = patch[1] if len(patch) == 5 else 16
    volume = cell[0] * cell[1] * cell[2]
    return WanConfig(
        dim=dim,
        ffn_dim=ffn,
        num_heads=heads,
        num_layers=max([layers, *known]),
        in_dim=channels,
        out_dim=max(1, size("head.head.weight", 0, channels * volume) // volume),
        patch_size=cell,
        freq_dim=size("time_embedding.0.weight", 1, 256),
        text_dim=size("text_embedding.0.weight", 1, 4096),
        eps=config["eps"] if isinstance(config.get("eps"), float) else 1e-6,
    )


def _find(source: Source, config: WanConfig | None, part: str | None) -> tuple[NetworkInfo, Layout]:
    layout = find_layout(source.shapes, part)
    if layout is None:
        raise InputError(f"checkpoint {source.path} holds no Wan transformer: {no_network(source.shapes)}")
    shapes = {n: s for n, s in layout.shapes(source.shapes).items() if n.split(".")[-1] not in COMPANIONS}
    header = read_entry(source.metadata, ENTRY, f"checkpoint {source.path}") or {}
    if config is None and "model" in header:
        with about(f"checkpoint {source.path}"):
            config = WanConfig.from_dict(header["model"])
    cause = wrong_network(shapes)
    if cause and config is None:
        raise InputError(f"checkpoint {source.path} is no text-to-video Wan transformer: {cause}")
    config = config or infer_config(shapes, str(source.path), source.config)
    expected = {n: tuple(t.shape) for n, t in CausalWanTransformer(config, device="meta").state_dict().items()}
    matched = _check(shapes, expected, source.path)
    info = NetworkInfo(
        path=source.path,
        config=config,
        layout=layout.name,
        part=layout.part,
        matched=matched,
        total=len(expected),
        header=header,
        notes=(*source.notes, *layout.notes),
    )
    return info, layout


def _check(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], path: Path) -> int:
    """How many weights are there; InputError unless it is all of them, in the right shapes, and no other."""
    missing = [name for name in expected if name not in shapes]
    misshapen = [name for name in expected if name in shapes and shapes[name] != expected[name]]
    extra = sorted(set(shapes) - set(expected))
    found = f"({len(expected) - len(missing)} of {len(expected)} weights found)"
    if missing:
        cause = wrong_network(shapes, len(missing), len(expected))
        raise InputError(f"checkpoint {path} lacks {_some(missing)} {found}: {cause}")
    if misshapen:
        name = misshapen[0]
        raise InputError(
            f"checkpoint {path} has another shape for {_some(misshapen)} {found}: {list(shapes[name])}, expected "
            f"{list(expected[name])}; it is of another architecture"
        )
    if extra:
        cause = wrong_network(shapes) or "it is of another architecture"
        raise InputError(f"checkpoint {path} has unknown {_some(extra)} {found}: {cause}")
    return len(expected)


def _some(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _with_lora(
    weights: dict[str, Tensor], path: str | os.PathLike[str], alpha: float | None, pickles: bool
) -> tuple[dict[str, Tensor], str]:
    source = open_source(path, pickles=pickles)
    keys = [key for key in source.shapes if is_lora(key)]
    if not keys:
        raise InputError(f"LoRA {path} holds no LoRA: its first key is {min(source.shapes, default='missing')}")
    merged = merge_lora(weights, source.read(keys), alpha=alpha, source=f"LoRA {path}")
    return merged.weights, f"LoRA {Path(path).name}: {merged}"


def _plain(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights without their companions: int8 of ours, and fp8 with a scale (ComfyUI's), become plain numbers."""
    out = {}
    for name, tensor in expand(weights).items():
        module, _, last = name.rpartition(".")
        if last in COMPANIONS:
            continue
        scale = weights.get(f"{module}.scale_weight", weights.get(f"{module}.weight_scale"))
        out[name] = scaled(name, tensor, scale if last == "weight" else None)
    return out
