"""How far a decoded film is from the true one, in ways that need no trained network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

REC709 = (0.2126, 0.7152, 0.0722)


def pixel_loss(output: Tensor, video: Tensor, squared: float) -> Tensor:
    """Mean absolute error plus `squared` times the mean squared error, which is what PSNR measures."""
    error = output - video
    return error.abs().mean() + squared * error.square().mean()


def edge_loss(output: Tensor, video: Tensor, levels: int) -> Tensor:
    """Mean absolute error of the differences between neighbours in time, rows and columns, `[B C F H W]`.

    At `levels` scales in rows and columns, each half of the one before; a mean over axes and scales.
    """
    error, terms = output - video, []
    for level in range(levels):
        if level:
            error = F.avg_pool3d(error, (1, 2, 2))
        terms += [error.diff(dim=dim).abs().mean() for dim in (2, 3, 4) if error.shape[dim] > 1]
    return torch.stack(terms).mean()


def rhythm_loss(output: Tensor, video: Tensor) -> Tensor:
    """How far the mean luma steps from frame to frame are from the true ones, `[B C F H W]` in -1..1, relative to them.

    A codec whose latent frames stand for four frames moves too little within them and jumps between them; the mean
    step over a picture says so frame by frame, where an error of pixels is lost among the others. 0 for a still.
    """
    if video.shape[2] == 1:
        return output.new_zeros(())
    weights = output.new_tensor(REC709)
    steps = [torch.einsum("bcfhw,c->bfhw", x, weights).diff(dim=1).abs().mean((2, 3)) for x in (output, video)]
    typical = steps[1].mean(1, keepdim=True) + 0.004  # half a level of 255: a film that stands still
    return ((steps[0] - steps[1]) / typical).abs().mean()


def kl_loss(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of a diagonal normal from the unit normal, a mean over elements."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
