"""Films made by workers that a program hires through Ray, not being one of them itself: ComfyUI, a notebook.

    crew = RayExecutor(4)
    crew.load("model.safetensors", config, dtype=torch.bfloat16)
    pipe = Pipeline(..., executor=crew)        films of this pipeline are now made by the crew

The workers are the ranks of a `SequenceParallel` (a GPU each where there are any) and keep the memories of what they made; the
program has states whose memory is a `RemoteMemory`, the id by which the workers find it again.
"""

from __future__ import annotations

import os
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..distributed.launch import share_heads
from ..errors import FilmStoppedError, InputError, NotFiniteError, WorkerLostError
from ..memory import RemoteMemory
from ..model import WanConfig
from ..model.kernels import AUTO
from ..sampling import Chunk, StepInfo
from .executor import Job, lies_with
from .serialization import dumps, loads
from .worker import Answer, Made, Task

SOURCE = Path(__file__).parents[2]
POLL = 0.05  # seconds between two looks at how far a chunk is


class RayExecutor:
    """An `Executor` of `size` workers on this machine. They start when a network is loaded, and stay until `close`, or until nobody
    has the executor."""

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
        self._turn = threading.Lock()  # of who has the workers make something
        self._ended: deque[str] = deque()  # ids of tasks that nobody asks for any more
        self._workers: list[Any] = []
        weakref.finalize(self, _send_away, self._workers).atexit = False

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
        """Give every worker the network of a file, in any layout that `read_network` reads. What they remembered is gone.

        Raises InputError where the workers cannot share its heads, or there is no Ray.
        """
        share_heads(self.size, config.num_heads)
        with self._turn:
            if not self._workers:
                self._hire()
            self._ask("load", str(Path(path).resolve()), config.to_dict(), dtype, identity, attention)

    def run(self, job: Job, on_step: Callable[[StepInfo], None] | None = None) -> Iterator[Chunk]:
        """Make the chunks of a job. A FilmStoppedError has the state of the film so far; where a worker was lost, the others are gone
        too until the next `load`."""
        id, state, chunks = uuid.uuid4().hex, replace(job.state, memory=None), job.state.planned
        try:
            with self._turn:
                ended = [self._ended.popleft() for _ in range(len(self._ended))]
                self._ask("begin", dumps(self._task(id, job)), ended)
            del job  # what its state remembers in this process is free once nobody else holds it
            for i, chunk in enumerate(chunks):
                memory = RemoteMemory.new()
                with self._turn:
                    made: Made = self._ask("next", id, memory.id, on_step=on_step)[0]
                state = state.extended(memory, made.latent, made.record)
                state = replace(state, planned=chunks[i + 1 :], pending=made.pending)
                yield Chunk(chunk.index, chunk.shot, made.latent, made.record.routing, state, made.record.seconds)
        except FilmStoppedError as stopped:
            stopped.state = state
            raise
        finally:
            self._ended.append(id)  # told with the next one: a generator may end in any thread, at any time

    def holds(self, memory_id: str) -> bool:
        try:
            return self.at_work and bool(self._ask("has", memory_id)[0])
        except WorkerLostError:
            return False

    def _task(self, id: str, job: Job) -> Task:
        held = lies_with(self, job.state)
        state = replace(job.state, memory=job.state.memory if held else None, decoder=None)
        texts = {shot: job.text_of(shot).cpu() for shot in state.read_next(state.planned, elsewhere=held)}
        negative = None if job.negative is None else job.negative.cpu()
        return Task(id, state, texts, negative, job.find_layer)

    def close(self) -> None:
        """Send the workers away; what they remember is gone with them."""
        _send_away(self._workers)

    def _hire(self) -> None:
        ray = _ray()
        options = {"num_cpus": 0, "num_gpus": int(self.device == "cuda"), "max_concurrency": 2}
        self._workers += [
            _actor(ray).options(**options).remote(rank, self.size, self.device) for rank in range(self.size)
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
        heard = [answers[rank] for rank in range(self.size)]
        for answer in heard:
            if answer.kind == "refused":
                raise InputError(answer.value)
            if answer.kind == "stopped":
                raise NotFiniteError(answer.value)
        return [answer.value for answer in heard]

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


def _actor(ray: Any) -> Any:
    """The Ray actor of a worker. It is made here because Ray sends it by value then: a worker's process may know this package
    by another name than ours."""

    class WorkerActor:
        def __init__(self, *given: Any):
            from causalcine_core.executors.worker import Worker

            self.worker = Worker(*given)

        def answer(self, name: str, *given: Any) -> bytes:
            return self.worker.answer(name, *given)

    return ray.remote(runtime_env={"env_vars": {"PYTHONPATH": str(SOURCE)}})(WorkerActor)
