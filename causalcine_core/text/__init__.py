"""Text encoders, and what of a prompt they read."""

from .fit import Fitted, Reading, fit_notes, fit_prompt, fit_shot
from .nano import NanoTextEncoder
from .words import TextConfig, prompt_notes, tokenize, unknown_words, vocabulary_notes

__all__ = [
    "Fitted",
    "NanoTextEncoder",
    "Reading",
    "TextConfig",
    "fit_notes",
    "fit_prompt",
    "fit_shot",
    "prompt_notes",
    "tokenize",
    "unknown_words",
    "vocabulary_notes",
]
