"""Sequence parallelism over attention heads, for inference and training alike (DeepSpeed-Ulysses, arXiv:2309.14509).

Every rank of a group runs the same program on the same noise. Of a pass it computes some rows of the picture; for
self-attention it trades them for all rows of some heads, and back. So each rank remembers only its heads, and what a chunk
recalls is chosen by the sum of everyone's scores.

Gradients. There is one exchange, an all-to-all whose backward is the all-to-all back; all else is the chain rule. So after
`backward`, which every rank calls on a loss of the whole velocity, a rank holds the gradient of the sum of all ranks' losses
by its own copy of a parameter. The mean over the group, which DDP and FSDP take and `mesh.average_gradients` too, is the
gradient that one rank alone would have; that holds for parameters used inside a pass, outside of it, or both, and through
several passes in a row.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, WorkerLostError
from ..model.kernels import Kernel
from ..model.transformer import View
from .launch import share_heads
from .mesh import SEQUENCE, exchange

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class SequenceParallel:
    """One rank's place in a group whose ranks compute every pass together. group: as of `mesh.get_group("sp")`."""

    group: dist.ProcessGroup
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @classmethod
    def of(cls, mesh: DeviceMesh | None, dim: str = SEQUENCE) -> SequenceParallel | None:
        """This rank's place in that dimension of a mesh; None without a mesh, or where the dimension holds one rank."""
        if mesh is None or mesh.get_group(dim).size() == 1:
            return None
        return cls(mesh.get_group(dim))

    @property
    def rank(self) -> int:
        """This process's place in the group."""
        return int(self.group.rank())

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return int(self.group.size())

    def heads(self, heads: int) -> int:
        """How many of a network's heads each rank attends with and remembers. Raises InputError where they do not divide."""
        return share_heads(self.size, heads)

    def stop(self) -> None:
        """Make the next exchange a WorkerLostError: what this rank is at until then, such as saving, it may finish."""
        self._stopped.set()

    def forward(
        self, run: Callable[[Tensor, View], Tensor], latents: Tensor, view: View, patch: tuple[int, int]
    ) -> Tensor:
        """A pass of a network with the rows of the picture shared out; differentiable.

        Args:
            run: the pass itself, of latents `[B, C, F, h', w]` and of a view; gives as many rows as it is given.
            latents: `[B, C, F, h, w]`, the same on every rank.
            view: what this rank's heads see, all rows of the picture.
            patch: height and width of a token, in latent pixels.

        Returns: `[B, C, F, h, w]`, whole on every rank.

        Raises InputError where there are fewer rows of patches than ranks, WorkerLostError where a rank is gone.
        """
        height, width = latents.shape[-2:]
        rows = height // patch[0]
        if rows < self.size:
            raise InputError(f"{self.size} workers cannot share {rows} rows of patches: start fewer, or make it higher")
        bounds = [rows * i // self.size * patch[0] for i in range(self.size + 1)]
        shares = [last - first for first, last in pairwise(bounds)]
        own = latents[..., bounds[self.rank] : bounds[self.rank + 1], :].contiguous()
        tokens = [share // patch[0] * (width // patch[1]) for share in shares]
        out = run(own, _HeadsView(self, view, tokens))
        return torch.cat(self.trade([out] * self.size, [(*out.shape[:3], share, width) for share in shares]), 3)

    def total(self, scores: Tensor) -> Tensor:
        """The sum over all ranks, the same bits on each; without a gradient."""
        scores = scores.detach().clone(memory_format=torch.contiguous_format)
        self._meet(lambda: dist.all_reduce(scores, group=self.group))
        return scores

    def trade(self, given: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give rank i `given[i]`; returned is what rank i gives, of `shapes[i]`. Differentiable."""
        sent, sizes = torch.cat([part.flatten() for part in given]), [prod(shape) for shape in shapes]
        taken = _all_to_all(sent, self, [part.numel() for part in given], sizes)
        return [part.view(*shape) for part, shape in zip(taken.split(sizes), shapes, strict=True)]

    def _meet(self, collective: Callable[[], Any]) -> None:
        if self._stopped.is_set():
            raise WorkerLostError("the launcher stopped this worker")
        with exchange():
            collective()


class _AllToAll(torch.autograd.Function):
    """An exchange of a flat tensor, whose backward is the one that takes everything back. given, taken: numbers to and from each
    rank."""

    @staticmethod
    def forward(ctx: Any, sent: Tensor, sharding: SequenceParallel, given: list[int], taken: list[int]) -> Tensor:
        ctx.back = sharding, taken, given
        out = sent.new_empty(sum(taken))
        sharding._meet(lambda: dist.all_to_all_single(out, sent, taken, given, group=sharding.group))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _all_to_all(gradients[0].contiguous(), *ctx.back), None, None, None


_all_to_all: Callable[..., Tensor] = _AllToAll.apply


@dataclass(frozen=True)
class _HeadsView:
    """A view for whom own rows of all heads are traded for all rows of own heads, and back. tokens: of a frame, by rank."""

    sharding: SequenceParallel
    view: View
    tokens: Sequence[int]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        size, rank = self.sharding.size, self.sharding.rank
        given = torch.stack((q, k, v)).chunk(size, 4)  # 3 B F s H/n D
        shapes = [(*given[0].shape[:3], share, *given[0].shape[4:]) for share in self.tokens]
        q, k, v = torch.cat(self.sharding.trade(given, shapes), 3).unbind()
        y = self.view.attend(layer, q, k, v, kernel)
        parts = y.split(list(self.tokens), 2)
        return torch.cat(self.sharding.trade(parts, [parts[rank].shape] * size), 3)
