"""Films are planned at random from a seed: who, where, when, in which shots; and clips, stills and stories out of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .camera import FRAMINGS, TIMES, VIEWPOINTS
from .characters import COLOURS, KINDS, MARKS, Character
from .film import HEIGHTS, Appearance, Film, Shot
from .grammar import NAMES, film_caption, shot_caption
from .poses import ACTIONS, SPEED
from .stage import SETTINGS

MIN_SHOT = 36  # pixel frames, 3 chunks of 12 (the first shot has 3 less)


def boundaries(frames: int, chunk: int = 3) -> list[int]:
    """Chunk boundaries from 0 to the largest one within `frames`: 0, 4c - 3, 8c - 3, ..."""
    return [0, *range(4 * chunk - 3, frames + 1, 4 * chunk)]


def choose(rng: np.random.Generator, items: Any) -> Any:
    """One of them at random."""
    return items[int(rng.integers(len(items)))]


def look(name: str, rng: np.random.Generator, taken: set[tuple[str, str]]) -> Character:
    """Somebody new; nobody shares a colour or a kind with another of the film when it can be helped."""
    kinds = [k for k in KINDS if k not in {t[0] for t in taken}] or KINDS
    colours = [c for c in COLOURS if c not in {t[1] for t in taken}]
    return Character(name, choose(rng, kinds), choose(rng, colours), choose(rng, MARKS))


def split(chunks: int, shots: int, least: int, rng: np.random.Generator) -> list[int]:
    """`chunks` in `shots` parts of at least `least`, at random."""
    parts = np.full(shots, least)
    for _ in range(chunks - least * shots):
        parts[int(rng.integers(shots))] += 1
    return [int(p) for p in parts]


def _stage_cast(
    who: list[Character],
    framing: str,
    aspect: float,
    rng: np.random.Generator,
    seen: dict[str, int],
    first: int,
    name_chance: float,
) -> tuple[Appearance, ...]:
    """Actions and positions of a shot's characters; `seen` maps names to the end of their last shot."""
    cast = []
    actions = [a for a in ACTIONS if a not in SPEED] if len(who) > 1 else list(ACTIONS)
    both = choose(rng, list(SPEED)) if len(who) > 1 and rng.uniform() < 0.3 else None  # two walk together
    spread = 0.29 if framing == "wide" else 0.27
    for i, character in enumerate(who):
        height = HEIGHTS[framing] * float(rng.uniform(0.97, 1.04)) * (0.92 if len(who) > 1 and framing != "wide" else 1)
        x = aspect / 2 + (0.0 if len(who) == 1 else (2 * i - 1) * spread * min(aspect, 1.2))
        room = 0.05 if len(who) > 1 or framing == "close" else 0.13
        facing = (1 - 2 * i) if len(who) > 1 else int(choose(rng, (-1, 1)))
        last = seen.get(character.name, -1)
        cast.append(
            Appearance(
                character,
                both or choose(rng, actions),
                last >= 0 and bool(rng.uniform() < name_chance),
                last < 0,
                max(first - last, 0) if last >= 0 else 0,
                x + float(rng.uniform(-room, room)),
                float(rng.uniform()),
                facing,
                height,
            )
        )
    return tuple(cast)


@dataclass(frozen=True)
class Scene:
    """What a shot is to show: who, from left to right, where, when and how seen. place: which of the places of its setting."""

    who: tuple[Character, ...]
    setting: str
    time: str
    framing: str
    viewpoint: str
    place: int


def stage_shot(
    scene: Scene,
    index: int,
    frames: tuple[int, int],
    size: tuple[int, int],
    rng: np.random.Generator,
    seen: dict[str, int],
    name_chance: float,
) -> Shot:
    """A shot with its caption, what its characters do and where they stand, drawn at random.

    frames: [first, end) in the film. seen: the end of everybody's last shot by name; this one is entered. name_chance: how often a
    character that returns is called by its name alone.
    """
    first, end = frames
    cast = _stage_cast(list(scene.who), scene.framing, size[0] / size[1], rng, seen, first, name_chance)
    told = [(a.character, a.action, a.name_only) for a in cast]
    caption = shot_caption(told, scene.setting, scene.time, scene.framing, scene.viewpoint, rng)
    drift = float(rng.uniform(0.015, 0.04)) * int(choose(rng, (-1, 1)))
    clock = float(rng.uniform(0, 4))
    seen.update({c.name: end for c in scene.who})
    return Shot(
        index,
        first,
        end,
        caption,
        scene.setting,
        scene.time,
        scene.framing,
        scene.viewpoint,
        scene.place,
        cast,
        drift,
        clock,
    )


