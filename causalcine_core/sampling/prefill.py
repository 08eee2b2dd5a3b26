"""Prefill: what was made is written into memory, a pass for each chunk, when the next one begins (paper, Sec. 3.3 and 3.4).

So a memory lacks its film's newest chunk. A film whose memory was left out of a file, or lies elsewhere, is written anew by the
same steps, and so is a window that is to be remembered under other words. Pictures of a cast stand at the head of memory: each is
written once, under its own caption and seeing itself alone, before the first chunk that may recall it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..memory import FusedView, KVMemory, RolloutView, WritingView
from ..model.transformer import TextLayers, View
from ..plan import PlannedChunk
from ..vae import normalize
from .denoise import Velocity, guided_velocity
from .passes import Passes
from .state import State
from .texts import Texts, joined


@dataclass(frozen=True)
class FusedWrite:
    """The newest chunk, where the first pass of the next one is to write it: what it is, which text it reads and where it goes."""

    passes: Passes
    context: Tensor
    text: TextLayers
    writing: WritingView

    def velocity(self, text: TextLayers, view: View) -> Velocity:
        """Of the chunk that follows, in a pass that writes this one too. view: over the memory with this chunk in it."""
        n, recipe = self.writing.frames, self.passes.recipe
        two = joined([self.text, text], n)

        def both(x: Tensor, level: float) -> Tensor:
            levels = [recipe.schedule.context_noise, level]
            x = torch.cat([self.context, x], 2)
            views = FusedView(self.writing, view)
            return guided_velocity(self.passes.runner, x, levels, two, views, recipe.guidance.scale)[:, :, n:]

        return both


@dataclass(frozen=True)
class Filled:
    """A memory of all that was made. fused: of the newest chunk, where that is yet to be written by the next pass."""

    memory: KVMemory
    fused: FusedWrite | None = None


class Prefill:
    """Of one rollout. It keeps what the newest chunk saw, with all that was gathered for it, until that chunk is written.

    Whatever is written is written by the network of the chunk that comes next, so that one film and a chain of calls, each with
    LoRAs of its own, remember the same.
    """

    def __init__(self, passes_of: Callable[[PlannedChunk], Passes], texts: Texts):
        """passes_of: over the network of a chunk's shot, asked just before it computes."""
        self._passes_of, self._texts = passes_of, texts
        self._last: RolloutView | None = None

    def made(self, view: RolloutView) -> None:
        """A chunk was made, seeing this."""
        self._last = view

    @torch.no_grad()
    def before(self, chunks: Sequence[PlannedChunk], state: State, memory: KVMemory) -> Filled:
        """The memory with all in it that was made before `chunks`, the first of which is made next."""
        memory = self._with_cast(state, memory)
        plans, fused = [record.plan for record in state.records], None
        for i in range(memory.chunks, len(plans)):
            following = plans[i + 1 : i + 2] or chunks
            self._texts.hold([plans[i], *following])
            passes = self._passes_of(following[0])
            if following is chunks and self._fuses(passes, chunks[0], state, memory):
                fused = self._fused(passes, state, memory)
                memory = fused.writing.after
            else:
                memory = self._followed(passes, following[0], state, memory)
        self._texts.hold([*plans[-1:], *chunks])
        return Filled(memory, fused)

    def _with_cast(self, state: State, memory: KVMemory) -> KVMemory:
        """The memory with all pictures of the film's cast at its head."""
        for i, reference in enumerate(state.references[memory.references :], memory.references):
            chunk = reference.planned(i)
            self._texts.hold([chunk])
            passes = self._passes_of(chunk)
            clean = normalize(reference.latent).to(passes.runner.device)
            clean = clean.expand(passes.films, -1, -1, -1, -1)
            view = passes.view_of_reference(memory)
            head = passes.write(passes.context(clean, 0, chunk), self._texts.of(chunk, passes.runner), view)
            memory = memory.behind(head)
        return memory

    def _fuses(self, passes: Passes, chunk: PlannedChunk, state: State, memory: KVMemory) -> bool:
        """Whether the newest chunk is written in the first pass of `chunk`, which follows it: where one pass of both takes less time
        than two, and where nothing has to be written once more before."""
        recipe, store = passes.recipe, memory.store
        rows = store.batch * chunk.length * store.frame_shape[0]
        apart = recipe.rolling or recipe.visibility.recompute or chunk.rewrite
        alike = chunk.length == state.records[-1].plan.length
        return rows <= passes.runner.compute.fused_rows and alike and not apart

    def _fused(self, passes: Passes, state: State, memory: KVMemory) -> FusedWrite:
        newest = state.records[-1]
        writing = WritingView(self._seen(passes, state, memory, newest.plan), newest.recalled)
        context = self._context(passes, state.chunks - 1, state)
        return FusedWrite(passes, context, self._texts.of(newest.plan, passes.runner), writing)

    def _followed(self, passes: Passes, following: PlannedChunk, state: State, memory: KVMemory) -> KVMemory:
        """The memory with one more chunk of the film, as `following`, the one after that, is to see it: where that or the recipe asks
        for it, its window is written once more, under the text that is then in force."""
        end = memory.chunks + 1
        recipe, settings = passes.recipe, passes.settings
        anew = recipe.visibility.recompute
        again = min(end, settings.window) if following.rewrite or anew else 0
        newest = state.records[end - 1]
        if not again:
            view, context = self._seen(passes, state, memory, newest.plan), self._context(passes, end - 1, state)
            return passes.write(context, self._texts.of(newest.plan, passes.runner), view, newest.recalled)
        memory, self._last = memory.without(again - 1), None
        for i, n in enumerate(range(end - again, end)):
            if anew:  # it sees the window alone
                alone = replace(settings, window=i, top_k=0)
                passes = replace(passes, recipe=recipe.changed(sink=0), settings=alone)
            recalled = newest.recalled if n == end - 1 else None  # that of the others counts already
            view = passes.view(memory, state.records[n].plan, state.shot_numbers)
            text = self._texts.of(following, passes.runner)
            memory = passes.write(self._context(passes, n, state), text, view, recalled)
        return memory

    def _seen(self, passes: Passes, state: State, memory: KVMemory, chunk: PlannedChunk) -> RolloutView:
        """What a chunk saw that was made and not written."""
        last, self._last = self._last, None
        if last is not None and last.memory is memory and last.frames == chunk.length:
            return last
        return passes.view(memory, chunk, state.shot_numbers)

    def _context(self, passes: Passes, index: int, state: State) -> Tensor:
        record = state.records[index]
        clean = normalize(state.latents[index]).to(passes.runner.device)
        return passes.context(clean, record.seed, record.plan)
