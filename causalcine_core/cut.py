"""How one shot follows another: settings for models that were trained with cuts, and for those that never saw one."""

from __future__ import annotations

from dataclasses import dataclass

from . import checks
from .errors import InputError

MODES = ("flush", "rope_jump", "pinned", "phrase")
SOFT = ("soft", "rewrite")


@dataclass(frozen=True)
class Cut:
    """How a shot is told to a model. `parse` reads the names, joined by +; `native` is nothing of all this.

    flush: what lies before the cut leaves the window, but for its last `keep` frames; routing may still recall it.
    rope_jump: the shot's first chunk stands `jump` positions after everything that it sees.
    pinned: the shot's first chunk stays in view for the whole shot.
    phrase: words are put before the prompt of every shot that follows a cut.
    soft: no cut: the text changes inside a going shot, blended over some chunks.
    rewrite: with soft: the window is written to memory once more, under the new words.
    """

    flush: bool = False
    rope_jump: bool = False
    pinned: bool = False
    phrase: bool = False
    soft: bool = False
    rewrite: bool = False
    keep: int = 2
    jump: int = 24

    @classmethod
    def parse(cls, text: str, *, keep: int = 2, jump: int = 24, name: str = "cut") -> Cut:
        names = [part.strip() for part in text.split("+")] if isinstance(text, str) else []
        known = ("native", *MODES, *SOFT)
        if not names or any(n not in known for n in names) or len(set(names)) < len(names):
            allowed = f"{', '.join(known)}, or several joined by + as in flush+phrase"
            raise InputError(f"{name} must be one of {allowed}, got {checks.show(text)}")
        if "native" in names and len(names) > 1:
            raise InputError(f"{name} must have native alone, which is none of the others, got {checks.show(text)}")
        if set(names) & set(SOFT) and (set(names) & set(MODES) or "soft" not in names):
            allowed = "soft or soft+rewrite where the text changes inside a shot: neither joins with another"
            raise InputError(f"{name} must be {allowed}, got {checks.show(text)}")
        return cls(**{n: True for n in names if n != "native"}, keep=keep, jump=jump)
