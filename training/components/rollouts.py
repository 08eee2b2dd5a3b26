"""Films that a student makes in training: with the memory, routing and cache of inference, piece by piece (CausalCine, arXiv,
May 2026, Sec. 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from causalcine_core.memory import KVMemory, MemorySettings
from causalcine_core.plan import PlannedChunk, Timeline
from causalcine_core.runner import Runner, describe_network
from causalcine_core.sampling import begin, rollout
from causalcine_core.sampling.passes import Passes
from causalcine_core.sampling.unroll import remembered, unroll
from causalcine_core.threads import Threads
from causalcine_core.vae import normalize

from ..model import Model
from .student import Student, Teacher


@dataclass(frozen=True)
class Living:
    """Films that go on in a later update. stories: numbers of the films whose texts they are told. seed: of their noise. chunks: that
    were made. latents: of the last of them, `[B, C, F, h, w]`. memory: of all of them."""

    stories: tuple[int, ...]
    seed: int
    chunks: int
    latents: Tensor
    memory: KVMemory

    def state_dict(self) -> dict[str, Any]:
        return {
            "stories": list(self.stories),
            "seed": self.seed,
            "chunks": self.chunks,
            "latents": self.latents,
            "memory": self.memory.tensors(),
        }


class Rollouts:
    """How a student makes films. chunk: latent frames of each. size: rows and columns of a latent frame."""

    def __init__(self, model: Model, student: Student, chunk: int, size: tuple[int, int]):
        self.model, self.chunk, self.size = model, chunk, size
        self.recipe = student.recipe(chunk=chunk, first_chunk=chunk)
        self.settings = student.memory()
        self._runner = runner_of(model)

    def _passes(self, films: int) -> Passes:
        return Passes.of(self._runner, self.recipe, self.settings, self.size, films)

    def make(
        self,
        prompts: Sequence[Sequence[str]],
        seed: int,
        *,
        start: int = 0,
        exit_step: int | None = None,
        memory: KVMemory | None = None,
        keep: bool = False,
    ) -> tuple[Tensor, KVMemory | None]:
        """Chunks of B films side by side: what they are, `[B, C, F, h, w]`, and what is remembered with the last of them, if it is to
        be kept.

        prompts: of each film, the text of each chunk that is made. start: chunks before them, which `memory` holds. exit_step: as in
        `unroll`; from the last one backwards if below 0.
        """
        passes = self._passes(len(prompts))
        said = [self.model.text.encode(texts) for texts in zip(*prompts, strict=True)]
        chunks = planned(start, len(said), self.chunk)

        def text_of(shot: int) -> Tensor:
            return said[shot - start]

        made = list(
            unroll(passes, chunks, text_of, seed=seed, exit_step=exit_step, memory=memory, shots=list(range(start)))
        )
        after = remembered(passes, made[-1], text_of, seed) if keep else None
        return torch.cat([one.clean for one in made], 2), after

    def revive(self, state: Mapping[str, Any]) -> Living:
        """Films that go on, out of their `state_dict`."""
        stories = tuple(state["stories"])
        memory = KVMemory.from_tensors(state["memory"], self._passes(len(stories)).blank().store)
        return Living(stories, state["seed"], state["chunks"], state["latents"].to(self._runner.device), memory)


class TeacherRollouts:
    """How a teacher makes films of its own: by many steps, guided."""

    def __init__(self, model: Model, teacher: Teacher, like: Rollouts, steps: int):
        """like: the student's, whose memory, schedule and size they share. steps: passes a chunk."""
        self.model, self.teacher, self.chunk, self.size = model, teacher, like.chunk, like.size
        self.settings = MemorySettings(routing=like.settings.routing)
        self.recipe = like.recipe.changed(
            steps=steps, levels=None, first_levels=None, sampler="unipc", guidance=teacher.guidance
        )
        self._runner = runner_of(model)

    @torch.no_grad()
    def make(self, prompts: Sequence[Sequence[str]], seed: int) -> Tensor:
        """B films side by side, `[B, C, F, h, w]`. prompts: of each, the text of each chunk."""
        said = [self.model.text.encode(texts) for texts in zip(*prompts, strict=True)]
        begun = begin(self._runner, self.recipe, self.settings, size=self.size, seed=seed, batch=len(prompts))
        made = rollout(
            self._runner,
            planned(0, len(said), self.chunk),
            said.__getitem__,
            begun,
            size=self.size,
            negative=self.model.text.encode([self.teacher.negative]),
        )
        return normalize(torch.cat([chunk.latent for chunk in made], 2)).to(self._runner.device)


def runner_of(model: Model) -> Runner:
    """A model's network as rollouts want it; made where its weights are not rounded."""
    return replace(
        describe_network(model.net, "in training"),
        dtype=model.dtype,
        compute=model.compute,
        threads=Threads(fixed=True),  # chosen by their time, a run that goes on might choose others
    )


def planned(start: int, count: int, chunk: int) -> list[PlannedChunk]:
    """`count` chunks from number `start` on, each a shot of its own: films made side by side are cut at different places."""
    line = Timeline(chunk, chunk)
    return [
        PlannedChunk(i, i, (line.latents(i), line.latents(i + 1)), (line.frames(i), line.frames(i + 1)))
        for i in range(start, start + count)
    ]
