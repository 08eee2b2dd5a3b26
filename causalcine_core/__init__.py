"""CausalCine's engine: multi-shot video, streamed chunk by chunk by a causal Wan transformer with routed memory.

The public names are imported when they are first asked for, so that reading a story does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import InputError
    from .film import retake
    from .filming import Video
    from .lora import LoRA
    from .memory import MemorySettings
    from .pipeline import Pipeline
    from .sampling import Chunk, Recipe, State
    from .story import Shot, Story

__version__ = "0.1.0"

_HOMES = {
    "Chunk": "sampling",
    "InputError": "errors",
    "LoRA": "lora",
    "MemorySettings": "memory",
    "Pipeline": "pipeline",
    "Recipe": "sampling",
    "Shot": "story",
    "State": "sampling",
    "Story": "story",
    "Video": "filming",
    "retake": "film",
}

__all__ = [
    "Chunk",
    "InputError",
    "LoRA",
    "MemorySettings",
    "Pipeline",
    "Recipe",
    "Shot",
    "State",
    "Story",
    "Video",
    "__version__",
    "retake",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
