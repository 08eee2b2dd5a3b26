"""A larger network out of a trained one, that at first answers exactly as it; and its ends fitted to another codec's latents.

More layers are blocks that copy the one before them and add nothing yet: the last linear of each of their three branches is zero
(LLaMA Pro, arXiv:2401.02415). A wider feed-forward has new units that nothing reads yet. Both keep every answer. The width of the
residual stream cannot grow so: its norms take mean and deviation over all channels, which more of them would change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig

from ..losses.flow import draw_levels

GROWS = ("num_layers", "ffn_dim")
OUTPUTS = ("self_attn.o", "cross_attn.o", "ffn.2")  # what a block's branches add to the residual stream


def grow(weights: Mapping[str, Tensor], old: WanConfig, new: WanConfig) -> dict[str, Tensor]:
    """Weights of a network of shape `new` that answers as those of shape `old` do. Raises InputError where it cannot grow so."""
    before, after = asdict(old), asdict(new)
    for field in after:
        if after[field] != before[field] and (field not in GROWS or after[field] < before[field]):
            raise InputError(
                f"model.{field} is {before[field]} in what is to grow and cannot become {after[field]}: only "
                f"{' and '.join(GROWS)} can, and only larger"
            )
    generator = torch.Generator().manual_seed(0)
    of_block: list[dict[str, Tensor]] = [{} for _ in range(old.num_layers)]
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            of_block[int(number)][rest] = _widened(rest, weight, new.ffn_dim, generator)
        else:
            out[name] = weight
    homes = {i * new.num_layers // old.num_layers: i for i in range(old.num_layers)}
    for place in range(new.num_layers):
        copied = max(home for home in homes if home <= place)
        for rest, weight in of_block[homes[copied]].items():
            silent = place != copied and rest.startswith(OUTPUTS)
            out[f"blocks.{place}.{rest}"] = torch.zeros_like(weight) if silent else weight.clone()
    return out


def _widened(name: str, weight: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """A block's weight with as many units of the feed-forward; new ones read like the old ones, at random, and are not read."""
    if name == "ffn.2.weight":
        return torch.cat([weight, weight.new_zeros(len(weight), width - weight.shape[1])], 1)
    if name == "ffn.0.bias":
        return torch.cat([weight, weight.new_zeros(width - len(weight))])
    if name == "ffn.0.weight":
        drawn = torch.randn(width - len(weight), weight.shape[1], generator=generator).to(weight)
        return torch.cat([weight, drawn * weight.std()])
    return weight


@dataclass(frozen=True)
class Change:
    """From one codec's latents to another's, for what a network reads and what it answers. All are of patches, in float64.

    inward `[n, n]` and inward_shift `[n]`: of new noisy latents, to what the old network expects. outward, outward_shift: of the old
    velocity, to the new one.
    """

    inward: Tensor
    inward_shift: Tensor
    outward: Tensor
    outward_shift: Tensor


def fit_change(old: Tensor, new: Tensor, shift: float) -> Change:
    """The least-squares maps between patches `[N, n]` of the same places in two codecs' latents.

    What is mapped is noisy: half of what a network reads is clean history, the other half `(1 - t) z + t noise` at the levels of its
    training (`shift`), and what it answers is `noise - z`. The old codec's noise is taken for the new one's turned by Q, the
    rotation that brings the latents themselves closest (orthogonal Procrustes), so it stays white. So the maps are ridge
    regressions towards Q, and where the codecs differ by a rotation they are that rotation.
    """
    old, new = old.double(), new.double()
    mean, mean_new = old.mean(0), new.mean(0)
    old, new = old - mean, new - mean_new
    across, alike, alike_new = (a.T @ b / len(old) for a, b in ((old, new), (old, old), (new, new)))
    left, _, right = torch.linalg.svd(across)
    turn, one = left @ right, torch.eye(old.shape[1], dtype=torch.float64)
    level = draw_levels(100_000, shift, torch.Generator().manual_seed(0)).double()
    signal, noise = 0.5 + 0.5 * (1 - level).square().mean(), 0.5 * level.square().mean()
    inward = torch.linalg.solve(signal * alike_new + noise * one, signal * across + noise * turn, left=False)
    outward = torch.linalg.solve(alike + one, across.T + turn.T, left=False)
    share = 0.5 + 0.5 * (1 - level).mean()  # of a mean that is left in what is read
    return Change(inward, share * (mean - inward @ mean_new), outward, outward @ mean - mean_new)


def refit(weights: Mapping[str, Tensor], change: Change) -> dict[str, Tensor]:
    """The weights of a network with its patch embedding and its head fitted to the new codec."""
    out = dict(weights)
    embed, bias = weights["patch_embedding.weight"], weights["patch_embedding.bias"]
    matrix = embed.double().flatten(1)  # channels of the latent, rows and columns of a patch
    out["patch_embedding.weight"] = (matrix @ change.inward).view_as(embed).to(embed)
    out["patch_embedding.bias"] = (bias.double() + matrix @ change.inward_shift).to(bias)
    channels = embed.shape[1]
    for name, shift in (("weight", 0.0), ("bias", change.outward_shift)):
        head = weights[f"head.head.{name}"]
        rows = head.double().view(-1, channels, *head.shape[1:])  # places of a patch, channels of the latent
        ours = change.outward @ rows.transpose(0, 1).flatten(0, 1) + shift
        out[f"head.head.{name}"] = ours.view(channels, -1, *head.shape[1:]).transpose(0, 1).reshape(head.shape).to(head)
    return out


def patches(latents: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents `[C, F, h, w]` as the patches that a network reads, `[F * rows * columns, C * size]`."""
    folded: Tensor = latents.unflatten(3, (-1, size[1])).unflatten(2, (-1, size[0]))  # C F rows p columns q
    return folded.permute(1, 2, 4, 0, 3, 5).flatten(0, 2).flatten(1)


def explained(given: Tensor, wanted: Tensor, known: Tensor) -> float:
    """R^2 of the best linear prediction of `wanted [N, n]` from `given [N, n]`, fitted where `known [N]` and measured on the rest."""
    given = torch.cat([given.double(), torch.ones(len(given), 1, dtype=torch.float64)], 1)
    wanted = wanted.double()
    fitted = torch.linalg.lstsq(given[known], wanted[known]).solution
    rest = wanted[~known]
    left = (rest - given[~known] @ fitted).square().sum() / (rest - rest.mean(0)).square().sum()
    return float(1 - left)
