"""Films: a plan of shots with exact truth, drawn frame by frame on demand.

Frames are pixel frames and ranges are [first, end). With `chunk` latent frames of a 4x temporal VAE to a chunk, chunk
boundaries lie at 4 * chunk * n - 3 (9, 21, 33, ... for chunk 3), and so does every cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .characters import ACTIONS, COLOURS, KINDS, MARKS, SPEED, WIDTH, Character, Pose, draw_character, pose
from .grammar import NAMES, film_caption, shot_caption
from .settings import FRAMINGS, SETTINGS, TIMES, VIEWPOINTS, Stage, View

HEIGHTS = {"wide": 0.42, "medium": 0.60, "close": 1.02}  # of a character, in frame heights
FEET = {"wide": 0.16, "medium": 0.12, "close": -0.22}  # where it stands, frame heights above the lower edge
FOLLOW = 0.82  # share of a walk that the camera follows; the rest moves the character through the frame
MIN_SHOT = 36  # pixel frames, 3 chunks of 12 (the first shot has 3 less)


@dataclass(frozen=True)
class Appearance:
    """One character in one shot. x: where it stands at mid-shot, in frame heights from the left edge; phase in [0, 1);
    gap: pixel frames since it was last on screen, 0 when it never was or the cut before showed it."""

    character: Character
    action: str
    name_only: bool
    introduced: bool
    gap: int
    x: float
    phase: float
    facing: int
    height: float


@dataclass(frozen=True)
class Shot:
    """The truth about one shot, frames [first, end) of its film."""

    index: int
    first: int
    end: int
    caption: str
    setting: str
    time: str
    framing: str
    viewpoint: str
    place: int
    cast: tuple[Appearance, ...]
    drift: float  # of the camera, frame heights a second
    clock: float  # seconds the place has been moving when the shot begins

    @property
    def frames(self) -> int:
        return self.end - self.first

    @property
    def characters(self) -> tuple[Character, ...]:
        return tuple(a.character for a in self.cast)

    @property
    def actions(self) -> tuple[str, ...]:
        return tuple(a.action for a in self.cast)

    @property
    def name_only(self) -> bool:
        """Does the caption leave somebody's looks to memory?"""
        return any(a.name_only for a in self.cast)

    @property
    def gap_frames(self) -> int:
        """The longest absence of a character called by name only; without one, of any character."""
        return max([a.gap for a in self.cast if a.name_only] or [a.gap for a in self.cast])

    @property
    def speed(self) -> float:
        """Frame heights a second at which the first character walks (right is positive)."""
        return SPEED.get(self.cast[0].action, 0.0) * (0.6 + self.cast[0].height)


