"""Write a trained run as one checkpoint with its card.

    python -m training.export --work DIR --vae VAE --out causalcine_core/assets/nano.safetensors
    python -m training.export --work DIR --lora --out LORA.safetensors         # the adapters of a run with lora.rank, alone

With nano's text encoder the file is all-in-one: network, text encoder and VAE; otherwise the network alone, under Wan's own
names. The card says which command, data, seed, hardware and time made it; `--quality` puts a report of `training.evaluation`
into it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig, save_checkpoint
from causalcine_core.sampling import SAMPLERS, Recipe
from causalcine_core.text import TextConfig
from causalcine_core.vae import load_vae
from causalcine_core.weights.checkpoint import FORMAT, save_weights
from causalcine_core.weights.header import read_header
from causalcine_core.weights.int8 import compact
from causalcine_core.weights.lora import merge_lora
from causalcine_core.weights.tensors import read_tensors, write_tensors

from .components.card import card
from .components.checkpoint import read_state
from .components.lora import Lora, adapters, base
from .components.student import Student
from .model import averaged
from .recipe import read

MANY_STEPS = {"steps": 10, "sampler": "unipc", "guidance": 3.0}


def rollout(trained: Mapping[str, Any], **sampling: Any) -> Recipe:
    """How the model of a run's recipe is rolled out: a student as it was trained, one of many steps by `MANY_STEPS`. sampling: other
    fields. Raises InputError for a student's steps, sampler or guidance."""
    if "student" not in trained:
        fields = {name: trained[name] for name in ("shift", "window", "top_k")}
        return Recipe.of(**fields, **(MANY_STEPS | sampling))
    student = read(Student, trained["student"], "student")
    for name in MANY_STEPS:
        if name in sampling:
            raise InputError(f"--{name} is for models of many steps: a student is rolled out as it was trained")
    return student.recipe(**sampling)


def export(state: Mapping[str, Any], vae: Path, out: Path, quality: Mapping[str, Any], **sampling: Any) -> None:
    """Write the checkpoint of a state. sampling: as in `rollout`."""
    trained = state["recipe"]
    config, text = WanConfig.from_dict(trained["model"]), state["own"].get("text")
    recipe = rollout(trained, **sampling)
    told = card(state, vae=dict(read_header(vae, "VAE").metadata), quality=dict(quality))
    header = {"model": config.to_dict(), "recipe": recipe.to_dict(), "card": told}
    out.parent.mkdir(parents=True, exist_ok=True)
    weights = averaged(state)
    net = _part(weights, "net.")
    if text is None:
        save_weights(out, net, {"format": FORMAT, "kind": "network", **header})
        return
    parts = {"model": net, "text": _part(weights, "text."), "vae": load_vae(vae).state_dict()}
    header["text"] = TextConfig.from_dict(text).to_dict()
    save_checkpoint(out, header, **{name: compact(weights) for name, weights in parts.items()})


def export_lora(state: Mapping[str, Any], out: Path) -> None:
    """Write the adapters of a run, averaged, as a LoRA file under ComfyUI's names, and read it back into the weights that they were
    trained on. Raises InputError where the run trains none."""
    lora = read(Lora, state["recipe"].get("lora", {}), "lora")
    part = state["parts"].get("model")
    found = adapters({**part["weights"], **(part["average"] or {})}, lora) if part is not None else {}
    if not found:
        raise InputError(
            f"a run of stage {state['stage']} with lora.rank {lora.rank} has no adapters: leave --lora out"
        )
    told = {"causalcine": json.dumps({"format": FORMAT, "kind": "lora", "card": card(state)})}
    out.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(out, found, told)
    merge_lora(base(_part(part["weights"], "net.")), read_tensors(out, "LoRA")[0], source=f"LoRA {out}")


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.export", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="the run's folder")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--vae", type=Path)
    what.add_argument("--lora", action="store_true", help="the adapters alone, as a LoRA file for ComfyUI")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quality", type=Path, help="report of training.evaluation, JSON")
    parser.add_argument("--steps", type=int, help="of a model of many steps; 10")
    parser.add_argument("--sampler", choices=SAMPLERS, help="of a model of many steps; unipc")
    parser.add_argument("--guidance", type=float, help="of a model of many steps; 3")
    parser.add_argument("--size", default="96x96", help="WIDTHxHEIGHT in pixels")
    args = parser.parse_args(argv)
    state = read_state(args.work / "state.pt")
    if args.lora:
        export_lora(state, args.out)
        print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {state['step']} steps")
        return
    width, height = (int(n) for n in args.size.split("x"))
    sampling = {name: getattr(args, name) for name in MANY_STEPS if getattr(args, name) is not None}
    quality = json.loads(args.quality.read_text()) if args.quality else {}
    export(state, args.vae, args.out, quality, width=width, height=height, **sampling)
    size = args.out.stat().st_size / 2**20
    print(f"{args.out}: {size:.1f} MiB, {state['step']} steps, {state['seconds'] / 3600:.2f} h")


if __name__ == "__main__":
    main()
