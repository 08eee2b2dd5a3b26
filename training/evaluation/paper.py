"""The paper's figures of real films (CausalCine, arXiv, May 2026, Sec. 4), with encoders whose weights are given by path.

    python -m training.evaluation.paper FILMS [--model FILE] [--stories 100] --clip DIR --dino DIR --dinov2 DIR --aesthetic FILE

FILMS holds films of the stories in open vocabulary (`training.evaluation.stories`), each NAME.mp4 with its report NAME.json as
`causalcine generate` writes them; with --model those that are missing are made. What is not given is not measured:

- cuts: as of the built-in model, by TransNetV2.
- aesthetic: LAION's head over CLIP, a tenth of its score (--clip and --aesthetic).
- text: the cosine of CLIP's features of frames and of their shot's own prompt (--clip). The paper uses ViCLIP, whose weights need code
  of their own and are not read here: compare these numbers among themselves only.
- background, subject: within a shot, how alike frames are to the first one and to the one before (half each), by CLIP and by DINO.
- inter_shot: for pairs of shots of the same character the cosine of DINOv2's mean features of whole pictures (--dinov2).

Frames: up to 16 of every shot, at even distances. Means of films, with 95% intervals by bootstrap over films.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from causalcine_core import Pipeline, Story
from causalcine_core.atomic import write_atomic
from causalcine_core.commands.arguments import Parser
from causalcine_core.errors import InputError
from causalcine_core.shot_cuts import find_cuts
from causalcine_core.video import read_video
from training.world.benchmark import STORIES

from .encoders import AestheticHead, Frames, ImageEncoder
from .figures import cut_figures
from .intervals import Estimate, mean
from .stories import OpenStory, open_story

SAMPLES = 16  # frames of a shot that are read, at most


@dataclass(frozen=True)
class Readers:
    """What reads the films; None: what it would say is left out. aesthetic needs clip."""

    clip: ImageEncoder | None = None
    dino: ImageEncoder | None = None
    dinov2: ImageEncoder | None = None
    aesthetic: AestheticHead | None = None


def measure(
    readers: Readers, shots: Sequence[Frames], prompts: Sequence[str], cast: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Figures of one film. shots: its frames `[F, H, W, 3]` by shot; prompts, cast: the text and the names of each."""
    sampled = [frames[_evenly(len(frames))] for frames in shots]
    out: dict[str, float] = {}
    if readers.clip is not None:
        seen, said = [readers.clip(frames) for frames in sampled], readers.clip.texts(prompts)
        out["text"] = _mean([float((one @ text).mean()) for one, text in zip(seen, said, strict=True)])
        out["background"] = _mean([within_shot(one) for one in seen])
        if readers.aesthetic is not None:
            out["aesthetic"] = float(readers.aesthetic(torch.cat(seen)).mean()) / 10
    if readers.dino is not None:
        out["subject"] = _mean([within_shot(readers.dino(frames)) for frames in sampled])
    if readers.dinov2 is not None:
        alike = between_shots([readers.dinov2(frames) for frames in sampled], cast)
        if alike is not None:
            out["inter_shot"] = alike
    return out


def within_shot(features: Tensor) -> float:
    """How alike the frames of a shot are, of features `[F, d]` of unit length: the mean of each one's cosine with the first frame and
    with the one before (as VBench's subject consistency). 1 for a single frame."""
    if len(features) < 2:
        return 1.0
    first, before = features[1:] @ features[0], (features[1:] * features[:-1]).sum(1)
    return float((first + before).mean() / 2)


def between_shots(features: Sequence[Tensor], cast: Sequence[Sequence[str]]) -> float | None:
    """The mean cosine of the mean features of two shots, over pairs of shots that share a character; None without any."""
    of_shots = [torch.nn.functional.normalize(one.mean(0), dim=0) for one in features]
    pairs = [(i, j) for i, j in combinations(range(len(cast)), 2) if set(cast[i]) & set(cast[j])]
    return _mean([float(of_shots[i] @ of_shots[j]) for i, j in pairs]) if pairs else None


def read_story(readers: Readers, story: OpenStory, film: Path) -> dict[str, Any]:
    """What is found in a film of a story. InputError where the report beside it is missing or does not fit it."""
    report_file = film.with_suffix(".json")
    if not report_file.is_file():
        raise InputError(f"{report_file} is missing: the report that causalcine generate writes beside a film")
    shots = json.loads(report_file.read_text(encoding="utf-8"))["shots"]
    frames = np.stack(list(read_video(film)))
    ranges = [shot["frames"] for shot in shots]
    if len(shots) != len(story.cast) or ranges[-1][1] > len(frames):
        raise InputError(f"{report_file} is not of the story {story.name}: {len(shots)} shots, {len(frames)} frames")
    prompts = [shot["prompt"] for shot in story.story["shots"]]
    found = measure(readers, [frames[first:end] for first, end in ranges], prompts, story.cast)
    return {"cuts": {"asked": [first for first, _ in ranges[1:]], "found": find_cuts(frames)}, "figures": found}


