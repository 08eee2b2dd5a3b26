"""How a model is rolled out: a recipe that travels with the MODEL."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..causalcine_core import checks
from ..causalcine_core.errors import InputError
from ..causalcine_core.sampling import FAMILIES, SAMPLERS, Recipe, find_family, reshifted
from .adapt import model as models
from .adapt.form import Form, advanced
from .story import AS_MODEL, CUTS

RECOMPUTE: dict[str, str | bool] = {AS_MODEL: AS_MODEL, "yes": True, "no": False}
CHOICES = {
    "family": [AS_MODEL, *(family.label for family in FAMILIES)],
    "sampler": [AS_MODEL, *SAMPLERS],
    "cut": CUTS,
    "recompute": list(RECOMPUTE),
}


class CausalCineRecipe(Form):
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
                _choice("family", "Start from what this family was trained with."),
                *_fields(),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The same model with this recipe.")],
        )

    @classmethod
    def check(
        cls, family: str = AS_MODEL, sampler: str = AS_MODEL, cut: str = AS_MODEL, recompute: str = AS_MODEL
    ) -> None:
        for name, value in (("family", family), ("sampler", sampler), ("cut", cut), ("recompute", recompute)):
            checks.choice(value, name, CHOICES[name])

    @classmethod
    def execute(cls, model: Any, family: str = AS_MODEL, **given: Any) -> io.NodeOutput:
        models.config_of(model)
        base = models.recipe_of(model) or Recipe() if family == AS_MODEL else find_family(family).recipe
        return io.NodeOutput(models.with_attachment(model, models.RECIPE, override(base, **given)))


def _fields() -> list[io.WidgetInput]:
    """A widget for each flat field of a recipe, under its name; its default means: as the family."""
    return [
        _whole("chunk", 0, 64, "Latent frames made at once."),
        _whole("steps", 0, 1000, "Denoising passes a chunk."),
        _number("shift", 0, 100, 0.1, "Of the noise schedule."),
        _choice(
            "sampler",
            "euler or unipc: many steps, of which unipc needs fewer. renoise: distilled models of few steps. rolling: the same "
            "for models trained to make several chunks at once (Rolling-Forcing).",
        ),
        _number("guidance", -1, 100, 0.1, "1: none (distilled)."),
        _whole("window", -1, 1024, "Chunks always seen."),
        _whole("top_k", -1, 1024, "Frames recalled from before."),
        _text(
            "negative", "What guidance leads away from. Empty: as the family.", multiline=True, dynamic_prompts=False
        ),
        *advanced(
            _whole("first_chunk", 0, 64, "Latent frames of the film's first chunk: 1 or the chunk length."),
            _text(
                "levels",
                "Timesteps of the passes, as they are after the shift, such as 1000, 937.5, 833.3, 625. Empty: as steps and "
                "shift say, or as the family.",
            ),
            _text(
                "first_levels",
                "The same for the film's first chunk, where it needs more passes. Empty: as the family.",
            ),
            _whole("sink", -1, 1024, "First latent frames of the film that are always seen."),
            _number("context_noise", -1, 0.99, 0.01, "Noise on a finished chunk when it is written to memory."),
            _choice("cut", "How shots follow one another where the shot list leaves it to the model."),
            _choice(
                "recompute",
                "Before each chunk, write its window to memory anew: under the words now in force, seeing nothing older. Krea "
                "was trained so.",
            ),
            _whole("cut_keep", -1, 1024, "Of cut flush: latent frames before the cut that stay in view."),
            _whole(
                "cut_jump", -1, 1024, "Of cut rope_jump: positions in time between the old frames and the new shot."
            ),
            _text("cut_phrase", "Of cut phrase: the words put before a new shot's prompt. Empty: as the family."),
            _number(
                "shot_angle",
                -1,
                6.3,
                0.01,
                "Radians in time by which each shot is turned against the one before; ShotStream was trained so.",
            ),
            _number("fps", 0, 120, 0.001, "Frames a second that the model was trained for."),
        ),
    ]


def _whole(name: str, unset: int, most: int, tip: str) -> io.WidgetInput:
    """unset: the least number, which stands for the family's own."""
    return io.Int.Input(name, default=unset, min=unset, max=most, tooltip=f"{tip} {unset}: as the family.")


def _number(name: str, unset: int, most: float, step: float, tip: str) -> io.WidgetInput:
    """unset: the least number, which stands for the family's own."""
    limits = {"default": float(unset), "min": float(unset), "max": float(most), "step": step}
    return io.Float.Input(name, **limits, tooltip=f"{tip} {unset}: as the family.")


def _choice(name: str, tip: str) -> io.WidgetInput:
    return io.Combo.Input(name, options=CHOICES[name], default=AS_MODEL, tooltip=tip)


def _text(name: str, tip: str, **how: Any) -> io.WidgetInput:
    return io.String.Input(name, default="", tooltip=tip, **how)


def override(recipe: Recipe, **widgets: Any) -> Recipe:
    """A recipe with every value that was really given. A first chunk goes with the chunk, explicit timesteps with the shift, and
    they give way to steps. Raises InputError that names the field."""
    unset = {one.id: one.default for one in _fields()}
    given = {name: value for name, value in widgets.items() if value != unset.get(name)}
    for name in ("levels", "first_levels"):
        if timesteps := _timesteps(name, given.pop(name, "")):
            given[name] = timesteps
    if "recompute" in given:
        given["recompute"] = RECOMPUTE.get(given["recompute"], given["recompute"])
    schedule, along = recipe.schedule, {}
    if "chunk" in given:
        along["first_chunk"] = 1 if recipe.timeline.first_chunk == 1 else given["chunk"]
    if "shift" in given:
        shift = recipe.changed(shift=given["shift"]).schedule.shift
        explicit = {"levels": schedule.timesteps, "first_levels": schedule.first_timesteps}
        along |= {name: reshifted(one, schedule.shift, shift) for name, one in explicit.items() if one is not None}
    if "steps" in given:
        along["levels"] = None
    return recipe.changed(**along | given)


def _timesteps(name: str, text: str) -> tuple[float, ...]:
    """Timesteps of a widget: numbers with commas or spaces between; none where it is blank."""
    try:
        return tuple(float(part) for part in text.replace(",", " ").split())
    except (AttributeError, ValueError):
        raise InputError(
            f"{name} must be numbers with commas between, such as 1000, 937.5, 833.3, 625, got {text!r}"
        ) from None
