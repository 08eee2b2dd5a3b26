"""`causalcine story check`: what was read from a story and where its cuts land, from a model's header alone."""

from __future__ import annotations

import argparse
import dataclasses
import json

from ..errors import InputError
from ..plan import plan
from ..story import Story, check_size, pace_notes
from .arguments import lora_folders
from .console import shot_table
from .timing import read_sound, timed


def _missing(args: argparse.Namespace, story: Story) -> list[str]:
    """A note on each LoRA that is named and not there."""
    from ..styles import MergedStyles

    notes, styles = list[str](), MergedStyles(lora_folders(args))
    for i, shot in enumerate(story.shots):
        for lora in shot.lora:
            try:
                styles.find(lora.name)
            except InputError as error:
                notes.append(f"shots[{i}].lora: {error}")
    return notes


def run(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    from ..card import Card
    from ..report import check_report
    from ..text import prompt_notes
    from ..weights.built_in import model_path

    sound = read_sound(args)
    story = timed(args, story, sound) or story
    card = Card.read(model_path(args.model))
    recipe = card.recipe
    pace = pace_notes(story.fps, recipe.timeline.fps)
    changes = {name: getattr(story, name) for name in ("fps", "width", "height", "negative")}
    recipe = recipe.changed(**{name: value for name, value in changes.items() if value is not None})
    size = (recipe.picture.width, recipe.picture.height)
    check_size(*size)
    planned = plan(story, **dataclasses.asdict(recipe.timeline))
    heard = sound.notes(0, planned.frames / planned.fps) if sound else []
    report = check_report(
        planned,
        recipe=recipe,
        settings=recipe.memory(),
        size=size,
        seed=story.seed or 0,
        model={"name": args.model, **card.fields["model"]},
        warnings=[*story.notes[1:], *pace, *heard, *_missing(args, story), *prompt_notes(card.text, planned.shots)],
    )
    report["settings"]["global"] = story.global_prompt
    for shot, told in zip(report["shots"], story.shots, strict=True):
        shot |= {} if told.blend is None else {"blend": told.blend}
    if args.json:
        print(json.dumps(report | {"form": story.form, "ignored": list(story.ignored), "notes": list(story.notes)}))
        return
    print(f"{story.notes[0]} (form: {story.form})")
    for note in report["warnings"]:
        print(note)
    width, height = report["size"]
    print(shot_table(report["shots"], report["fps"]))
    length = report["frames"] / report["fps"]
    rate, chunks = report["fps"], len(planned.chunks)
    print(f"{report['frames']} frames, {length:.2f} s at {rate:g} fps, {width}x{height}, {chunks} chunks")