@dataclass(frozen=True)
class Film:
    """A film as a plan; `render` draws it. size: (width, height) in pixels."""

    seed: int
    global_caption: str
    shots: tuple[Shot, ...]
    fps: float
    size: tuple[int, int]
    chunk: int
    _stages: dict[int, Stage] = field(default_factory=dict, repr=False, compare=False)

    @property
    def frames(self) -> int:
        return self.shots[-1].end

    @property
    def cuts(self) -> tuple[int, ...]:
        """First frame of every shot but the first."""
        return tuple(shot.first for shot in self.shots[1:])

    @cached_property
    def characters(self) -> tuple[Character, ...]:
        """Everybody in the film, in order of first appearance."""
        return tuple(dict.fromkeys(c for shot in self.shots for c in shot.characters))

    def shot_at(self, frame: int) -> Shot:
        """The shot that holds pixel frame `frame`."""
        for shot in self.shots:
            if shot.first <= frame < shot.end:
                return shot
        raise ValueError(f"frame must be from 0 to {self.frames - 1}, got {frame}")

    def prompt(self, index: int) -> str:
        """What a text encoder reads for shot `index`: the global caption, then the shot's."""
        return f"{self.global_caption} {self.shots[index].caption}".strip()

    def story(self) -> dict[str, Any]:
        """The film's text in the form of a story file."""
        shots = [{"prompt": shot.caption, "frames": shot.frames} for shot in self.shots]
        return {
            "global": self.global_caption,
            "fps": self.fps,
            "width": self.size[0],
            "height": self.size[1],
            "shots": shots,
        }

    def render(self, first: int = 0, end: int | None = None) -> np.ndarray:
        """uint8 [end - first, H, W, 3]; the same frames whatever range asks for them."""
        end = self.frames if end is None else end
        if not 0 <= first < end <= self.frames:
            raise ValueError(f"range must lie in [0, {self.frames}) and hold a frame, got [{first}, {end})")
        out = np.empty((end - first, self.size[1], self.size[0], 3), np.uint8)
        for i in range(first, end):
            out[i - first] = self._draw(i)
        return out

    def boxes(self, frame: int) -> tuple[tuple[float, float, float, float], ...]:
        """Nominal (left, top, right, bottom) pixels of each character of that frame's shot, clipped to the frame."""
        shot = self.shot_at(frame)
        width, height = self.size
        boxes = []
        for actor in shot.cast:
            now, (x, y) = self._place(shot, actor, (frame - shot.first) / self.fps)
            half, tall = actor.height * WIDTH[actor.character.kind] / 2, actor.height * (1.0 - now.drop)
            bottom = y + now.lift * actor.height
            x += now.dx * actor.height
            boxes.append(
                (
                    max((x - half) * height, 0.0),
                    max((1 - bottom - tall) * height, 0.0),
                    min((x + half) * height, float(width)),
                    min((1 - bottom) * height, float(height)),
                )
            )
        return tuple(boxes)

    def _place(self, shot: Shot, actor: Appearance, time: float) -> tuple[Pose, tuple[float, float]]:
        now = pose(actor.action, time + shot.clock, actor.phase, actor.facing)
        if shot.framing == "close":  # feet are below the frame: a full swing would leave it
            now = replace(now, dx=0.6 * now.dx, lean=0.5 * now.lean, lift=0.6 * now.lift)
        walk = shot.speed * (1 - FOLLOW) * (time - shot.frames / self.fps / 2)
        return now, (actor.x + float(np.clip(walk, -0.16, 0.16)), FEET[shot.framing])

    def _stage(self, shot: Shot) -> Stage:
        stage = self._stages.get(shot.index)
        if stage is None:
            seconds = shot.frames / self.fps
            reach = (shot.drift + shot.speed * FOLLOW) * seconds / 2
            view = View(
                shot.setting,
                shot.time,
                shot.framing,
                shot.viewpoint,
                shot.place,
                self.size,
                (-abs(reach), abs(reach)),
                seconds + shot.clock,
            )
            stage = Stage(view)
            while len(self._stages) > 1:
                self._stages.pop(next(iter(self._stages)))
            self._stages[shot.index] = stage
        return stage

    def _draw(self, frame: int) -> np.ndarray:
        shot = self.shot_at(frame)
        stage = self._stage(shot)
        time = (frame - shot.first) / self.fps
        pan = (shot.drift + shot.speed * FOLLOW) * (time - shot.frames / self.fps / 2)
        picture = stage.behind(time + shot.clock, pan)
        for actor in shot.cast:
            now, foot = self._place(shot, actor, time)
            draw_character(picture, actor.character, now, foot, actor.height, stage.light, stage.sun)
        stage.before(picture, time + shot.clock, pan)
        return (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0)


def boundaries(frames: int, chunk: int = 3) -> list[int]:
    """Chunk boundaries from 0 to the largest one within `frames`: 0, 4c - 3, 8c - 3, ..."""
    return [0, *range(4 * chunk - 3, frames + 1, 4 * chunk)]


def _choose(rng: np.random.Generator, items: Any) -> Any:
    return items[int(rng.integers(len(items)))]


def _look(name: str, rng: np.random.Generator, taken: set[tuple[str, str]]) -> Character:
    """Somebody new; nobody shares a colour or a kind with another of the film when it can be helped."""
    kinds = [k for k in KINDS if k not in {t[0] for t in taken}] or KINDS
    colours = [c for c in COLOURS if c not in {t[1] for t in taken}]
    return Character(name, _choose(rng, kinds), _choose(rng, colours), _choose(rng, MARKS))


