"""How a model is rolled out: a recipe that travels with the MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..causalcine_core.errors import InputError
from ..causalcine_core.sampling import FAMILIES, SAMPLERS, Recipe, find_family, reshifted
from .adapt import model as models
from .story import AS_MODEL, CUTS

RECOMPUTE: dict[str, str | bool] = {AS_MODEL: AS_MODEL, "yes": True, "no": False}
LABELS = [family.label for family in FAMILIES]


class CausalCineRecipe(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineRecipe",
            display_name="CausalCine Recipe",
            category="CausalCine",
            description="Says how a model is rolled out: how many latent frames at once, in how many steps, with which "
            "sampler. CausalCine files bring their recipe; a plain Wan file needs one. Also takes a stock Wan MODEL.",
            inputs=[
                io.Model.Input("model", tooltip="Ours, or a Wan text-to-video MODEL of any loader."),
                io.Combo.Input(
                    "family",
                    options=[AS_MODEL, *LABELS],
                    default=AS_MODEL,
                    tooltip="Start from what this family was trained with.",
                ),
                io.Int.Input(
                    "chunk", default=0, min=0, max=64, tooltip="Latent frames made at once. 0: as the family."
                ),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, tooltip="Denoising passes a chunk. 0: as the family."
                ),
                io.Float.Input(
                    "shift",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Of the noise schedule. 0: as the family.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=[AS_MODEL, *SAMPLERS],
                    default=AS_MODEL,
                    tooltip="euler or unipc: many steps, of which unipc needs fewer. renoise: distilled models of few steps. rolling: "
                    "the same for models trained to make several chunks at once (Rolling-Forcing).",
                ),
                io.Float.Input(
                    "guidance",
                    default=-1.0,
                    min=-1.0,
                    max=100.0,
                    step=0.1,
                    tooltip="1: none (distilled). -1: as the family.",
                ),
                io.Int.Input("window", default=-1, min=-1, max=1024, tooltip="Chunks always seen. -1: as the family."),
                io.Int.Input(
                    "top_k", default=-1, min=-1, max=1024, tooltip="Frames recalled from before. -1: as the family."
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What guidance leads away from. Empty: as the family.",
                ),
                *_advanced(
                    io.Int.Input(
                        "first_chunk",
                        default=0,
                        min=0,
                        max=64,
                        optional=True,
                        tooltip="Latent frames of the film's first chunk: 1 or the chunk length. 0: as the family.",
                    ),
                    io.String.Input(
                        "levels",
                        default="",
                        optional=True,
                        tooltip="Timesteps of the passes, as they are after the shift, such as 1000, 937.5, 833.3, 625. Empty: as "
                        "steps and shift say, or as the family.",
                    ),
                    io.String.Input(
                        "first_levels",
                        default="",
                        optional=True,
                        tooltip="The same for the film's first chunk, where it needs more passes. Empty: as the family.",
                    ),
                    io.Int.Input(
                        "sink",
                        default=-1,
                        min=-1,
                        max=1024,
                        optional=True,
                        tooltip="First latent frames of the film that are always seen. -1: as the family.",
                    ),
                    io.Float.Input(
                        "context_noise",
                        default=-1.0,
                        min=-1.0,
                        max=0.99,
                        step=0.01,
                        optional=True,
                        tooltip="Noise on a finished chunk when it is written to memory. -1: as the family.",
                    ),
                    io.Combo.Input(
                        "cut",
                        options=CUTS,
                        default=AS_MODEL,
                        optional=True,
                        tooltip="How shots follow one another where the shot list leaves it to the model.",
                    ),
                    io.Combo.Input(
                        "recompute",
                        options=list(RECOMPUTE),
                        default=AS_MODEL,
                        optional=True,
                        tooltip="Before each chunk, write its window to memory anew: under the words now in force, seeing nothing "
                        "older. Krea was trained so.",
                    ),
                    io.Int.Input(
                        "cut_keep",
                        default=-1,
                        min=-1,
                        max=1024,
                        optional=True,
                        tooltip="Of cut flush: latent frames before the cut that stay in view. -1: as the family.",
                    ),
                    io.Int.Input(
                        "cut_jump",
                        default=-1,
                        min=-1,
                        max=1024,
                        optional=True,
                        tooltip="Of cut rope_jump: positions in time between the old frames and the new shot. -1: as the family.",
                    ),
                    io.String.Input(
                        "cut_phrase",
                        default="",
                        optional=True,
                        tooltip="Of cut phrase: the words put before a new shot's prompt. Empty: as the family.",
                    ),
                    io.Float.Input(
                        "shot_angle",
                        default=-1.0,
                        min=-1.0,
                        max=6.3,
                        step=0.01,
                        optional=True,
                        tooltip="Radians in time by which each shot is turned against the one before; ShotStream was trained so. "
                        "-1: as the family.",
                    ),
                    io.Float.Input(
                        "fps",
                        default=0.0,
                        min=0.0,
                        max=120.0,
                        step=0.001,
                        optional=True,
                        tooltip="Frames a second that the model was trained for. 0: as the family.",
                    ),
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The same model with this recipe.")],
        )

    @classmethod
    def execute(cls, model: Any, family: str = AS_MODEL, **given: Any) -> io.NodeOutput:
        models.config_of(model)
        base = models.recipe_of(model) or Recipe() if family == AS_MODEL else find_family(family).recipe
        return io.NodeOutput(models.with_attachment(model, models.RECIPE, override(base, **given)))


def _advanced(*inputs: Any) -> tuple[Any, ...]:
    """Inputs that the page shows where it is asked for all of a node's (0.3.64 has no parameter for it)."""
    for one in inputs:
        one.extra_dict = {**one.extra_dict, "advanced": True}
    return inputs


