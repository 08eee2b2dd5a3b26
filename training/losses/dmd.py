"""Distribution matching distillation: the gradient that moves what a generator makes towards a real distribution.

Two denoisers say what a made sample, noised, looks like without noise: the real one knows the distribution that is wanted,
the fake one that of the generator. Their difference is the difference of the two scores, times t^2 / (1 - t) at level t
(Yin and others, arXiv:2311.18828 and arXiv:2405.14867). It is divided by the distance of the sample from the real answer, so
that all noise levels weigh alike: chunk by chunk, since both denoisers are causal and chunks differ in how well they can be
predicted from their history.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LEAST = 1e-6  # distance that is divided by


def chunk_means(values: Tensor, chunks: Sequence[int]) -> Tensor:
    """Means `[B, N]` over each chunk of values `[B, C, F, h, w]`. chunks: frames of each, F in all."""
    of_frames = values.mean((1, 3, 4))  # B F
    return torch.stack([part.mean(1) for part in of_frames.split(list(chunks), 1)], 1)


@torch.no_grad()
def dmd_gradient(x: Tensor, real: Tensor, fake: Tensor, chunks: Sequence[int]) -> Tensor:
    """(fake - real) / mean |x - real|, the mean over each chunk of each sample, in float32; shape of x.

    Args:
        x: what was made, `[B, C, F, h, w]`, without noise.
        real, fake: what the two denoisers say that it is, given x noised.
        chunks: frames of each chunk, F in all.

    It is zero where a number is not finite: one chunk that went wrong moves nothing.
    """
    x, real, fake = x.float(), real.float(), fake.float()
    distance = chunk_means((x - real).abs(), chunks).clamp(min=LEAST)
    lengths = torch.tensor(list(chunks), device=x.device)
    gradient = (fake - real) / distance.repeat_interleave(lengths, 1)[:, None, :, None, None]
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def dmd_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """Half the mean square error of x to x - gradient: a scalar whose gradient is `gradient` over the number of its elements."""
    x = x.float()
    return 0.5 * (x - (x - gradient).detach()).square().mean()
