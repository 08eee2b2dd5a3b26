"""`causalcine generate`: a film from a story."""

from __future__ import annotations

import argparse
import dataclasses

from ..distributed.launch import check_launch
from ..story import Story


def run(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    check_launch(args.model)
    given = {name: getattr(args, name) for name in ("width", "height") if getattr(args, name) is not None}
    if given:
        story = dataclasses.replace(story, **given)
    from .making import make_film  # the story is read before torch is

    make_film(args, story, None)
