"""The causal Wan transformer: Wan2.1's modules under Wan2.1's names, and one forward over them.

The forward is a function of a module tree, not a method of a class, so that it also runs over the network
inside a stock ComfyUI MODEL. It calls submodules and never reads a Linear's weight: LoRA, fp8, GGUF and
offloading live inside those calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import InputError
from ..threads import one_thread
from .config import WanConfig
from .kernels import Kernel, sdpa

TextLayers = tuple[tuple[Tensor, Tensor], ...]  # keys and values `[M, T, H, D]` of every block


class View(Protocol):
    """Where the frames come from that a chunk may see: a rollout's memory or the packed training pass."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        """Self-attention of unrotated `q, k, v [B, F, S, H, D]` under the one rule; gives `[B, F, S, H, D]`."""


@dataclass(frozen=True)
class TextKV:
    """Cross-attention keys and values of M texts, computed once per text.

    layers: one pair per block, each `[M, T, H, D]`. rows: which text each frame reads, `[B, F]` into M; frames of
    one text must be runs of equal length (`run` frames each), so that a run is one attention call. Without `rows` all
    frames of batch element b read text b.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    rows: Tensor | None = None
    run: int = 0


class SelfAttention(nn.Module):
    def __init__(self, config: WanConfig, ops: Any, **factory: Any):
        super().__init__()
        fine = _fine(factory)
        self.num_heads = config.num_heads
        for name in ("q", "k", "v", "o"):
            setattr(self, name, ops.Linear(config.dim, config.dim, **factory))
        self.norm_q = ops.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **fine)
        self.norm_k = ops.RMSNorm(config.dim, eps=config.eps, elementwise_affine=True, **fine)


class Block(nn.Module):
    def __init__(self, config: WanConfig, ops: Any, **factory: Any):
        super().__init__()
        dim, fine = config.dim, _fine(factory)
        self.norm1 = ops.LayerNorm(dim, config.eps, elementwise_affine=False, **factory)
        self.self_attn = SelfAttention(config, ops, **factory)
        self.norm3 = ops.LayerNorm(dim, config.eps, elementwise_affine=True, **fine)
        self.cross_attn = SelfAttention(config, ops, **factory)
        self.norm2 = ops.LayerNorm(dim, config.eps, elementwise_affine=False, **factory)
        self.ffn = nn.Sequential(
            ops.Linear(dim, config.ffn_dim, **factory),
            nn.GELU(approximate="tanh"),
            ops.Linear(config.ffn_dim, dim, **factory),
        )
        self.modulation = nn.Parameter(torch.empty(1, 6, dim, **fine))


class Head(nn.Module):
    def __init__(self, config: WanConfig, ops: Any, **factory: Any):
        super().__init__()
        _, ph, pw = config.patch_size
        self.norm = ops.LayerNorm(config.dim, config.eps, elementwise_affine=False, **factory)
        self.head = ops.Linear(config.dim, config.out_dim * ph * pw, **factory)
        self.modulation = nn.Parameter(torch.empty(1, 2, config.dim, **factory))


class CausalWanTransformer(nn.Module):
    """Wan2.1's text-to-video transformer, parameter for parameter.

    `ops` supplies `Linear`, `Conv3d`, `LayerNorm` and `RMSNorm` (torch.nn by default, ComfyUI's inside it).
    `dtype` is that of the large layers: norms, modulation, the time path, and the small first and last layers are kept in
    float32, since their rounding would reach every token. Weights are left uninitialised; load them, or call `initialize`
    to train from scratch.
    """

    def __init__(self, config: WanConfig, ops: Any = nn, device: Any = None, dtype: torch.dtype | None = None):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        dim, fine = config.dim, _fine(factory)
        self.config = config
        self.patch_embedding = ops.Conv3d(
            config.in_dim, dim, kernel_size=config.patch_size, stride=config.patch_size, **fine
        )
        self.text_embedding = nn.Sequential(
            ops.Linear(config.text_dim, dim, **factory), nn.GELU(approximate="tanh"), ops.Linear(dim, dim, **factory)
        )
        self.time_embedding = nn.Sequential(
            ops.Linear(config.freq_dim, dim, **fine), nn.SiLU(), ops.Linear(dim, dim, **fine)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), ops.Linear(dim, 6 * dim, **fine))
        self.blocks = nn.ModuleList(Block(config, ops, **factory) for _ in range(config.num_layers))
        self.head = Head(config, ops, **fine)

    def forward(self, latents: Tensor, timesteps: Tensor, text: TextKV, view: View) -> Tensor:
        return forward(self, latents, timesteps, text, view)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator | None = None) -> CausalWanTransformer:
        """Draw fresh weights, as Wan2.1 does: Xavier linears, small text and time embeddings, a zero head."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for stack in (self.text_embedding, self.time_embedding):
            for module in stack:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.head.head.weight)
        for module in (*self.blocks, self.head):
            nn.init.normal_(module.modulation, std=self.config.dim**-0.5, generator=generator)
        return self


