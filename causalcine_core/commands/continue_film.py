"""`causalcine continue`: a story appended to a film, or the rest of one that was cut short."""

from __future__ import annotations

import argparse

from ..distributed.launch import check_launch
from ..story import Story


def run(args: argparse.Namespace) -> None:
    story = Story.load(args.story) if args.story is not None else None
    check_launch(args.model)
    from .making import make_film

    make_film(args, story, args.state)
