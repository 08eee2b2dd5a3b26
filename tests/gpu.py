"""A pretended GPU: tensors that say they are on one, computed on the CPU.

What a real GPU refuses is refused: tensors of two devices in one operation. What a real GPU is waited for is counted: reading a
value, copies that are not asynchronous, indexing with what lies elsewhere. Copies to the host that are asynchronous arrive as late
as they may.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

GPU = torch.device("cuda", 0)
OURS = ("causalcine_core", "benchmarks", "nodes")
HALF = (torch.bfloat16, torch.float16)
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "matmul", "linear", "conv1d", "conv2d", "conv3d")


class OnGpu(Tensor):
    """A tensor on the pretended GPU. inner: its values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        lies = {"strides": inner.stride(), "storage_offset": inner.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=GPU, **lies)
        made.inner = inner
        return made

    def __repr__(self) -> str:
        return f"OnGpu({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a tensor that has left its GPU")


class Gpu:
    """The device itself. waits: how often the host waited for it, by what and from which line of ours. driver: CUDA's runtime."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.driver = mock.MagicMock()
        self.driver.cudaHostRegister.return_value = 0
        self._arriving: list[tuple[Tensor, Tensor]] = []

    def wait(self, what: str) -> None:
        self.waits[f"{what} at {_line()}"] += 1
        self.settle()

    def settle(self) -> None:
        """Copies on their way to the host arrive."""
        for target, source in self._arriving:
            target.copy_(source)
        self._arriving.clear()

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation of PyTorch's dispatcher."""
        name, tensors = func.overloadpacket.__name__, [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        ours = [t for t in tensors if isinstance(t, OnGpu)]
        if name in ("_to_copy", "copy_"):
            return self._copy(func, args, kwargs)
        made_here = _is_gpu(kwargs.get("device"))
        if not ours and not made_here:
            return func(*args, **kwargs)
        if name == "_has_compatible_shallow_copy_type":
            return False
        elsewhere = [t for t in tensors if not isinstance(t, OnGpu) and t.dim()]
        if elsewhere and "like" not in name:
            raise RuntimeError(f"{name} of cuda:0 and cpu: {[list(t.shape) for t in elsewhere]} lie elsewhere")
        if name == "_local_scalar_dense":
            self.wait("a value")
            return func(ours[0].inner)
        if name in ("nonzero", "masked_select", "_unique2"):
            self.wait(name)
        if name == "_fused_sdp_choice":
            return 0  # written out in products
        if made_here:
            kwargs = kwargs | {"device": "cpu"}
        values = _values(args), _values(kwargs)
        half = next((t.dtype for t in ours if t.dtype in HALF), None) if name in PRODUCTS else None
        out = _product(func, *values, half) if half else func(*values[0], **values[1])
        known = {id(t.inner): t for t in ours}
        return tree_map_only(Tensor, lambda t: known[id(t)] if id(t) in known else OnGpu(t), out)

    def _copy(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """`_to_copy(source, device=)` and `copy_(target, source)`."""
        in_place = func.overloadpacket.__name__ == "copy_"
        source, wanted = args[1] if in_place else args[0], kwargs.get("device")
        here = isinstance(source, OnGpu)
        there = isinstance(args[0], OnGpu) if in_place else here if wanted is None else _is_gpu(wanted)
        late = args[2:3] == (True,) if in_place else kwargs.get("non_blocking", False)
        if here != there and source.device.type != "meta" and str(wanted) != "meta":
            if in_place and here and late:
                self._arriving.append((args[0], source.inner.clone()))
                return args[0]
            if late:
                self.settle()  # in the stream's order
            elif source.numel():
                self.wait("a copy")
        plain = {key: "cpu" if key == "device" and _is_gpu(value) else value for key, value in _values(kwargs).items()}
        out = func(*_values(args), **plain)
        if in_place:
            return args[0]
        return OnGpu(out) if there else out


def _product(func: Any, args: Any, kwargs: dict[str, Any], half: torch.dtype) -> Any:
    """A product in half precision as a GPU makes it: summed in float32, then rounded. Some CPUs make it fifty times slower in half."""
    args, kwargs = tree_map_only(Tensor, lambda t: t.float() if t.dtype in HALF else t, (args, kwargs))
    return func(*args, **kwargs).to(half)


class _Dispatched(TorchDispatchMode):
    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.gpu.run(func, args, kwargs or {})


class _Called(TorchFunctionMode):
    """What PyTorch's own C++ would ask a driver about before it dispatches."""

    def __init__(self, gpu: Gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        kwargs |= {"pin_memory": False} if kwargs.get("pin_memory") else {}
        here = [t for t in tree_leaves((args, kwargs)) if isinstance(t, OnGpu)]
        if func in (Tensor.to, Tensor.cpu) and (moved := self._moved(func, args, kwargs)) is not None:
            return moved
        if func is torch.tensor and _is_gpu(kwargs.get("device")):
            self.gpu.wait("a copy")
            return OnGpu(torch.tensor(*args, **kwargs | {"device": "cpu"}))
        if not here:
            return func(*args, **kwargs)
        if func is Tensor.new_tensor:
            self.gpu.wait("a copy")
            return OnGpu(args[0].inner.new_tensor(*args[1:], **kwargs))
        if func is Tensor.tolist:
            self.gpu.wait("a value")
            return args[0].inner.tolist()
        if func is Tensor.copy_ and len({type(t) for t in args[:2]}) == 2:
            return self.gpu.run(torch.ops.aten.copy_.default, (*args, *kwargs.values()), {})
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            return self._indexed(func, *args)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if not any(words in str(error) for words in ("not linked with support for cuda", "driver version")):
                raise
        out = func(*_values(args), **_values(kwargs))
        return tree_map_only(Tensor, OnGpu, out)

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
        """`x.to(...)` in whichever form; None where PyTorch can do it."""
        given, x = [*args[1:], *kwargs.values()], args[0]
        like = next((a for a in given if isinstance(a, Tensor)), None)
        device = next(
            (torch.device(a) for a in given if isinstance(a, str | torch.device)),
            like.device if like is not None else x.device,
        )
        dtype = next((a for a in given if isinstance(a, torch.dtype)), like.dtype if like is not None else x.dtype)
        device = torch.device("cpu") if func is Tensor.cpu else device
        if not isinstance(x, OnGpu) and device.type != "cuda":
            return None
        if (device.type, dtype) == (x.device.type, x.dtype) and not kwargs.get("copy"):
            return x
        late = kwargs.get("non_blocking", False)
        return self.gpu.run(
            torch.ops.aten._to_copy.default, (x,), {"device": device, "dtype": dtype, "non_blocking": late}
        )

    def _indexed(self, func: Any, x: Tensor, index: Any, *value: Any) -> Any:
        for one in index if isinstance(index, tuple) else (index,):
            if isinstance(one, Tensor):
                if not isinstance(x, OnGpu):
                    raise RuntimeError("indices of a tensor on the CPU are on cuda:0")
                if not isinstance(one, OnGpu) or one.dtype == torch.bool:
                    self.gpu.wait("an index")
        out = func(*_values((x, index, *value)))
        return OnGpu(out) if isinstance(out, Tensor) else out


class _Stream:
    """A stream, or an event in one: whoever waits for it finds everything done."""

    device, cuda_stream = GPU, 0

    def __init__(self, gpu: Gpu):
        self._gpu = gpu

    def _done(self, *_: Any) -> _Stream:
        self._gpu.settle()
        return self

    wait_stream = wait_event = record_event = record = wait = synchronize = __enter__ = _done

    def __exit__(self, *_: Any) -> None:
        """Errors go on: what `_done` gives would hold them back."""

    def query(self) -> bool:
        return True


@contextmanager
def pretended_gpu(free: int = 64 * 2**30) -> Iterator[Gpu]:
    """`cuda` is there, for whoever asks. free: bytes of its memory that are said to be."""
    gpu = Gpu()
    answers: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_name": lambda *_: "a pretended GPU",
        "get_device_capability": lambda *_: (8, 0),
        "get_device_properties": lambda *_: SimpleNamespace(major=8, minor=0, name="", total_memory=80 * 2**30),
        "max_memory_allocated": lambda *_: 0,
        "mem_get_info": lambda *_: (free, 80 * 2**30),
        "memory_stats": lambda *_: {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0},
        "is_bf16_supported": lambda *_, **__: True,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "device": lambda *_: nullcontext(),
        "synchronize": lambda *_: gpu.wait("all"),
        "cudart": lambda: gpu.driver,
        "Stream": lambda *_, **__: _Stream(gpu),
        "Event": lambda *_, **__: _Stream(gpu),
        "current_stream": lambda *_: _Stream(gpu),
        "stream": lambda _: nullcontext(),
    }
    overwrite = torch.__future__.set_overwrite_module_params_on_conversion
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer))
        stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda *_: None))
        stack.enter_context(mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        overwrite(True)
        stack.callback(overwrite, False)
        stack.enter_context(_Dispatched(gpu))
        stack.enter_context(_Called(gpu))
        yield gpu


def _is_gpu(device: Any) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _values(tree: Any) -> Any:
    return tree_map_only(OnGpu, lambda t: t.inner, tree)


def _line() -> str:
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if any(part in OURS for part in path.parts):
            return f"{path.name}:{frame.lineno}: {frame.line}"
    return "a test"
