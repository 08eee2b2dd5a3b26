"""How good a checkpoint is on stories that it never saw, beside what the same readers say of the truth itself.

    causalcine evaluate nano|FILE [--stories 100] [--long 10] [--memory camr] [--json]

The stories are the world's benchmark: the model makes each film from its text alone. TransNetV2 finds the cuts, the probe reads
places and looks, shot by shot. Characters called by name only, after a gap beyond the local window, are counted apart, with routed
memory and without (`top_k` 0: same story, same noise). The ceiling is what the same readers find on the true film after a round
trip through the checkpoint's VAE. A run that was stopped goes on where it was. With --cast instead: stories that only name their
characters, with a picture of each and without. docs/quality.md says what each figure means.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from causalcine_core import Pipeline
from causalcine_core.commands.arguments import Parser
from causalcine_core.errors import InputError
from causalcine_core.memory import STORAGES
from training.world import Film
from training.world.benchmark import STORIES, benchmark_film, kind_of

from . import publish
from .cast import cast_report, cast_table, story_by_picture
from .figures import figures
from .films import Result
from .memories import MEMORIES, ROUTED, memory_of
from .probe import ASSET as PROBE
from .probe import PLACE
from .report import Results, report
from .run import Run, open_run, write_json

FIRST_LONG = 51_000_000  # training knows films below 20,000 and stills below 1,000,000
SHEETS = 12  # stories on the page of contact sheets: the first ones


@dataclass(frozen=True)
class Part:
    """Every `count`th film, from the `index`th on."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`I/N`. InputError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise InputError(f"part must be I/N such as 0/2, with I below N, got {text!r}")
        return cls(int(index), int(count))

    def of(self, numbers: int) -> Iterator[int]:
        yield from range(self.index, numbers, self.count)


def stories(run: Run, count: int, part: Part) -> Results:
    """The first films of the benchmark, made and read."""
    recipe, out = run.pipe.recipe, Results()
    for number in part.of(count):
        film = benchmark_film(number, recipe.timeline.fps, (recipe.picture.width, recipe.picture.height))
        _add(out, run, film, kind_of(number), f"story {number + 1}/{count}", pictures=number < SHEETS)
    return out


def long_films(run: Run, count: int, seconds: float, part: Part) -> Results:
    """Long films, planned at random."""
    out = Results()
    for number in part.of(count):
        film = run.film(FIRST_LONG + number, seconds)
        _add(out, run, film, "long", f"{seconds:g} s film {number + 1}/{count}", long=True)
    return out


def _add(
    out: Results, run: Run, film: Film, kind: str, what: str, *, long: bool = False, pictures: bool = False
) -> None:
    out.films.append(film)
    out.kinds.append(kind)
    out.made.append(run.story(film, long=long, pictures=pictures))
    out.true.append(run.ceiling(film, long=long))
    _progress(f"{what} ({kind})", out.made)


def _progress(what: str, made: list[Result]) -> None:
    last, sofar = made[-1]["seconds"], figures(made)
    shown = " ".join(
        f"{name} {sofar[name].mean:.2f}" for name in ("cut_f1", *PLACE, "kind", "colour", "by_name_colour")
    )
    rate = made[-1]["frames"] / last["generate"] if last["generate"] else 0.0
    print(
        f"{what}: made in {last['generate']:.0f} s ({rate:.1f} fps), read in {last['read']:.0f} s; so far {shown}",
        flush=True,
    )


