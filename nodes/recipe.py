"""How a model is rolled out: a recipe that travels with the MODEL."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..causalcine_core.errors import InputError
from ..causalcine_core.sampling import SAMPLERS, Recipe
from .adapt import model as models

KEEP = "as the model"
FAMILIES: dict[str, Recipe | None] = {
    KEEP: None,
    "Self-Forcing (chunks of 3, 4 steps)": Recipe(steps=4, sampler="renoise", window=6, top_k=0),
    "Self-Forcing frame-wise (chunks of 1, 4 steps)": Recipe(
        chunk=1, first_chunk=1, steps=4, sampler="renoise", window=20, top_k=0
    ),
    "Wan 2.1 base (guided, 50 steps)": Recipe(steps=50, guidance=5.0),
}


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
                    options=list(FAMILIES),
                    default=KEEP,
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
                    options=[KEEP, *SAMPLERS],
                    default=KEEP,
                    tooltip="euler: many steps. renoise: distilled models of few steps.",
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
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The same model with this recipe.")],
        )

    @classmethod
    def execute(cls, model: Any, family: str = KEEP, **given: Any) -> io.NodeOutput:
        if family not in FAMILIES:
            raise InputError(f"family is {family!r}: allowed are {', '.join(FAMILIES)}")
        models.config_of(model)
        recipe = override(FAMILIES[family] or models.recipe_of(model) or Recipe(), **given)
        return io.NodeOutput(models.with_attachment(model, models.RECIPE, recipe))


def override(
    recipe: Recipe,
    chunk: int = 0,
    steps: int = 0,
    shift: float = 0.0,
    sampler: str = KEEP,
    guidance: float = -1.0,
    window: int = -1,
    top_k: int = -1,
    negative: str = "",
) -> Recipe:
    """A recipe with every value that was really given."""
    first = 1 if recipe.first_chunk == 1 else chunk
    given = {"chunk": chunk, "first_chunk": first} if chunk else {}
    if steps or shift:
        given |= {"levels": None}
    given |= {name: value for name, value in (("steps", steps), ("shift", shift), ("negative", negative)) if value}
    given |= {
        name: value for name, value in (("guidance", guidance), ("window", window), ("top_k", top_k)) if value >= 0
    }
    if sampler != KEEP:
        given["sampler"] = sampler
    return replace(recipe, **given)
