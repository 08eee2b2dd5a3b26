"""The sampler: rolls a story out, chunk after chunk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..causalcine_core.errors import InputError
from ..causalcine_core.memory import MemorySettings
from ..causalcine_core.pipeline import Pipeline
from ..causalcine_core.sampling import Recipe, State
from ..causalcine_core.story import MAX_SEED, check_size
from ..causalcine_core.vae import VAEConfig
from .adapt import model as models
from .adapt import vae as vaes
from .adapt.progress import Progress, warn
from .memory import MemoryType, StateType
from .story import Shots, ShotsType

STRIDE = 16  # pixels: the VAE's stride of 8 times the patch of 2, of every Wan 2.1 model
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
FILM = "causalcine"  # key of what a LATENT says of its film


class CausalCineSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineSampler",
            display_name="CausalCine Sampler",
            category="CausalCine",
            description="Makes the shots, one chunk after another, each remembering what came before. With a state it goes on "
            "from there: nothing earlier is made again.",
            inputs=[
                io.Model.Input("model", tooltip="A causal model, or a Wan text-to-video MODEL with a CausalCine Recipe."),
                ShotsType.Input("shots", tooltip="What to make."),
                io.Int.Input(
                    "width", default=0, min=0, max=16384, tooltip=f"Pixels, a multiple of {STRIDE}. 0: as the model, or the state."
                ),
                io.Int.Input(
                    "height", default=0, min=0, max=16384, tooltip=f"Pixels, a multiple of {STRIDE}. 0: as the model, or the state."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The same seed, story and model give the same film. Keep it fixed to redo later shots only.",
                ),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="Denoising passes a chunk. 0: as the model."),
                MemoryType.Input("memory", optional=True, tooltip="How much of the past is seen. Without: as trained."),
                StateType.Input("state", optional=True, tooltip="Of an earlier sampler: these shots follow on its film."),
                io.Vae.Input("vae", optional=True, tooltip="Sharper live preview. CausalCine checkpoints bring their own."),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The whole film so far."),
                StateType.Output(display_name="STATE", tooltip="Where another sampler can go on."),
            ],
        )

    @classmethod
    def validate_inputs(cls, width: int | None = None, height: int | None = None) -> bool | str:
        try:
            check_size(width or STRIDE, height or STRIDE, STRIDE)
        except InputError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        shots: Shots,
        width: int = 0,
        height: int = 0,
        seed: int = 0,
        steps: int = 0,
        memory: MemorySettings | None = None,
        state: State | None = None,
        vae: Any = None,
    ) -> io.NodeOutput:
        recipe = _recipe(model)
        network = models.network_of(model)
        pipeline = ComfyPipeline(network, shots, recipe)
        progress = Progress(model, vae or model.get_attachment(models.PREVIEW_VAE))
        stream = pipeline.stream(
            shots.story,
            state=state,
            memory=memory,
            seed=seed,
            steps=steps or None,
            width=width or None,
            height=height or None,
            on_step=progress,
            decode=False,
        )
        with _running(model, progress.vae, recipe, stream):
            for chunk in stream:
                state = chunk.state
        return io.NodeOutput({"samples": state.film(), FILM: {"fps": state.recipe.fps}}, state)
