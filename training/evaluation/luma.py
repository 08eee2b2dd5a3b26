"""What is read off the luma of a film: how it steps from pixel to pixel and from frame to frame, over borders, and flicker in
step with chunks or with the memory window (Reward-Forcing#10, Wan2.1#369)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PEAK = 1.5  # times the median over all phases: from there on it is flicker
_REC709 = np.array([0.2126, 0.7152, 0.0722], np.float32)


@dataclass(frozen=True)
class Flicker:
    """How much larger the luma step into a chunk is than the median over all phases. chunk: folded at the length of a
    chunk. window: folded at the length of the memory window, the largest of its chunk starts."""

    chunk: float
    window: float

    @property
    def visible(self) -> bool:
        return max(self.chunk, self.window) > PEAK


def luma(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Brightness `[..., H, W]` in levels of 255, of uint8 `[..., H, W, 3]` (Rec. 709)."""
    out: NDArray[np.float32] = frames.astype(np.float32) @ _REC709
    return out


def gradients(frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean absolute luma step to the next row `[H - 1]` and column `[W - 1]`, in levels of 255, of uint8 `[F H W 3]`."""
    light = luma(frames)
    rows = np.abs(np.diff(light, axis=1)).mean((0, 2), dtype=np.float64)
    return rows, np.abs(np.diff(light, axis=2)).mean((0, 1), dtype=np.float64)


def border_step(steps: Sequence[NDArray[np.float64]], size: int) -> float:
    """The mean of the steps over borders of squares of `size` pixels, over the mean of all other steps; 1 where nothing steps."""
    at = [(np.arange(len(line)) + 1) % size == 0 for line in steps]
    border = np.concatenate([line[mask] for line, mask in zip(steps, at, strict=True)])
    elsewhere = np.concatenate([line[~mask] for line, mask in zip(steps, at, strict=True)])
    return float(border.mean() / elsewhere.mean()) if elsewhere.any() else 1.0


def luma_steps(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean absolute change of luma from the frame before, in levels of 255: `[F]` for uint8 `[F, H, W, 3]`; the first is NaN."""
    steps = np.full(len(frames), np.nan, np.float32)
    last = None
    for i, frame in enumerate(frames):
        light = luma(frame)
        if last is not None:
            steps[i] = np.abs(light - last).mean()
        last = light
    return steps


def phase_means(steps: NDArray[np.float32], cuts: Sequence[int], period: int, first: int) -> NDArray[np.float64]:
    """Mean step by phase `[period]`, phase 0 at frame `first`; cuts are left out and every shot counts relative to its median."""
    relative = steps.astype(np.float64).copy()
    relative[list(cuts)] = np.nan
    for start, end in zip([0, *cuts], [*cuts, len(steps)], strict=True):
        inside = relative[start:end]
        if np.isfinite(inside).any() and np.nanmedian(inside) > 0:
            relative[start:end] = inside / np.nanmedian(inside)
    phases = (np.arange(len(steps)) - first) % period
    return np.array([np.nanmean(np.where(phases == p, relative, np.nan)) for p in range(period)])


def flicker(
    frames: NDArray[np.uint8], cuts: Sequence[int], *, chunk: int = 12, first: int = 9, window: int = 3
) -> Flicker:
    """The flicker of a film of at least two windows. chunk, first: pixel frames of a chunk and of the first one; window: chunks."""
    if len(frames) < 2 * chunk * window:
        raise ValueError(f"flicker needs at least {2 * chunk * window} frames, got {len(frames)}")
    steps = luma_steps(frames)
    by_chunk = phase_means(steps, cuts, chunk, first)
    by_window = phase_means(steps, cuts, chunk * window, first)
    return Flicker(_ratio(by_chunk[0], by_chunk), _ratio(by_window[::chunk].max(), by_window))


def _ratio(peak: float, means: NDArray[np.float64]) -> float:
    middle = float(np.median(means))
    return float(peak) / middle if middle > 0 else (1.0 if peak == 0 else float("inf"))