def make_film(
    seed: int,
    seconds: float = 15.0,
    fps: float = 16,
    size: tuple[int, int] = (96, 96),
    chunk: int = 3,
    *,
    shots: int | None = None,
    name_chance: float = 0.6,
) -> Film:
    """Plan the film of `seed`; nothing is drawn yet.

    seconds: rounded to whole chunks (15 s at 16 fps: 237 frames); size: (width, height), multiples of 16; shots: how
    many, otherwise 3 to 6 in 15 s; name_chance: how often a character that returns is called by its name alone.
    """
    if size[0] % 16 or size[1] % 16 or min(size) < 16:
        raise ValueError(f"size must be multiples of 16, got {size[0]}x{size[1]}")
    rng = np.random.default_rng([seed, 2026])
    chunks = max(round((seconds * fps + 3) / (4 * chunk)), 1)
    least = max(-(-MIN_SHOT // (4 * chunk)), 1)
    most = max(chunks // least, 1)
    if shots is None:
        wanted = (chunks * chunk * 4) / 240
        shots = int(rng.integers(max(round(3 * wanted), 1), max(round(6 * wanted), 1) + 1))
        shots = min(shots, most)
    least = min(least, chunks // shots)
    if not least:
        raise ValueError(f"{shots} shots need at least as many chunks, but {seconds} s hold only {chunks}")
    lengths = split(chunks, shots, least, rng)
    people = 1 if shots == 1 else int(rng.choice([1, 2, 3], p=[0.12, 0.53, 0.35]))
    if shots < 3:
        people = min(people, 2)
    company: list[Character] = []
    offset = int(rng.integers(3)) if rng.uniform() < 0.3 else 0  # names say nothing about looks
    taken: set[tuple[str, str]] = set()
    for i in range(people):
        company.append(look(NAMES[(offset + i) % 3], rng, taken))
        taken.add((company[-1].kind, company[-1].colour))
    pool = [str(s) for s in rng.permutation(SETTINGS)[: int(rng.integers(1, 4)) if shots > 1 else 1]]
    places = {s: int(rng.integers(1 << 30)) for s in pool}
    time = str(choose(rng, TIMES))
    done: list[Shot] = []
    seen: dict[str, int] = {}
    at = 0
    for index in range(shots):
        first, end = (0 if at == 0 else 4 * chunk * at - 3), 4 * chunk * (at + lengths[index]) - 3
        at += lengths[index]
        before = {c.name for c in done[-1].characters} if done else set()
        fresh = [c for c in company if c.name not in seen]
        back = [c for c in company if c.name in seen and c.name not in before]
        again = [c for c in company if c.name in before]
        turns = [(fresh, 0.45), (back, 0.45), (again, 0.10)] if index else [(fresh, 1.0)]
        turns = [(group, p) for group, p in turns if group]
        weights = np.array([p for _, p in turns])
        lead = choose(rng, turns[int(rng.choice(len(turns), p=weights / weights.sum()))][0])
        who = [lead]
        others = [c for c in company if c is not lead]
        if others and rng.uniform() < 0.25:
            who.append(choose(rng, others))
            if rng.uniform() < 0.5:
                who.reverse()
        setting = str(choose(rng, pool))
        if done and rng.uniform() < 0.5 and len(pool) > 1:
            setting = str(choose(rng, [s for s in pool if s != done[-1].setting]))
        if rng.uniform() < 0.25:
            time = str(choose(rng, TIMES))
        framings = [f for f in FRAMINGS if len(who) == 1 or f != "close"]
        viewpoints = list(VIEWPOINTS)
        if done and done[-1].setting == setting and done[-1].time == time:
            framings = [f for f in framings if f != done[-1].framing]
            viewpoints = [v for v in viewpoints if v != done[-1].viewpoint]
        framing, viewpoint = str(choose(rng, framings)), str(choose(rng, viewpoints))
        scene = Scene(tuple(who), setting, time, framing, viewpoint, places[setting])
        done.append(stage_shot(scene, index, (first, end), size, rng, seen, name_chance))
    used = len({c.name for s in done for c in s.characters})
    caption = film_caption(used, [s.setting for s in done], rng)
    return Film(seed, caption, tuple(done), fps, size, chunk)


def plan_still(seed: int, size: tuple[int, int] = (96, 96)) -> Film:
    """A film of one frame that describes everybody in it; every seed another look. Nothing is drawn yet.

    In half of the stills the caption begins with a film's sentence, as prompts of films do.
    """
    rng = np.random.default_rng([seed, 31])
    two = rng.uniform() < 0.25
    names = [str(n) for n in rng.permutation(NAMES)]
    company: list[Character] = [look(names[0], rng, set())]
    if two:
        company.append(look(names[1], rng, {(company[0].kind, company[0].colour)}))
    setting, time = str(choose(rng, SETTINGS)), str(choose(rng, TIMES))
    framing = str(choose(rng, FRAMINGS[:2] if two else FRAMINGS))
    viewpoint = str(choose(rng, VIEWPOINTS))
    cast = _stage_cast(company, framing, size[0] / size[1], rng, {}, 0, 0.0)
    caption = shot_caption([(a.character, a.action, False) for a in cast], setting, time, framing, viewpoint, rng)
    shot = Shot(
        0,
        0,
        1,
        caption,
        setting,
        time,
        framing,
        viewpoint,
        int(rng.integers(1 << 30)),
        cast,
        0.0,
        float(rng.uniform(0, 6)),
    )
    story = film_caption(len(company), [setting], rng) if rng.uniform() < 0.5 else ""
    return Film(seed, story, (shot,), 16, size, 1)


def make_still(seed: int, size: tuple[int, int] = (96, 96)) -> tuple[np.ndarray, str, Shot]:
    """The frame of `plan_still`, uint8 [H, W, 3], its caption and its truth."""
    film = plan_still(seed, size)
    return film.render()[0], film.prompt(0), film.shots[0]


def portrait(who: Character, seed: int, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """A picture of somebody alone, at a place drawn from the seed: uint8 [H, W, 3]."""
    rng = np.random.default_rng([seed, 37])
    setting, time, place = str(choose(rng, SETTINGS)), str(choose(rng, TIMES)), int(rng.integers(1 << 30))
    scene = Scene((who,), setting, time, "medium", "front", place)
    shot = stage_shot(scene, 0, (0, 1), size, rng, {}, name_chance=0.0)
    picture: np.ndarray = Film(seed, "", (shot,), 16, size, 1).render()[0]
    return picture


def random_story(seed: int, seconds: float = 15.0, size: tuple[int, int] = (96, 96)) -> dict[str, Any]:
    """The story file of a random film, as a dict."""
    return make_film(seed, seconds, size=size).story()