def parser() -> Parser:
    out = Parser(prog="causalcine evaluate", description=(__doc__ or "").splitlines()[0])
    add = out.add_argument
    add("model", help="nano, or an all-in-one checkpoint")
    add("--stories", type=int, default=40, help=f"films of 15 s: so many of the benchmark's {STORIES}; default 40")
    add("--long", type=int, help="long films; default: a quarter of the stories")
    add("--seconds-long", type=float, default=60.0, help="how long these are; default 60")
    add("--memory", choices=MEMORIES, default=ROUTED, help="what is seen of the past, at an equal receptive field")
    add("--out", type=Path, help="folder of the results; default: output/evaluate/MODEL-MEMORY. A stopped run goes on")
    add(
        "--ceilings",
        type=Path,
        help="folder of readings of the truth, shared by runs; default: output/evaluate/ceilings",
    )
    add("--against", type=Path, metavar="DIR", help="folder of another run on these stories: what is more than there")
    add("--steps", type=int, help="otherwise as the checkpoint says")
    add("--guidance", type=float, help="otherwise as the checkpoint says")
    add("--storage", choices=STORAGES, default="full", help="how memory is kept; otherwise in full")
    add("--probe", type=Path, default=PROBE, help="the reader of places and looks")
    add("--part", default="0/1", help="I/N: make only every Nth film, from the Ith on (for more processes)")
    add("--device", help="a torch device, by default the best there is")
    add("--threads", type=int, default=1)
    add("--json", action="store_true", help="print the report as the last line")
    add(
        "--cast",
        action="store_true",
        help="instead: stories that only name, with one picture of each character and without",
    )
    add("--publish", action="store_true", help="fill docs/quality.md and docs/images/quality_sheet.jpg")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Raises InputError."""
    args = parser().parse_args(argv)
    part = Part.parse(args.part)
    count, long_count = args.stories, args.stories // 4 if args.long is None else args.long
    if not (1 <= count <= STORIES and long_count >= 0):
        raise InputError(f"stories must be from 1 to {STORIES} and long at least 0, got {count} and {long_count}")
    torch.set_num_threads(args.threads)
    folder = Path("output") / "evaluate"
    out = args.out or folder / f"{Path(args.model).stem}-{args.memory}"
    if args.cast:
        out = args.out or folder / f"{Path(args.model).stem}-cast"
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        made = evaluate_cast if args.cast else evaluate
        quality = made(args, part, count, long_count, out, args.ceilings or folder / "ceilings")
    if args.json and quality:
        print(json.dumps(quality))


def evaluate_cast(
    args: argparse.Namespace, part: Part, count: int, long_count: int, out: Path, ceilings: Path
) -> Result | None:
    """The same of films with a cast: long films have none."""
    run = _opened(args, out, ceilings)
    results = []
    for number in part.of(count):
        results.append(story_by_picture(run, number))
        print(f"story {number + 1}/{count}: recalled in {results[-1]['recalled']:.0%} of chunks", flush=True)
    if part.count > 1:
        print("this part is done; run once more without --part to put all of them together")
        return None
    found = cast_report(results, run.pipe.name)
    write_json(out / "cast.json", found)
    print(cast_table(found))
    return found


def _opened(args: argparse.Namespace, out: Path, ceilings: Path) -> Run:
    settings = {name: getattr(args, name) for name in ("steps", "guidance") if getattr(args, name) is not None}
    pipe = Pipeline.from_pretrained(args.model, device=args.device)
    return open_run(pipe, args.probe, out, ceilings, settings, memory_of(args.memory, pipe.recipe, args.storage))


def evaluate(
    args: argparse.Namespace, part: Part, count: int, long_count: int, out: Path, ceilings: Path
) -> Result | None:
    """Make and read what is missing of a run, and write its report; None where this was a part of it."""
    run = _opened(args, out, ceilings)
    run.compare = args.memory == ROUTED
    made, long = stories(run, count, part), long_films(run, long_count, args.seconds_long, part)
    if part.count > 1:
        print("this part is done; run once more without --part to put all of them together")
        return None
    quality = report(run, made, long, args.memory, args.against)
    write_json(out / "quality.json", quality)
    sheet = publish.quality_sheet(out, made.films[:SHEETS], made.made[:SHEETS])
    sheet.save(out / "quality_sheet.jpg", quality=88)
    (out / "quality.md").write_text(publish.tables(quality))
    print(publish.tables(quality))
    if args.publish:
        publish.publish(quality, sheet)
    print(f"{out / 'quality.json'}, {out / 'quality_sheet.jpg'}")
    return quality
