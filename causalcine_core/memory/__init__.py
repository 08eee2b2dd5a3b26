"""What a rollout remembers, and what it recalls."""

from .cache import Block, FrameStore, KVMemory
from .routing import describe, describe_query, route
from .settings import MemorySettings
from .views import PackedView, RolloutView

__all__ = [
    "Block",
    "FrameStore",
    "KVMemory",
    "MemorySettings",
    "PackedView",
    "RolloutView",
    "describe",
    "describe_query",
    "route",
]
