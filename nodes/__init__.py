"""ComfyUI nodes: a form, its checks, and one call into the core each."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from comfy_api.latest import ComfyExtension, io

from .adapt import states
from .cast import CausalCineCast
from .decode import CausalCineStreamingDecode
from .loaders import CausalCineCheckpointLoader, CausalCineModelLoader
from .memory import CausalCineMemory, CausalCineMemoryMap
from .recipe import CausalCineRecipe
from .sampler import CausalCineSampler
from .save import CausalCineSaveVideo
from .state import CausalCineLoadState, CausalCineSaveState, CausalCineState
from .story import CausalCineShot, CausalCineShotList
from .workers import CausalCineWorkers

NODES: list[type[io.ComfyNode]] = [
    CausalCineCheckpointLoader,
    CausalCineModelLoader,
    CausalCineRecipe,
    CausalCineShotList,
    CausalCineShot,
    CausalCineMemory,
    CausalCineCast,
    CausalCineSampler,
    CausalCineStreamingDecode,
    CausalCineSaveVideo,
    CausalCineMemoryMap,
    CausalCineSaveState,
    CausalCineLoadState,
    CausalCineState,
    CausalCineWorkers,
]


class CausalCineExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        _warn_of_folder_name(Path(__file__).resolve().parent.parent.name)
        states.add_routes()
        return NODES


def _warn_of_folder_name(name: str) -> None:
    """ComfyUI serves a pack's templates and help under its folder's name, and only plain names work there."""
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        logging.warning(
            "CausalCine: its nodes work, but ComfyUI cannot serve templates and help from a folder called %r; "
            "rename it to CausalCine.",
            name,
        )
