"""`causalcine story check`: what was read from a story and where its cuts land, from a model's header alone."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..plan import PlannedShot, plan
from ..story import Story, check_size, pace_notes
from .console import shot_table


def run(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    from ..report import check_report
    from ..sampling import Recipe
    from ..weights.built_in import model_path
    from ..weights.checkpoint import read_card

    header = read_card(model_path(args.model))
    recipe = Recipe.from_dict(header["recipe"])
    pace = pace_notes(story.fps, recipe.timeline.fps)
    changes = {name: getattr(story, name) for name in ("fps", "width", "height", "negative")}
    recipe = recipe.changed(**{name: value for name, value in changes.items() if value is not None})
    size = (recipe.picture.width, recipe.picture.height)
    check_size(*size)
    planned = plan(story, **dataclasses.asdict(recipe.timeline))
    report = check_report(
        planned,
        recipe=recipe,
        settings=recipe.memory(),
        size=size,
        seed=story.seed or 0,
        model={"name": args.model, **header.get("model", {})},
        warnings=[*story.notes[1:], *pace, *_prompt_notes(planned.shots, header)],
    )
    report["settings"]["global"] = story.global_prompt
    if args.json:
        print(json.dumps(report | {"notes": list(story.notes)}))
        return
    for note in [*story.notes, *report["warnings"][len(story.notes) - 1 :]]:
        print(note)
    width, height = report["size"]
    print(shot_table(report["shots"], report["fps"]))
    length = report["frames"] / report["fps"]
    rate, chunks = report["fps"], len(planned.chunks)
    print(f"{report['frames']} frames, {length:.2f} s at {rate:g} fps, {width}x{height}, {chunks} chunks")


def _prompt_notes(shots: Sequence[PlannedShot], header: Mapping[str, Any]) -> list[str]:
    """What the model's own text encoder cannot read; its weights are not needed for that."""
    if "text" not in header:
        return []
    from ..text import TextConfig, prompt_notes

    return prompt_notes(TextConfig.from_dict(header["text"]), shots)
