"""Sharpness without a pretrained network: a discriminator of patches that also sees the latent.

After seraena (Ollin Boer Bohan, 2024): least-squares scores at every depth, half of the fakes from a buffer of earlier
ones, and a guidance of fixed size. The gradient of a discriminator is large or small as it happens to be sure; only its
direction is used here, as a step from the decoded patch to a better one, which the decoder then follows by a squared
error.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from causalcine_core import checks

from ..recipe import Optimizer

FRAMES = 3  # consecutive frames that are judged together


@dataclass(frozen=True)
class Adversary:
    """The adversarial part. patches: an update, of `size` pixels; reach: as in `guided_loss`; buffer: fakes that are kept;
    weight: of the decoder's loss, reached in `ramp` updates, since a discriminator that has learnt nothing guides as strongly
    as one that has."""

    patches: int = 16
    size: int = 48
    reach: float = 0.1
    weight: float = 1.0
    ramp: int = 1000
    buffer: int = 1024
    optimizer: Optimizer = field(default_factory=lambda: Optimizer(3e-4, betas=(0.5, 0.99), weight_decay=0, clip=0))

    def __post_init__(self) -> None:
        for name, low in (("patches", 1), ("size", 1), ("ramp", 0), ("buffer", 0)):
            checks.whole(getattr(self, name), name, low, 10**6)
        for name in ("reach", "weight"):
            checks.number(getattr(self, name), name, 0, 1e6)


class PatchDiscriminator(nn.Module):
    """Scores of patches: high for true ones.

    frames: `[N 3*FRAMES H W]` in -1..1. latent: `[N z h w]`, of about unit deviation, enlarged to the frames' size here.
    Returns a map of scores from every depth.
    """

    def __init__(self, latent_channels: int, width: int = 32, depth: int = 4):
        super().__init__()
        widths = [3 * FRAMES + latent_channels] + [min(width * 2**i, 4 * width) for i in range(depth)]
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4 if i < 2 else 3, stride=2 if i < 2 else 1, padding=1)
            for i, (a, b) in enumerate(zip(widths[:-1], widths[1:], strict=True))
        )
        self.scores = nn.ModuleList(nn.Conv2d(b, 1, 1) for b in widths[1:])

    def forward(self, frames: Tensor, latent: Tensor) -> list[Tensor]:
        x = torch.cat([frames, F.interpolate(latent, size=frames.shape[-2:], mode="nearest")], 1)
        out = []
        for layer, score in zip(self.layers, self.scores, strict=True):
            x = F.leaky_relu(layer(x), 0.2)
            out.append(score(x))
        return out


class ReplayBuffer:
    """Up to `size` earlier fakes with their latents, in float16; a new one takes the place of any when it is full."""

    def __init__(self, size: int):
        self.size = size
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def mixed(self, frames: Tensor, latent: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
        """As many fakes as these `[N ...]`, of which half, as far as there are any, are earlier ones."""
        count = min(len(frames) // 2, len(self.pairs))
        if not count:
            return frames, latent
        old = rng.sample(self.pairs, count)
        earlier, their_latents = (torch.stack(parts).to(frames) for parts in zip(*old, strict=True))
        return torch.cat([frames[count:], earlier]), torch.cat([latent[count:], their_latents])

    def add(self, frames: Tensor, latent: Tensor, rng: random.Random) -> None:
        """Keeps fakes `[N ...]`, on the device where they lie."""
        for one, seen in zip(frames.half(), latent.half(), strict=True):
            pair = (one.clone(), seen.clone())
            if len(self.pairs) < self.size:
                self.pairs.append(pair)
            elif self.size:
                self.pairs[rng.randrange(self.size)] = pair

    def state_dict(self) -> list[list[Tensor]]:
        return [list(pair) for pair in self.pairs]

    def load_state_dict(self, pairs: Sequence[Sequence[Tensor]], device: torch.device) -> None:
        """What was kept, as far as there is room."""
        self.pairs = [(frames.to(device), latent.to(device)) for frames, latent in pairs[: self.size]]


def discriminator_loss(true: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Least squares: true patches score 1, fakes 0; a mean over depths."""
    return torch.stack([(t - 1).square().mean() + f.square().mean() for t, f in zip(true, fake, strict=True)]).mean()


def guidance(discriminator: PatchDiscriminator, fake: Tensor, true: Tensor, latent: Tensor) -> Tensor:
    """The direction `[N 3*FRAMES H W]`, of unit deviation per patch, in which fakes come to score as their true patches do.

    It is minus the gradient of the squared difference of the two scores, summed over depths.
    """
    with torch.enable_grad():
        at = fake.detach().requires_grad_(True)
        with torch.no_grad():
            aims = discriminator(true, latent)
        scores = discriminator(at, latent)
        gap = sum((score - aim).square().mean((1, 2, 3)).sum() for score, aim in zip(scores, aims, strict=True))
        (gradient,) = torch.autograd.grad(gap, at)
    return -gradient / (gradient.std((1, 2, 3), keepdim=True) + 1e-12)


def guided_loss(fake: Tensor, direction: Tensor, reach: float) -> Tensor:
    """Squared error to `fake` moved by `reach` along `direction`: its gradient is -2 * reach * direction / elements."""
    return (fake - (fake.detach() + reach * direction)).square().mean()


def draw_patches(
    output: Tensor, video: Tensor, latent: Tensor, count: int, size: int, stride: int, rng: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Patches of three frames from `[B C F H W]`, at random places that the latent's grid divides.

    Returns fakes and true ones `[count 3*FRAMES size size]`, and the latents `[count z size/stride size/stride]` of their
    middle frames. A film of fewer than three frames repeats its first.
    """
    fakes, trues, latents = [], [], []
    side = size // stride
    for _ in range(count):
        b = rng.randrange(output.shape[0])
        t = rng.randrange(max(1, output.shape[2] - FRAMES + 1))
        y, x = (rng.randrange(extent - side + 1) for extent in latent.shape[-2:])
        frames = [min(t + i, output.shape[2] - 1) for i in range(FRAMES)]
        place = (b, slice(None), frames, slice(y * stride, y * stride + size), slice(x * stride, x * stride + size))
        fakes.append(output[place].flatten(0, 1))
        trues.append(video[place].flatten(0, 1))
        latents.append(latent[b, :, (frames[1] + 3) // 4, y : y + side, x : x + side])
    return torch.stack(fakes), torch.stack(trues), torch.stack(latents)
