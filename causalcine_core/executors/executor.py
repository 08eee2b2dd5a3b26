"""The protocol between a film and whoever makes its chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..memory import RemoteMemory
from ..runner import Runner
from ..sampling import Chunk, State, StepInfo


@dataclass(frozen=True)
class Job:
    """Chunks to make, and all that they are made of.

    state: where the film is, never changed; what is made are its `planned` chunks. text_of: text `[B, T, text_dim]` of a shot or of
    a picture of the cast, asked at most once for each number that `State.read_next` names. negative: text `[B, T, text_dim]` of the
    unguided branch, needed where the recipe guides. find_layer: wait for every layer, so that a NotFiniteError names the first that
    is at fault. runner_of: the network of each of these numbers, where shots have LoRAs; workers, who have one, are given none.
    """

    state: State
    text_of: Callable[[int], Tensor]
    negative: Tensor | None = None
    find_layer: bool = False
    runner_of: Callable[[int], Runner] | None = None

    @property
    def shot_seeds(self) -> dict[int, int]:
        """Seeds of the shots that have their own."""
        return {shot.index: shot.seed for shot in self.state.shots if shot.seed is not None}


class Executor(Protocol):
    """Makes films. Its methods may be called from any thread; jobs of several threads take turns, chunk by chunk."""

    def run(self, job: Job, on_step: Callable[[StepInfo], None] | None = None) -> Iterator[Chunk]:
        """Make the chunks of a job, one by one; each has the state of the film after it.

        on_step: called after every pass; an exception raised in it stops the job and loses the chunk that is being made, no other.

        Raises InputError where something does not fit, FilmStoppedError where the film cannot go on.
        """

    def holds(self, memory_id: str) -> bool:
        """Whether a `RemoteMemory` of this id lies here: a film that goes on from it is not written anew."""

    def close(self) -> None:
        """Let go of everything that is held for films; what lay here is written anew where a film goes on."""


def lies_with(executor: Executor, state: State) -> bool:
    """Whether what a state remembers lies with an executor, elsewhere than in this process."""
    return isinstance(state.memory, RemoteMemory) and executor.holds(state.memory.id)
