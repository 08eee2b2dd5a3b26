"""Sequence parallelism over attention heads, with the memory shared out the same way.

Every worker runs the same rollout from the same noise. Of a pass it computes some rows of the picture; for self-attention
it trades them for all rows of some heads, and back (DeepSpeed-Ulysses, arXiv:2309.14509). So each worker remembers only its
heads, and what a chunk recalls is chosen by the sum of everyone's scores.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, WorkerLostError
from ..model.kernels import Kernel
from ..model.transformer import Compute, TextKV, View, forward


def share_heads(workers: int, heads: int) -> int:
    """How many of a network's heads each of the workers has. Raises InputError where they cannot be shared out evenly."""
    if heads % workers:
        fitting = [n for n in range(1, heads + 1) if heads % n == 0]
        raise InputError(
            f"{workers} workers cannot share {heads} attention heads evenly: start {', '.join(map(str, fitting))}"
        )
    return heads // workers


@dataclass(frozen=True)
class SequenceParallel:
    """This worker's place among `size` that make one film."""

    rank: int
    size: int
    _stopped: threading.Event = field(default_factory=threading.Event, repr=False, compare=False)

    @classmethod
    def join(cls, device: str | None = None, timeout: timedelta = timedelta(minutes=10)) -> SequenceParallel | None:
        """The team that torchrun started, joined; None where it started none, or one worker.

        device: what the workers compute on, `cpu` or `cuda`; None: a GPU each where there are any. timeout: how long a
        worker that hangs is waited for; one that dies is noticed at once.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return None
        gpu = device.startswith("cuda") if device else torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return cls.meet(int(os.environ["RANK"]), size, "env://", gpu=gpu, timeout=timeout)

    @classmethod
    def meet(
        cls, rank: int, size: int, where: str, *, gpu: bool, timeout: timedelta = timedelta(minutes=10)
    ) -> SequenceParallel:
        """The team of `size` who all call this. where: as PyTorch names it, `tcp://host:port`. gpu: whether each has one."""
        dist.init_process_group(
            "nccl" if gpu else "gloo", init_method=where, rank=rank, world_size=size, timeout=timeout
        )
        return cls(rank, size)

    def stop(self) -> None:
        """Make the next exchange a `WorkerLostError`: what this worker is at until then, such as saving, it may finish."""
        self._stopped.set()

    def leave(self) -> None:
        """Take down what `join` set up, all at once: a worker whose process ends while others still use it may be aborted."""
        if dist.is_initialized():
            with contextlib.suppress(WorkerLostError):  # who is gone already is not waited for
                self._call(dist.barrier)
            dist.destroy_process_group()

    def heads(self, heads: int) -> int:
        """How many of a network's heads each worker has."""
        return share_heads(self.size, heads)

    def forward(
        self,
        net: Any,
        patch: tuple[int, int],
        latents: Tensor,
        timesteps: Tensor,
        text: TextKV,
        view: View,
        compute: Compute | None = None,
    ) -> Tensor:
        """As `model.transformer.forward`, with the rows of the picture shared out; every worker gets the whole."""
        height, width = latents.shape[-2:]
        rows = height // patch[0]
        if rows < self.size:
            raise InputError(f"{self.size} workers cannot share {rows} rows of patches: start fewer, or make it higher")
        bounds = [rows * i // self.size * patch[0] for i in range(self.size + 1)]
        shares = [last - first for first, last in pairwise(bounds)]
        own = latents[..., bounds[self.rank] : bounds[self.rank + 1], :].contiguous()
        tokens = [share // patch[0] * (width // patch[1]) for share in shares]
        out = forward(net, own, timesteps, text, _Traded(self, view, tokens), compute)
        return torch.cat(self.trade([out] * self.size, [(*out.shape[:3], share, width) for share in shares]), 3)

    def total(self, scores: Tensor) -> Tensor:
        """The sum over all workers, the same bits on each."""
        scores = scores.contiguous()
        self._call(lambda: dist.all_reduce(scores))
        return scores

    def trade(self, given: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> list[Tensor]:
        """Give worker i `given[i]`; returned is what worker i gives, of `shapes[i]`."""
        sent, sizes = torch.cat([part.flatten() for part in given]), [prod(shape) for shape in shapes]
        taken = sent.new_empty(sum(sizes))
        self._call(lambda: dist.all_to_all_single(taken, sent, sizes, [part.numel() for part in given]))
        return [part.view(*shape) for part, shape in zip(taken.split(sizes), shapes, strict=True)]

    def _call(self, collective: Callable[[], Any]) -> None:
        if self._stopped.is_set():
            raise WorkerLostError("the launcher stopped this worker")
        try:
            collective()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # backends agree on no type and no words for a connection that broke
            raise WorkerLostError(f"another worker went away ({str(error).splitlines()[0]})") from error


@dataclass(frozen=True)
class _Traded:
    """A view for whom rows of all heads are traded for all rows of some heads, and back. tokens: rows' tokens, by worker."""

    team: SequenceParallel
    view: View
    tokens: Sequence[int]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        size = self.team.size
        given = torch.stack((q, k, v)).chunk(size, 4)  # 3 B F s H/n D
        shapes = [(*given[0].shape[:3], share, *given[0].shape[4:]) for share in self.tokens]
        q, k, v = torch.cat(self.team.trade(given, shapes), 3).unbind()
        y = self.view.attend(layer, q, k, v, kernel)
        parts = y.split(list(self.tokens), 2)
        return torch.cat(self.team.trade(parts, [parts[self.team.rank].shape] * size), 3)
