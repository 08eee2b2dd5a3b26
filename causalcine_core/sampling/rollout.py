"""The rollout: a generator that makes one chunk after another and remembers each (paper, Sec. 3.3 and 3.4)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..memory import KVMemory, MemorySettings
from ..plan import PlannedChunk
from ..references import Reference, check_pictures
from ..runner import Runner
from ..vae import denormalize
from .chunk import Making, StepInfo, make_chunk
from .finite import FiniteCheck
from .passes import Passes, most_held
from .prefill import Prefill
from .recipe import Recipe
from .rolling import make_jointly
from .state import ChunkRecord, State
from .texts import Texts


@dataclass(frozen=True)
class Chunk:
    """One finished chunk. latent: VAE space `[B, C, c, h, w]`. routing: int64 `[layers, k]`, as `ChunkRecord.routing`. frames: uint8
    `[F, H, W, 3]` where a decoder runs, else None."""

    index: int
    shot: int
    latent: Tensor
    routing: Tensor
    state: State
    seconds: float
    frames: Any = None


def begin(
    runner: Runner,
    recipe: Recipe,
    settings: MemorySettings,
    *,
    size: tuple[int, int],
    seed: int,
    batch: int = 1,
    here: bool = True,
    references: Sequence[Reference] = (),
) -> State:
    """The state before the first chunk. Nothing is allocated yet.

    Args:
        runner: the network.
        recipe: how its checkpoint wants to be run.
        settings: what the film may see of its past; what is left open is as the recipe says.
        size: latent height and width.
        seed: 0 to 2^64 - 1.
        batch: films made side by side, that never touch one another.
        here: whether the film is made in this process; else those who make it check its budget, of their heads.
        references: pictures of its cast.

    Raises InputError where a budget is too small, or is to be shared by several films, and for a picture that does not fit.
    """
    check_pictures(references, runner.channels, size)
    resolved = settings.resolve(recipe.visibility.window, recipe.visibility.top_k)
    if batch > 1 and resolved.budget is not None:
        raise InputError(
            f"memory.budget is {resolved.budget:g} GiB for {batch} films side by side, which would forget each other's frames: make "
            "them one by one, or set no budget"
        )
    memory = Passes.of(runner, recipe, resolved, size, batch, len(references)).blank() if here else None
    return State(memory, recipe, resolved, seed, size, runner.fingerprint, recipe, references=tuple(references))


def passes_of(runner: Runner, state: State, size: tuple[int, int]) -> Passes:
    """How a film goes on on a network. size: latent height and width."""
    if state.local_memory is not None:
        films = state.local_memory.store.batch // state.recipe.branches
    else:
        films = state.latents[0].shape[0] if state.latents else 1
    return Passes.of(runner, state.recipe, state.settings, size, films, len(state.references))


def memory_for(passes: Passes, state: State) -> KVMemory:
    """What a film remembers where it goes on here: of nothing yet, to be written anew, where its memory was left out, lies on other
    workers, or is of other heads. Raises InputError where it cannot be of this network and size."""
    memory = state.local_memory
    for record in state.records:
        if record.recalled.shape[:2] != passes.shape[:2]:
            raise InputError(
                f"state: its chunks recalled frames in {list(record.recalled.shape[:2])} layers and branches where "
                f"{list(passes.shape[:2])} are needed: it is one of another network, or damaged"
            )
    if memory is None:
        return passes.blank()
    held = (memory.store.layers, memory.store.batch, *memory.store.frame_shape)
    differs = [name for name, a, b in zip(_SHAPE, held, passes.shape, strict=True) if a != b]
    if differs == ["heads"]:  # shared out among workers in another way
        return passes.blank()
    if differs:
        at = _SHAPE.index(differs[0])
        raise InputError(
            f"state: its memory has {held[at]} {differs[0]} where {passes.shape[at]} are needed: it is one of another network or "
            "size, or damaged"
        )
    return memory.to(passes.runner.device)


_SHAPE = ("layers", "branches", "tokens", "heads", "channels")


def rollout(
    runner: Runner,
    chunks: Sequence[PlannedChunk],
    text_of: Callable[[int], Tensor],
    state: State,
    *,
    size: tuple[int, int],
    negative: Tensor | None = None,
    shot_seeds: dict[int, int] | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
    find_layer: bool = False,
    runner_of: Callable[[int], Runner] | None = None,
) -> Iterator[Chunk]:
    """Make chunks one by one, each conditioned on its shot's text and on what `state` remembers.

    Args:
        runner: the network.
        chunks: what to make, following on the chunks that `state` already has.
        text_of: text `[B, T, text_dim]` of a shot, asked once when the shot begins; where something of an earlier shot, or of the
            cast, is still to be written into memory, of that too. A picture of the cast has a number of its own (`numbering`).
        state: where to start; never changed. Where its memory was left out, or lies on other workers, it is written anew.
        size: latent height and width.
        negative: text of the unguided branch, needed when the recipe guides.
        shot_seeds: seeds of shots that have their own.
        on_step: called after every pass; an exception raised in it stops the rollout and loses this chunk only.
        find_layer: wait for every layer, so that a NotFiniteError names the first that is at fault.
        runner_of: the network of a shot that has LoRAs, or of any shot, asked before each chunk and before what was made earlier is
            written; of the same shape as `runner`, which is the network of all shots where this is None.

    Raises InputError where something does not fit, NotFiniteError where a chunk holds what is no number. States of one film may
    go on in several threads at once: they take turns, chunk by chunk.
    """
    recipe = state.recipe
    if recipe.branches > 1 and negative is None:
        scale = recipe.guidance.scale
        raise InputError(f"guidance is {scale:g}: a guided rollout needs the text of the negative prompt")
    passes = passes_of(runner, state, size)
    texts = Texts(runner.text_len, text_of, negative if recipe.branches > 1 else None)

    def over(chunk: PlannedChunk) -> Passes:
        return passes if runner_of is None else replace(passes, runner=runner_of(chunk.shot))

    prefill, memory = Prefill(over, texts), memory_for(passes, state)
    store, make = memory.store, make_jointly if recipe.rolling else make_chunk
    if chunks:
        with store.lock:
            store.reserve(most_held(recipe, state.settings, chunks, len(state.references)), memory.lying)

    def seed(chunk: PlannedChunk) -> int:
        return (shot_seeds or {}).get(chunk.shot, film_seed)

    film_seed = state.seed
    for i, chunk in enumerate(chunks):
        if chunk.index != state.chunks:
            raise InputError(f"chunk {chunk.index} cannot follow a state of {state.chunks} chunks")
        began = time.perf_counter()
        together = chunks[i : i + (recipe.schedule.steps if recipe.rolling else 1)]
        check = FiniteCheck(chunk, find_layer)
        with store.lock:
            filled = prefill.before(together, state, memory)
            made = make(Making(over(chunk), texts, check, seed, on_step), together, state, filled)
            latent, recalled = denormalize(made.clean).float().cpu(), made.view.recalled()
        check.settle()
        prefill.made(made.view)
        memory = made.memory
        record = ChunkRecord(chunk, time.perf_counter() - began, recalled, seed(chunk))
        state = state.extended(memory, latent, record)
        state = replace(state, planned=tuple(chunks[i + 1 :]), pending=made.pending)
        del filled, made  # what they hold of the store is the film's, not this generator's, while it waits
        yield Chunk(chunk.index, chunk.shot, latent, record.routing, state, record.seconds)
