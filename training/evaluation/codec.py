"""How well a VAE gives back films of the world that it has never seen.

    python -m training.evaluation.codec VAE [VAE ...] [--films 20] [--json FILE] [--sheets DIR]

For each file: PSNR; the mean luma gradient over the true films' (1: as sharp); the step over every 8th and 16th pixel
border against the steps elsewhere, over the true films' (1: no grid); the luma step into the first frame of a chunk,
and into that of a latent frame, over the median of all phases (above 1.5 it blinks); frames decoded in a second.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from causalcine_core.vae import WanVAE, frames_to_uint8, load_vae, uint8_to_frames
from training.world import Film, make_film

from .luma import border_step, flicker, gradients, luma_steps, phase_means

FILM_SEED = 910_000_000  # films from here on are never trained on
BORDERS = (4, 8, 16)  # pixels
LATENT = 4  # pixel frames of a latent frame

Frames = NDArray[np.uint8]


def psnr(made: Frames, true: Frames) -> float:
    """Peak signal to noise ratio of pictures of 255 levels, in dB, by the mean square error of all of them; infinite where they are
    equal."""
    error = float(np.square((made.astype(np.float32) - true).astype(np.float64)).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


@torch.no_grad()
def round_trip(vae: WanVAE, frames: Frames) -> tuple[Frames, float]:
    """Frames `[F H W 3]` through the VAE, and the seconds that decoding took."""
    weight = next(vae.parameters())
    video = uint8_to_frames(torch.from_numpy(np.ascontiguousarray(frames)))
    latent, _ = vae.encode(video.to(weight))
    began = time.perf_counter()
    decoded, _ = vae.decode(latent)
    seconds = time.perf_counter() - began
    return frames_to_uint8(decoded).cpu().numpy(), seconds


def measure(vae: WanVAE, films: Iterable[tuple[Frames, Sequence[int]]]) -> dict[str, float]:
    """The codec's figures over films, each uint8 `[F H W 3]` with the first frames of its shots but the first.

    Ratios of gradients and steps are of sums over all films; PSNR and the luma steps are means over films.
    """
    quality, blink, four, seconds, count = [], [], [], 0.0, 0
    sums: dict[str, list[Any]] = {"true": [], "made": []}
    for true, cuts in films:
        made, took = round_trip(vae, true)
        quality.append(psnr(made, true))
        for name, frames in (("true", true), ("made", made)):
            sums[name].append(gradients(frames))
        blink.append([flicker(frames, cuts).chunk for frames in (made, true)])
        phases = [phase_means(luma_steps(frames), cuts, LATENT, 1) for frames in (made, true)]
        four.append([means[0] / np.median(means) for means in phases])
        seconds, count = seconds + took, count + len(true)
    rows = {name: [np.mean(lines, 0) for lines in zip(*values, strict=True)] for name, values in sums.items()}
    made, true = (np.concatenate(rows[name]).mean() for name in ("made", "true"))
    report = {"psnr": np.mean(quality), "psnr_worst": np.min(quality), "gradient": made / true}
    for size in BORDERS:
        report[f"border_{size}"] = border_step(rows["made"], size) / border_step(rows["true"], size)
    report |= {"luma_step_chunk": np.mean(blink, 0)[0], "luma_step_chunk_worst": np.max(blink, 0)[0]}
    report |= {"luma_step_chunk_true": np.mean(blink, 0)[1], "luma_step_latent": np.mean(four, 0)[0]}
    report |= {"luma_step_latent_true": np.mean(four, 0)[1], "decoded_per_second": count / seconds}
    return {name: round(float(value), 4) for name, value in report.items()}


def compared(vae: WanVAE, films: Sequence[tuple[Frames, Sequence[int]]]) -> list[Frames]:
    """Frames of the first six films, far apart and four in a row, uint8 `[7 H W 3]`, and after each film the same as decoded."""
    rows = []
    for frames, _ in films[:6]:
        end = len(frames) // 4 * 4
        shown = [0, end // 3, end // 2 - 1, end // 2, end // 2 + 1, end // 2 + 2, end - 1]
        made, _ = round_trip(vae, frames)
        rows += [part[shown] for part in (frames, made)]
    return rows


def sheet(vae: WanVAE, films: Sequence[tuple[Frames, Sequence[int]]], path: Path, scale: int = 3) -> None:
    """True frames above decoded ones, enlarged."""
    picture = Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in compared(vae, films)]))
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    picture.save(path)


def unseen_films(count: int, frames: int | None = None) -> list[tuple[Frames, tuple[int, ...]]]:
    """So many films of the world, or their first `frames` frames, each with its cuts."""
    return [_opening(make_film(FILM_SEED + n), frames) for n in range(count)]


def _opening(film: Film, frames: int | None) -> tuple[Frames, tuple[int, ...]]:
    end = min(frames or film.frames, film.frames)
    return film.render(0, end), tuple(cut for cut in film.cuts if cut < end)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.codec", description=__doc__.splitlines()[0])
    parser.add_argument("vae", type=Path, nargs="+", help="safetensors files of VAEs")
    parser.add_argument("--films", type=int, default=20)
    parser.add_argument("--frames", type=int, help="of each film; otherwise all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheets", type=Path, help="folder for a sheet of each file: true frames above decoded ones")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    films = unseen_films(args.films, args.frames)
    report: dict[str, Any] = {}
    for path in args.vae:
        vae = load_vae(path, dtype=getattr(torch, args.dtype))
        report[str(path)] = measure(vae, films)
        if args.sheets:
            sheet(vae, films, args.sheets / f"{path.stem}.png")
        print(f"{path}, {args.films} unseen films, {args.dtype}")
        for name, value in report[str(path)].items():
            print(f"  {name:24}{value:10.4f}")
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
