"""Text encoders."""

from .nano import NanoTextEncoder
from .words import TextConfig, prompt_problems, prompt_warnings, tokenize, unknown_words

__all__ = ["NanoTextEncoder", "TextConfig", "prompt_problems", "prompt_warnings", "tokenize", "unknown_words"]
