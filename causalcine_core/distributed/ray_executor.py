"""Workers that a program hires through Ray, not being one of them itself: ComfyUI, a notebook.

    crew = RayExecutor(4)
    crew.load("model.safetensors", config, dtype=torch.bfloat16)
    network = replace(network, crew=crew)       rollouts of this network are now made by the crew

The workers are a `SequenceParallel` (a GPU each where there are any) and keep the memories of what they made; the program has states
without memory. One that it continues is found again by its last latent.
"""

from __future__ import annotations

import os
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import InputError, WorkerLostError
from ..model import WanConfig
from ..model.kernels import AUTO
from ..plan import PlannedChunk
from ..sampling import Chunk, State, StepInfo
from .launch import share_heads
from .serialization import dumps, loads
from .worker import Answer, Job

SOURCE = Path(__file__).parents[2]
POLL = 0.05  # seconds between two looks at how far a chunk is


class RayExecutor:
    """`size` workers on this machine. They start when a network is loaded, and stay until `close`, or until nobody has the crew."""

    def __init__(self, size: int, device: str | None = None):
        """device: `cuda` or `cpu`; None: a GPU each where there are any. Raises InputError where there are too few, or no Ray."""
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if size < 1:
            raise InputError(f"workers is {size}: at least one is needed")
        if self.device == "cuda" and size > torch.cuda.device_count():
            raise InputError(
                f"workers is {size}, but there are {torch.cuda.device_count()} GPUs here: ask for at most as many"
            )
        self.size = size
        self._workers: list[Any] = []
        weakref.finalize(self, _send_away, self._workers).atexit = False
        self._names = WeakTensorKeyDictionary()  # of the workers' memories, by a film's last latent

    @property
    def at_work(self) -> bool:
        """Whether the workers are there."""
        return bool(self._workers)

    def load(
        self,
        path: str | os.PathLike[str],
        config: WanConfig,
        *,
        dtype: torch.dtype,
        identity: str = "",
        attention: str = AUTO,
    ) -> None:
        """Give every worker the network of a file, in any layout that `read_network` reads. What they remembered is gone."""
        share_heads(self.size, config.num_heads)
        if not self._workers:
            self._hire()
        self._names.clear()
        self._ask("load", str(Path(path).resolve()), config.to_dict(), dtype, identity, attention)

    def rollout(
        self,
        chunks: Sequence[PlannedChunk],
        text_of: Callable[[int], Tensor],
        state: State,
        *,
        size: tuple[int, int],
        negative: Tensor | None = None,
        shot_seeds: dict[int, int] | None = None,
        on_step: Callable[[StepInfo], None] | None = None,
    ) -> Iterator[Chunk]:
        """As `sampling.rollout`; states have no memory. Where a worker is lost the WorkerLostError has the state of the film so
        far, and the crew is gone until the next `load`."""
        known = self._names.get(state.latents[-1]) if state.latents else None
        if known is not None and not self._ask("has", known)[0]:
            known = None
        bare = replace(state, memory=None, decoder=None)
        job = Job(
            chunks=tuple(chunks),
            texts={shot: text_of(shot).cpu() for shot in bare.read_next(chunks, elsewhere=known is not None)},
            state=bare,
            size=size,
            negative=None if negative is None else negative.cpu(),
            shot_seeds=shot_seeds or {},
            known=known,
        )
        try:
            self._ask("begin", dumps(job))
            for i, chunk in enumerate(chunks):
                name = uuid.uuid4().hex
                latent, record, pending = self._ask("next", name, on_step=on_step)[0]
                self._names[latent] = name
                state = state.extended(None, latent, record)
                state = replace(state, planned=tuple(chunks[i + 1 :]), pending=pending)
                yield Chunk(chunk.index, chunk.shot, latent, record.routing, state, record.seconds)
        except WorkerLostError as lost:
            lost.state = state
            raise

    def close(self) -> None:
        """Send the workers away; what they remember is gone with them."""
        _send_away(self._workers)

    def _hire(self) -> None:
        ray = _ray()
        options = {"num_cpus": 0, "num_gpus": int(self.device == "cuda"), "max_concurrency": 2}
        self._workers += [
            _hand(ray).options(**options).remote(rank, self.size, self.device) for rank in range(self.size)
        ]
        address = self._ask("address")[0]
        self._ask("meet", address)

    def _ask(self, name: str, *given: Any, on_step: Callable[[StepInfo], None] | None = None) -> list[Any]:
        """Every worker's answer. on_step: called meanwhile, for every pass; where it raises, what was asked for is dropped."""
        import ray

        if not self._workers:
            raise WorkerLostError("the workers are gone")
        waited = {worker.answer.remote(name, *given): rank for rank, worker in enumerate(self._workers)}
        answers: dict[int, Answer] = {}
        try:
            while waited:
                ready, _ = ray.wait(list(waited), timeout=POLL if on_step else None)
                if on_step:
                    for info in loads(ray.get(self._workers[0].answer.remote("seen"))).value:
                        on_step(info)
                for ref in ready:
                    answers[waited.pop(ref)] = _heard(loads(ray.get(ref)))
        except (ray.exceptions.RayError, WorkerLostError) as error:
            self.close()
            if isinstance(error, WorkerLostError):
                raise
            raise WorkerLostError(f"a worker went away ({str(error).strip().splitlines()[0]})") from error
        except BaseException:  # a cancel, of on_step or by hand
            self._drop(list(waited))
            raise
        kinds = {answer.kind for answer in answers.values()}
        if "refused" in kinds:
            raise InputError(next(answer.value for answer in answers.values() if answer.kind == "refused"))
        return [answers[rank].value for rank in range(self.size)]

    def _drop(self, under_way: list[Any]) -> None:
        """Give up what the workers are at: all after the same pass. Whoever cannot is sent away."""
        import ray

        try:
            ray.get([worker.answer.remote("drop") for worker in self._workers])
            ray.get(under_way)
        except ray.exceptions.RayError:
            self.close()


def _send_away(workers: list[Any]) -> None:
    if workers:
        import ray

        for worker in workers if ray.is_initialized() else ():
            ray.kill(worker)
    workers.clear()


def _heard(answer: Answer) -> Answer:
    """An answer, unless the worker that gives it, or another, is no longer of use."""
    if answer.kind in ("lost", "failed"):
        raise WorkerLostError(answer.value)
    return answer


def _ray() -> Any:
    """Ray, running."""
    try:
        import ray
    except ImportError as error:
        raise InputError(f"several workers need Ray, which is not usable here ({error}): pip install ray") from None
    if not ray.is_initialized():
        ray.init("local", include_dashboard=False, log_to_driver=False, configure_logging=False)
    return ray


def _hand(ray: Any) -> Any:
    """The Ray actor of a worker. It is made here because Ray sends it by value then: a worker's process may know this package
    by another name than ours."""

    class Hand:
        def __init__(self, *given: Any):
            from causalcine_core.distributed.worker import Worker

            self.worker = Worker(*given)

        def answer(self, name: str, *given: Any) -> bytes:
            return self.worker.answer(name, *given)

    return ray.remote(runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE)}})(Hand)
