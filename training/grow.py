"""Begin a larger network with what a trained one knows: deeper, with a wider feed-forward, on the latents of another codec.

    python -m training.grow nano --recipe training/recipes/base.yaml --vae VAE --out grown.safetensors

What is written is an all-in-one file, for `causalcine train STAGE RECIPE --start-from grown.safetensors`. Without `--vae` the codec
stays, and every answer is the old one's.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig, save_checkpoint
from causalcine_core.vae import WanVAE, load_vae, normalize
from causalcine_core.weights.built_in import model_path
from causalcine_core.weights.checkpoint import load_checkpoint
from causalcine_core.weights.int8 import compact

from .components.grow import Change, explained, fit_change, grow, patches, refit
from .data.footage import HELD_OUT_SEED, to_video
from .recipe import read_recipe
from .stages.teacher_forcing import TeacherForcingRecipe
from .world import make_film, make_still

FRAMES = 49  # of each film: 13 latent frames


@torch.no_grad()
def compare(
    old: WanVAE, new: WanVAE, patch: tuple[int, int], films: int, stills: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Patches `[N, n]` of the same pictures in the latents of both: "first" latent frames, which stand for one frame each, stills
    among them, and "later" ones, which stand for four. Of seeds that nothing is trained on."""
    clips = [make_film(HELD_OUT_SEED + i).render(0, FRAMES) for i in range(films)]
    clips += [make_still(HELD_OUT_SEED + i)[0][None] for i in range(stills)]
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"first": [], "later": []}
    for frames in clips:
        video = to_video(torch.from_numpy(np.ascontiguousarray(frames))[None])
        one, other = (normalize(vae.encode(video)[0].float())[0] for vae in (old, new))
        if one.shape != other.shape:
            raise InputError(
                f"--vae gives latents {list(other.shape)} where the model's own gives {list(one.shape)}: it cannot be fitted to them"
            )
        found["first"].append((patches(one[:, :1], patch), patches(other[:, :1], patch)))
        if one.shape[1] > 1:
            found["later"].append((patches(one[:, 1:], patch), patches(other[:, 1:], patch)))
    return {
        kind: (torch.cat([a for a, _ in some]), torch.cat([b for _, b in some])) for kind, some in found.items() if some
    }


def fitted(of_kinds: dict[str, tuple[Tensor, Tensor]], shift: float, tell: Callable[[str], None] = print) -> Change:
    """The change between two codecs, of all kinds of latent frames together: a patch embedding does not know which it reads."""
    for kind, (old, new) in of_kinds.items():
        known = torch.arange(len(old)) < 3 * len(old) // 4
        tell(
            f"{kind} latent frames, R^2 on a quarter left out: old from new {explained(new, old, known):.3f}, new from old "
            f"{explained(old, new, known):.3f}"
        )
    old, new = (torch.cat(side) for side in zip(*of_kinds.values(), strict=True))
    return fit_change(old, new, shift)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.grow", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", help="an all-in-one file, or nano")
    parser.add_argument("--recipe", type=Path, required=True, help="of teacher forcing: what it grows to")
    parser.add_argument("--vae", type=Path, help="the codec that it is to be trained on; by default its own")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--compact", action="store_true", help="weights in eight bits, a quarter of the size")
    parser.add_argument("--films", type=int, default=48, help="that the codecs are compared on")
    parser.add_argument("--stills", type=int, default=400)
    args = parser.parse_args(argv)
    path = model_path(args.source)
    recipe = read_recipe(TeacherForcingRecipe, args.recipe)
    held = load_checkpoint(path)
    config = WanConfig.from_dict(held.header["model"])
    weights, vae = {name: t.float() for name, t in held.model.items()}, held.vae
    if args.vae is not None:
        new = load_vae(args.vae, dtype=torch.float32)
        of_kinds = compare(load_vae(path, dtype=torch.float32), new, config.patch_size[1:], args.films, args.stills)
        weights, vae = refit(weights, fitted(of_kinds, recipe.shift)), new.state_dict()
    header = {**held.header, "model": recipe.model.to_dict(), "card": {"grown_from": held.header.get("card", {})}}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    grown = grow(weights, config, recipe.model)
    parts = {"model": grown, "text": {name: t.float() for name, t in held.text.items()}, "vae": vae}
    if args.compact:
        parts = {name: compact(tensors) for name, tensors in parts.items()}
    save_checkpoint(args.out, header, **parts)
    millions = [sum(t.numel() for t in some.values()) / 1e6 for some in (held.model, grown)]
    print(f"{args.out}: {millions[0]:.1f}M weights became {millions[1]:.1f}M")


if __name__ == "__main__":
    main()
