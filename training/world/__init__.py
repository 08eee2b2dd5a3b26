"""The procedural world that the built-in model is trained on: films with exact captions and truth. All that is public is here."""

from __future__ import annotations

from .camera import FRAMINGS, TIMES, VIEWPOINTS
from .characters import COLOURS, KINDS, MARKS, Character
from .film import Appearance, Film, Shot
from .grammar import CAPTION_VOCABULARY, LOOK_WORDS, NAMES, tokenize
from .planning import boundaries, make_film, make_still, plan_still, random_story
from .poses import ACTIONS
from .stage import SETTINGS

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
    "make_film",
    "make_still",
    "plan_still",
    "random_story",
    "tokenize",
]
