"""Shots, the chunks they are laid onto, and what each chunk sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from torch import Tensor

View = tuple[list[int], list[int], int]  # as `seen` gives it


@dataclass(frozen=True)
class Shot:
    """text: `[B, T, text_dim]`. chunks: how many. cut: modes joined by +. blend: chunks over which a soft one changes its text."""

    text: Tensor
    chunks: int = 2
    cut: str = "native"
    blend: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Settings:
    """Fields as in a recipe. limit: frames beyond the view that are kept; None: all. eight_bit: how these are kept. exit_step: the
    last pass of a chunk in training, and the only one with gradients (Sec. 3.4)."""

    chunk: int = 3
    first_chunk: int = 3
    steps: int = 2
    levels: tuple[float, ...] | None = None
    first_levels: tuple[float, ...] | None = None
    shift: float = 5.0
    sampler: str = "euler"
    guidance: float = 1.0
    window: int = 1
    top_k: int = 2
    context_noise: float = 0.0
    sink: int = 0
    cut_keep: int = 2
    cut_jump: int = 24
    recompute: bool = False
    shot_angle: float = 0.0
    routing: str = "every_step"
    eight_bit: bool = False
    limit: int | None = None
    exit_step: int | None = None


@dataclass(frozen=True)
class Planned:
    """A chunk of a film. take: the chunk with which began what it goes on from; cut: how that began."""

    length: int
    shot: int
    text: Tensor
    take: int
    cut: frozenset[str]
    rewrite: bool
    seed: int | None


def plan(shots: Sequence[Shot], settings: Settings) -> list[Planned]:
    """A soft shot goes on in the take before it, while its text takes the place of what was in force."""
    out: list[Planned] = []
    for number, shot in enumerate(shots):
        cut, begin, before = frozenset(shot.cut.split("+")), len(out), out[-1:]
        for i in range(shot.chunks):
            length, text, take, how = settings.chunk if out else settings.first_chunk, shot.text, begin, cut
            if "soft" in cut and before:
                new = min(1.0, (i + 1) / (shot.blend + 1))
                text, take, how = (1 - new) * before[0].text + new * text, before[0].take, before[0].cut
            out.append(Planned(length, number, text, take, how, "rewrite" in cut and number > 0 and not i, shot.seed))
    return out


def seen(chunks: Sequence[Planned], n: int, settings: Settings) -> View:
    """Of chunk n: frames that it always sees, frames that it may recall, and positions left empty before its own."""
    starts = [0, *accumulate(chunk.length for chunk in chunks[:n])]
    chunk, past = chunks[n], range(starts[n])
    near = set(past[starts[max(0, n - settings.window)] :])
    if "flush" in chunk.cut and chunk.take:
        near = {frame for frame in near if frame >= starts[chunk.take] - settings.cut_keep}
    near |= set(past[: settings.sink])
    if "pinned" in chunk.cut and chunk.take < n:
        near |= set(range(starts[chunk.take], starts[chunk.take + 1]))
    jumps = "rope_jump" in chunk.cut and chunk.take == n > 0
    return sorted(near), [frame for frame in past if frame not in near], settings.cut_jump if jumps else 0
