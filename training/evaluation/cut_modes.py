"""What each cut mode does for a model that never saw a cut, and for one that did.

    python -m training.evaluation.cut_modes --model FILE [--model FILE] --out DIR [--stories 8] [--publish]

Every mode makes the same unseen stories from the same noise (as in `evaluate`). How well a mode cuts is what TransNetV2 finds;
what it keeps of the characters is what the probe reads of those that are called by name only, after a gap beyond the window.
A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from causalcine_core import Pipeline
from causalcine_core.cut import Cut
from causalcine_core.errors import InputError

from . import publish
from .figures import figures
from .intervals import Estimate
from .probe import ASSET as PROBE
from .run import open_run

FIRST_STORY = 50_000_000  # films planned at random; training knows films below 20,000 and stills below 1,000,000
MODES = ("native", "flush", "flush@0", "rope_jump", "pinned", "phrase", "flush+rope_jump", "flush+rope_jump@0")


def settings_of(mode: str) -> dict[str, str | int]:
    """What a mode sets in the recipe. A number behind @ is how many frames a flush keeps, otherwise as the model says."""
    name, _, keep = mode.partition("@")
    Cut.parse(name, name="modes")
    if keep and not keep.isdecimal():
        raise InputError(f"modes must have a whole number behind @, how many frames a flush keeps, got {mode!r}")
    return {"cut": name} | ({"cut_keep": int(keep)} if keep else {})


def measure(
    model: str, modes: Sequence[str], stories: int, out: Path, probe: Path, device: str | None = None
) -> dict[str, dict[str, Estimate]]:
    """The figures of each mode."""
    table = {}
    for mode in modes:
        pipe = Pipeline.from_pretrained(model, device=device)
        run = open_run(pipe, probe, out / Path(model).stem / mode, out / "ceilings", settings_of(mode))
        run.compare = False
        made = [run.story(run.film(FIRST_STORY + i, 15.0)) for i in range(stories)]
        table[mode] = figures(made)
        print(f"{Path(model).stem}, {mode}: cuts {table[mode]['cut_f1'].mean:.2f}", flush=True)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.cut_modes", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--model", action="append", required=True, help="nano, or an all-in-one checkpoint; may be repeated"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; a run that was stopped goes on")
    parser.add_argument("--modes", default=",".join(MODES), help="cut modes, joined by commas; flush@0: keep no frames")
    parser.add_argument("--stories", type=int, default=8, help="films of 15 s for each mode")
    parser.add_argument("--probe", type=Path, default=PROBE, help="the reader of places and looks")
    parser.add_argument("--device", help="a torch device, by default the best there is")
    parser.add_argument("--publish", action="store_true", help="fill docs/cuts.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    modes = args.modes.split(",")
    try:
        for mode in modes:  # before anything is made
            settings_of(mode)
        if args.stories < 1:
            raise InputError(f"stories must be at least 1, got {args.stories}")
        models = [
            (Path(m).stem, measure(m, modes, args.stories, args.out, args.probe, args.device)) for m in args.model
        ]
        text = publish.cut_tables(models, args.stories)
        print(text)
        if args.publish:
            publish.write_between(publish.DOCS / "cuts.md", publish.CUT_MARKS, text)
    except InputError as error:
        print(f"cut_modes: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
