"""The sampler: rolls a story out, chunk after chunk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn.functional import pad

from ..causalcine_core.errors import InputError, WorkerLostError
from ..causalcine_core.memory import MemorySettings
from ..causalcine_core.memory.cache import GIB
from ..causalcine_core.needs import working_bytes
from ..causalcine_core.pipeline import Pipeline
from ..causalcine_core.sampling import Chunk, Recipe, State
from ..causalcine_core.sampling.rollout import memory_for
from ..causalcine_core.sampling.state import most_held
from ..causalcine_core.story import MAX_SEED, check_size
from ..causalcine_core.text import Reading
from ..causalcine_core.vae import published_vae
from .adapt import clip as clips
from .adapt import model as models
from .adapt import vae as vaes
from .adapt import workers as crews
from .adapt.progress import Progress, warn
from .film import latent_of
from .memory import MemoryType, StateType
from .story import Shots, ShotsType

STRIDE = 16  # pixels: the VAE's stride of 8 times the patch of 2, of Wan 2.1 models; of Wan 2.2 5B it is 32


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
                io.Model.Input(
                    "model", tooltip="A causal model, or a Wan text-to-video MODEL with a CausalCine Recipe."
                ),
                ShotsType.Input("shots", tooltip="What to make."),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip=f"Pixels, a multiple of {STRIDE} (Wan 2.2 5B: 32). 0: as the model, or the state.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=16384,
                    tooltip=f"Pixels, a multiple of {STRIDE} (Wan 2.2 5B: 32). 0: as the model, or the state.",
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
                StateType.Input(
                    "state", optional=True, tooltip="Of an earlier sampler: these shots follow on its film."
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Sharp live preview. CausalCine checkpoints bring their own; else a taew2_1 file in "
                    "models/vae_approx gives a good one.",
                ),
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
        pipeline = ComfyPipeline(model, shots)
        if vae is not None:
            vaes.check_kind(vae, pipeline.network.channels)
        preview = vae if vae is not None else model.get_attachment(models.PREVIEW_VAE)
        network = pipeline.network
        tiny = vaes.TinyPreview.find(network.channels, network.device) if preview is None else None
        progress = Progress(preview, tiny, model.model.latent_format)
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
        progress.begin(len(pipeline.start.planned), pipeline.start.recipe.schedule.steps)
        try:
            with contextlib.closing(stream), pipeline.running(preview):
                for chunk in stream:
                    state = chunk.state
        except WorkerLostError as lost:
            raise crews.keep(pipeline.asked, lost) from lost
        return io.NodeOutput(latent_of(state), state)


class ComfyPipeline(Pipeline):
    """The core's pipeline over a MODEL and shots that are encoded already. It makes latents only."""

    asked: State  # what `stream` is to begin from, with its plan
    start: State  # the same, or a later state of the same job
    size: tuple[int, int]

    def __init__(self, model: Any, shots: Shots):
        self.model, self.shots, self.config = model, shots, models.config_of(model)
        self.contexts: dict[str, Tensor] = {}
        strides = SimpleNamespace(config=published_vae(self.config.in_dim))
        network = replace(models.network_of(model), crew=crews.crew_of(model))
        super().__init__(network, None, strides, _recipe(model), "the connected model")

    @property
    def reading(self) -> Reading:
        return clips.reading(self.shots.clip)

    def encode(self, prompt: str) -> Tensor:
        if prompt not in self.contexts:
            self.contexts[prompt] = self._fitted(self.shots.encode(prompt))
        return self.contexts[prompt]

    def _fitted(self, context: Tensor) -> Tensor:
        if context.shape[-1] != self.config.text_dim:
            raise InputError(
                f"clip gives text of {context.shape[-1]} channels, the model reads {self.config.text_dim}: use the CLIP of the "
                "same checkpoint, or umt5 (Load CLIP, type wan) for a Wan model"
            )
        if context.shape[1] > self.config.text_len:
            warn([f"a prompt is {context.shape[1]} tokens long: the model reads the first {self.config.text_len}"])
        return pad(context, (0, 0, 0, self.config.text_len - context.shape[1]))

    def _run(self, state: State, size: tuple[int, int], on_step: Any) -> Iterator[Chunk]:
        self.asked, self.size = state, size
        state = self.start = crews.kept(state) if self.network.crew else state
        shots = {shot.index: shot for shot in state.shots}
        for index in state.read_next(state.planned, elsewhere=self.network.crew is not None):
            self.encode(self.fit(shots[index]))  # now: an encoder that runs later could push the model off its device
        if state.recipe.guidance.on:
            self.encode(state.recipe.guidance.negative)
        return super()._run(state, size, on_step)

    @contextlib.contextmanager
    def running(self, preview: Any) -> Iterator[None]:
        """The model on its device, with room for what it remembers. Raises InputError where there is none."""
        if self.network.crew is not None:
            crews.give(self.network.crew, self.model, self.network)
            yield
            return
        recipe, settings = self.start.recipe, self.start.settings
        tokens = self.size[0] * self.size[1] // 4
        working = working_bytes(self.config, recipe, settings, tokens, self.network.dtype)
        others = [] if preview is None else [preview.patcher]
        store = memory_for(self.network, self.start, self.size).store
        film = most_held(recipe, settings, self.start.planned) if self.start.planned else 0
        growth, on_host = (there - held for there, held in zip(store.bytes_for(film), store.held, strict=True))
        models_needed = [self.model, *self.model.get_nested_additional_models(), *others]
        mm.load_models_gpu(models_needed, memory_required=working + growth)
        _check_room(film, growth, self.network.device, "set a budget or another storage (host, 8bit)")
        _check_room(film, on_host, torch.device("cpu"), "set a budget, or the storage to host_8bit")
        self.model.pre_run()
        try:
            yield
        finally:
            self.model.cleanup()


def _check_room(film: int, growth: int, device: torch.device, remedy: str) -> None:
    """Raise InputError where the memory of a film of so many frames does not fit. growth: bytes it takes on top of what it has."""
    free, place = mm.get_free_memory(device), "this machine" if device.type == "cpu" else device
    if growth > free:
        raise InputError(
            f"memory: the {film} latent frames of this film take {growth / GIB:.1f} GiB more, and {place} has {free / GIB:.1f} GiB "
            f"left: {remedy} in CausalCine Memory, or lower width, height or seconds"
        )


def _recipe(model: Any) -> Recipe:
    recipe = models.recipe_of(model)
    if recipe is None:
        kind = "its file names no recipe" if models.is_ours(model) else "it was not trained to stream"
        warn([f"this model is rolled out with default settings, since {kind}: add a CausalCine Recipe"])
    return recipe or Recipe()
