"""The story benchmark: 100 films of five shots in 15 s, twenty of each of five kinds, planned from fixed seeds.

Whoever comes back is called by name only, so its looks are left to memory. The films are planned with exact truth, like all films
of the world: the probe can judge a model's film by it, and the true film says what can be reached. Kinds take turns, so the first
stories are of all kinds.

- reappearance: somebody leaves for a shot or two of others and comes back, elsewhere.
- scene change: one character goes on through five places, now and then at another time of day.
- shot-reverse-shot: two characters in one place, in turns, each seen from its own side.
- viewpoint change: the same people stay where they are; framing and viewpoint change at every cut.
- long gap: who opened the film is away for three shots and comes back in the last.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .camera import FRAMINGS, TIMES, VIEWPOINTS
from .characters import Character
from .film import Film, Shot
from .grammar import NAMES, film_caption
from .planning import Scene, choose, look, split, stage_shot
from .stage import SETTINGS

STORIES, SHOTS = 100, 5
FIRST_SEED = 52_000_000  # training knows films below 20,000 and stills below 1,000,000
CHUNK, CHUNKS, LEAST = 3, 20, 3  # latent frames of a chunk; chunks of a film, and of a shot: 36 frames, nano's window
Scenes = Callable[[np.random.Generator, list[Character]], list[Scene]]


def reappearance(rng: np.random.Generator, people: list[Character]) -> list[Scene]:
    order = choose(rng, [(0, 1, 2, 0, 1), (0, 1, 0, 2, 1), (0, 1, 1, 0, 1), (0, 1, 2, 0, 2)])
    return _scenes([[people[i]] for i in order], _journey(rng), [_time(rng)] * SHOTS, rng)


def scene_change(rng: np.random.Generator, people: list[Character]) -> list[Scene]:
    times = [_time(rng)]
    for _ in range(SHOTS - 1):
        times.append(_time(rng) if rng.uniform() < 0.25 else times[-1])
    return _scenes([people[:1]] * SHOTS, [str(s) for s in rng.permutation(SETTINGS)[:SHOTS]], times, rng)


def shot_reverse_shot(rng: np.random.Generator, people: list[Character]) -> list[Scene]:
    setting, time, place = str(choose(rng, SETTINGS)), _time(rng), _place(rng)
    sides = choose(rng, [("left", "right"), ("right", "left")])
    framing = str(choose(rng, ("medium", "close")))
    return [Scene((people[i % 2],), setting, time, framing, sides[i % 2], place) for i in range(SHOTS)]


def viewpoint_change(rng: np.random.Generator, people: list[Character]) -> list[Scene]:
    who = people[: 1 + int(rng.integers(2))]
    return _scenes([who] * SHOTS, [str(choose(rng, SETTINGS))] * SHOTS, [_time(rng)] * SHOTS, rng)


def long_gap(rng: np.random.Generator, people: list[Character]) -> list[Scene]:
    order = choose(rng, [(0, 1, 2, 1, 0), (0, 1, 1, 2, 0), (0, 1, 2, 2, 0)])
    return _scenes([[people[i]] for i in order], _journey(rng), [_time(rng)] * SHOTS, rng)


STORY_KINDS: dict[str, Scenes] = {
    "reappearance": reappearance,
    "scene change": scene_change,
    "shot-reverse-shot": shot_reverse_shot,
    "viewpoint change": viewpoint_change,
    "long gap": long_gap,
}


def kind_of(number: int) -> str:
    """The kind of a story of the benchmark."""
    return list(STORY_KINDS)[number % len(STORY_KINDS)]


def benchmark_film(number: int, fps: float = 16, size: tuple[int, int] = (96, 96)) -> Film:
    """Story `number` of the benchmark, from 0 to 99, as a film with its truth. size: (width, height), multiples of 16."""
    if not 0 <= number < STORIES:
        raise ValueError(f"number must be from 0 to {STORIES - 1}, got {number}")
    rng = np.random.default_rng([FIRST_SEED + number, 7])
    people: list[Character] = []
    for name in rng.permutation(NAMES):
        people.append(look(str(name), rng, {(p.kind, p.colour) for p in people}))
    scenes = STORY_KINDS[kind_of(number)](rng, people)
    shots: list[Shot] = []
    seen: dict[str, int] = {}
    at = 0
    for index, (scene, length) in enumerate(zip(scenes, split(CHUNKS, SHOTS, LEAST, rng), strict=True)):
        first, at = at, at + length
        frames = (4 * CHUNK * first - 3 if first else 0, 4 * CHUNK * at - 3)
        shots.append(stage_shot(scene, index, frames, size, rng, seen, name_chance=1.0))
    used = len({c.name for shot in shots for c in shot.characters})
    caption = film_caption(used, [shot.setting for shot in shots], rng)
    return Film(FIRST_SEED + number, caption, tuple(shots), fps, size, CHUNK)


def _scenes(who: list[list[Character]], settings: list[str], times: list[str], rng: np.random.Generator) -> list[Scene]:
    """Shots of these people, in these settings; framing and viewpoint change at every cut within a place."""
    places = {setting: _place(rng) for setting in dict.fromkeys(settings)}
    out: list[Scene] = []
    for cast, setting, time in zip(who, settings, times, strict=True):
        framings = [f for f in FRAMINGS if len(cast) == 1 or f != "close"]
        viewpoints = list(VIEWPOINTS)
        if out and out[-1].setting == setting:
            framings = [f for f in framings if f != out[-1].framing]
            viewpoints = [v for v in viewpoints if v != out[-1].viewpoint]
        framing, viewpoint = str(choose(rng, framings)), str(choose(rng, viewpoints))
        out.append(Scene(tuple(cast), setting, time, framing, viewpoint, places[setting]))
    return out


def _journey(rng: np.random.Generator) -> list[str]:
    """Settings of the shots, out of three, never the same twice in a row."""
    pool = [str(s) for s in rng.permutation(SETTINGS)[:3]]
    out = [str(choose(rng, pool))]
    while len(out) < SHOTS:
        out.append(str(choose(rng, [s for s in pool if s != out[-1]])))
    return out


def _time(rng: np.random.Generator) -> str:
    return str(choose(rng, TIMES))


def _place(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 30))
