"""Muon for the kernels of a VAE, AdamW for the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from causalcine_core.vae import WanVAE


class Optimizer:
    """Muon for the convolutions between the first and the last of encoder and decoder, AdamW for what is left.

    A kernel is seen as a matrix `[out, in * kernel]`, and its steps are as large as AdamW's at the same rate (Moonlight's
    0.2 * sqrt(max(rows, columns))). muon_rate: 0 for AdamW everywhere.
    """

    def __init__(self, vae: WanVAE, rate: float, betas: tuple[float, float], muon_rate: float):
        outer = ("encoder.conv1.", "encoder.head.", "conv1.", "conv2.", "decoder.conv1.", "decoder.head.")
        named = dict(vae.named_parameters())
        inner = {
            n: p
            for n, p in named.items()
            if muon_rate and p.ndim >= 4 and min(p.shape[:2]) > 1 and not n.startswith(outer)
        }
        self.kernels = list(inner.values())
        self.matrices = [nn.Parameter(kernel.detach().flatten(1)) for kernel in self.kernels]  # the same memory
        others = [p for name, p in named.items() if name not in inner]
        self.parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, rate, betas, weight_decay=0)]
        if inner:
            self.parts.append(torch.optim.Muon(self.matrices, muon_rate, 0.0, adjust_lr_fn="match_rms_adamw"))
        self.rates = (rate, muon_rate)

    def step(self, factor: float) -> None:
        """One update, at `factor` times the learning rates."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        for part, rate in zip(self.parts, self.rates, strict=False):
            part.param_groups[0]["lr"] = factor * rate
            part.step()

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
