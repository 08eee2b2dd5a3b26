"""What a rollout remembers, and what it recalls."""

from .cache import FrameStore, KVMemory
from .routing import describe, describe_query, route
from .settings import ROUTINGS, STORAGES, MemorySettings
from .views import FoldedView, PackedView, RolloutView

__all__ = [
    "ROUTINGS",
    "STORAGES",
    "FoldedView",
    "FrameStore",
    "KVMemory",
    "MemorySettings",
    "PackedView",
    "RolloutView",
    "describe",
    "describe_query",
    "route",
]
