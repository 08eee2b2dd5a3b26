"""What each family of public causal Wan checkpoints was trained with: one row a family, and how a row is chosen.

The numbers are those of the families' own configurations. Windows are counted as ours are: chunks before the current
one, beside the sink. Of what a family that knows no memory saw in training, a part is given to frames that are recalled: six of
21, so that a character can come back after a cut. Where we run a family otherwise than its authors do, the row's note says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..errors import InputError
from ..model.config import WanConfig
from .recipe import Recipe
from .schedule import warped

FOUR = (1000, 750, 500, 250)  # timesteps before the shift


@dataclass(frozen=True)
class Family:
    """A row. key: for the command line. size: of the network, as a reader names it. note: what we do otherwise."""

    key: str
    name: str
    size: str
    recipe: Recipe
    note: str = ""

    @property
    def label(self) -> str:
        """Name with its two telling numbers, for a list to choose from."""
        steps = self.recipe.schedule.steps
        how = "guided" if self.recipe.guidance.on else f"chunks of {self.recipe.timeline.chunk}"
        return f"{self.name} ({how}, {steps} step{'s' if steps > 1 else ''})"


DISTILLED = Recipe.of(sampler="renoise", levels=warped(FOUR, 5.0), window=4, top_k=6, cut="flush")
FRAMEWISE = DISTILLED.changed(chunk=1, first_chunk=1, window=14)
UNROUTED = DISTILLED.changed(top_k=0, sink=3)

FAMILIES: tuple[Family, ...] = (
    Family("self-forcing", "Self-Forcing", "1.3B", DISTILLED, "trained on 81 frames: longer films drift"),
    Family("causal-forcing", "Causal-Forcing", "1.3B", DISTILLED),
    Family("causal-forcing-frame", "Causal-Forcing frame-wise", "1.3B", FRAMEWISE),
    Family(
        "causal-forcing-2step",
        "Causal-Forcing++ 2-step",
        "1.3B",
        FRAMEWISE.changed(levels=warped((1000, 500), 5.0), first_levels=warped(FOUR, 5.0)),
    ),
    Family(
        "causal-forcing-1step",
        "Causal-Forcing++ 1-step",
        "1.3B",
        FRAMEWISE.changed(levels=warped((1000,), 5.0), first_levels=warped(FOUR, 5.0)),
    ),
    Family(
        "causal-forcing-long",
        "Causal-Forcing long",
        "1.3B",
        UNROUTED.changed(sampler="rolling", window=2),
        "4 chunks are made at once, each a step noisier than the one before",
    ),
    Family(
        "longlive-1",
        "LongLive 1.0",
        "1.3B",
        UNROUTED.changed(window=2),
        "needs its LoRA merged into the base",
    ),
    Family(
        "memflow",
        "MemFlow",
        "1.3B",
        DISTILLED.changed(window=2, sink=3, top_k=3),
        "needs its LoRA merged into the base; its bank of 3 frames is our routed memory",
    ),
    Family(
        "shotstream",
        "ShotStream",
        "1.3B",
        DISTILLED.changed(levels=warped((1000, 740, 500, 260), 8.0), shift=8.0, window=6, cut_keep=0, shot_angle=1 / 6),
        "its 6 context frames of earlier shots are recalled by content, not spread evenly",
    ),
    Family(
        "infinity-rope",
        "Infinity-RoPE",
        "1.3B",
        DISTILLED.changed(window=1, sink=1, cut="flush+rope_jump", cut_keep=2, cut_jump=42),
        "a way to run Self-Forcing or Causal-Forcing weights; it has none of its own",
    ),
    Family(
        "rolling-forcing",
        "Rolling-Forcing",
        "1.3B",
        UNROUTED.changed(sampler="rolling", levels=warped((1000, 800, 600, 400, 200), 5.0), window=1),
        "5 chunks are made at once, each a step noisier than the one before",
    ),
    Family(
        "reward-forcing",
        "Reward-Forcing",
        "1.3B",
        UNROUTED.changed(window=1),
        "its sink is a running average of evicted frames, ours the first frames",
    ),
    Family(
        "krea",
        "Krea realtime",
        "14B",
        DISTILLED.changed(levels=(1000, 937, 833, 625), window=1, top_k=0, recompute=True),
        "the first frame in its view is the latent as it was made; its authors decode and encode it again",
    ),
    Family("causvid", "CausVid", "1.3B", DISTILLED.changed(levels=(1000, 757, 522), shift=8.0)),
    Family(
        "streamdiffusion-v2",
        "StreamDiffusionV2",
        "1.3B or 14B",
        DISTILLED.changed(levels=FOUR, shift=8.0, window=1, top_k=0),
        "text to video only; its sink, refreshed when the picture changes, is left out",
    ),
    Family(
        "longlive-2",
        "LongLive 2.0",
        "5B",
        Recipe.of(
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
        Recipe.of(steps=50, guidance=5.0),
        "was never trained to stream: for training and comparison",
    ),
)

# which row a network without a recipe gets: the first whose sizes are its own, and why
DEFAULTS: tuple[tuple[dict[str, int], str, str], ...] = (
    ({"in_dim": 48}, "longlive-2", "48 latent channels, as Wan 2.2 5B has them; the only such row"),
    (
        {"dim": 5120},
        "krea",
        "14B; keys do not tell it from a plain Wan 14B, which is none: choose the family if this is wrong",
    ),
    (
        {"dim": 1536, "num_layers": 30},
        "self-forcing",
        "the keys are plain Wan (1.3B) and tell no family, this is the default row: choose yours if it is another",
    ),
    (
        {},
        "self-forcing",
        "the keys are plain Wan ({num_layers} blocks of {dim}) and tell no family, this is the default row: choose yours "
        "if it is another",
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
    raise InputError(f"family must be one of {', '.join(family.key for family in FAMILIES)}, got {checks.show(name)}")


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
    sizes = config.to_dict()
    key, reason = next((key, reason) for shape, key, reason in DEFAULTS if shape.items() <= sizes.items())
    return Choice(find_family(key).recipe, find_family(key), reason.format(**sizes))
