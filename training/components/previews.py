"""Sheets of what a run makes from fixed seeds, from step 0 on: how it looks, beside how its curves do."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from causalcine_core.atomic import write_atomic

COLUMNS, SCALE = 10, 2


def sheet(rows: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Films uint8 `[F, H, W, 3]`, one below the other, each as at most ten frames at even distances."""
    strips = []
    for frames in rows:
        at = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
        strips.append(np.concatenate(list(frames[at]), 1))
    width = max(strip.shape[1] for strip in strips)
    wide = [np.pad(strip, ((0, 0), (0, width - strip.shape[1]), (0, 0))) for strip in strips]
    image = Image.fromarray(np.concatenate(wide, 0))
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)


def save_sheet(rows: Sequence[NDArray[np.uint8]], path: Path) -> None:
    """A PNG of `sheet`. Raises OSError where it cannot be written."""
    data = BytesIO()
    sheet(rows).save(data, "PNG")
    write_atomic(path, lambda partial: partial.write_bytes(data.getvalue()))
