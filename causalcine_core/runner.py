"""A causal network ready to run: where it is, in what and how it computes, and how its passes are shared out."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from .distributed.sequence_parallel import SequenceParallel
from .errors import InputError
from .lora import LoRA
from .model import CausalWanTransformer
from .model.attention import attend
from .model.float8 import FLOAT8, to_float8
from .model.kernels import AUTO, Kernel, find_kernel
from .model.packed import pack
from .model.transformer import Compute, TextKV, TextLayers, View, forward, project_text, shallow
from .threads import Threads

# Rows: 0.81 of the time of two passes at 192 rows of 256 channels, 0.96 at 768 of 512.
FUSED_ROWS = 1024


@dataclass(frozen=True)
class Runner:
    """A causal network ready to run: a module tree with Wan's names, and where and how it computes."""

    net: Any
    layers: int
    heads: int
    head_dim: int
    channels: int
    device: torch.device
    dtype: torch.dtype
    patch: tuple[int, int] = (2, 2)
    text_len: int = 0  # tokens of a text that it reads; 0: any
    fingerprint: str = ""
    loras: tuple[LoRA, ...] = ()  # that its weights hold
    sharding: SequenceParallel | None = None  # how each pass is shared out over ranks, where it is
    compute: Compute = field(default_factory=Compute)
    threads: Threads = field(default_factory=Threads, repr=False, compare=False)  # of the CPU, for passes over it

    @property
    def own_heads(self) -> int:
        """Heads whose keys and values are remembered here."""
        return self.sharding.heads(self.heads) if self.sharding else self.heads

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of patches of latents of a height and width."""
        return size[0] // self.patch[0], size[1] // self.patch[1]

    def velocity(self, latents: Tensor, timesteps: Tensor, text: TextKV, view: View) -> Tensor:
        """One pass over noisy latents `[B, C, F, h, w]` of model space: their velocity, float32, on every rank where ranks share it.

        timesteps: in 0..1000, 0 = clean: `[B, F]`, or with an axis of 1 where they are the same along it. text: cross-attention
        keys and values. view: what self-attention sees; of this rank's heads, where ranks share a pass.
        """

        def run(latents: Tensor, view: View) -> Tensor:
            return forward(self.net, latents, timesteps, text, view, self.compute)

        def trial() -> Tensor:
            return forward(shallow(self.net), latents, timesteps, text, _OwnFrames(), self.compute)

        if self.sharding is not None:
            return self.sharding.forward(run, latents, view, self.patch)
        tokens = latents.shape[0] * latents.shape[2] * math.prod(self.grid((latents.shape[3], latents.shape[4])))
        with self._threads(self.threads.timed, ("pass", *latents.shape), self._work(14 * tokens), trial):
            return run(latents, view)

    def project_text(self, text: Tensor) -> TextLayers:
        """`model.transformer.project_text` of this network: text `[M, T, text_dim]` anywhere, keys and values `[M, T, H, D]` of
        every block here."""
        text = text.to(self.device, self.dtype)

        def trial() -> Tensor:
            return torch.cat([part.flatten() for layer in project_text(self.net, text) for part in layer])

        with self.as_passes(("text", *text.shape), self._work(2 * text.shape[0] * text.shape[1]), trial):
            return project_text(self.net, text)

    def as_passes(
        self, kind: tuple[object, ...], work: float, trial: Callable[[], Tensor]
    ) -> AbstractContextManager[None]:
        """Inside, other work on the network's device, by as many threads as its passes: as `Threads.followed`."""
        return self._threads(self.threads.followed, kind, work, trial)

    def _threads(self, around: Callable[..., AbstractContextManager[None]], *work: Any) -> AbstractContextManager[None]:
        """Their number stays as it is set where several processes wait for one another, where code was compiled for a number, or where
        gradients are kept, which are computed later on."""
        alone = self.device.type == "cpu" and self.sharding is None
        if not alone or self.compute.is_compiled or torch.is_grad_enabled():
            return nullcontext()
        kind, *rest = work
        return around((self.fingerprint, str(self.dtype), self.heads, self.head_dim, *kind), *rest)

    def _work(self, products: int) -> float:
        """Multiplications and additions of so many products, in each layer, of a vector and a matrix of dim x dim."""
        return 2.0 * products * self.layers * (self.heads * self.head_dim) ** 2


class _OwnFrames:
    """A view of no history."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        return attend(q, k, v, kernel=kernel)


def pick_device(device: str | None) -> torch.device:
    """The asked device, or the best there is."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {device!r} is not available here ({str(error).splitlines()[0]})") from None
    return place


def pick_compute(device: torch.device, attention: str = AUTO, compile: bool = False) -> Compute:
    """How passes are computed on a device: by a kernel of a name in `model.KERNELS`, and compiled or not."""
    compute = Compute(find_kernel(attention, device), fused_rows=pick_fused_rows(device))
    return compute.compiled() if compile else compute


def pick_fused_rows(device: torch.device) -> int:
    """`Compute.fused_rows`: a CPU takes so few rows less time in one pass than in two."""
    return FUSED_ROWS if device.type == "cpu" else 0


def pick_dtype(device: torch.device, asked: torch.dtype | None = None) -> torch.dtype:
    """What a network computes in: as asked; where nothing is, or 8-bit floats for its linears, bfloat16 where the hardware
    multiplies in it, else, on most CPUs, float32, which is many times faster there."""
    if asked not in (None, FLOAT8):
        return asked
    if device.type != "cpu":
        return torch.bfloat16
    known = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # absent from older torch versions
    fast = any(getattr(torch.cpu, name, lambda: False)() for name in known)
    return torch.bfloat16 if fast else torch.float32


def prepare_network(
    net: CausalWanTransformer, identity: str, dtype: torch.dtype | None = None, compute: Compute | None = None
) -> Runner:
    """A network of ours that will only compute from now on: its linears in 8-bit floats where `dtype` says so, and on a CPU
    packed, unless it is compiled."""
    network = describe_network(net, identity)
    network = replace(network, compute=compute or pick_compute(network.device))
    if dtype == FLOAT8:
        to_float8(net)
    elif network.device.type == "cpu" and not network.compute.is_compiled:
        pack(net)
    return network


def describe_network(net: CausalWanTransformer, identity: str) -> Runner:
    """A network of ours, as the rollout wants it."""
    config, weight = net.config, cast(Tensor, net.get_submodule("blocks.0.self_attn.q").weight)
    return Runner(
        net,
        config.num_layers,
        config.num_heads,
        config.head_dim,
        config.in_dim,
        weight.device,
        weight.dtype,
        config.patch_size[1:],
        text_len=config.text_len,
        fingerprint=identity,
    )


def fingerprint(config: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """Twelve hex digits that change with the architecture or the weights."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].flatten()[:64].float().numpy().tobytes())
    return digest.hexdigest()[:12]
