"""The procedural world that the built-in model is trained on: films with exact captions and truth. All that is public is here."""

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
