"""How characters move: an action at a time to the pose of a body."""

from __future__ import annotations

import math
from dataclasses import dataclass

ACTIONS = ("walk left", "walk right", "run left", "run right", "jump", "wave", "dance", "spin", "sit", "sleep")
SPEED = {"walk left": -0.22, "walk right": 0.22, "run left": -0.5, "run right": 0.5}  # frame heights a second
PERIOD = {"walk": 0.75, "run": 0.5, "jump": 0.9, "wave": 0.6, "dance": 1.0, "spin": 1.1, "sit": 2.0, "sleep": 2.5}


@dataclass(frozen=True)
class Pose:
    """One instant of a body; lengths in character heights, angles in radians.

    dx, lift: offset of the whole body; feet: (x, y) of back and front foot relative to their rest; arms: angle of back
    and front arm from hanging (0) to raised (pi); turn: cosine of the turn about the vertical (-1 shows the back).
    """

    dx: float = 0.0
    lift: float = 0.0
    lean: float = 0.0
    squash: tuple[float, float] = (1.0, 1.0)
    feet: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    arms: tuple[float, float] = (0.35, 0.35)
    turn: float = 1.0
    facing: int = 1
    drop: float = 0.0
    eyes: float = 1.0
    tail: float = 0.0
    asleep: float = -1.0


def pose(action: str, time: float, phase: float, facing: int = 1) -> Pose:
    """The pose of `action` at `time` seconds; `phase` in [0, 1) sets one character apart from the next."""
    verb, _, way = action.partition(" ")
    turns = time / PERIOD[verb] + phase
    angle = 2 * math.pi * turns
    s, c = math.sin(angle), math.cos(angle)
    blink = (time + 3.1 * phase) % 2.3
    eyes = 0.1 if blink < 0.13 else 1.0
    tail = math.sin(2 * math.pi * (time / 1.1 + phase))
    if verb in ("walk", "run"):
        stride, swing, lean = (0.10, 0.7, 0.05) if verb == "walk" else (0.16, 1.2, 0.20)
        facing = -1 if way == "left" else 1
        feet = ((-stride * s, 0.09 * max(c, 0.0)), (stride * s, 0.09 * max(-c, 0.0)))
        return Pose(
            lift=0.03 * abs(c) * (2 if verb == "run" else 1),
            lean=-lean * facing,
            feet=feet,
            eyes=eyes,
            arms=(swing * s, -swing * s),
            facing=facing,
            tail=tail,
        )
    if verb == "jump":
        height = abs(math.sin(math.pi * turns))
        low = max(0.0, 1.0 - 4.0 * height)
        return Pose(
            lift=0.24 * height,
            squash=(1 + 0.14 * low, 1 - 0.16 * low),
            eyes=eyes,
            facing=facing,
            tail=tail,
            arms=(0.5 + 1.9 * height, 0.5 + 1.9 * height),
            feet=((-0.03, -0.03), (0.03, -0.03)),
        )
    if verb == "wave":
        return Pose(lean=0.05 * s, arms=(0.3, 2.15 + 0.5 * s), eyes=eyes, facing=facing, tail=tail)
    if verb == "dance":
        up = 0.05 * abs(math.sin(2 * angle))
        return Pose(
            dx=0.07 * s,
            lift=up,
            lean=-0.20 * s,
            arms=(1.4 + 1.1 * s, 1.4 - 1.1 * s),
            eyes=eyes,
            feet=((0.0, 0.10 * max(s, 0.0)), (0.0, 0.10 * max(-s, 0.0))),
            facing=facing,
            tail=s,
        )
    if verb == "spin":
        return Pose(turn=c, lift=0.02 * abs(s), arms=(1.45, 1.45), eyes=1.0, facing=facing, tail=tail)
    if verb == "sit":
        return Pose(
            drop=0.15,
            feet=((0.08, 0.02), (0.20, 0.02)),
            arms=(0.4, 0.25),
            lean=0.05 * s,
            eyes=eyes,
            facing=facing,
            tail=tail,
            squash=(1.0, 1 + 0.01 * c),
        )
    return Pose(
        drop=0.15,
        lean=0.16 * -facing,
        squash=(1 + 0.05 * s, 1 - 0.05 * s),
        feet=((0.08, 0.02), (0.2, 0.02)),
        arms=(0.3, 0.3),
        eyes=0.0,
        facing=facing,
        tail=0.3 * s,
        asleep=(time * 0.5 + phase) % 1.0,
    )