def override(
    recipe: Recipe,
    chunk: int = 0,
    steps: int = 0,
    shift: float = 0.0,
    sampler: str = AS_MODEL,
    guidance: float = -1.0,
    window: int = -1,
    top_k: int = -1,
    negative: str = "",
    first_chunk: int = 0,
    levels: str = "",
    first_levels: str = "",
    sink: int = -1,
    context_noise: float = -1.0,
    cut: str = AS_MODEL,
    recompute: str = AS_MODEL,
    cut_keep: int = -1,
    cut_jump: int = -1,
    cut_phrase: str = "",
    shot_angle: float = -1.0,
    fps: float = 0.0,
) -> Recipe:
    """A recipe with every value that was really given. Explicit levels move with the shift, and give way to steps."""
    given: dict[str, Any] = {}
    if chunk:
        given |= {"chunk": chunk, "first_chunk": 1 if recipe.timeline.first_chunk == 1 else chunk}
    if shift:
        explicit = {"levels": recipe.schedule.timesteps, "first_levels": recipe.schedule.first_timesteps}
        for name, timesteps in explicit.items():
            if timesteps is not None:
                given[name] = reshifted(timesteps, recipe.schedule.shift, shift)
    if steps:
        given["levels"] = None
    named: dict[str, Any] = {"steps": steps, "shift": shift, "negative": negative, "first_chunk": first_chunk}
    named |= {
        "cut_phrase": cut_phrase,
        "fps": fps,
        "levels": _levels("levels", levels),
        "first_levels": _levels("first_levels", first_levels),
    }
    given |= {name: value for name, value in named.items() if value}
    counts = {"guidance": guidance, "window": window, "top_k": top_k, "sink": sink, "context_noise": context_noise}
    counts |= {"cut_keep": cut_keep, "cut_jump": cut_jump, "shot_angle": shot_angle}
    given |= {name: value for name, value in counts.items() if value >= 0}
    choices = {"sampler": sampler, "cut": cut, "recompute": RECOMPUTE.get(recompute, recompute)}
    given |= {name: value for name, value in choices.items() if value != AS_MODEL}
    return recipe.changed(**given)


def _levels(name: str, text: str) -> tuple[float, ...]:
    """Timesteps of a widget: numbers with commas or spaces between; none where it is empty."""
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise InputError(
            f"{name} is {text!r}: give numbers with commas between, such as 1000, 937.5, 833.3, 625"
        ) from None
