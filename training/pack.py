"""Carry a run from machine to machine: its state in pieces of at most 16 MiB.

    python -m training.pack save ~/causalcine-train/base/state.pt pieces [--compact] [--keep weights moments]
    python -m training.pack restore pieces ~/causalcine-train/base/state.pt
    python -m training.pack codec ~/causalcine-train/codec/vae.safetensors vae.safetensors

What is kept of each part are its averaged weights, matrices in bfloat16 and all that is small in float32; a run that goes on begins
with them, its moments at zero, and reads whatever data lies there. `--keep weights` keeps the weights themselves beside their
averages, `--keep moments` the optimizers' moments; `--compact` rounds weights and averages to eight bits, as in the built-in model.
What a stage keeps of its own goes along, but for its place in the data. `codec` writes a VAE in eight bits, as it is exported.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core.atomic import write_atomic
from causalcine_core.errors import InputError
from causalcine_core.vae import load_vae
from causalcine_core.weights.int8 import compact, expand
from causalcine_core.weights.tensors import read_tensors, write_tensors, write_torch

from .components.checkpoint import FORMAT, read_state

PIECE = 16 * 2**20  # bytes
INDEX = "state.json"
SMALL = 2**14  # numbers of a tensor that stays in float32
KEEP = ("weights", "moments")
# Of what a stage keeps of its own, and what stands for it: the names of shards, which lie on one machine, films that live on, and
# weights that follow the average.
LEFT: dict[str, Any] = {"data": {}, "shards": [], "living": {}, "followed": None}


def packed(state: Mapping[str, Any], keep: Sequence[str] = (), compacted: bool = False) -> dict[str, Any]:
    """What of a state is carried."""
    parts = {name: _part(part, keep, compacted) for name, part in state["parts"].items()}
    own = {name: LEFT.get(name, value) for name, value in state["own"].items()}
    if compacted and own.get("teacher"):
        own["teacher"] = compact(own["teacher"])
    return {**state, "parts": parts, "own": own}


def _part(part: Mapping[str, Any], keep: Sequence[str], compacted: bool) -> dict[str, Any]:
    weights, average = part["weights"], part["average"]
    if average is not None and "weights" not in keep:
        weights = {name: t for name, t in weights.items() if name not in average}  # frozen ones, which have no average
    optimizers = part["optimizers"]
    if "moments" not in keep:
        optimizers = [{**one, "state": {}} for one in optimizers]
    if compacted:
        weights, average = compact(weights), compact(average) if average is not None else None
    return {"weights": weights, "average": average, "optimizers": optimizers}


def unpacked(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state that a run resumes, out of what was carried."""
    parts = {}
    for name, part in state["parts"].items():
        weights = _whole(part["weights"])
        average = _whole(part["average"]) if part["average"] is not None else None
        parts[name] = {**part, "weights": {**(average or {}), **weights}, "average": average}
    own = state["own"]
    if own.get("teacher"):
        own = {**own, "teacher": _whole(own["teacher"])}
    return {**state, "parts": parts, "own": own}


def _whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What may have been compacted, in float32."""
    return {name: t.float() if t.is_floating_point() else t for name, t in expand(weights).items()}


def save(state: Mapping[str, Any], folder: Path, keep: Sequence[str] = (), compacted: bool = False) -> list[Path]:
    """Writes the pieces of a state, and an index of them, which comes last: where it is, they are whole. Gives all of their paths.
    Raises OSError where one cannot be written."""
    tensors: dict[str, Tensor] = {}
    plain = _taken(packed(state, keep, compacted), tensors)
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "state.partial"
    try:
        write_tensors(whole, tensors, {"state": json.dumps(plain)})
        data = whole.read_bytes()
    finally:
        whole.unlink(missing_ok=True)
    pieces: list[dict[str, Any]] = []
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        name = f"state-{start // PIECE + 1:02d}.part"
        _write(folder / name, piece)
        pieces.append({"name": name, "sha256": hashlib.sha256(piece).hexdigest()})
    index = {"stage": state["stage"], "step": state["step"], "bytes": len(data), "pieces": pieces}
    _write(folder / INDEX, json.dumps(index, indent=1).encode())
    return [folder / piece["name"] for piece in pieces] + [folder / INDEX]


def load(folder: Path) -> dict[str, Any]:
    """The state of a folder of pieces. Raises InputError in one sentence where one is missing or not what was written."""
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        named = [(str(piece["name"]), str(piece["sha256"])) for piece in index["pieces"]]
    except OSError:
        raise InputError(f"{folder} holds no pieces of a state: it has no {INDEX}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder / INDEX} is no index of a state's pieces") from None
    data = []
    for number, (name, digest) in enumerate(named, 1):
        path = folder / Path(name).name
        try:
            data.append(path.read_bytes())
        except OSError:
            raise InputError(f"piece {path} is missing: piece {number} of {len(named)} of the state") from None
        if hashlib.sha256(data[-1]).hexdigest() != digest:
            raise InputError(f"piece {path} is not what was written: it is damaged, or of another state")
    whole = folder / "state.partial"
    try:
        _write(whole, b"".join(data))
        tensors, header = read_tensors(whole, "state")
        return unpacked(_given(json.loads(header.metadata["state"]), tensors))
    finally:
        whole.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    write_atomic(path, lambda partial: partial.write_bytes(data))


def _taken(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Plain data as JSON holds it, with the numbers of tensors, which go into `tensors`. Dictionaries become lists of pairs, since
    optimizers number their parameters."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors)}"
        large = value.dtype == torch.float32 and value.numel() > SMALL
        tensors[name] = value.bfloat16() if large else value
        return {"tensor": name, "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _taken(one, tensors)] for key, one in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_taken(one, tensors) for one in value]}
    if isinstance(value, list):
        return [_taken(one, tensors) for one in value]
    return value


def _given(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `_taken`."""
    if isinstance(value, list):
        return [_given(one, tensors) for one in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]].to(getattr(torch, value["dtype"]))
    if "tuple" in value:
        return tuple(_given(one, tensors) for one in value["tuple"])
    return {key: _given(one, tensors) for key, one in value["pairs"]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.pack", description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="what", required=True)
    into = commands.add_parser("save", help="a state to pieces")
    into.add_argument("state", type=Path)
    into.add_argument("pieces", type=Path, help="a folder")
    into.add_argument("--compact", action="store_true", help="weights in eight bits")
    into.add_argument("--keep", nargs="+", choices=KEEP, default=[], help="more than averages")
    back = commands.add_parser("restore", help="pieces to a state")
    back.add_argument("pieces", type=Path)
    back.add_argument("state", type=Path)
    codec = commands.add_parser("codec", help="a VAE in eight bits")
    codec.add_argument("vae", type=Path)
    codec.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    if args.what == "save":
        for path in save(read_state(args.state), args.pieces, args.keep, args.compact):
            print(f"{path}: {path.stat().st_size / 2**20:.2f} MiB")
    elif args.what == "codec":
        write_tensors(args.out, compact(load_vae(args.vae).state_dict()))
    else:
        state = load(args.pieces)
        if args.state.exists():
            raise InputError(f"{args.state} exists already: pieces are restored where no run is")
        args.state.parent.mkdir(parents=True, exist_ok=True)
        write_torch(args.state, {**state, "format": FORMAT})
        print(f"{args.state}: stage {state['stage']}, step {state['step']}")


if __name__ == "__main__":
    main()
