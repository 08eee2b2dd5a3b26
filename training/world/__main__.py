"""`python -m training.world preview --seed 1 -o out.png`: look at what the model will be trained on; `... shards`: make it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from . import make_film, make_still, random_story

SCALE, TEXT = 2, 46  # enlargement of a frame; pixels for a caption


def preview(seed: int, films: int, size: tuple[int, int]) -> Image.Image:
    """First and middle frame of every shot, one row a film, with captions."""
    width, height = size[0] * SCALE, size[1] * SCALE
    cell = 2 * width + 8
    sheet = Image.new("RGB", (6 * cell, films * (height + TEXT)), (24, 24, 28))
    pen = ImageDraw.Draw(sheet)
    for row in range(films):
        film = make_film(seed + row, size=size)
        for column, shot in enumerate(film.shots[:6]):
            x, y = column * cell, row * (height + TEXT)
            for k, frame in enumerate((shot.first, (shot.first + shot.end) // 2)):
                image = Image.fromarray(film.render(frame, frame + 1)[0]).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
                sheet.paste(image, (x + k * (width + 2), y))
            text = (film.global_caption + " " if column == 0 else "") + shot.caption
            lines = textwrap.wrap(text, cell // 6)[:4]
            pen.multiline_text((x + 2, y + height), "\n".join(lines), (230, 230, 225), spacing=0)
    return sheet


def stills(seed: int, rows: int, size: tuple[int, int]) -> Image.Image:
    """A wall of stills, ten a row."""
    pictures = [make_still(seed + i, size)[0] for i in range(rows * 10)]
    wall = [np.concatenate(pictures[i * 10 : (i + 1) * 10], 1) for i in range(rows)]
    return Image.fromarray(np.concatenate(wall, 0))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.world", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    for name, says in (("preview", "films, a row each"), ("stills", "a wall of stills"), ("story", "a story file")):
        look = commands.add_parser(name, help=says)
        look.add_argument("--seed", type=int, default=1)
        look.add_argument("--rows", type=int, default=4, help="films or rows of stills")
        look.add_argument("-o", "--output", default="preview.png")
    shards = commands.add_parser("shards", help="films or stills as latents, to train on")
    shards.add_argument("--kind", choices=("stills", "films"), required=True)
    shards.add_argument("--vae", type=Path, required=True, help="a VAE in any known layout")
    shards.add_argument("--out", type=Path, required=True, help="folder of the shards")
    shards.add_argument("--count", type=int, required=True)
    shards.add_argument("--first-seed", type=int, default=0)
    shards.add_argument("--per-shard", type=int, default=0)
    shards.add_argument("--workers", type=int, default=0, help="processes that draw beside the one that encodes")
    shards.add_argument("--seconds", type=float, default=0, help="to end after; 0: when all are made")
    shards.add_argument("--device", help="that encodes; by default CUDA where there is one")
    for command in commands.choices.values():
        command.add_argument("--size", default="96x96", help="WIDTHxHEIGHT in pixels")
    args = parser.parse_args(argv)
    width, height = (int(n) for n in args.size.split("x"))
    if args.what == "story":
        print(json.dumps(random_story(args.seed, size=(width, height)), indent=2))
    elif args.what == "shards":
        import torch  # which those who only draw need not wait for

        from causalcine_core.runner import pick_device
        from causalcine_core.vae import load_vae

        from .shards import make_shards

        torch.set_num_threads(1)  # many of these run side by side
        device = pick_device(args.device)
        make_shards(
            args.kind,
            load_vae(args.vae, device),
            args.out,
            count=args.count,
            first_seed=args.first_seed,
            per_shard=args.per_shard,
            size=(width, height),
            workers=args.workers,
            seconds=args.seconds,
            device=device,
        )
    else:
        draw = preview if args.what == "preview" else stills
        draw(args.seed, args.rows, (width, height)).save(args.output)
        print(args.output)


if __name__ == "__main__":
    main()
