"""A film's memory that lies elsewhere."""

from __future__ import annotations

import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteMemory:
    """Stands in a state for keys and values that workers hold. id: theirs alone, by which they are found as long as they are held;
    who does not hold them writes them anew."""

    id: str

    @classmethod
    def new(cls) -> RemoteMemory:
        return cls(uuid.uuid4().hex)
