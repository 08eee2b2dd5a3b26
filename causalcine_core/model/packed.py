"""Linears whose weights lie in the order in which oneDNN multiplies them: on a CPU, less time a product, in float32 less than
half, and a GELU behind one is part of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear without its weight as such: it computes, and can be neither trained nor saved.

    gelu: whether its output goes through `GELU(approximate="tanh")`.
    """

    def __init__(self, linear: nn.Linear, gelu: bool = False):
        super().__init__()
        self.in_features, self.out_features, self.gelu = linear.in_features, linear.out_features, gelu
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        after, how = ("gelu", "tanh") if self.gelu else ("none", "")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, after, [], how)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, gelu={self.gelu}"


def packs(dtype: torch.dtype) -> bool:
    """Whether this PyTorch, on this processor, multiplies by packed weights of a dtype."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(net: Any) -> None:
    """The linears of all blocks of a Wan network on the CPU, changed in place. Where they cannot be packed they stay."""
    for block in net.blocks:
        for attention in (block.self_attn, block.cross_attn):
            for name in ("q", "k", "v", "o"):
                _pack(attention, name)
        if _pack(block.ffn, "0", gelu=True):
            block.ffn[1] = nn.Identity()
        _pack(block.ffn, "2")


def _pack(parent: nn.Module, name: str, gelu: bool = False) -> bool:
    linear = getattr(parent, name)
    able = type(linear) is nn.Linear and linear.weight.device.type == "cpu" and packs(linear.weight.dtype)
    if able:
        setattr(parent, name, PackedLinear(linear, gelu))
    return able
