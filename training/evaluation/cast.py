"""Whether a film gets its characters from pictures: stories of the benchmark that name everybody and describe nobody, with one picture
of each, and the same without.

The pictures are rendered from the world, each of somebody alone in another place, and are remembered under the name alone. Story, seed
and noise are the same with and without them; characters are paired.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from causalcine_core import Story
from causalcine_core.numbering import is_picture
from causalcine_core.references import Reference
from training.world import Film
from training.world.benchmark import benchmark_film
from training.world.grammar import mentions
from training.world.planning import portrait

from .figures import look_hits
from .films import Result, read_film
from .intervals import difference, mean, proportion
from .run import FORMAT, Run, write_json

LOOKS = ("colour", "kind")
FLOORS = {"colour": 0.8, "kind": 0.6}


def named_only(film: Film) -> dict[str, Any]:
    """The story of a film without a word of anybody's looks."""
    story = film.story()
    for shot in story["shots"]:
        for mention in mentions(shot["prompt"]):
            shot["prompt"] = shot["prompt"].replace(mention.name + mention.text, mention.name, 1)
    return story


def pictures(run: Run, film: Film) -> tuple[Reference, ...]:
    """One of everybody in a film."""
    return tuple(
        run.pipe.reference(who.name, portrait(who, film.seed + i, film.size)) for i, who in enumerate(film.characters)
    )


def story_by_picture(run: Run, number: int) -> Result:
    """What is read of a story's films, made now or read from its file: `with` and `without` a cast, and which share of the chunks of
    the first `recalled` it."""
    recipe = run.pipe.recipe
    film = benchmark_film(number, recipe.timeline.fps, (recipe.picture.width, recipe.picture.height))
    path = run.out / "cast" / f"{film.seed}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    story, result = Story.from_dict(named_only(film)), Result(seed=film.seed)
    for name, cast in (("with", pictures(run, film)), ("without", None)):
        chunks = list(run.pipe.stream(story, seed=film.seed, memory=run.memory, cast=cast))
        ranges = [shot.frames for shot in chunks[-1].state.shots]
        result[name] = read_film(
            run.probe, film, ranges, np.concatenate([chunk.frames for chunk in chunks]), run.window
        )
        if cast is not None:
            recalling = [any(is_picture(int(one)) for one in chunk.routing.flatten()) for chunk in chunks]
            result["recalled"] = sum(recalling) / len(recalling)
    write_json(path, result)
    return result


def cast_report(results: Sequence[Result], model: str) -> Result:
    """Colour and kind of all characters, with the cast, without, and by how much more, with 95% intervals."""
    hits = {name: look_hits([result[name] for result in results], lambda one: True) for name in ("with", "without")}
    figures: Result = {"recalled": mean([result["recalled"] for result in results]).to_dict()}
    for look in LOOKS:
        for name, of in hits.items():
            figures[f"{look}_{name}"] = proportion(of[look]).to_dict()
        figures[f"{look}_gain"] = difference(hits["with"][look], hits["without"][look]).to_dict()
    return {"format": FORMAT, "model": model, "stories": len(results), "floors": FLOORS, "figures": figures}


def cast_table(report: Result) -> str:
    """The report for a reader."""
    lines = [f"{report['stories']} stories in which everybody is named and nobody described:"]
    for name, one in report["figures"].items():
        if one["mean"] is not None:
            lines.append(f"{name:<16}{one['mean']:6.3f}  [{one['low']:.3f}, {one['high']:.3f}]  n={one['n']}")
    return "\n".join(lines)