def make(pipe: Pipeline, story: OpenStory, film: Path, seed: int) -> None:
    """The film of a story, and its report beside it."""
    film.parent.mkdir(parents=True, exist_ok=True)
    video = pipe.generate(Story.from_dict(story.story), output=film, seed=seed)
    write_atomic(film.with_suffix(".json"), lambda partial: partial.write_text(json.dumps(video.report)))


def figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Every figure of a set of films, by name."""
    out = cut_figures([(r["cuts"]["found"], r["cuts"]["asked"]) for r in results])
    names = dict.fromkeys(name for r in results for name in r["figures"])
    return out | {name: mean([r["figures"][name] for r in results if name in r["figures"]]) for name in names}


def report(stories: Sequence[OpenStory], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of all films and of each kind of story."""
    kinds = dict.fromkeys(story.kind for story in stories)
    by_kind = {
        kind: figures([r for story, r in zip(stories, results, strict=True) if story.kind == kind]) for kind in kinds
    }
    return {
        "stories": len(results),
        "figures": {name: one.to_dict() for name, one in figures(results).items()},
        "kinds": {kind: {name: one.to_dict() for name, one in found.items()} for kind, found in by_kind.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="python -m training.evaluation.paper", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("films", type=Path, help="folder of the films; what was measured is kept there too")
    parser.add_argument("--model", help="makes the films that are missing; otherwise they are left out")
    parser.add_argument("--stories", type=int, default=STORIES, help="how many; default 100")
    parser.add_argument("--seed", type=int, default=0, help="of the films that are made")
    for name, what in (("clip", "CLIP"), ("dino", "DINO"), ("dinov2", "DINOv2")):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of a {what} model")
    parser.add_argument("--aesthetic", type=Path, metavar="FILE", help="LAION's head for that CLIP")
    parser.add_argument("--device", default="cpu", help="a torch device, for the encoders")
    parser.add_argument("--json", action="store_true", help="print the report as the last line")
    try:
        _main(parser.parse_args(argv))
    except InputError as error:
        print(f"paper: {error}", file=sys.stderr)
        return 2
    return 0


def _main(args: argparse.Namespace) -> None:
    if not 1 <= args.stories <= STORIES:
        raise InputError(f"stories must be from 1 to {STORIES}, got {args.stories}")
    if args.aesthetic and not args.clip:
        raise InputError("aesthetic needs clip: the head reads the features of its CLIP")
    given = {name: getattr(args, name) for name in ("clip", "dino", "dinov2", "aesthetic")}
    encoders = {
        name: AestheticHead(path) if name == "aesthetic" else ImageEncoder(path, args.device)
        for name, path in given.items()
        if path is not None
    }
    readers = Readers(**encoders)
    used = {name: str(path.resolve()) for name, path in given.items() if path is not None}
    pipe = Pipeline.from_pretrained(args.model) if args.model else None
    stories, results = [], []
    for story in map(open_story, range(args.stories)):
        film = args.films / f"{story.name}.mp4"
        if not film.is_file() and pipe is None:
            continue
        if not film.is_file():
            make(pipe, story, film, args.seed)
        kept = args.films / "figures" / f"{story.name}.json"
        result = json.loads(kept.read_text()) if kept.is_file() else {}
        if result.get("readers") != used:
            result = {"readers": used} | read_story(readers, story, film)
            kept.parent.mkdir(exist_ok=True)
            write_atomic(kept, lambda partial, result=result: partial.write_text(json.dumps(result)))
        stories.append(story)
        results.append(result)
        print(f"{story.name}: {json.dumps(result['figures'])}", file=sys.stderr, flush=True)
    if not results:
        raise InputError(f"{args.films} holds no film of a story, such as {open_story(0).name}.mp4; --model makes them")
    found = report(stories, results)
    write_atomic(args.films / "report.json", lambda partial: partial.write_text(json.dumps(found, indent=1) + "\n"))
    if args.json:
        print(json.dumps(found))
        return
    print(f"{len(results)} of {args.stories} stories")
    for name, one in found["figures"].items():
        if one["mean"] is not None:
            print(f"  {name:14}{one['mean']:8.3f}  ({one['low']:.3f} to {one['high']:.3f}), n {one['n']}")


def _evenly(frames: int) -> Any:
    return np.unique(np.linspace(0, frames - 1, min(SAMPLES, frames)).round().astype(int))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    raise SystemExit(main())
