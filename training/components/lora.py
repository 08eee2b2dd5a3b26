"""Low-rank adapters (LoRA, arXiv:2106.09685) by peft: a stage then trains two thin matrices beside each large linear layer, and
nothing else.

peft keeps an adapted layer's own weights under `base_layer.` and puts its matrices beside them. Outside of a run nobody has to know
that: `merged` gives the weights that a plain network holds, and `adapters` a LoRA file as ComfyUI reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from causalcine_core import checks
from causalcine_core.errors import InputError

from ..recipe import Optimizer

LAYERS = {
    "attention": r".*blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]",
    "all": r".*blocks\.\d+\.((self_attn|cross_attn)\.[qkvo]|ffn\.[02])",
}
BASE = ".base_layer."
DOWN, UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True)
class Lora:
    """rank: of the adapters; 0: none, all weights are trained. alpha: their answers count alpha / rank times; None: the rank.
    layers: of every block, the linears of its attentions, or those of its feed-forward too."""

    rank: int = 0
    alpha: float | None = None
    layers: Literal["attention", "all"] = "all"

    def __post_init__(self) -> None:
        checks.whole(self.rank, "rank", 0, 4096)
        if self.alpha is not None:
            checks.number(self.alpha, "alpha", 1e-6, 1e6)

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return (self.rank if self.alpha is None else self.alpha) / max(self.rank, 1)

    def check(self, optimizer: Optimizer, name: str) -> None:
        """Raises InputError for an optimizer, the recipe's field `name`, that is not for adapters."""
        if self.rank and optimizer.muon_learning_rate:
            raise InputError(
                f"{name}.muon_learning_rate must be 0 with lora.rank {self.rank}: a thin matrix has no use for being orthogonal, "
                "adapters are trained by AdamW"
            )


def add_adapters(net: nn.Module, lora: Lora) -> None:
    """Freezes a transformer and puts adapters, which change nothing yet, into its layers, drawn from torch's generator.

    Raises InputError where peft is missing or older than 0.15.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise InputError("lora.rank needs the package peft: pip install --no-deps peft==0.21.2") from None
    net.requires_grad_(False)
    alpha = lora.scale * lora.rank
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=LAYERS[lora.layers])  # type: ignore[arg-type]
    inject_adapter_in_model(config, net)


def plain_name(name: str) -> str:
    """Of the name of a weight in an adapted network, the one that it has in a plain one: of an adapter, its layer's weight."""
    for part in (DOWN, UP):
        if name.endswith(part):
            return name.removesuffix(part) + ".weight"
    return name.replace(BASE, ".")


def base(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that an adapted network was given, as those of a plain one, without its adapters."""
    return {plain_name(name): tensor for name, tensor in weights.items() if not name.endswith((DOWN, UP))}


def merged(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The weights of an adapted network as those of a plain one, whose answers are the same; plain ones as they are."""
    out = base(weights)
    for name, (down, up) in _pairs(weights).items():
        own = out[f"{name}.weight"]
        out[f"{name}.weight"] = (own.float() + lora.scale * up.float() @ down.float()).to(own.dtype)
    return out


def adapters(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The adapters alone under ComfyUI's names for a Wan transformer: what its LoRA loaders, and `causalcine convert --lora`, read."""
    out: dict[str, Tensor] = {}
    for name, (down, up) in _pairs(weights).items():
        key = f"diffusion_model.{name.removeprefix('net.')}"
        out |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
        out[f"{key}.alpha"] = torch.tensor(lora.scale * lora.rank)
    return out


def without_adapters(weights: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """A plain network's weights as an adapted one holds them, its adapters as they were when they changed nothing."""
    out: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        if name.endswith(UP):
            out[name] = torch.zeros_like(tensor)
        elif name.endswith(DOWN):
            out[name] = tensor
        elif plain_name(name) in weights:
            out[name] = weights[plain_name(name)]
    known = {plain_name(name) for name in out}
    return out | {name: tensor for name, tensor in weights.items() if name not in known}


def _pairs(weights: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Of each adapted layer its two matrices, `[rank, in]` and `[out, rank]`."""
    layers = [name.removesuffix(DOWN) for name in weights if name.endswith(DOWN)]
    return {layer: (weights[layer + DOWN], weights[layer + UP]) for layer in layers}
