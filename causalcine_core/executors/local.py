"""Films made in this process: alone, or as one of the ranks that share its passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..runner import Runner
from ..sampling import Chunk, StepInfo, rollout
from .executor import Job


@dataclass(frozen=True)
class LocalExecutor:
    """An `Executor` over a network of this process. What films remember is in their states."""

    runner: Runner

    def run(self, job: Job, on_step: Callable[[StepInfo], None] | None = None) -> Iterator[Chunk]:
        return rollout(
            self.runner,
            job.state.planned,
            job.text_of,
            job.state,
            size=job.state.size,
            negative=job.negative,
            shot_seeds=job.shot_seeds,
            on_step=on_step,
            find_layer=job.find_layer,
            runner_of=job.runner_of,
        )

    def holds(self, memory_id: str) -> bool:
        return False

    def close(self) -> None:
        pass
