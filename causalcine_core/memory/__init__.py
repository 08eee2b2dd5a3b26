"""What a rollout remembers, and what it recalls."""

from .cache import KVMemory
from .packed_view import PackedView
from .remote import RemoteMemory
from .rollout_view import FusedView, RolloutView, WritingView
from .routing import describe, describe_query, route
from .settings import ROUTINGS, STORAGES, MemorySettings, ResolvedMemory
from .store import FrameStore

__all__ = [
    "ROUTINGS",
    "STORAGES",
    "FrameStore",
    "FusedView",
    "KVMemory",
    "MemorySettings",
    "PackedView",
    "RemoteMemory",
    "ResolvedMemory",
    "RolloutView",
    "WritingView",
    "describe",
    "describe_query",
    "route",
]
