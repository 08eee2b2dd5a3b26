"""`causalcine train STAGE`: a stage of training/stages/, each a module with `main(argv)`."""

from __future__ import annotations

import argparse

from ..errors import InputError
from . import checkout


def run(args: argparse.Namespace) -> None:
    folder = checkout.SOURCE / "training" / "stages"
    stages = sorted(path.stem for path in folder.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8"))
    if stages and args.stage not in stages:
        raise InputError(f"STAGE must be one of {', '.join(stages)}, got {args.stage or 'none'}")
    checkout.import_from_checkout(f"training.stages.{args.stage}").main(args.rest)
