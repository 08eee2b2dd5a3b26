"""What a rollout remembers, and what it recalls."""

from .cache import FrameStore, KVMemory
from .rollout_view import FoldedView, PackedView, RolloutView
from .routing import describe, describe_query, route
from .settings import ROUTINGS, STORAGES, MemorySettings, ResolvedMemory

__all__ = [
    "ROUTINGS",
    "STORAGES",
    "FoldedView",
    "FrameStore",
    "KVMemory",
    "MemorySettings",
    "PackedView",
    "ResolvedMemory",
    "RolloutView",
    "describe",
    "describe_query",
    "route",
]
