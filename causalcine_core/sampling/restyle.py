"""A film out of another one: chunks begin from a clip's latents under noise instead of from noise alone (SDEdit, arXiv:2108.01073)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..checks import is_number, show
from ..errors import InputError
from ..plan import PlannedChunk
from .recipe import Recipe
from .schedule import sampling_levels


@dataclass(frozen=True)
class Restyle:
    """latents: `[1, C, F, h, w]` of the clip, in VAE space. strength: noise level in (0, 1) that no chunk begins above. first: latent
    frame of the film where the clip begins."""

    latents: Tensor
    strength: float
    first: int = 0

    def of(self, chunk: PlannedChunk) -> Tensor | None:
        """The clip's part of a chunk, `[1, C, c, h, w]`; None: the clip does not fill it, so that it is made from noise."""
        begin, end = (frame - self.first for frame in chunk.latents)
        return self.latents[:, :, begin:end] if begin >= 0 and end <= self.latents.shape[2] else None


def check_strength(strength: object) -> float:
    """A number above 0 and up to 1; anything else is an InputError."""
    if not is_number(strength) or not 0 < strength <= 1:
        raise InputError(f"strength must be a number above 0 and up to 1, got {show(strength)}")
    return strength


def levels_from(levels: Sequence[float], strength: float) -> list[float]:
    """What is left of a chunk's noise levels, which end in 0, from the first one at or below `strength`. Raises InputError where that
    leaves no pass."""
    left = [level for level in levels if level <= strength + 1e-6]
    if len(left) < 2:
        known = ", ".join(f"{level:.3g}" for level in levels[:-1])
        raise InputError(
            f"strength {strength:g} leaves no denoising pass: the model's noise levels are {known}; ask for at least "
            f"{levels[-2]:.3g}, or for more steps"
        )
    return left


def check_restyle(recipe: Recipe, strength: float) -> str:
    """The sentence that says which passes are run. Raises InputError where a recipe cannot begin from a clip so."""
    if recipe.rolling:
        raise InputError("video cannot be given with the sampler rolling: its chunks are under way several at once")
    levels_from(sampling_levels(recipe, first=True).tolist(), strength)
    levels = sampling_levels(recipe).tolist()
    left = levels_from(levels, strength)
    passes = f"the last {len(left) - 1} of {len(levels) - 1} passes of each chunk are run"
    return f"video: at strength {strength:g} chunks begin at noise level {left[0]:.3g}: {passes}"
