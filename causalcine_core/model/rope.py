"""3D rotary positions (Wan2.1): adjacent channel pairs, split over time, height and width."""

from __future__ import annotations

import torch
from torch import Tensor


def axis_pairs(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs given to (time, height, width): of `d` channels, h and w take `2 * (d // 6)` each."""
    side = head_dim // 6
    return head_dim // 2 - 2 * side, side, side


class Rope:
    """Rotations for one grid of patches, as complex tables in float32, grown on demand and never per step.

    The temporal position is a frame's place inside one attention span (Block-Relative RoPE), so the table
    stays as short as the span, however long the rollout.
    """

    def __init__(self, head_dim: int, grid: tuple[int, int], device: torch.device | str, theta: float = 10000.0):
        self.head_dim, self.grid, self.device, self.theta = head_dim, grid, torch.device(device), theta
        pairs_t, pairs_h, pairs_w = axis_pairs(head_dim)
        height, width = grid
        rows = self._angles(pairs_h, torch.arange(height)).repeat_interleave(width, 0)
        columns = self._angles(pairs_w, torch.arange(width)).repeat(height, 1)
        self._pairs_t = pairs_t
        self._space = torch.cat([rows, columns], -1)
        self._table = torch.empty(0, height * width, 1, head_dim // 2, dtype=torch.complex64, device=self.device)

    def _angles(self, pairs: int, positions: Tensor) -> Tensor:
        frequencies = self.theta ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        return torch.outer(positions.to(torch.float64), frequencies)

    def table(self, frames: int) -> Tensor:
        """Rotations of temporal positions `0 .. frames - 1`: complex `[frames, S, 1, head_dim / 2]`."""
        if frames > len(self._table):
            with torch.inference_mode(False):
                time = self._angles(self._pairs_t, torch.arange(frames))
                space = self._space.expand(frames, -1, -1)
                angles = torch.cat([time[:, None].expand(-1, space.shape[1], -1), space], -1).unsqueeze(2)
                self._table = torch.polar(torch.ones_like(angles), angles).to(self.device, torch.complex64)
        return self._table[:frames]

    def turn(self, angles: Tensor) -> Tensor:
        """Rotations by angles `[...]` (radians) in time alone: complex `[..., 1, 1, head_dim / 2]`. They come on top of others."""
        in_time = torch.arange(self.head_dim // 2) < self._pairs_t
        turned = angles.double()[..., None, None, None] * in_time
        return torch.polar(torch.ones_like(turned), turned).to(self.device, torch.complex64)


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate `x [..., S, H, D]` by `table [..., S, 1, D/2]`, in float32, and give it back in its own dtype."""
    return rotated(x, table).to(x.dtype)


def rotated(x: Tensor, table: Tensor) -> Tensor:
    """The same, left in float32: whoever writes it elsewhere rounds it on the way."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * table).flatten(-2)
