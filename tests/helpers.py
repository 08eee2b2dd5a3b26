"""Small random models for tests: the real architecture, tiny."""

from __future__ import annotations

import torch

from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.plan import PlannedChunk
from causalcine_core.runner import Runner, describe_network
from causalcine_core.sampling import Recipe

TINY = WanConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=3, freq_dim=32, text_dim=24, text_len=8)


def tiny_net(seed: int = 0, config: WanConfig = TINY) -> CausalWanTransformer:
    """A network whose every weight matters: the head is not zero, the norms and biases are not trivial."""
    generator = torch.Generator().manual_seed(seed)
    net = CausalWanTransformer(config).requires_grad_(False)
    for parameter in net.parameters():
        scale = 0.3 if parameter.ndim == 1 else parameter.flatten(1).shape[1] ** -0.5
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    for name, parameter in net.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return net.eval()


def network(net: CausalWanTransformer) -> Runner:
    """Of a net, where it lies."""
    return describe_network(net, "")


def tiny_recipe(**changes) -> Recipe:
    fields = {"chunk": 3, "first_chunk": 3, "steps": 2, "window": 1, "top_k": 2, "width": 32, "height": 32}
    return Recipe.of(**{**fields, **changes})


def planned(count: int, chunk: int = 3, first_chunk: int = 3, shots: list[int] | None = None) -> list[PlannedChunk]:
    """`count` chunks from the beginning of a film; `shots[i]` is the shot of chunk i."""
    out, start = [], 0
    for i in range(count):
        end = start + (first_chunk if i == 0 else chunk)
        frames = (max(0, 4 * start - 3), 4 * end - 3)
        out.append(PlannedChunk(i, shots[i] if shots else 0, (start, end), frames))
        start = end
    return out


def text(seed: int, batch: int = 1, length: int = 8, dim: int = 24) -> torch.Tensor:
    return torch.randn(batch, length, dim, generator=torch.Generator().manual_seed(1000 + seed))
