"""What a chunk sees of its film, before routing adds what it recalls (CausalCine, arXiv, May 2026, Sec. 3.3).

One function for the rollout and for the packed training pass, so that a cut means the same to both. All numbers are
latent frames of the film's history, `[first, end)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..cut import Cut


@dataclass(frozen=True)
class Visibility:
    """near: frames always seen, in temporal order. far: frames that may be recalled. gap: positions left empty between
    all that is seen and the chunk itself."""

    near: tuple[int, ...]
    far: Sequence[int]
    gap: int = 0


def visibility(
    history: Sequence[int], shot_start: int, *, window: int, sink: int = 0, cut: Cut | None = None
) -> Visibility:
    """What the next chunk sees.

    Args:
        history: latent frames of every chunk before it.
        shot_start: how many of those chunks lie before its shot begins.
        window: chunks before the current one that are always seen.
        sink: first frames of the film that are always seen.
        cut: how its shot was begun; None: natively.
    """
    cut = cut or Cut()
    starts = [0]
    for length in history:
        starts.append(starts[-1] + length)
    end, shot = starts[-1], starts[shot_start]
    first = starts[max(0, len(history) - window)]
    if cut.flush and shot_start:
        first = max(first, min(end, shot - cut.keep))
    sunk = min(sink, first)
    kept = set(range(sunk))
    if cut.pinned and shot_start < len(history):
        kept |= set(range(shot, min(starts[shot_start + 1], first)))
    near = (*sorted(kept), *range(first, end))
    far: Sequence[int] = range(sunk, first)
    if len(kept) > sunk:
        far = [frame for frame in far if frame not in kept]
    return Visibility(near, far, cut.jump if cut.rope_jump and 0 < shot_start == len(history) else 0)