def forward(
    net: Any, latents: Tensor, timesteps: Tensor, text: TextKV, view: View, compute: Compute | None = None
) -> Tensor:
    """Velocity of noisy latents, frame by frame at each frame's own noise level.

    Args:
        net: any module tree with Wan2.1's names.
        latents: model space `[B, C, F, h, w]`, h and w multiples of the patch.
        timesteps: in 0..1000, 0 = clean: `[B, F]`, or with an axis of 1 where they are the same along it.
        text: cross-attention keys and values; each frame reads its own text.
        view: what self-attention sees.
        compute: how, by default plainly.

    Returns: `[B, C, F, h, w]`, float32.
    """
    compute = compute or Compute()
    height, width = latents.shape[-2:]
    x = _run(net.patch_embedding, latents, latents.dtype)
    grid, dtype = x.shape[-2:], x.dtype if latents.dtype == torch.float32 else latents.dtype
    x = x.flatten(3).permute(0, 2, 3, 1).float()  # B F S dim; the residual stream stays in float32
    with one_thread(latents.device):  # so few rows give other bits with more
        embedded = _run(net.time_embedding, sinusoid(timesteps.flatten(), _freq_dim(net)), dtype, net.time_embedding[0])
        embedded = embedded.unflatten(0, timesteps.shape)
        modulation = _run(net.time_projection, embedded, dtype, net.time_projection[1]).float().unflatten(-1, (6, -1))
    recomputed = compute.checkpointed and torch.is_grad_enabled()
    for layer, block in enumerate(net.blocks):
        given = (compute, layer, block, x, modulation, text, view, dtype)
        x = checkpoint(_block, *given, use_reentrant=False) if recomputed else _block(*given)
    return _head(net.head, x, embedded.float(), grid, dtype, (height // grid[0], width // grid[1]))


def _block(
    compute: Compute,
    layer: int,
    block: Any,
    x: Tensor,
    modulation: Tensor,
    text: TextKV,
    view: View,
    dtype: torch.dtype,
) -> Tensor:
    """One block on the residual stream `x [B, F, S, dim]`."""
    q, k, v, terms = compute.enter(block, x, modulation, dtype)
    x, q = compute.cross(block, x, view.attend(layer, q, k, v, compute.kernel), terms, dtype)
    result: Tensor = compute.leave(block, x, _read_text(q, layer, text, compute.kernel), terms, dtype)
    return result


def _fine(factory: dict[str, Any]) -> dict[str, Any]:
    """Where and in which dtype the small layers are kept that must not be rounded."""
    coarse = factory.get("dtype") not in (None, torch.float64)
    return {**factory, "dtype": torch.float32} if coarse else factory


def _run(module: Any, x: Tensor, dtype: torch.dtype, first: Any = None) -> Tensor:
    """A module on `x`, in float32 where its weights are kept so, else in `dtype`. first: its layer that has a weight."""
    weight = getattr(module if first is None else first, "weight", None)
    fine = weight is not None and weight.dtype == torch.float32
    result: Tensor = module(x.to(torch.float32 if fine else dtype))
    return result


def _enter(block: Any, x: Tensor, modulation: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Any]:
    """Queries, keys and values `[B, F, S, H, D]` of self-attention, and the block's modulation, each part `[B, F, 1, dim]`.

    `dtype` is what the linears compute in; norms, modulation and residual `x [B, F, S, dim]` are float32.
    """
    terms = (_parameter(block.modulation, modulation) + modulation).unsqueeze(3).unbind(2)
    attention = block.self_attn
    heads = attention.num_heads
    h = _modulated(block.norm1, x, terms[0], terms[1]).to(dtype)
    packed = getattr(attention, "packed_qkv", None)
    q, k, v = packed(h).chunk(3, -1) if packed else (attention.q(h), attention.k(h), attention.v(h))
    q = _run(attention.norm_q, q, dtype).to(dtype).unflatten(-1, (heads, -1))
    k = _run(attention.norm_k, k, dtype).to(dtype).unflatten(-1, (heads, -1))
    return q, k, v.unflatten(-1, (heads, -1)), terms


def _cross(block: Any, x: Tensor, y: Tensor, terms: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The residual with self-attention's `y [B, F, S, H, D]`, and queries of cross-attention."""
    x = torch.addcmul(x, block.self_attn.o(y.flatten(-2)), terms[2])
    cross = block.cross_attn
    q = cross.q(_run(block.norm3, x, dtype).to(dtype))
    return x, _run(cross.norm_q, q, dtype).to(dtype).unflatten(-1, (cross.num_heads, -1))


def _leave(block: Any, x: Tensor, y: Tensor, terms: Any, dtype: torch.dtype) -> Tensor:
    """The residual with cross-attention's `y [B, F, S, H, D]` and the feed-forward."""
    x = x + block.cross_attn.o(y.flatten(-2))
    return torch.addcmul(x, block.ffn(_modulated(block.norm2, x, terms[3], terms[4]).to(dtype)), terms[5])


def _modulated(norm: Any, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """A norm without weights, then shift and scale; of all tokens alike, these are the norm's own weight and bias."""
    if shift.numel() == shift.shape[-1] and not torch.is_grad_enabled():
        return F.layer_norm(x, shift.shape[-1:], (1 + scale).flatten(), shift.flatten(), norm.eps)
    result: Tensor = norm(x) * (1 + scale) + shift
    return result


@dataclass(frozen=True)
class Compute:
    """How passes are computed. kernel: of attention. enter, cross, leave: a block's three runs between attentions. fused_rows: up to
    how many rows (tokens, of all branches) a chunk is written into memory in the first pass of the next one, 0 for never.
    checkpointed: where gradients are recorded, a block keeps its input alone and runs once more on the way back."""

    kernel: Kernel = sdpa
    fused_rows: int = 0
    checkpointed: bool = False
    enter: Callable[..., Any] = _enter
    cross: Callable[..., Any] = _cross
    leave: Callable[..., Any] = _leave

    @property
    def is_compiled(self) -> bool:
        return self.enter is not _enter

    def compiled(self, **options: Any) -> Compute:
        """The same with the three runs compiled, once for all blocks: what lies between two products becomes one kernel.

        options: of `torch.compile`. Where it cannot compile, the first pass raises InputError.
        """
        options = {"dynamic": False} | options
        enter, cross, leave = (_told(torch.compile(run, **options)) for run in (_enter, _cross, _leave))
        return replace(self, fused_rows=0, enter=enter, cross=cross, leave=leave)


def _told(run: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function whose failure to compile is one sentence."""

    def told(*given: Any) -> Any:
        try:
            return run(*given)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # slow to import

            if not isinstance(error, TorchDynamoException):
                raise
            reason = " ".join(str(error).strip().splitlines()[:2])  # who raised, and what
            raise InputError(f"torch.compile does not work here ({reason}): do without it") from error

    return told


def _read_text(q: Tensor, layer: int, text: TextKV, kernel: Kernel) -> Tensor:
    """Each run of frames reads the one text it belongs to: q `[B, F, S, H, D]`."""
    shape = q.shape[:3]
    keys, values = text.layers[layer]
    if text.rows is not None:
        rows = text.rows[:, :: text.run].flatten()
        q, keys, values = q.reshape(len(rows), text.run * shape[2], *q.shape[3:]), keys[rows], values[rows]
    else:
        q = q.flatten(1, 2)
    return kernel(q, keys, values, None).reshape(*shape, *q.shape[2:])


def _head(head: Any, x: Tensor, embedded: Tensor, grid: Any, dtype: torch.dtype, patch: tuple[int, int]) -> Tensor:
    shift, scale = (_parameter(head.modulation, embedded) + embedded.unsqueeze(2)).unsqueeze(3).unbind(2)
    x = _run(head.head, head.norm(x) * (1 + scale) + shift, dtype).float()
    x = x.unflatten(2, tuple(grid)).unflatten(-1, (*patch, -1))  # B F h w p q C
    return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def project_text(net: Any, text: Tensor) -> TextLayers:
    """Run text `[M, T, text_dim]` through the text embedding and every block's cross-attention key and value."""
    embedded = net.text_embedding(text)
    layers = []
    for block in net.blocks:
        cross = block.cross_attn
        keys = _run(cross.norm_k, cross.k(embedded), text.dtype).to(embedded.dtype)
        layers.append(
            (keys.unflatten(-1, (cross.num_heads, -1)), cross.v(embedded).unflatten(-1, (cross.num_heads, -1)))
        )
    return tuple(layers)


def sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding `[n, dim]` of timesteps `[n]`, cosines first, as Wan2.1 computes it."""
    half = dim // 2
    places = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * places / half)
    return torch.cat([angles.cos(), angles.sin()], 1)


def shallow(net: Any) -> Any:
    """The same module tree with its first block alone: all blocks are alike."""
    parts = {name: getattr(net, name) for name in ("patch_embedding", "time_embedding", "time_projection", "head")}
    return SimpleNamespace(**parts, blocks=net.blocks[:1], freq_dim=_freq_dim(net))


def _freq_dim(net: Any) -> int:
    result: int = net.freq_dim if hasattr(net, "freq_dim") else net.config.freq_dim
    return result


def _parameter(parameter: Tensor, like: Tensor) -> Tensor:
    """A bare parameter where the computation runs: ComfyUI may keep it on another device or in another dtype."""
    return parameter.to(like.device, torch.float32)
