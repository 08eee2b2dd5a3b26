"""One worker of a `RayExecutor`: it holds the network, makes the same rollout as the others, and tells what it made."""

from __future__ import annotations

import os
import socket
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, WorkerLostError
from ..memory import KVMemory
from ..model import CausalWanTransformer, WanConfig, read_network
from ..plan import PlannedChunk
from ..runner import Runner, pick_compute, pick_device, prepare_network
from ..sampling import Chunk, ChunkRecord, Pending, State, StepInfo, rollout
from ..weights.checkpoint import assign
from .mesh import meet
from .sequence_parallel import SequenceParallel
from .serialization import dumps, loads

KEPT = 8  # memories of films, or of where a film was forked, that a worker keeps


@dataclass(frozen=True)
class Job:
    """A rollout: `sampling.rollout`'s arguments. texts: of the shots. state: without memory. known: name of the memory that goes
    with it, where the workers have it."""

    chunks: tuple[PlannedChunk, ...]
    texts: dict[int, Tensor]
    state: State
    size: tuple[int, int]
    negative: Tensor | None
    shot_seeds: dict[int, int]
    known: str | None


@dataclass(frozen=True)
class Answer:
    """kind: `done`, `dropped`, `refused` (an InputError), `lost` (a WorkerLostError) or `failed`. value: or what to say."""

    kind: str
    value: Any = None


class _Dropped(Exception):  # noqa: N818
    """Nobody wants the rest of this rollout."""


@dataclass
class Worker:
    """Asked by name, through `answer`; only `seen`, `drop` and `has` may be asked while something else is under way."""

    rank: int
    size: int
    device: str
    sharding: SequenceParallel | None = None
    network: Runner | None = None
    _memories: OrderedDict[str, KVMemory] = field(default_factory=OrderedDict)
    _stream: Iterator[Chunk] | None = None
    _growing: str | None = None  # name of the memory that the running rollout made last
    _steps: list[StepInfo] = field(default_factory=list)
    _dropped: bool = False

    def answer(self, name: str, *given: Any) -> bytes:
        """What a method gives, as an `Answer` that any process of ours reads."""
        try:
            return dumps(Answer("done", getattr(self, name)(*given)))
        except _Dropped:
            return dumps(Answer("dropped"))
        except InputError as error:
            return dumps(Answer("refused", str(error)))
        except WorkerLostError as error:
            return dumps(Answer("lost", str(error)))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            return dumps(Answer("failed", f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})"))

    def pid(self) -> int:
        return os.getpid()

    def address(self) -> str:
        """Where the others can meet this one."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{free.getsockname()[1]}"

    def meet(self, where: str) -> None:
        if self.size > 1:
            self.sharding = SequenceParallel.of(meet(self.rank, self.size, where, kind=self.device))

    def load(self, path: str, config: dict[str, Any], dtype: torch.dtype, identity: str, attention: str) -> None:
        """Take the network of a file, instead of the one that is there."""
        self.network, self._stream = None, None
        self._memories.clear()
        device = pick_device(self.device)
        net = CausalWanTransformer(WanConfig.from_dict(config), device="meta", dtype=dtype)
        assign(net, read_network(path, config=net.config).weights, "the model")
        net = net.to(device).eval().requires_grad_(False)
        network = prepare_network(net, identity, compute=pick_compute(device, attention, False))
        self.network = replace(network, sharding=self.sharding)

    def has(self, name: str) -> bool:
        return name in self._memories

    def begin(self, data: bytes) -> None:
        """Take up a `Job`."""
        assert self.network is not None
        job: Job = loads(data)
        memory = None
        if job.known is not None:
            memory = self._memories[job.known]
            self._memories.move_to_end(job.known)
        self._steps, self._dropped, self._growing = [], False, None
        self._stream = rollout(
            self.network,
            job.chunks,
            lambda shot: job.texts[shot],
            replace(job.state, memory=memory),
            size=job.size,
            negative=job.negative,
            shot_seeds=job.shot_seeds,
            on_step=self._on_step,
        )

    def next(self, name: str) -> tuple[Tensor, ChunkRecord, tuple[Pending, ...]] | None:
        """Make the next chunk; its memory is kept under this name, instead of that of the chunk before. Latent, record,
        and what is half made, from the first worker."""
        assert self._stream is not None
        chunk = next(self._stream)
        assert chunk.state.memory is not None
        if self._growing is not None:
            self._memories.pop(self._growing, None)
        self._memories[name] = chunk.state.memory
        self._growing = name
        while len(self._memories) > KEPT:
            self._memories.popitem(last=False)
        if self.rank:
            return None
        return chunk.latent, chunk.state.records[-1], chunk.state.pending

    def seen(self) -> list[StepInfo]:
        """Passes that were finished since this was last asked."""
        steps, self._steps = self._steps, []
        return steps

    def drop(self) -> None:
        """Give up the chunk that is being made; all workers do after the same pass."""
        self._dropped = True

    def _on_step(self, info: StepInfo) -> None:
        if self.rank == 0:
            self._steps.append(replace(info, clean=info.clean.float().cpu()))
        asked = torch.tensor([float(self._dropped)], device=info.clean.device)
        if float(self.sharding.total(asked) if self.sharding else asked) > 0:
            raise _Dropped
