"""One worker of a `RayExecutor`: it holds the network, makes the same films as the others, and tells what it made."""

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

from ..distributed.mesh import meet
from ..distributed.sequence_parallel import SequenceParallel
from ..errors import FilmStoppedError, InputError, WorkerLostError
from ..memory import KVMemory, RemoteMemory
from ..model import CausalWanTransformer, WanConfig, read_network
from ..runner import Runner, pick_compute, pick_device, prepare_network
from ..sampling import Chunk, Pending, State, StepInfo
from ..sampling.passes import limited
from ..sampling.state import ChunkRecord
from ..weights.checkpoint import assign
from .executor import Job
from .local import LocalExecutor
from .serialization import dumps, loads

KEPT = 8  # memories of films, or of where a film was forked, that a worker keeps


@dataclass(frozen=True)
class Task:
    """A `Job` as it goes to the workers. id: by which its next chunk is asked for. state: with a RemoteMemory or none, and without a
    decoder. texts: of all shots that are read."""

    id: str
    state: State
    texts: dict[int, Tensor]
    negative: Tensor | None
    find_layer: bool


@dataclass(frozen=True)
class Made:
    """A finished chunk as it comes back: what a state grows by. Its memory stays with the workers. pending: what is half made."""

    latent: Tensor
    record: ChunkRecord
    pending: tuple[Pending, ...]


@dataclass(frozen=True)
class Answer:
    """kind: `done`, `dropped`, or the name of an error: `refused` (InputError), `stopped` (FilmStoppedError), `lost`
    (WorkerLostError), `failed` (any other). value: what was asked for, or what to say."""

    kind: str
    value: Any = None


class _Dropped(Exception):  # noqa: N818
    """Nobody wants the rest of this chunk."""


@dataclass
class _Film:
    """A job that is under way. newest: id of the memory that it made last."""

    stream: Iterator[Chunk]
    newest: str | None = None


@dataclass
class Worker:
    """Asked by name, through `answer`; only `seen`, `drop` and `has` may be asked while something else is under way."""

    rank: int
    size: int
    device: str
    sharding: SequenceParallel | None = None
    runner: Runner | None = None
    _memories: OrderedDict[str, KVMemory] = field(default_factory=OrderedDict)
    _films: dict[str, _Film] = field(default_factory=dict)
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
        except FilmStoppedError as error:
            return dumps(Answer("stopped", str(error)))
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
        """Join the others, who all do."""
        if self.size > 1:
            self.sharding = SequenceParallel.of(meet(self.rank, self.size, where, kind=self.device))

    def load(self, path: str, config: dict[str, Any], dtype: torch.dtype, identity: str, attention: str) -> None:
        """Take the network of a file, instead of the one that is there."""
        self.runner = None
        self._films.clear()
        self._memories.clear()
        device = pick_device(self.device)
        net = CausalWanTransformer(WanConfig.from_dict(config), device="meta", dtype=dtype)
        assign(net, read_network(path, config=net.config).weights, "the model")
        net = net.to(device).eval().requires_grad_(False)
        runner = prepare_network(net, identity, compute=pick_compute(device, attention, False))
        self.runner = replace(runner, sharding=self.sharding)

    def has(self, memory: str) -> bool:
        """Whether a memory of this id is kept."""
        return memory in self._memories

    def begin(self, data: bytes, ended: list[str]) -> None:
        """Take up a `Task`. ended: ids of those to let go of; what they made last is kept."""
        assert self.runner is not None
        for id in ended:
            self._films.pop(id, None)
        task: Task = loads(data)
        job = Job(
            replace(task.state, memory=self._memory(task.state)), task.texts.__getitem__, task.negative, task.find_layer
        )
        self._films[task.id] = _Film(LocalExecutor(self.runner).run(job, self._on_step))

    def next(self, task: str, memory: str) -> Made | None:
        """Make a task's next chunk; what the film then remembers is kept under this id, instead of what it did a chunk before. The
        first worker gives the chunk, the others have the same."""
        film = self._films[task]
        self._steps, self._dropped = [], False
        chunk = next(film.stream)
        assert isinstance(chunk.state.memory, KVMemory)
        if film.newest is not None:
            self._memories.pop(film.newest, None)
        self._memories[memory], film.newest = chunk.state.memory, memory
        while len(self._memories) > KEPT:
            self._memories.popitem(last=False)
        return None if self.rank else Made(chunk.latent, chunk.state.records[-1], chunk.state.pending)

    def seen(self) -> list[StepInfo]:
        """Passes that were finished since this was last asked."""
        steps, self._steps = self._steps, []
        return steps

    def drop(self) -> None:
        """Give up the chunk that is being made; all workers do after the same pass."""
        self._dropped = True

    def _memory(self, state: State) -> KVMemory | None:
        """What a film remembers, where it is kept here. Under a budget it is not kept any longer: two states would take more."""
        if not isinstance(state.memory, RemoteMemory) or state.memory.id not in self._memories:
            return None
        memory = self._memories.pop(state.memory.id)
        if state.settings.budget is None:
            self._memories[state.memory.id] = memory  # as the one that was used last
        return limited(memory, state.recipe, state.settings, len(state.references))

    def _on_step(self, info: StepInfo) -> None:
        if self.rank == 0:
            self._steps.append(replace(info, clean=info.clean.float().cpu()))
        asked = torch.tensor([float(self._dropped)], device=info.clean.device)
        if float(self.sharding.total(asked) if self.sharding else asked) > 0:
            raise _Dropped
