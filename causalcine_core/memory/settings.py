"""What a rollout may see of its past."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError

STORAGES = ("full", "8bit", "host", "host_8bit")
ROUTINGS = ("every_step", "first_step")


@dataclass(frozen=True)
class MemorySettings:
    """window: chunks before the current one. top_k: frames recalled from before the window. None = as trained.

    routing: choose in every denoising pass, or in the first pass of a chunk and keep the choice. budget: GiB that keys and
    values may take, None = no limit; at the budget what routing used least is forgotten. storage: how frames beyond the
    window are kept: on the device in full precision or in 8 bits, or either way in the host's memory, from where a chunk
    fetches those that it recalls.
    """

    window: int | None = None
    top_k: int | None = None
    routing: str = "every_step"
    budget: float | None = None
    storage: str = "full"

    def __post_init__(self) -> None:
        for name in ("window", "top_k"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1024):
                raise InputError(f"memory.{name} is {value!r}: it must be a whole number from 0 to 1024")
        for name, allowed in (("routing", ROUTINGS), ("storage", STORAGES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"memory.{name} is {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        budget = self.budget
        if budget is None:
            return
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < float("inf"):
            raise InputError(f"memory.budget is {budget!r}: it must be a number of GiB above 0")

    @property
    def eight_bit(self) -> bool:
        return self.storage.endswith("8bit")

    @property
    def on_host(self) -> bool:
        return self.storage.startswith("host")

    def written_again(self, chunk: int) -> int:
        """Frames that lie in the store as they were and anew, while the window is written once more: all of it but a chunk."""
        return max(0, (self.window or 0) - 1) * chunk

    def resolve(self, window: int, top_k: int) -> MemorySettings:
        """Fill what was left open with the checkpoint's own numbers."""
        window = window if self.window is None else self.window
        return replace(self, window=window, top_k=top_k if self.top_k is None else self.top_k)
