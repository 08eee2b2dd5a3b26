"""The small world that the built-in model is trained on: everything public, in one place to import from."""

from __future__ import annotations

from .characters import ACTIONS, COLOURS, KINDS, MARKS, Character
from .film import (
    Appearance,
    Film,
    Shot,
    boundaries,
    make_clip,
    make_film,
    make_still,
    plan_still,
    random_story,
    render_frame,
    render_shot,
)
from .grammar import CAPTION_VOCABULARY, LOOK_WORDS, NAMES, tokenize
from .settings import FRAMINGS, SETTINGS, TIMES, VIEWPOINTS

ShotTruth = Shot

__all__ = [
    "ACTIONS",
    "CAPTION_VOCABULARY",
    "COLOURS",
    "FRAMINGS",
    "KINDS",
    "LOOK_WORDS",
    "MARKS",
    "NAMES",
    "SETTINGS",
    "TIMES",
    "VIEWPOINTS",
    "Appearance",
    "Character",
    "Film",
    "Shot",
    "ShotTruth",
    "boundaries",
    "make_clip",
    "make_film",
    "make_still",
    "plan_still",
    "random_story",
    "render_frame",
    "render_shot",
    "tokenize",
]
