"""`python -m training.world preview --seed 1 -o out.png`: look at what the model will be trained on."""

from __future__ import annotations

import argparse
import json
import textwrap

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.world", description=__doc__)
    parser.add_argument("what", choices=("preview", "stills", "story"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=4, help="films or rows of stills")
    parser.add_argument("--size", default="96x96", help="WIDTHxHEIGHT in pixels")
    parser.add_argument("-o", "--output", default="preview.png")
    args = parser.parse_args()
    width, height = (int(n) for n in args.size.split("x"))
    if args.what == "story":
        print(json.dumps(random_story(args.seed, size=(width, height)), indent=2))
        return
    draw = preview if args.what == "preview" else stills
    draw(args.seed, args.rows, (width, height)).save(args.output)
    print(args.output)


if __name__ == "__main__":
    main()
