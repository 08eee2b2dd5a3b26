"""Linears whose weights lie in the order in which oneDNN multiplies them: on a CPU, less time a product, in float32 less than
half, and a GELU behind one is part of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """Linears of one input, side by side, without their weights as such: they compute, and can be neither trained nor saved.

    gelu: whether what they give goes through `GELU(approximate="tanh")`.
    """

    def __init__(self, *linears: nn.Linear, gelu: bool = False):
        super().__init__()
        weight = torch.cat([linear.weight.detach() for linear in linears])
        self.bias = torch.cat([linear.bias.detach() for linear in linears])
        self.out_features, self.in_features, self.gelu = *weight.shape, gelu
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight)

    def forward(self, x: Tensor) -> Tensor:
        after, how = ("gelu", "tanh") if self.gelu else ("none", "")
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, after, [], how)
        return result

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, gelu={self.gelu}"


def packs(dtype: torch.dtype) -> bool:
    """Whether this PyTorch, on this processor, multiplies by packed weights of a dtype."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(net: Any) -> None:
    """The linears of all blocks of a Wan network on the CPU, changed in place: `q`, `k` and `v` of self-attention become one,
    `packed_qkv`. Where they cannot be packed they stay."""
    for block in net.blocks:
        if not all(_fits(linear) for linear in _linears(block)):
            continue
        own, cross, ffn = block.self_attn, block.cross_attn, block.ffn
        own.packed_qkv, own.o = PackedLinear(own.q, own.k, own.v), PackedLinear(own.o)
        del own.q, own.k, own.v
        for name in ("q", "k", "v", "o"):
            setattr(cross, name, PackedLinear(getattr(cross, name)))
        block.ffn = nn.Sequential(PackedLinear(ffn[0], gelu=True), nn.Identity(), PackedLinear(ffn[2]))


def is_packed(net: Any) -> bool:
    """Whether a network has linears that were packed."""
    return any(isinstance(module, PackedLinear) for module in net.modules())


def unpacked(net: Any) -> dict[str, Tensor]:
    """The weights of a Wan network under Wan's names, those that were packed in plain order again, in memory of their own."""
    weights = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    for place, module in net.named_modules():
        if isinstance(module, PackedLinear):
            weight, names = module.packed.to_dense(), [place]
            if place.endswith("packed_qkv"):
                names = [place.replace("packed_qkv", name) for name in ("q", "k", "v")]
            for name, part, bias in zip(names, weight.chunk(len(names)), module.bias.chunk(len(names)), strict=True):
                weights |= {f"{name}.weight": part, f"{name}.bias": bias}
    return weights


def _linears(block: Any) -> list[Any]:
    of_attention = [
        getattr(part, name) for part in (block.self_attn, block.cross_attn) for name in ("q", "k", "v", "o")
    ]
    return [*of_attention, block.ffn[0], block.ffn[2]]


def _fits(linear: Any) -> bool:
    return type(linear) is nn.Linear and linear.weight.device.type == "cpu" and packs(linear.weight.dtype)
