"""What a rollout may see of its past."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class MemorySettings:
    """window: chunks before the current one. top_k: frames recalled from before the window. None = as trained."""

    window: int | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("window", 0), ("top_k", 0)):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 1024:
                raise InputError(f"memory.{name} is {value!r}: it must be a whole number from {least} to 1024")

    def resolve(self, window: int, top_k: int) -> MemorySettings:
        """Fill what was left open with the checkpoint's own numbers."""
        return MemorySettings(
            window if self.window is None else self.window, top_k if self.top_k is None else self.top_k
        )
