"""`causalcine convert`: any known layout, also a `.pt`, to one safetensors file that says how it wants to be run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import checks
from .atomic import check_output
from .errors import InputError
from .model.load import NetworkInfo, read_network
from .model.transformer import CausalWanTransformer
from .sampling import Choice, choose_family
from .sampling.families import find_family
from .weights.built_in import model_path
from .weights.checkpoint import FORMAT, NETWORK, cast_like, check_weights, save_weights
from .weights.tensors import check_numbers


@dataclass(frozen=True)
class Converted:
    """What was written. network: as it was read. family: the recipe in the new file, and why it is that one."""

    path: Path
    network: NetworkInfo
    family: Choice
    bytes: int


def convert(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    lora: str | os.PathLike[str] | None = None,
    alpha: float | None = None,
    part: str | None = None,
    family: str | None = None,
    dtype: torch.dtype | None = None,
) -> Converted:
    """Write the transformer of `source` under Wan's own names, with a `causalcine` header.

    Args:
        source: a file (`.safetensors`, or `.pt` read as tensors only) or folder in any known layout, or `nano`.
        output: a `.safetensors` file; it is replaced once the new one is whole.
        lora: to be merged in. alpha: of one that names none (its rank by default).
        part: which of several networks to take; by default the averaged weights.
        family: row of the table of families; by default the file's own recipe, else a guess that is named as such.
        dtype: of the large layers; what must not be rounded stays in float32. By default the file's own types.

    Raises InputError in one sentence, and writes nothing, where that cannot be done: also where a weight, of the LoRA, of the file
    or of what is to be written, is not-a-number or infinity.
    """
    target = check_output(output, ".safetensors")
    for path in (source, lora):
        if path is not None and Path(path).resolve() == target.resolve():
            raise InputError(f"output {output} is the file to be read: choose another name")
    if family is not None:
        find_family(family)
    if alpha is not None:
        checks.positive(alpha, "alpha")
    file = read_network(model_path(source), part=part, lora=lora, alpha=alpha, pickles=True)
    choice = choose_family(file.config, file.header, family)
    weights = file.weights
    net = CausalWanTransformer(file.config, device="meta", dtype=dtype)
    check_weights(net, weights, f"checkpoint {source}")
    check_numbers(weights, f"checkpoint {source}" + (" with its LoRA" if lora is not None else ""))
    if dtype is not None:
        weights = cast_like(net, weights)
        check_numbers(weights, f"checkpoint {source}, cast to {str(dtype).removeprefix('torch.')},")
    save_weights(target, weights, _header(file, choice, lora))
    return Converted(target, file, choice, target.stat().st_size)


def _header(file: NetworkInfo, choice: Choice, lora: str | os.PathLike[str] | None) -> dict[str, Any]:
    origin = {"layout": file.layout, "part": file.part, "file": file.path.name}
    if lora is not None:
        origin["lora"] = Path(lora).name
    return {
        "format": FORMAT,
        "kind": NETWORK,
        "model": file.config.to_dict(),
        "recipe": choice.recipe.to_dict(),
        "family": choice.family.key if choice.family else None,
        "family_reason": choice.reason,
        "source": origin,
    }
