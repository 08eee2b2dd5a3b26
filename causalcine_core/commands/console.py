"""What is printed for people."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any


def is_first() -> bool:
    """Whether this process speaks for all workers of a team (torchrun sets RANK), or is alone."""
    return os.environ.get("RANK", "0") == "0"


def cut_off(text: str, most: int) -> str:
    """A text of at most so many characters; one that is longer ends in an ellipsis."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def shot_table(shots: Sequence[Mapping[str, Any]], fps: float) -> str:
    """One line a shot of a report: where it lands, what was asked, what it says."""
    rows = []
    for shot in shots:
        (a, b), (c, d) = shot["frames"], shot["asked"]
        times = f"{a / fps:7.2f} - {b / fps:6.2f} s"
        asked = "as asked" if (a, b) == (c, d) else f"asked {c} - {d}"
        prompt = cut_off(" ".join(shot["prompt"].split()), 60)
        rows.append(f"  shot {shot['index'] + 1:<3} {times}  frames {a:>5} - {b:<5} {asked:<20} {prompt}")
    return "\n".join(rows)
