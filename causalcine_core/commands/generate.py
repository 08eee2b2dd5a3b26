"""`causalcine generate`: a film from a story."""

from __future__ import annotations

import argparse
import dataclasses

from ..distributed.launch import check_launch
from ..errors import InputError
from ..story import Story


def run(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    if args.history_prompt is not None and args.history is None:
        raise InputError("--history-prompt says what is seen in --history: give that too, or leave it out")
    if args.strength is not None and args.video is None:
        raise InputError("--strength is how much of --video is made anew: give that too, or leave it out")
    check_launch(args.model)
    given = {name: getattr(args, name) for name in ("width", "height") if getattr(args, name) is not None}
    if given:
        story = dataclasses.replace(story, **given)
    from .making import make_film  # the story is read before torch is

    make_film(args, story, None)
