"""Linears in 8-bit floats, through torchao: half the memory of bfloat16, and on an H100 up to twice its speed.

Inside ComfyUI this is not needed: its own layers do it (`fp8_e4m3fn` in the loader).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError

FLOAT8 = torch.float8_e4m3fn


def is_float8(net: Any) -> bool:
    """Whether `to_float8` has changed a network."""
    weight = getattr(net.blocks[0].self_attn.o, "weight", None)
    return isinstance(weight, Tensor) and type(weight.data).__module__.startswith("torchao")


def to_float8(net: Any) -> None:
    """The linears of all blocks of a Wan network, changed in place. Where the GPU multiplies in 8 bits (compute capability 8.9),
    inputs are rounded too, row by row; elsewhere the weights alone are kept in 8 bits."""
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Float8WeightOnlyConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise InputError(
            f"dtype is float8_e4m3fn, but torchao is not usable here ({error}): pip install torchao, or choose bfloat16"
        ) from None
    device = next(net.blocks.parameters()).device
    multiplies = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)
    config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow()) if multiplies else Float8WeightOnlyConfig()
    quantize_(net.blocks, config)
