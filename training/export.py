"""Write a trained run as one all-in-one checkpoint with its card.

    python -m training.export --work DIR --vae VAE --out causalcine_core/assets/nano.safetensors

The card says which command, data, seed, hardware and time made it; measured quality is added by
`training.evaluation` and kept here when a newer run is exported over it only if `--quality` names the report.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from causalcine_core.model import PRESETS, save_checkpoint
from causalcine_core.sampling import SAMPLERS, Recipe
from causalcine_core.text import TextConfig
from causalcine_core.vae import load_vae
from causalcine_core.weights.int8 import compact

from .stages.teacher_forcing import Model


def card(state: dict[str, Any], vae_metadata: dict[str, str], quality: dict[str, Any] | None) -> dict[str, Any]:
    """What made the weights, in plain words and numbers."""
    recipe = state["recipe"]
    return {
        "command": "causalcine train vae training/recipes/vae.yaml; causalcine train vae training/recipes/vae_decoder.yaml --init "
        "VAE; causalcine train teacher_forcing training/recipes/nano.yaml",
        "data": "training.world: procedural films rendered by this repository, no downloads",
        "seed": recipe["seed"],
        "hardware": "; ".join(f"{name}: {seconds / 3600:.2f} h" for name, seconds in state["hardware"].items()),
        "torch": torch.__version__,
        "hours": round(state["seconds"] / 3600, 2),
        "steps": state["step"],
        "samples": state["seen"],
        "vae": vae_metadata,
        "recipe": recipe,
        "quality": quality or {},
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--quality", type=Path, help="report of training.evaluation, JSON")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sampler", choices=SAMPLERS, default="unipc")
    parser.add_argument("--guidance", type=float, default=3.0)
    args = parser.parse_args(argv)

    state = torch.load(args.work / "state.pt", weights_only=True)
    recipe, text = state["recipe"], TextConfig.from_dict(state["text"])
    config = PRESETS[recipe["model"]]
    model = Model(config, text)
    model.load_state_dict(state["ema"])
    with safe_open(str(args.vae), "pt") as file:
        vae_metadata = file.metadata() or {}
    quality = json.loads(args.quality.read_text()) if args.quality else None
    rollout = Recipe.of(
        steps=args.steps,
        sampler=args.sampler,
        shift=recipe["shift"],
        guidance=args.guidance,
        window=recipe["window"],
        top_k=recipe["top_k"],
        width=96,
        height=96,
    )
    header = {
        "model": config.to_dict(),
        "text": text.to_dict(),
        "recipe": rollout.to_dict(),
        "card": card(state, vae_metadata, quality),
    }
    parts = {"model": model.net, "text": model.text, "vae": load_vae(args.vae)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(args.out, header, **{part: compact(module.state_dict()) for part, module in parts.items()})
    print(
        f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, {state['step']} steps, {state['seconds'] / 3600:.2f} h"
    )


if __name__ == "__main__":
    main()
