"""Text encoders."""

from .nano import NanoTextEncoder, TextConfig, tokenize

__all__ = ["NanoTextEncoder", "TextConfig", "tokenize"]
