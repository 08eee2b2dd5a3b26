"""A device mesh over the processes that a launcher or a program started, and how they leave it again.

Every group is explicit: who exchanges something names the group, as `mesh.get_group("sp")`, and there is no other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from math import prod
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import InputError, WorkerLostError
from .launch import launched_ranks

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

SEQUENCE = "sp"  # dimension of a mesh whose ranks share a pass
TIMEOUT = timedelta(minutes=10)  # how long a rank that hangs is waited for; one that dies is noticed at once


def join_mesh(
    dims: Mapping[str, int] | None = None, *, device: str | None = None, timeout: timedelta = TIMEOUT
) -> DeviceMesh | None:
    """The mesh of the ranks that torchrun started, this process among them; None where it started none, or one.

    Args:
        dims: size of each dimension by name, the outermost first, as `{"data": 2, "sp": 4}`; -1 for one: what is left.
            By default all ranks share a pass, `{"sp": -1}`.
        device: `cpu` or `cuda`; None: a GPU each where there are any. The rank's own GPU becomes the current one.
        timeout: how long a rank that hangs is waited for.

    Raises InputError where the ranks do not fill `dims`, or the device is not there.
    """
    ranks = launched_ranks()
    if ranks == 1:
        return None
    kind = _kind(device)
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return meet(int(os.environ["RANK"]), ranks, "env://", dims=dims, kind=kind, timeout=timeout)


def meet(
    rank: int,
    ranks: int,
    address: str,
    *,
    dims: Mapping[str, int] | None = None,
    kind: str = "cpu",
    timeout: timedelta = TIMEOUT,
) -> DeviceMesh:
    """The mesh of `ranks` processes who all call this, each with a rank of its own from 0 on.

    address: where they meet, as PyTorch names it, `tcp://host:port`. kind: `cuda` (a GPU each, by NCCL) or `cpu` (by gloo).
    dims, timeout: sizes by name and how long a rank that hangs is waited for, as `join_mesh` takes them.
    """
    from torch.distributed.device_mesh import init_device_mesh

    shape = _shape(dims or {SEQUENCE: -1}, ranks)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", init_method=address, rank=rank, world_size=ranks, timeout=timeout
    )
    return init_device_mesh(kind, tuple(shape.values()), mesh_dim_names=tuple(shape))


def leave_mesh() -> None:
    """Take down what `join_mesh` or `meet` set up, all ranks at once: one that ends while others still use it may be aborted."""
    if dist.is_available() and dist.is_initialized():
        with contextlib.suppress(WorkerLostError):  # who is gone already is not waited for
            barrier(dist.group.WORLD)
        dist.destroy_process_group()


def barrier(group: dist.ProcessGroup | None) -> None:
    """Wait until every rank of a group is here. Raises WorkerLostError where one is gone."""
    with exchange():
        dist.barrier(group)


@contextlib.contextmanager
def exchange() -> Iterator[None]:
    """Around a collective: a connection that broke is a WorkerLostError."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # backends agree on no type and no words for it
        raise WorkerLostError(f"another worker went away ({str(error).splitlines()[0]})") from error


def average_gradients(parameters: Iterable[Tensor], group: dist.ProcessGroup) -> None:
    """Replace gradients by their mean over a group, in place, as DDP and FSDP do of themselves.

    Every rank gives the same parameters in the same order. Gradients of one dtype are exchanged at once.
    """
    gradients: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            gradients.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for of in gradients.values():
        flat = torch.cat([gradient.flatten() for gradient in of])
        with exchange():
            dist.all_reduce(flat, group=group)
        flat /= group.size()
        for gradient, mean in zip(of, flat.split([gradient.numel() for gradient in of]), strict=True):
            gradient.copy_(mean.view_as(gradient))


def _kind(device: str | None) -> str:
    """`cpu` or `cuda`, what every rank of this machine computes on."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InputError(
            f"device is {device!r}: several workers run on cpu or cuda, where each takes a GPU of its own; leave a number out"
        )
    if device == "cuda":
        here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise InputError("device 'cuda' is not available here (PyTorch finds no GPU)")
        if here > gpus:
            raise InputError(f"{here} workers were started, but there are {gpus} GPUs here: start at most as many")
    return device


def _shape(dims: Mapping[str, int], ranks: int) -> dict[str, int]:
    """`dims` with what is left in place of -1."""
    known = prod(size for size in dims.values() if size != -1)
    if known < 1 or any(size < -1 for size in dims.values()) or list(dims.values()).count(-1) > 1:
        raise InputError(f"mesh is {dict(dims)}: sizes must be at least 1, and one of them may be -1, what is left")
    shape = {name: ranks // known if size == -1 else size for name, size in dims.items()}
    if prod(shape.values()) != ranks:
        raise InputError(f"mesh is {dict(dims)}, which {ranks} ranks do not fill")
    return shape
