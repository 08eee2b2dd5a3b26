"""What a film may see of its past: as it is asked for, and as it is once a checkpoint's own numbers fill the gaps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from .. import checks
from .routing import ROUTINGS

STORAGES = ("full", "8bit", "host", "host_8bit")
MOST = 1024  # chunks of a window, frames that are recalled


@dataclass(frozen=True)
class MemorySettings:
    """What is asked. window: chunks before the current one. top_k: frames recalled from before the window. None = as trained.

    routing: choose by content in each layer, in every denoising pass (every_step) or in the first pass of a chunk (first_step), or one
    choice for all layers (rag); or by place, whatever the frames show: the first ones (sink), the last before the window (fifo),
    some at even distances (even). budget: GiB that keys and
    values may take, None = no limit; at the budget what routing used least is forgotten. storage: how frames beyond the
    window are kept: on the device in full precision or in 8 bits, or either way in the host's memory, from where a chunk
    fetches those that it recalls. Raises InputError for anything else.
    """

    window: int | None = None
    top_k: int | None = None
    routing: str = "every_step"
    budget: float | None = None
    storage: str = "full"

    def __post_init__(self) -> None:
        for name in ("window", "top_k"):
            if getattr(self, name) is not None:
                checks.whole(getattr(self, name), f"memory.{name}", 0, MOST)
        _check_keeping(self.routing, self.budget, self.storage)

    def resolve(self, window: int, top_k: int) -> ResolvedMemory:
        """What holds for a film: where nothing was asked, the checkpoint's own window (chunks) and top_k (frames)."""
        asked = {name: value for name, value in asdict(self).items() if value is not None}
        return ResolvedMemory(**{"window": window, "top_k": top_k} | asked)


@dataclass(frozen=True)
class ResolvedMemory:
    """What holds for a film. Fields as those of `MemorySettings`: window and top_k are always numbers here."""

    window: int
    top_k: int
    routing: str = "every_step"
    budget: float | None = None
    storage: str = "full"

    def __post_init__(self) -> None:
        for name in ("window", "top_k"):
            checks.whole(getattr(self, name), f"memory.{name}", 0, MOST)
        _check_keeping(self.routing, self.budget, self.storage)

    @property
    def eight_bit(self) -> bool:
        """Whether frames beyond the window are kept in 8 bits."""
        return self.storage.endswith("8bit")

    @property
    def on_host(self) -> bool:
        """Whether frames beyond the window are kept in the host's memory."""
        return self.storage.startswith("host")

    def written_again(self, chunk: int) -> int:
        """Frames that lie in the store as they were and anew, while the window is written once more: all of it but a chunk.
        chunk: latent frames."""
        return max(0, self.window - 1) * chunk

    def to_dict(self) -> dict[str, Any]:
        """The settings as a state's header holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> ResolvedMemory:
        """The settings out of a state's header. Raises InputError that names the field, such as memory.window."""
        known = [field.name for field in fields(cls)]
        return cls(**checks.fields(data, "memory", known, needed=("window", "top_k")))


def _check_keeping(routing: str, budget: float | None, storage: str) -> None:
    checks.choice(routing, "memory.routing", ROUTINGS)
    checks.choice(storage, "memory.storage", STORAGES)
    if budget is not None:
        checks.positive(budget, "memory.budget", " of GiB")
