"""Films: a plan of shots with exact truth, drawn frame by frame on demand.

Frames are pixel frames and ranges are [first, end). With `chunk` latent frames of a 4x temporal VAE to a chunk, chunk
boundaries lie at 4 * chunk * n - 3 (9, 21, 33, ... for chunk 3), and so does every cut.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from .camera import View
from .characters import WIDTH, Character
from .drawing import draw_character
from .poses import SPEED, Pose, pose
from .stage import Stage

HEIGHTS = {"wide": 0.42, "medium": 0.60, "close": 1.02}  # of a character, in frame heights
FEET = {"wide": 0.16, "medium": 0.12, "close": -0.22}  # where it stands, frame heights above the lower edge
FOLLOW = 0.82  # share of a walk that the camera follows; the rest moves the character through the frame


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
        drawn: np.ndarray = (np.clip(picture, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
        return drawn.transpose(1, 2, 0)
