"""`causalcine inspect`: what a file of weights or a state is, from its header, and what a film on it would need."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .card import Card
from .errors import InputError
from .memory import MemorySettings
from .model.load import describe_network_file, describe_source
from .needs import film_needs, to_dict
from .runner import pick_device, pick_dtype
from .sampling import Label, choose_family
from .sampling.state_files import describe_state, label_in
from .weights.checkpoint import PARTS, find_fields
from .weights.diagnose import no_network
from .weights.header import Header, read_header
from .weights.layouts import find_layout
from .weights.metadata import ENTRY, STATE_ENTRY
from .weights.source import is_pickle, open_source


def describe_file(path: Path) -> dict[str, Any]:
    """What a file of weights is, from its header alone: kind, parameters by part, number types, recipe, card."""
    if path.is_dir() or is_pickle(path):
        kind = "folder" if path.is_dir() else ".pt file"
        return {"file": str(path), "kind": kind} | describe_network_in(path)
    header = read_header(path)
    facts: dict[str, Any] = {"file": str(path), "kind": "safetensors file", "bytes": path.stat().st_size}
    facts |= {"tensors": len(header.tensors), "numbers": sum(entry.numel for entry in header.tensors.values())}
    facts["types"] = ", ".join(sorted({entry.dtype for entry in header.tensors.values()}))
    if STATE_ENTRY in header.metadata:
        source = f"state file {path}"
        state = describe_state(header.metadata, source)
        return facts | _describe_state(state, label_in(header, state, source), path)
    fields = find_fields(header, path)
    if fields is not None:
        return facts | _describe_checkpoint(header, Card.of(fields, f"checkpoint {path}").fields)
    facts |= describe_network_in(path)
    foreign = {name: text for name, text in header.metadata.items() if name != ENTRY}
    return facts | ({"metadata": foreign} if foreign else {})


def _describe_state(state: dict[str, Any], label: Label, path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": "CausalCine film state, for causalcine continue"}
    facts |= {"chunks": state["chunks"], "shots": label.shots, "seed": str(state["seed"])}
    if label.seconds is not None:
        facts |= {"length": f"{label.seconds:.1f} s ({label.frames} frames)", "last words": label.words}
    kept = f"{label.memory / 2**20:.1f} MiB"
    facts["remembered"] = kept if label.memory else "left out: it is written anew, one pass for each chunk"
    file = shlex.quote(str(path))
    facts["go on"] = f"causalcine continue {file} MORE.txt -o more.mp4"
    if label.shots:
        facts["retake"] = f"causalcine continue {file} -o take.mp4 --whole --from-shot {label.shots}"
    if "history" in state:
        facts |= {"history": f"the first {state['history']} chunks were given, not made"}
    return facts | {"model": state["model"], "memory": state["settings"], "recipe": state["recipe"]}


def _describe_checkpoint(header: Header, fields: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": f"CausalCine all-in-one checkpoint, format {fields['format']}"}
    facts["parameters"] = {
        part: f"{sum(entry.numel for name, entry in header.tensors.items() if name.startswith(prefix)):,}"
        for part, prefix in PARTS.items()
    }
    for name in ("model", "text", "vae", "recipe", "card"):
        if fields.get(name):
            facts[name] = fields[name] if isinstance(fields[name], dict) else {"": fields[name]}
    return facts


def describe_network_in(path: Path) -> dict[str, Any]:
    """What `causalcine inspect` says of a transformer in any layout; of a file that holds none, what it looks like."""
    source = open_source(path, pickles=True)
    shapes = source.shapes
    layout = find_layout(shapes)
    if layout is None:
        return {"no Wan transformer": no_network(shapes)}
    facts: dict[str, Any] = {"kind": "Wan transformer"}
    facts["layout"] = layout.name + (f", {layout.part}" if layout.part else "")
    inside = layout.shapes(shapes)
    patch = inside.get("patch_embedding.weight", ())
    if len(patch) == 5:
        blocks = {name.split(".")[1] for name in inside if name.startswith("blocks.")}
        facts["network"] = {
            "dim": patch[0],
            "latent channels": patch[1],
            "patch": list(patch[2:]),
            "blocks": len(blocks),
        }
    try:
        info = describe_source(source)
    except InputError as error:
        return facts | {"problem": str(error)}
    choice = choose_family(info.config, info.header)
    facts["matched"] = f"{info.matched} of {info.total} weights"
    facts["family"] = str(choice)
    facts["recipe"] = {name: value for name, value in choice.recipe.to_dict().items() if value not in (None, "")}
    if info.notes:
        facts["notes"] = "; ".join(info.notes)
    return facts


def describe_film(
    path: Path,
    settings: MemorySettings,
    *,
    size: tuple[int, int] | None = None,
    seconds: float | None = None,
    dtype: str | None = None,
) -> dict[str, Any]:
    """What a film on this model needs, from its header alone.

    size: width and height, the model's own by default. seconds: 60 by default. dtype: torch's name of the network's
    number type, by default as `pick_dtype`. Raises InputError as `film_needs` and `describe_network_file` do.
    """
    fields = None if path.is_dir() or is_pickle(path) else find_fields(read_header(path), path)
    if fields is not None:
        card = Card.of(fields, f"checkpoint {path}")
        config, recipe = card.model, card.recipe
    else:
        info = describe_network_file(path)
        config, recipe = info.config, choose_family(info.config, info.header).recipe
    width, height = size or (recipe.picture.width, recipe.picture.height)
    needs = film_needs(
        config,
        recipe,
        settings,
        width=width,
        height=height,
        seconds=60.0 if seconds is None else seconds,
        dtype=getattr(torch, dtype) if dtype else pick_dtype(pick_device(None)),
    )
    return {"size": f"{width}x{height}", **to_dict(needs, recipe.memory(settings))}
