"""`causalcine story convert`: a story in another form."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import InputError
from ..story import Story
from ..story_formats.conversion import convert_story


def run(args: argparse.Namespace) -> None:
    story, output = Story.load(args.story), Path(args.output)
    if output.resolve() == Path(args.story).resolve():
        raise InputError(f"{output} would be overwritten, but it is the story; choose another name for the output")
    made = convert_story(story, output, args.to)
    for note in story.notes:
        print(note)
    print(f"{made.path}: {len(made.story.shots)} shot{'s' * (len(made.story.shots) > 1)}, form {made.form}")
    if made.lost:
        print(made.lost)
