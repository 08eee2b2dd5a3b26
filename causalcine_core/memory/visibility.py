"""What a chunk sees of its film, before routing adds what it recalls (CausalCine, arXiv, May 2026, Sec. 3.3).

One function for the rollout and for the packed training pass, so that a cut means the same to both. All numbers are
latent frames of the history, `[first, end)`.

A history may begin with references: pictures from outside the film, each a chunk. A reference sees itself alone, so that what is
remembered of it does not hang on the others. To the film it is never near: it may be recalled, at any distance, and the film's own
first frames, sinks and shots are counted from behind it.
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
    history: Sequence[int],
    shot_start: int,
    *,
    window: int,
    sink: int = 0,
    cut: Cut | None = None,
    references: int = 0,
) -> Visibility:
    """What the next chunk sees.

    Args:
        history: latent frames of every chunk before it.
        shot_start: how many of those chunks lie before its shot begins.
        window: chunks of the film before the current one that are always seen.
        sink: first frames of the film that are always seen.
        cut: how its shot was begun; None: natively.
        references: how many chunks are references, at the head of the history and the current one among them.
    """
    if len(history) < references:
        return Visibility((), ())
    cut = cut or Cut()
    starts = [0]
    for length in history:
        starts.append(starts[-1] + length)
    shot_start = max(shot_start, references)
    film, end, shot = starts[references], starts[-1], starts[shot_start]
    first = starts[max(references, len(history) - window)]
    if cut.flush and shot_start > references:
        first = max(first, min(end, shot - cut.keep))
    sunk = min(film + sink, first)
    kept = set(range(film, sunk))
    if cut.pinned and shot_start < len(history):
        kept |= set(range(shot, min(starts[shot_start + 1], first)))
    near = (*sorted(kept), *range(first, end))
    far: Sequence[int] = range(sunk if kept else 0, first)
    if kept and (film or len(kept) > sunk):
        far = [frame for frame in range(first) if frame not in kept]
    return Visibility(near, far, cut.jump if cut.rope_jump and references < shot_start == len(history) else 0)
