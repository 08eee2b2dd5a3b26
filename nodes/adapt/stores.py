"""Memory of films whose states ComfyUI's caches hold, or have let go of.

A state is freed with the last cache entry, or running node, that holds it: after /free none does. ComfyUI 0.33's RAM cache lets go of
other prompts' results at once, and where the computer's memory runs short of this prompt's too, the largest first. It weighs
pictures and cannot weigh states, so it is asked here, where their size is known.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import comfy.model_management as mm
import torch

from ...causalcine_core.memory import FrameStore, KVMemory

CPU = torch.device("cpu")


@dataclass
class Stores:
    """Of all films of which some state is alive. There is one of these: the sampler's."""

    alive: weakref.WeakSet[FrameStore] = field(default_factory=weakref.WeakSet)

    def make_room(self, memory: KVMemory, frames: int, device: torch.device) -> tuple[int, int]:
        """Give back what nobody holds, before a film of so many latent frames is made in a memory. Gives the bytes that it takes more,
        on the device and in the computer's memory."""
        self.alive.add(memory.store)
        self.trim()
        growth, on_host = _growth(memory, frames)
        wanted = on_host + (growth if device.type == "cpu" else 0)
        if wanted > mm.get_free_memory(CPU):
            release_results(wanted)
            self.trim()
            growth, on_host = _growth(memory, frames)
        return growth, on_host

    def trim(self) -> None:
        for store in list(self.alive):
            store.trim()


def _growth(memory: KVMemory, frames: int) -> tuple[int, int]:
    device, host = memory.store.bytes_for(frames, memory.lying)
    held = memory.store.held
    return device - held[0], host - held[1]


def release_results(wanted: int) -> None:
    """Have ComfyUI 0.33 let go of results, until so many bytes of the computer's memory are free; what is yet to be read stays."""
    try:
        from comfy.memory_management import extra_ram_release
    except ImportError:  # 0.3.64 has no such cache
        return
    extra_ram_release(wanted, free_active=True)