def _split(chunks: int, shots: int, least: int, rng: np.random.Generator) -> list[int]:
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
    both = _choose(rng, list(SPEED)) if len(who) > 1 and rng.uniform() < 0.3 else None  # two walk together
    spread = 0.29 if framing == "wide" else 0.27
    for i, character in enumerate(who):
        height = HEIGHTS[framing] * float(rng.uniform(0.97, 1.04)) * (0.92 if len(who) > 1 and framing != "wide" else 1)
        x = aspect / 2 + (0.0 if len(who) == 1 else (2 * i - 1) * spread * min(aspect, 1.2))
        room = 0.05 if len(who) > 1 or framing == "close" else 0.13
        facing = (1 - 2 * i) if len(who) > 1 else int(_choose(rng, (-1, 1)))
        last = seen.get(character.name, -1)
        cast.append(
            Appearance(
                character,
                both or _choose(rng, actions),
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
    lengths = _split(chunks, shots, least, rng)
    people = 1 if shots == 1 else int(rng.choice([1, 2, 3], p=[0.12, 0.53, 0.35]))
    if shots < 3:
        people = min(people, 2)
    company: list[Character] = []
    offset = int(rng.integers(3)) if rng.uniform() < 0.3 else 0  # names say nothing about looks
    taken: set[tuple[str, str]] = set()
    for i in range(people):
        company.append(_look(NAMES[(offset + i) % 3], rng, taken))
        taken.add((company[-1].kind, company[-1].colour))
    pool = [str(s) for s in rng.permutation(SETTINGS)[: int(rng.integers(1, 4)) if shots > 1 else 1]]
    places = {s: int(rng.integers(1 << 30)) for s in pool}
    time = str(_choose(rng, TIMES))
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
        lead = _choose(rng, turns[int(rng.choice(len(turns), p=weights / weights.sum()))][0])
        who = [lead]
        others = [c for c in company if c is not lead]
        if others and rng.uniform() < 0.25:
            who.append(_choose(rng, others))
            if rng.uniform() < 0.5:
                who.reverse()
        setting = str(_choose(rng, pool))
        if done and rng.uniform() < 0.5 and len(pool) > 1:
            setting = str(_choose(rng, [s for s in pool if s != done[-1].setting]))
        if rng.uniform() < 0.25:
            time = str(_choose(rng, TIMES))
        framings = [f for f in FRAMINGS if len(who) == 1 or f != "close"]
        viewpoints = list(VIEWPOINTS)
        if done and done[-1].setting == setting and done[-1].time == time:
            framings = [f for f in framings if f != done[-1].framing]
            viewpoints = [v for v in viewpoints if v != done[-1].viewpoint]
        framing, viewpoint = str(_choose(rng, framings)), str(_choose(rng, viewpoints))
        cast = _stage_cast(who, framing, size[0] / size[1], rng, seen, first, name_chance)
        caption = shot_caption(
            [(a.character, a.action, a.name_only) for a in cast], setting, time, framing, viewpoint, rng
        )
        drift = float(rng.uniform(0.015, 0.04)) * int(_choose(rng, (-1, 1)))
        done.append(
            Shot(
                index,
                first,
                end,
                caption,
                setting,
                time,
                framing,
                viewpoint,
                places[setting],
                cast,
                drift,
                float(rng.uniform(0, 4)),
            )
        )
        seen.update({c.name: end for c in who})
    used = len({c.name for s in done for c in s.characters})
    caption = film_caption(used, [s.setting for s in done], rng)
    return Film(seed, caption, tuple(done), fps, size, chunk)


def make_clip(
    seed: int,
    frames: int = 45,
    fps: float = 16,
    size: tuple[int, int] = (96, 96),
    chunk: int = 3,
    shots: int | None = None,
) -> Film:
    """A film of one or two shots; `frames` is rounded to whole chunks (33, 45, 57, ... for chunk 3)."""
    if shots is None:
        shots = int(np.random.default_rng([seed, 5]).integers(1, 3)) if frames >= 8 * chunk - 3 else 1
    return make_film(seed, frames / fps, fps, size, chunk, shots=shots)


def plan_still(seed: int, size: tuple[int, int] = (96, 96)) -> Film:
    """A film of one frame that describes everybody in it; every seed another look. Nothing is drawn yet.

    In half of the stills the caption begins with a film's sentence, as prompts of films do.
    """
    rng = np.random.default_rng([seed, 31])
    two = rng.uniform() < 0.25
    names = [str(n) for n in rng.permutation(NAMES)]
    company: list[Character] = [_look(names[0], rng, set())]
    if two:
        company.append(_look(names[1], rng, {(company[0].kind, company[0].colour)}))
    setting, time = str(_choose(rng, SETTINGS)), str(_choose(rng, TIMES))
    framing = str(_choose(rng, FRAMINGS[:2] if two else FRAMINGS))
    viewpoint = str(_choose(rng, VIEWPOINTS))
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


def random_story(seed: int, seconds: float = 15.0, size: tuple[int, int] = (96, 96)) -> dict[str, Any]:
    """The story file of a random film, as a dict."""
    return make_film(seed, seconds, size=size).story()


def render_frame(film: Film, frame: int) -> np.ndarray:
    """One frame, uint8 [H, W, 3]."""
    return film.render(frame, frame + 1)[0]


def render_shot(film: Film, index: int) -> np.ndarray:
    """All frames of one shot, uint8 [F, H, W, 3]."""
    return film.render(film.shots[index].first, film.shots[index].end)
