"""The passes of one film over one network: what a chunk sees, which noise it begins from, and how it is written into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cut import Cut
from ..memory import FrameStore, KVMemory, ResolvedMemory, RolloutView, WritingView
from ..model.rope import Rope
from ..model.transformer import TextKV, TextLayers
from ..plan import PlannedChunk
from ..runner import Runner
from .denoise import branch_velocity
from .recipe import Recipe
from .schedule import add_noise, chunk_generator


@dataclass(frozen=True)
class Passes:
    """size: latent height and width. films: made side by side. recipe, settings: in force for the chunks that are made. references:
    pictures of the cast."""

    runner: Runner
    recipe: Recipe
    settings: ResolvedMemory
    size: tuple[int, int]
    rope: Rope
    films: int = 1
    references: int = 0

    @classmethod
    def of(
        cls,
        runner: Runner,
        recipe: Recipe,
        settings: ResolvedMemory,
        size: tuple[int, int],
        films: int = 1,
        references: int = 0,
    ) -> Passes:
        rope = Rope(runner.head_dim, runner.grid(size), runner.device)
        return cls(runner, recipe, settings, size, rope, films, references)

    def blank(self) -> KVMemory:
        """A memory of nothing yet, in a store of its own. Raises InputError for a budget that is too small."""
        runner = self.runner
        layers, branches, *frame = self.shape
        where = runner.dtype, runner.device, self.references
        return KVMemory.empty(open_store(self.recipe, self.settings, layers, branches, frame, *where))

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Of what is remembered of a latent frame: layers, branches of all films, tokens, heads, channels of a head."""
        rows, columns = self.runner.grid(self.size)
        branches = self.films * self.recipe.branches
        return self.runner.layers, branches, rows * columns, self.runner.own_heads, self.runner.head_dim

    def view(self, memory: KVMemory, chunk: PlannedChunk, shots: Sequence[int], chunks: int = 1) -> RolloutView:
        """What `chunk` sees, and with it those after it, where several `chunks` are made at once. shots: of each chunk that was made
        before."""
        recipe, sharding = self.recipe, self.runner.sharding
        cut = recipe.cut
        return RolloutView(
            memory,
            self.settings,
            self.rope,
            chunks * chunk.length,
            shot_start=memory.references + chunk.take,
            cut=Cut.parse(chunk.cut, keep=cut.keep, jump=cut.jump),
            sink=recipe.visibility.sink,
            references=memory.references,
            angles=self._angles(memory, chunk, shots),
            total=sharding.total if sharding else None,
        )

    def view_of_reference(self, memory: KVMemory) -> RolloutView:
        """What a picture of the cast sees that is to follow on those which a memory has: itself. The view is over these alone."""
        head, sharding = memory.head, self.runner.sharding
        total = sharding.total if sharding else None
        return RolloutView(head, self.settings, self.rope, 1, references=head.references + 1, total=total)

    def _angles(self, memory: KVMemory, chunk: PlannedChunk, shots: Sequence[int]) -> Tensor | None:
        """Radians `[frames]` by which shots are turned against that of `chunk`; pictures of the cast, which are of none, are not."""
        angle = self.recipe.visibility.shot_angle
        if not angle:
            return None
        shots = [chunk.shot] * memory.references + list(shots)
        of_frames = [shot for shot, length in zip(shots, memory.lengths, strict=False) for _ in range(length)]
        return angle * (torch.tensor(of_frames, dtype=torch.float64) - chunk.shot)

    def noise(self, seed: int, chunk: PlannedChunk, use: str = "") -> Callable[[], Tensor]:
        """Fresh noise for a chunk of all films, `[B, C, c, h, w]`, call by call. It depends on these three alone."""
        device = self.runner.device
        shape = (self.films, self.runner.channels, chunk.length, *self.size)
        generator = chunk_generator(seed, chunk.index, use)
        pinned = device.type == "cuda"  # is copied while the host goes on
        return lambda: torch.randn(shape, generator=generator, pin_memory=pinned).to(device, non_blocking=True)

    def context(self, clean: Tensor, seed: int, chunk: PlannedChunk) -> Tensor:
        """Latents of a chunk `[B, C, c, h, w]` as the pass that writes it reads them: under the recipe's context noise."""
        level = self.recipe.schedule.context_noise
        return add_noise(clean, self.noise(seed, chunk, "context")(), level) if level else clean

    @torch.no_grad()
    def write(self, context: Tensor, text: TextLayers, view: RolloutView, recalled: Tensor | None = None) -> KVMemory:
        """The memory with one more chunk: its keys and values are those of a pass over it. History is a value, without gradient.

        context: as `context` gives it. view: what the chunk saw. recalled: as in `WritingView`.
        """
        writing = WritingView(view, recalled)
        level = self.recipe.schedule.context_noise
        branch_velocity(self.runner, context.detach(), [level], TextKV(text), writing, view.memory.store.batch)
        return writing.after


def open_store(
    recipe: Recipe,
    settings: ResolvedMemory,
    layers: int,
    branches: int,
    frame_shape: Sequence[int],
    dtype: torch.dtype,
    device: torch.device,
    references: int = 0,
) -> FrameStore:
    """The store of a film: its budget is shared out by what this recipe always has in view. references: pictures of the cast, which
    are never forgotten either."""
    near, chunk = references + most_near(recipe, settings), recipe.timeline.chunk
    return FrameStore(layers, branches, frame_shape, dtype, device, settings=settings, near=near, chunk=chunk)


def limited(memory: KVMemory, recipe: Recipe, settings: ResolvedMemory, references: int = 0) -> KVMemory:
    """A memory under other settings: what its store's budget pays for is shared out as if they were new. references: pictures of the
    film's cast. Raises InputError where it is too little for them."""
    near = references + most_near(recipe, settings)
    limit = memory.store.limit_under(settings, near, recipe.timeline.chunk)
    return replace(memory, limit=limit)


def most_near(recipe: Recipe, settings: ResolvedMemory) -> int:
    """Most latent frames that a chunk always sees: sink, a pinned chunk, the window, and its own."""
    return recipe.visibility.sink + (settings.window + 2) * recipe.timeline.chunk


def most_held(recipe: Recipe, settings: ResolvedMemory, chunks: Sequence[PlannedChunk], references: int = 0) -> int:
    """Slots that a film takes whose next chunks these are: its latent frames, those that are written once more, and the pictures of
    its cast."""
    again = recipe.visibility.recompute or any(chunk.rewrite for chunk in chunks)
    return references + chunks[-1].latents[1] + (settings.written_again(recipe.timeline.chunk) if again else 0)
