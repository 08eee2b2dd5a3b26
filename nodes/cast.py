"""A cast: pictures of characters and places that a film remembers from its first chunk on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..causalcine_core import checks
from ..causalcine_core.errors import InputError
from ..causalcine_core.pipeline import Pipeline
from ..causalcine_core.references import Reference, check_captions, check_words, reference
from ..causalcine_core.sampling import State
from .adapt import vae as vaes
from .adapt.form import Form

CastType = io.Custom("CAUSALCINE_CAST")


@dataclass(frozen=True)
class Portrait:
    """A picture of a cast as it was given; a film has it in its own size. picture: `[H, W, 3]` in 0..1. vae: that encodes it."""

    name: str
    caption: str
    picture: Tensor
    vae: Any
    _known: dict[tuple[int, int], Reference] = field(default_factory=dict, repr=False, compare=False)

    def fitted(self, width: int, height: int) -> Reference:
        """Scaled, cut at the sides that are too long, and encoded."""
        if (width, height) not in self._known:
            shown = self.picture.movedim(-1, 0)[None].float().clamp(0, 1)
            scaled = comfy.utils.common_upscale(shown, width, height, "lanczos", "center").movedim(1, -1)
            self._known[width, height] = reference(self.name, self.vae.encode(scaled), self.caption)
        return self._known[width, height]


Cast = tuple[Portrait, ...]


class CausalCineCast(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineCast",
            display_name="CausalCine Cast",
            category="CausalCine",
            description="A picture of somebody, or of a place, that the shots call by this name. The film remembers it from its "
            "beginning, never forgets it, and recalls it like any frame of its own. Chain several for a cast of several.",
            inputs=[
                io.Image.Input("image", tooltip="One picture, or several of the same character."),
                io.Vae.Input("vae", tooltip="The VAE of the film's model."),
                io.String.Input(
                    "name",
                    default="[character1]",
                    dynamic_prompts=False,
                    tooltip="As the shots say it. nano knows [character1], [character2] and [character3].",
                ),
                io.String.Input(
                    "caption",
                    default="",
                    multiline=True,
                    dynamic_prompts=False,
                    tooltip="What is seen, under the name: the words that the picture is remembered under. Empty: the name alone.",
                ),
                CastType.Input("cast", optional=True, tooltip="Those who are in the cast already."),
            ],
            outputs=[
                CastType.Output(display_name="CAST", tooltip="For CausalCine Sampler, or another CausalCine Cast.")
            ],
        )

    @classmethod
    def check(cls, name: str = "somebody") -> None:
        check_words(name, name)

    @classmethod
    def execute(cls, image: Tensor, vae: Any, name: str, caption: str = "", cast: Cast = ()) -> io.NodeOutput:
        name, said = name.strip(), name.strip() if checks.is_blank(caption) else caption.strip()
        check_words(name, said)
        if not bool(torch.isfinite(image).all()):
            raise InputError(f"image: the picture of {name} holds numbers that are none (NaN or infinity)")
        more = tuple(Portrait(name, said, picture[..., :3], vae) for picture in image)
        check_captions([*cast, *more])
        return io.NodeOutput((*cast, *more))


def cast_for(cast: Sequence[Portrait], pipe: Pipeline, begun: State) -> tuple[Reference, ...]:
    """A cast as a film has it. begun: that film. Raises InputError where a VAE is of another kind than its model."""
    for one in cast:
        vaes.check_kind(one.vae, pipe.network.channels)
    height, width = (side * pipe.model.spatial for side in begun.size)
    return tuple(one.fitted(width, height) for one in cast)
