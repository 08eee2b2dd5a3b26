"""The sampler: rolls a story out, chunk after chunk."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar

from comfy_api.latest import io

from ..causalcine_core.errors import FilmStoppedError
from ..causalcine_core.history import Clip
from ..causalcine_core.memory import MemorySettings
from ..causalcine_core.sampling import State
from ..causalcine_core.sampling.restyle import check_restyle
from ..causalcine_core.story import MAX_SEED, check_size
from .adapt import model as models
from .adapt import vae as vaes
from .adapt.form import Form, advanced
from .adapt.progress import Progress, say, warn
from .adapt.rescue import Kept
from .adapt.stores import Stores
from .cast import Cast, CastType, cast_for
from .film import history_of, latent_of, on_device, pipeline_of
from .memory import MemoryType, StateType
from .story import Shots, ShotsType

STRIDE = 16  # pixels: the VAE's stride of 8 times the patch of 2, of Wan 2.1 models; of Wan 2.2 5B it is 32
STRENGTH = 0.8  # of a clip that is made anew


class CausalCineSampler(Form):
    stores: ClassVar[Stores] = Stores()
    kept: ClassVar[Kept] = Kept()

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
                io.Latent.Input(
                    "history",
                    optional=True,
                    tooltip="A clip or a single picture (VAE Encode), or the LATENT of another film: the film begins with it, and the "
                    "shots go on from its last frame. Not together with a state.",
                ),
                CastType.Input(
                    "cast",
                    optional=True,
                    tooltip="Of CausalCine Cast: who the film remembers from its beginning. With a state: its own cast, then who "
                    "is new.",
                ),
                io.Latent.Input(
                    "video",
                    optional=True,
                    tooltip="A clip (VAE Encode) that is made anew under these shots' words: each chunk begins from it under noise.",
                ),
                *advanced(
                    io.Float.Input(
                        "strength",
                        default=STRENGTH,
                        min=0.0,
                        max=1.0,
                        step=0.01,
                        tooltip="How much of the video is made anew. 1: nothing is left of it. Without a video it has no meaning.",
                    )
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="LATENT", tooltip="The whole film so far."),
                StateType.Output(display_name="STATE", tooltip="Where another sampler can go on."),
            ],
        )

    @classmethod
    def check(cls, width: int = 0, height: int = 0) -> None:
        check_size(width or STRIDE, height or STRIDE, STRIDE)

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
        history: dict[str, Any] | None = None,
        cast: Cast | None = None,
        video: dict[str, Any] | None = None,
        strength: float = STRENGTH,
    ) -> io.NodeOutput:
        pipe = pipeline_of(model, shots)
        if vae is not None:
            vaes.check_kind(vae, pipe.network.channels)
        preview = vae if vae is not None else model.get_attachment(models.PREVIEW_VAE)
        clip = None if history is None else history_of(history, pipe, shots.story, preview)
        given: dict[str, Any] = {
            "state": state,
            "memory": memory,
            "seed": seed,
            "steps": steps or None,
            "history": clip,
        }
        given |= {"width": width or None, "height": height or None}
        if video is not None:
            given |= {"video": Clip(video["samples"], name="video"), "strength": strength}
        if cast is not None:
            given["cast"] = cast_for(cast, pipe, pipe.start(shots.story, **given))
        asked = pipe.start(shots.story, **given)
        start = cls.kept.taken_up(asked)
        sentences = [*(clip.notes if clip else ()), *pipe.check(shots.story, asked)]
        if start.restyle is not None and video is not None:
            sentences.append(check_restyle(start.recipe, strength))
        warn(sentences)
        pipe.text.encode_all(start, pipe.executor)
        progress = Progress.of(pipe.network, preview, model.model.latent_format)
        progress.begin(len(start.planned), start.recipe.schedule.steps)
        made = start
        try:
            with on_device(pipe, model, start, state, preview, cls.stores):
                stream = pipe.run(start, on_step=progress, decode=False)
                with contextlib.closing(stream):
                    for chunk in stream:
                        made = chunk.state
        except BaseException as error:  # ComfyUI's cancel among them
            lost = error.state if isinstance(error, FilmStoppedError) else None
            cls.kept.keep(error, asked, lost or made, preview)
            raise
        if sentences:
            say("\n".join(sentences))  # once more: meanwhile its place showed how far the film was
        return io.NodeOutput(latent_of(made, pipe.told(made)), made, ui={"text": sentences} if sentences else None)
