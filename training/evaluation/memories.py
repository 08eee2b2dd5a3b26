"""What films are made with in place of routed memory, at an equal receptive field: the same number of latent frames is seen."""

from __future__ import annotations

from causalcine_core import checks
from causalcine_core.memory import STORAGES, MemorySettings
from causalcine_core.sampling import Recipe

ROUTED = "camr"
WINDOW = "window"
MEMORIES = {  # how it is settled what a chunk recalls, `memory.routing`
    ROUTED: "every_step",
    "first_step": "first_step",
    "rag": "rag",
    "sink": "sink",
    "fifo": "fifo",
    "even": "even",
    WINDOW: "every_step",
}


def memory_of(name: str, recipe: Recipe, storage: str = "full") -> MemorySettings:
    """The memory settings that a name stands for. InputError for another one.

    window: nothing is recalled, and the window is longer by as many chunks as hold the frames that would have been, to the nearest
    whole chunk; fifo has as many frames to the last one.
    """
    checks.choice(name, "memory", MEMORIES)
    checks.choice(storage, "storage", STORAGES)
    if name != WINDOW:
        return MemorySettings(routing=MEMORIES[name], storage=storage)
    seen = recipe.visibility
    longer = int(seen.top_k / recipe.timeline.chunk + 0.5)
    return MemorySettings(window=seen.window + longer, top_k=0, storage=storage)
