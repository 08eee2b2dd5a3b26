"""What each family of public causal Wan checkpoints was trained with: one row a family, and how a row is chosen.

The numbers are those of the families' own configurations. Windows are counted as ours are: chunks before the current
one, beside the sink. Of what a family that knows no memory saw in training, a part is given to frames that are recalled: six of
21, so that a character can come back after a cut. Where we run a family otherwise than its authors do, the row's note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..model.config import WanConfig
from .recipe import Recipe
from .schedule import warped

FOUR = (1000, 750, 500, 250)


@dataclass(frozen=True)
class Family:
    """A row. key: for the command line. size: of the network, as a reader names it. note: what we do otherwise."""

    key: str
    name: str
    size: str
    recipe: Recipe
    note: str = ""

    @property
    def cut(self) -> str:
        """How shots follow one another by default (`cut.Cut`)."""
        return self.recipe.cut

    @property
    def label(self) -> str:
        """Name with its two telling numbers, for a list to choose from."""
        steps = f"{self.recipe.steps} step{'s' if self.recipe.steps > 1 else ''}"
        how = "guided" if self.recipe.guidance != 1 else f"chunks of {self.recipe.chunk}"
        return f"{self.name} ({how}, {steps})"


def _distilled(timesteps: tuple[float, ...] = FOUR, *, chunk: int = 3, warp: bool = True, **fields: Any) -> Recipe:
    """A few-step recipe without guidance. warp: the timesteps index the shifted schedule; else they are final."""
    shift = fields.setdefault("shift", 5.0)
    levels = warped(timesteps, shift) if warp else timesteps
    base = {"sampler": "renoise", "levels": levels, "first_chunk": chunk, "window": 4, "top_k": 6, "cut": "flush"}
    return Recipe(chunk=chunk, **{**base, **fields})


FAMILIES: tuple[Family, ...] = (
    Family("self-forcing", "Self-Forcing", "1.3B", _distilled(), "trained on 81 frames: longer films drift"),
    Family("causal-forcing", "Causal-Forcing", "1.3B", _distilled()),
    Family("causal-forcing-frame", "Causal-Forcing frame-wise", "1.3B", _distilled(chunk=1, window=14)),
    Family(
        "causal-forcing-2step",
        "Causal-Forcing++ 2-step",
        "1.3B",
        _distilled((1000, 500), chunk=1, window=14, first_levels=warped(FOUR, 5.0)),
    ),
    Family(
        "causal-forcing-1step",
        "Causal-Forcing++ 1-step",
        "1.3B",
        _distilled((1000,), chunk=1, window=14, first_levels=warped(FOUR, 5.0)),
    ),
    Family(
        "causal-forcing-long",
        "Causal-Forcing long",
        "1.3B",
        _distilled(sampler="rolling", window=2, top_k=0, sink=3),
        "4 chunks are made at once, each a step noisier than the one before",
    ),
    Family(
        "longlive-1",
        "LongLive 1.0",
        "1.3B",
        _distilled(window=2, top_k=0, sink=3),
        "needs its LoRA merged into the base",
    ),
    Family(
        "memflow",
        "MemFlow",
        "1.3B",
        _distilled(window=2, sink=3, top_k=3),
        "needs its LoRA merged into the base; its bank of 3 frames is our routed memory",
    ),
    Family(
        "shotstream",
        "ShotStream",
        "1.3B",
        _distilled((1000, 740, 500, 260), shift=8.0, window=6, cut_keep=0, shot_angle=1 / 6),
        "its 6 context frames of earlier shots are recalled by content, not spread evenly",
    ),
    Family(
        "infinity-rope",
        "Infinity-RoPE",
        "1.3B",
        _distilled(window=1, sink=1, cut="flush+rope_jump", cut_keep=2, cut_jump=42),
        "a way to run Self-Forcing or Causal-Forcing weights; it has none of its own",
    ),
    Family(
        "rolling-forcing",
        "Rolling-Forcing",
        "1.3B",
        _distilled((1000, 800, 600, 400, 200), sampler="rolling", window=1, top_k=0, sink=3),
        "5 chunks are made at once, each a step noisier than the one before",
    ),
    Family(
        "reward-forcing",
        "Reward-Forcing",
        "1.3B",
        _distilled(window=1, top_k=0, sink=3),
        "its sink is a running average of evicted frames, ours the first frames",
    ),
    Family(
        "krea",
        "Krea realtime",
        "14B",
        _distilled((1000, 937, 833, 625), warp=False, window=1, top_k=0, recompute=True),
        "the first frame in its view is the latent as it was made; its authors decode and encode it again",
    ),
    Family("causvid", "CausVid", "1.3B", _distilled((1000, 757, 522), warp=False, shift=8.0)),
    Family(
        "streamdiffusion-v2",
        "StreamDiffusionV2",
        "1.3B or 14B",
        _distilled(FOUR, warp=False, shift=8.0, window=1, top_k=0),
        "text to video only; its sink, refreshed when the picture changes, is left out",
    ),
    Family(
        "longlive-2",
        "LongLive 2.0",
        "5B",
        Recipe(
            chunk=8,
            first_chunk=8,
            steps=4,
            sampler="unipc",
            window=2,
            top_k=0,
            sink=8,
            cut="rope_jump+pinned+phrase",
            cut_jump=8,
            cut_phrase="The scene transitions.",
            fps=24,
            width=1280,
            height=704,
        ),
        "not for the NVFP4 files",
    ),
    Family(
        "wan-base",
        "Wan 2.1 base",
        "1.3B or 14B",
        Recipe(steps=50, guidance=5.0),
        "was never trained to stream: for training and comparison",
    ),
)


@dataclass(frozen=True)
class Choice:
    """A recipe for a checkpoint. family: its row, None where the file brought a recipe of no row. reason: a sentence
    without full stop."""

    recipe: Recipe
    family: Family | None
    reason: str

    def __str__(self) -> str:
        name = self.family.name if self.family else "own recipe"
        note = f"; {self.family.note}" if self.family and self.family.note else ""
        return f"{name}: {self.reason}{note}"


def find_family(name: str) -> Family:
    """A row by key, name or label, in any case."""
    wanted = name.strip().casefold()
    for family in FAMILIES:
        if wanted in {text.casefold() for text in (family.key, family.name, family.label)}:
            return family
    raise InputError(f"family is {name!r}: allowed are {', '.join(family.key for family in FAMILIES)}")


def choose_family(config: WanConfig, header: Mapping[str, Any] | None = None, name: str | None = None) -> Choice:
    """Which recipe a checkpoint is run with, and why: the user's choice, else the file's own recipe, else its shape.

    Args:
        config: of the network.
        header: the file's `causalcine` entry.
        name: the row that the user chose; None or `auto` to leave it open.
    """
    header = header or {}
    if name is not None and name.casefold() != "auto":
        family = find_family(name)
        aside = "; the recipe in the file is set aside" if "recipe" in header else ""
        return Choice(family.recipe, family, f"chosen by you{aside}")
    if "recipe" in header:
        key = header.get("family")
        own = next((family for family in FAMILIES if family.key == key), None)
        why = header.get("family_reason")
        reason = "recipe in the file's header" + (f", written there as: {why}" if isinstance(why, str) else "")
        return Choice(Recipe.from_dict(header["recipe"]), own, reason)
    if config.in_dim == 48:
        return _row("longlive-2", "48 latent channels, as Wan 2.2 5B has them; the only such row")
    if config.dim == 5120:
        reason = "14B; keys do not tell it from a plain Wan 14B, which is none: choose the family if this is wrong"
        return _row("krea", reason)
    size = "1.3B" if (config.dim, config.num_layers) == (1536, 30) else f"{config.num_layers} blocks of {config.dim}"
    reason = (
        f"the keys are plain Wan ({size}) and tell no family, this is the default row: choose yours if it is another"
    )
    return _row("self-forcing", reason)


def _row(key: str, reason: str) -> Choice:
    family = find_family(key)
    return Choice(family.recipe, family, reason)
