"""What a film remembers, and a picture of what it recalled."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..causalcine_core import checks
from ..causalcine_core.memory import ROUTINGS, STORAGES, MemorySettings
from ..causalcine_core.numbering import mirrored
from ..causalcine_core.report import build_report, memory_map
from ..causalcine_core.sampling import State
from .adapt import vae as vaes
from .adapt.form import Form

MemoryType = io.Custom("CAUSALCINE_MEMORY")
StateType = io.Custom("CAUSALCINE_STATE")


class CausalCineMemory(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineMemory",
            display_name="CausalCine Memory",
            category="CausalCine",
            description="How much of the film so far each chunk sees. Without this node: as the model was trained.",
            inputs=[
                io.Int.Input(
                    "window",
                    default=-1,
                    min=-1,
                    max=1024,
                    tooltip="Chunks right before the current one that are always seen. -1: as the model was trained.",
                ),
                io.Int.Input(
                    "top_k",
                    default=-1,
                    min=-1,
                    max=1024,
                    tooltip="Frames recalled from before the window, chosen by content in every layer. 0: none. -1: as the "
                    "model was trained.",
                ),
                io.Combo.Input(
                    "routing",
                    options=list(ROUTINGS),
                    default="every_step",
                    optional=True,
                    tooltip="every_step, first_step: each layer chooses what it recalls by content, in every denoising pass or in a "
                    "chunk's first (faster). rag: one choice for all layers. To compare with: sink, the first frames; fifo, the last "
                    "before the window; even, some at even distances.",
                ),
                io.Float.Input(
                    "budget",
                    default=0.0,
                    min=0.0,
                    max=4096.0,
                    step=0.5,
                    optional=True,
                    tooltip="Most GiB that remembered frames may take. At the budget, what was recalled least is forgotten. 0: "
                    "no limit.",
                ),
                io.Combo.Input(
                    "storage",
                    options=list(STORAGES),
                    default="full",
                    optional=True,
                    tooltip="How frames beyond the window are kept. 8bit: half of the memory of bf16, a quarter of fp32. host: in "
                    "the computer's own memory instead of the GPU's, fetched when they are recalled. host_8bit: both.",
                ),
            ],
            outputs=[MemoryType.Output(display_name="MEMORY", tooltip="For CausalCine Sampler.")],
        )

    @classmethod
    def check(cls, routing: str = "every_step", storage: str = "full") -> None:
        checks.choice(routing, "routing", ROUTINGS)
        checks.choice(storage, "storage", STORAGES)

    @classmethod
    def execute(
        cls, window: int = -1, top_k: int = -1, routing: str = "every_step", budget: float = 0.0, storage: str = "full"
    ) -> io.NodeOutput:
        given = (None if value < 0 else value for value in (window, top_k))
        return io.NodeOutput(MemorySettings(*given, routing, budget or None, storage))


def _cast_pictures(state: State, vae: Any) -> dict[int, np.ndarray]:
    """The pictures of a film's cast, by their numbers: uint8 `[H, W, 3]`."""
    out = {}
    for i, one in enumerate(state.references):
        vaes.check(vae, one.latent)
        vaes.load(vae, one.latent)
        out[mirrored(i)] = (vaes.still(vae, one.latent).numpy() * 255).round().astype(np.uint8)
    return out


class CausalCineMemoryMap(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineMemoryMap",
            display_name="CausalCine Memory Map",
            category="CausalCine",
            description="Draws which frames of the past each chunk of a film recalled.",
            inputs=[
                StateType.Input("state", tooltip="Of CausalCine Sampler."),
                io.Vae.Input("vae", optional=True, tooltip="Shows the pictures of the film's cast beside their names."),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The map.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, state: Any, vae: Any = None) -> io.NodeOutput:
        report = build_report(state, model={}, warnings=[])
        picture = memory_map(report, _cast_pictures(state, vae) if vae is not None else None)
        image = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)[None]
        return io.NodeOutput(image, ui=ui.PreviewImage(image, cls=cls))
