"""Shots cut at given times, or in the pauses of a sound: what `--cut-times` and `--audio` ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..cut_times import cut_at, read_times
from ..errors import InputError
from ..story import Story, exact

if TYPE_CHECKING:
    from ..sampling import State
    from ..sound import Sound

PAUSES = "sound"  # in place of times


def read_sound(args: argparse.Namespace) -> Sound | None:
    """The sound that was given, heard once."""
    from ..sound import Sound

    return Sound.read(args.audio) if args.audio is not None else None


def timed(
    args: argparse.Namespace, story: Story | None, sound: Sound | None, state: State | None = None
) -> Story | None:
    """The story with its shots as long as was asked. state: of the film that it is appended to, whose seconds the times are."""
    if args.cut_times is None:
        return story
    if story is None:
        raise InputError("--cut-times cuts the shots of a story, and none was given")
    begin = float(state.asked / exact(state.recipe.timeline.fps)) if state else 0.0
    if args.cut_times != PAUSES:
        return cut_at(story, read_times(args.cut_times), begin)
    if sound is None:
        raise InputError(f"--cut-times {PAUSES} needs --audio FILE, in whose pauses shots change")
    from ..sound import cut_to

    return cut_to(story, sound, begin)
