"""Float32 weights that compute in another number type, just as inference computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from causalcine_core.model import CausalWanTransformer, WanConfig


def inference_dtypes(config: WanConfig, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """In what a network for inference in `dtype` keeps each of its parameters: norms, modulation, the time path, and the small
    first and last layers stay in float32."""
    net = CausalWanTransformer(config, device="meta", dtype=dtype)
    return {name: parameter.dtype for name, parameter in net.named_parameters()}


@contextmanager
def rounded(module: nn.Module, dtypes: Mapping[str, torch.dtype]) -> Iterator[None]:
    """A module whose parameters of these names are rounded to these number types, for a while.

    Gradients reach the parameters themselves, unrounded: updates far below the spacing of bfloat16 are kept (at a learning
    rate of 2e-6 that is all of them). The backward pass may run afterwards, unless it computes activations again.
    """
    held: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, dtype in dtypes.items():
            path, _, last = name.rpartition(".")
            owner = module.get_submodule(path)
            parameter = owner._parameters[last]
            if parameter is not None and parameter.dtype != dtype:
                held.append((owner, last, parameter))
                _put(owner, last, parameter.to(dtype))
        yield
    finally:
        for owner, last, parameter in held:
            owner._parameters[last] = parameter


def _put(owner: nn.Module, name: str, value: Tensor) -> None:
    owner._parameters[name] = value  # type: ignore[assignment]  # as torch.func.functional_call does, for many passes
