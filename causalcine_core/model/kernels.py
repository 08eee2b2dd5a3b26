"""Attention kernels: softmax attention `[N, L, H, D]`, by name, or whichever is the fastest on this machine.

A kernel takes queries `[N, L, H, D]`, keys and values `[N, T, H, D]` and a mask that broadcasts to `[N, H, L, T]` or None, and
gives `[N, L, H, D]`.
"""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .. import checks
from ..errors import InputError
from ..measured import keep_measured, measured_file, read_measured

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

AUTO = "auto"
BACKENDS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
PACKAGES = {"flash-attn": "flash_attn", "sage": "sageattention"}  # not among our requirements
KERNELS = (AUTO, "sdpa", *BACKENDS, "flex", *PACKAGES)
EXACT = ("flash", "cudnn", "efficient", "flash-attn")  # what `auto` chooses from on a GPU; sage rounds to 8 bits


def sdpa(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """PyTorch's own; on a CPU that of float32 for halves too, which is the faster one there, backward many times.

    Nothing about it depends on how many heads there are: ranks that share them have the bits of one.
    """
    dtype = q.dtype
    if q.device.type == "cpu" and dtype.itemsize < 4:
        q, keys, values = q.float(), keys.float(), values.float()
    with torch.autocast(q.device.type, enabled=False):
        return _torchs(q, keys, values, mask).to(dtype)


def _torchs(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    out = F.scaled_dot_product_attention(q.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)
    return out.transpose(1, 2)


def find_kernel(name: str, device: torch.device | str = "cpu") -> Kernel:
    """The kernel of a name in KERNELS. Raises InputError for another one, or where its package is not installed."""
    checks.choice(name, "attention", KERNELS)
    if name == AUTO:
        return _fastest(str(torch.device(device))) if torch.device(device).type == "cuda" else sdpa
    if name == "sdpa":
        return sdpa
    if name in BACKENDS:
        return _of_backend(name, otherwise=[SDPBackend.MATH])
    return _flex() if name == "flex" else _of_package(name)


class Fastest:
    """For every shape the kernel that was the fastest when the shape was first met on this machine.

    What was measured is kept in a file, since kernels differ in their last bits: a film that is made again is the same.
    """

    def __init__(self, kernels: Mapping[str, Kernel], machine: str, file: Path | None = None):
        """machine: what its times belong to. file: where they are kept; None: nowhere."""
        self.kernels, self.machine, self.file = kernels, machine, file
        self.choices: dict[str, str] = read_measured(file)

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            return sdpa(q, keys, values, mask)
        shape = f"{self.machine} {q.dtype} {list(q.shape)} {keys.shape[1]}"
        if self.choices.get(shape) not in self.kernels:
            self.choices[shape] = self._measured(q, keys, values)
            keep_measured(self.file, self.choices)
        return self.kernels[self.choices[shape]](q, keys, values, None)

    def _measured(self, q: Tensor, keys: Tensor, values: Tensor) -> str:
        seconds = {}
        for name, kernel in self.kernels.items():
            try:
                seconds[name] = min(_seconds(kernel, q, keys, values) for _ in range(4))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError):  # not for this shape, dtype or device
                continue
        if not seconds:
            raise RuntimeError(f"no attention kernel of {', '.join(self.kernels)} takes {list(q.shape)}")
        return min(seconds, key=lambda name: seconds[name])


def _seconds(kernel: Kernel, q: Tensor, keys: Tensor, values: Tensor) -> float:
    wait = torch.cuda.synchronize if q.device.type == "cuda" else lambda device: None
    wait(q.device)
    began = time.perf_counter()
    kernel(q, keys, values, None)
    wait(q.device)
    return time.perf_counter() - began


@cache
def _fastest(device: str) -> Fastest:
    there = [name for name in EXACT if _has(name)]
    machine = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    named = {name: _of_backend(name) if name in BACKENDS else _of_package(name) for name in there}
    kernels = {"sdpa": sdpa} | named  # PyTorch's own choice takes everything, whatever the GPU
    return Fastest(kernels, machine, measured_file("attention"))


def _has(name: str) -> bool:
    """Whether this PyTorch (cuDNN's kernel came with 2.5), or this machine, has a kernel."""
    if name in BACKENDS:
        return hasattr(SDPBackend, BACKENDS[name])
    return importlib.util.find_spec(PACKAGES[name]) is not None


def _of_backend(name: str, otherwise: Sequence[SDPBackend] = ()) -> Kernel:
    """One of PyTorch's; it raises RuntimeError for what it cannot take, where nothing is to be run otherwise."""
    if not _has(name):
        raise InputError(f"attention is {name!r}, which torch {torch.__version__} does not have: use {AUTO}")
    allowed = [getattr(SDPBackend, BACKENDS[name]), *otherwise]

    def kernel(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        with sdpa_kernel(allowed):
            return _torchs(q, keys, values, mask)

    return kernel


def _of_package(name: str) -> Kernel:
    try:
        package = importlib.import_module(PACKAGES[name])
    except ImportError as error:
        raise InputError(
            f"attention is {name!r}, but {PACKAGES[name]} is not installed here ({error}): install it, or use {AUTO}"
        ) from None

    return _unmasked(partial(package.sageattn, tensor_layout="NHD") if name == "sage" else package.flash_attn_func)


@cache
def _flex() -> Kernel:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    return _unmasked(lambda *qkv: compiled(*(t.transpose(1, 2) for t in qkv)).transpose(1, 2))


def _unmasked(run: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Kernel:
    """A kernel of something that knows no masks: PyTorch's own takes those."""

    def kernel(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        return run(q, keys, values) if mask is None else sdpa(q, keys, values, mask)

    return kernel
