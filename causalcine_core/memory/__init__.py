"""What a rollout remembers, and what it recalls."""

from .cache import KVMemory
from .packed_view import PackedView
from .remote import RemoteMemory
from .rollout_view import FusedView, RolloutView, WritingView
from .routing import ROUTINGS, describe, describe_query, route
from .settings import STORAGES, MemorySettings, ResolvedMemory
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
