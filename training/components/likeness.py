"""How near made films are to true ones of the same stories, by the inner features of a frozen denoiser: no other network is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from causalcine_core.sampling import add_noise

from ..model import Model
from .heads import Tap
from .packed import PackedPass


def chunk_features(
    model: Model,
    layout: PackedPass,
    films: Tensor,
    noise: Tensor,
    prompts: Sequence[Sequence[str]],
    *,
    level: float = 0.3,
    block: int | None = None,
) -> Tensor:
    """Of each chunk of films `[B, C, F, h, w]` a point `[B * N, 2 dim]`: mean and deviation, over its tokens, of what a block makes of
    it under noise of a low level; by default the block in the middle."""
    tap = Tap(model.net, [len(model.net.blocks) // 2 if block is None else block])
    levels = torch.full((len(films),), level, device=films.device)
    layout.velocity(model, films, add_noise(films, noise, level), levels, prompts, tap=tap)
    feature = tap.features[0][:, layout.view.clean :]
    parts = [part.flatten(1, 2) for part in feature.split(list(layout.chunks[layout.first :]), 1)]  # B c*S dim
    return torch.stack([torch.cat([part.mean(1), part.std(1)], 1) for part in parts], 1).flatten(0, 1)


def energy_distance(one: Tensor, other: Tensor) -> Tensor:
    """2 E|a - b| - E|a - a'| - E|b - b'| of points `[n, d]` and `[m, d]`, n and m at least 2 (Szekely and Rizzo, 2013): zero on
    average where both come from one distribution, above it otherwise. Few points are enough, since it needs no covariance."""

    def distances(a: Tensor, b: Tensor) -> Tensor:
        return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")

    within = [distances(of, of).sum() / (len(of) * (len(of) - 1)) for of in (one, other)]  # of pairs of two
    return 2 * distances(one, other).mean() - within[0] - within[1]
