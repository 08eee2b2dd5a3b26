"""The rollout: a generator that denoises one chunk after another and remembers each (method.md, 5)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..cut import Cut
from ..errors import InputError
from ..memory import FoldedView, KVMemory, MemorySettings, ResolvedMemory, RolloutView
from ..model.rope import Rope
from ..model.transformer import TextKV, View, project_text
from ..plan import PlannedChunk
from ..runner import Runner
from ..vae import denormalize, normalize
from .recipe import Recipe
from .schedule import add_noise, chunk_generator, predict_clean, sampling_levels
from .solvers import SOLVERS
from .state import ChunkRecord, Pending, State, most_held, open_store

TextLayers = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class StepInfo:
    """Progress inside a chunk: pass `step` of `steps` is done. clean: the prediction of the chunk, model space."""

    chunk: PlannedChunk
    step: int
    steps: int
    clean: Tensor


@dataclass(frozen=True)
class Chunk:
    """One finished chunk. latent: VAE space `[B, C, c, h, w]`. routing: int64 `[layers, k]`, -1 for none. frames: uint8
    `[F, H, W, 3]` where a decoder runs, else None."""

    index: int
    shot: int
    latent: Tensor
    routing: Tensor
    state: State
    seconds: float
    frames: Any = None


def begin(
    network: Runner, recipe: Recipe, settings: MemorySettings, *, size: tuple[int, int], seed: int, batch: int = 1
) -> State:
    """The state before the first chunk. size: latent height and width. batch: films made side by side."""
    resolved = recipe.memory(settings)
    memory = None if network.crew else _blank(network, recipe, resolved, size, batch)
    return State(memory, recipe, resolved, seed, model=network.fingerprint)


def _blank(network: Runner, recipe: Recipe, settings: ResolvedMemory, size: tuple[int, int], batch: int) -> KVMemory:
    """A memory of nothing yet."""
    grid = _grid(network, size)
    branches = batch * recipe.branches
    shape = (grid[0] * grid[1], network.own_heads, network.head_dim)
    return KVMemory(open_store(recipe, settings, network.layers, branches, shape, network.dtype, network.device))


def memory_for(network: Runner, state: State, size: tuple[int, int]) -> KVMemory:
    """What a film remembers where it goes on here: of nothing yet, to be written anew, where its memory was left out or lies on
    other workers. size: latent height and width."""
    memory = state.memory
    if memory is not None and memory.store.frame_shape[1] == network.own_heads:
        return memory
    films = state.latents[0].shape[0] if state.latents else 1
    return _blank(network, state.recipe, state.settings, size, films)


def rollout(
    network: Runner,
    chunks: Sequence[PlannedChunk],
    text_of: Callable[[int], Tensor],
    state: State,
    *,
    size: tuple[int, int],
    negative: Tensor | None = None,
    shot_seeds: dict[int, int] | None = None,
    on_step: Callable[[StepInfo], None] | None = None,
) -> Iterator[Chunk]:
    """Make chunks one by one, each conditioned on its shot's text and on what `state` remembers.

    Args:
        chunks: what to make, following on the chunks that `state` already has.
        text_of: text `[B, T, text_dim]` of a shot, asked once when the shot begins; where something of an earlier shot is still
            to be written into memory, of that shot too.
        state: where to start; never changed. Where its memory was left out, or lies on other workers, it is written anew.
        size: latent height and width.
        negative: text of the unguided branch, needed when the recipe guides.
        shot_seeds: seeds of shots that have their own.
        on_step: called after every pass; an exception raised in it stops the rollout and loses this chunk only.
    """
    if network.crew is not None:
        given: dict[str, Any] = {"size": size, "negative": negative, "shot_seeds": shot_seeds, "on_step": on_step}
        yield from network.crew.rollout(chunks, text_of, state, **given)
        return
    rope = Rope(network.head_dim, _grid(network, size), network.device)
    texts = _Texts(network, state.recipe, text_of, negative)
    scene = _Scene(network, rope, size, shot_seeds or {})
    memory = memory_for(network, state, size)
    if chunks:
        memory.store.reserve(most_held(state.recipe, state.settings, chunks))
    for i, chunk in enumerate(chunks):
        if chunk.index != state.chunks:
            raise InputError(f"chunk {chunk.index} cannot follow a state of {state.chunks} chunks")
        began = time.perf_counter()
        together = chunks[i : i + (state.recipe.schedule.steps if state.recipe.rolling else 1)]
        memory = _caught_up(scene, together, texts, state, memory)
        make = _make_jointly if state.recipe.rolling else _make_chunk
        latent, memory, routing, pending = make(scene, together, texts, state, memory, on_step)
        record = ChunkRecord(chunk, time.perf_counter() - began, routing)
        state = state.extended(memory, latent, record)
        state = replace(state, planned=tuple(chunks[i + 1 :]), pending=pending)
        yield Chunk(chunk.index, chunk.shot, latent, routing, state, record.seconds)


class _Texts:
    """Cross-attention keys and values of the texts in force, made anew only where they change."""

    def __init__(self, network: Runner, recipe: Recipe, text_of: Callable[[int], Tensor], negative: Tensor | None):
        if recipe.guidance.on and negative is None:
            raise InputError(
                f"guidance is {recipe.guidance.scale:g}: a guided rollout needs the text of the negative prompt"
            )
        self.network, self.text_of = network, text_of
        self.negative = negative if recipe.guidance.on else None
        self._shots: dict[int, Tensor] = {}
        self._layers: dict[tuple[tuple[int, float], ...], TextLayers] = {}

    def hold(self, chunks: Sequence[PlannedChunk]) -> None:
        """Forget all but the texts of these chunks."""
        mixtures = {chunk.mixture for chunk in chunks}
        shots = {shot for mixture in mixtures for shot, _ in mixture}
        self._shots = {shot: text for shot, text in self._shots.items() if shot in shots}
        self._layers = {mixture: layers for mixture, layers in self._layers.items() if mixture in mixtures}

    @torch.no_grad()
    def of(self, chunk: PlannedChunk) -> TextLayers:
        """Of a chunk; those of chunks that share their text are one."""
        mixture = chunk.mixture
        if mixture not in self._layers:
            missing = [shot for shot, _ in mixture if shot not in self._shots]
            self._shots |= {shot: self.text_of(shot) for shot in missing}
            self._layers[mixture] = self._project(mixture)
        return self._layers[mixture]

    def _project(self, mixture: Sequence[tuple[int, float]]) -> TextLayers:
        parts = [self._shots[shot] * weight if weight != 1 else self._shots[shot] for shot, weight in mixture]
        text = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        if self.negative is not None:
            text = torch.cat([text, self.negative.expand_as(text)])
        return project_text(self.network.net, text.to(self.network.device, self.network.dtype))


def _joined(texts: Sequence[TextLayers], frames: int) -> TextKV:
    """The texts of chunks that are made at once, each `frames` long."""
    own = list({id(text): text for text in texts}.values())
    if len(own) == 1:
        return TextKV(own[0])
    layers = tuple((torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in zip(*own, strict=True))
    branches, device = own[0][0][0].shape[0], own[0][0][0].device
    first = [branches * next(i for i, one in enumerate(own) if one is text) for text in texts]
    return TextKV(layers, _spread(first, frames, device) + torch.arange(branches, device=device)[:, None], frames)


def _spread(values: Sequence[float], times: int, device: torch.device) -> Tensor:
    """Each value as many times as said, `[1, n]`, made on the device: a copy from the host would wait for it."""
    return torch.cat([torch.full((1, times), value, device=device) for value in values], 1)


@dataclass
class _Scene:
    """What all chunks of a rollout share. size: latent height and width. seeds: of shots that have their own. last: what the
    newest chunk saw, with all that it gathered, until that chunk is written."""

    network: Runner
    rope: Rope
    size: tuple[int, int]
    seeds: dict[int, int]
    last: RolloutView | None = None

    def view(self, memory: KVMemory, state: State, chunk: PlannedChunk, chunks: int = 1) -> RolloutView:
        """What `chunk` sees, and with it those after it, where several `chunks` are made at once."""
        sharding, recipe = self.network.sharding, state.recipe
        return RolloutView(
            memory,
            state.settings,
            self.rope,
            chunks * chunk.length,
            shot_start=chunk.take,
            cut=Cut.parse(chunk.cut, keep=recipe.cut.keep, jump=recipe.cut.jump),
            sink=recipe.visibility.sink,
            angles=_angles(memory, state, chunk) if recipe.visibility.shot_angle else None,
            total=sharding.total if sharding else None,
        )

    def seen(self, memory: KVMemory, state: State, chunk: PlannedChunk) -> RolloutView:
        """What a chunk saw that was made and not written: `last`, where that is it."""
        last, self.last = self.last, None
        if last is not None and last.memory is memory and last.frames == chunk.length:
            return last
        return self.view(memory, state, chunk)

    def velocity(self, x: Tensor, levels: Sequence[float], text: TextKV, view: View, branches: int) -> Tensor:
        """A pass of all branches over `x [B, C, F, h, w]`, the same for each of them: `[branches, C, F, h, w]`. levels: of chunks
        in one pass, of which x has as many."""
        each = x.shape[2] // len(levels) if len(levels) > 1 else 1
        timesteps = _spread([1000 * level for level in levels], each, x.device)
        wide = x.to(self.network.dtype).repeat(branches // x.shape[0], 1, 1, 1, 1)
        return self.network.velocity(wide, timesteps, text, view)

    def guided(self, x: Tensor, levels: Sequence[float], text: TextKV, recipe: Recipe, view: View) -> Tensor:
        """The same, its branches put together: `[B, C, F, h, w]`."""
        if not recipe.guidance.on:
            return self.velocity(x, levels, text, view, x.shape[0])
        out = self.velocity(x, levels, text, view, 2 * x.shape[0])
        guided, unguided = out.chunk(2)
        return unguided + recipe.guidance.scale * (guided - unguided)

    def noise(self, chunk: PlannedChunk, state: State, memory: KVMemory, use: str = "") -> Callable[[], Tensor]:
        """Fresh noise for a chunk of all films that are made side by side, `[B, C, c, h, w]`, call by call."""
        batch, device = memory.store.batch // state.recipe.branches, self.network.device
        shape = (batch, self.network.channels, chunk.length, *self.size)
        generator = chunk_generator(self.seed(chunk, state), chunk.index, use)
        pinned = device.type == "cuda"  # is copied while the host goes on
        return lambda: torch.randn(shape, generator=generator, pin_memory=pinned).to(device, non_blocking=True)

    def clean(self, index: int, state: State, memory: KVMemory) -> Tensor:
        """A chunk that was made, as the pass that writes it reads it: model space `[B, C, c, h, w]`."""
        clean, level = normalize(state.latents[index]).to(self.network.device), state.recipe.schedule.context_noise
        if not level:
            return clean
        return add_noise(clean, self.noise(state.records[index].plan, state, memory, "context")(), level)

    def write(
        self, index: int, text: TextLayers, state: State, view: RolloutView, recalled: Tensor | None = None
    ) -> KVMemory:
        """The memory with a chunk that was made: its keys and values are those of a pass over it. view: what it saw. recalled: as
        in `keep`."""
        kept, clean = view.keep(recalled), self.clean(index, state, view.memory)
        self.velocity(clean, [state.recipe.schedule.context_noise], TextKV(text), view, view.memory.store.batch)
        return kept

    def folds(self, chunk: PlannedChunk, state: State, memory: KVMemory) -> bool:
        """Whether the newest chunk is written in the first pass of `chunk`, which follows it: where that pays, and where nothing
        has to be written once more before."""
        rows = memory.store.batch * chunk.length * memory.store.frame_shape[0]
        apart = state.recipe.rolling or state.recipe.visibility.recompute or chunk.rewrite
        return rows <= self.network.compute.fold and chunk.length == state.records[-1].plan.length and not apart

    def seed(self, chunk: PlannedChunk, state: State) -> int:
        return self.seeds.get(chunk.shot, state.seed)


Made = tuple[Tensor, KVMemory, Tensor, tuple[Pending, ...]]  # latent, memory before it, routing, and what is half made


@torch.no_grad()
def _caught_up(
    scene: _Scene, chunks: Sequence[PlannedChunk], texts: _Texts, state: State, memory: KVMemory
) -> KVMemory:
    """The memory with all in it that was made before `chunks`; but for the newest chunk, where it is written in the first pass of
    the next one."""
    plans = [record.plan for record in state.records]
    for i in range(len(memory.lengths), len(plans)):
        following = plans[i + 1 : i + 2] or chunks
        texts.hold([plans[i], *following])
        if following is chunks and scene.folds(chunks[0], state, memory):
            break
        memory = _followed(scene, following[0], texts, state, memory)
    texts.hold([*plans[-1:], *chunks])
    return memory


def _followed(scene: _Scene, following: PlannedChunk, texts: _Texts, state: State, memory: KVMemory) -> KVMemory:
    """The memory with one more chunk of the film, as `following`, the one after that, is to see it: where that or the recipe asks
    for it, its window is written once more, under the text that is then in force."""
    recipe, settings, end = state.recipe, state.settings, len(memory.lengths) + 1
    again = min(end, settings.window) if following.rewrite or recipe.visibility.recompute else 0
    newest = state.records[end - 1]
    if not again:
        view = scene.seen(memory, state, newest.plan)
        return scene.write(end - 1, texts.of(newest.plan), state, view, newest.routing)
    memory, scene.last = memory.without(again - 1), None
    for i, n in enumerate(range(end - again, end)):
        if recipe.visibility.recompute:  # it sees the window alone
            state = replace(state, recipe=recipe.changed(sink=0), settings=replace(settings, window=i, top_k=0))
        recalled = newest.routing if n == end - 1 else None  # that of the others counts already
        view = scene.view(memory, state, state.records[n].plan)
        memory = scene.write(n, texts.of(following), state, view, recalled)
    return memory


@torch.no_grad()
def _make_chunk(
    scene: _Scene,
    chunks: Sequence[PlannedChunk],
    texts: _Texts,
    state: State,
    memory: KVMemory,
    on_step: Callable[[StepInfo], None] | None,
) -> Made:
    """The one chunk that is given. Where the newest one is not in memory yet, the first pass writes it."""
    (chunk,), recipe, text = chunks, state.recipe, texts.of(chunks[0])
    newest = None
    if len(memory.lengths) < state.chunks:
        newest = scene.seen(memory, state, state.records[-1].plan)
        memory = newest.keep(state.records[-1].routing)
    view, noise = scene.view(memory, state, chunk), scene.noise(chunk, state, memory)
    x, solver = noise(), SOLVERS[recipe.schedule.sampler]()
    levels = sampling_levels(recipe, first=chunk.index == 0).tolist()
    for step, (level, following) in enumerate(zip(levels, levels[1:], strict=False)):
        if step or newest is None:
            velocity = scene.guided(x, [level], TextKV(text), recipe, view)
        else:
            both = torch.cat([scene.clean(-1, state, memory), x], 2)
            two = _joined([texts.of(state.records[-1].plan), text], newest.frames)
            velocity = scene.guided(both, [recipe.schedule.context_noise, level], two, recipe, FoldedView(newest, view))
            velocity, newest = velocity[:, :, newest.frames :], None
        clean = predict_clean(x, velocity, level)
        x = clean if following == 0 else solver.step(x, clean, level, following, noise)
        if on_step is not None:
            on_step(StepInfo(chunk, step + 1, len(levels) - 1, clean))
    scene.last = view
    return denormalize(x).float().cpu(), memory, view.routing()[:, 0], ()


@torch.no_grad()
def _make_jointly(
    scene: _Scene,
    chunks: Sequence[PlannedChunk],
    texts: _Texts,
    state: State,
    memory: KVMemory,
    on_step: Callable[[StepInfo], None] | None,
) -> Made:
    """The first of these chunks, together with those after it: each is a pass behind the one before, and one more joins in
    every pass (Rolling Forcing, arXiv:2509.25161)."""
    recipe, levels = state.recipe, sampling_levels(state.recipe).tolist()
    device = scene.network.device
    under_way = [replace(part, x=part.x.to(device)) for part in state.pending[: len(chunks)]]
    done = under_way[0].passes if under_way else 0
    for step in range(done, recipe.schedule.steps):
        if len(under_way) < len(chunks):
            under_way.append(Pending(scene.noise(chunks[len(under_way)], state, memory)(), 0))
        view = scene.view(memory, state, chunks[0], len(under_way))
        level = [levels[part.passes] for part in under_way]
        x = torch.cat([part.x for part in under_way], 2)
        text = _joined([texts.of(chunk) for chunk in chunks[: len(under_way)]], recipe.timeline.chunk)
        velocity = scene.guided(x, level, text, recipe, view)
        clean = predict_clean(x, velocity, _spread(level, recipe.timeline.chunk, device)[0, :, None, None])
        under_way = [
            Pending(_renoised(scene, chunk, state, memory, one, part.passes + 1, levels), part.passes + 1)
            for chunk, part, one in zip(chunks, under_way, clean.split(recipe.timeline.chunk, 2), strict=False)
        ]
        if on_step is not None:
            on_step(
                StepInfo(chunks[0], step - done + 1, recipe.schedule.steps - done, clean[:, :, : recipe.timeline.chunk])
            )
    return (
        denormalize(under_way[0].x).float().cpu(),
        memory,
        view.routing()[:, 0],
        tuple(replace(part, x=part.x.cpu()) for part in under_way[1:]),
    )


def _renoised(
    scene: _Scene,
    chunk: PlannedChunk,
    state: State,
    memory: KVMemory,
    clean: Tensor,
    passes: int,
    levels: Sequence[float],
) -> Tensor:
    """A chunk as its next pass is to see it. Its noise is a function of the pass, so that a film goes on from a file alike."""
    if passes == len(levels) - 1:
        return clean
    return add_noise(clean, scene.noise(chunk, state, memory, f"pass {passes}")(), levels[passes])


def _angles(memory: KVMemory, state: State, chunk: PlannedChunk) -> Tensor:
    """Radians `[frames]` by which shots are turned against that of `chunk`."""
    shots = [record.plan.shot for record, n in zip(state.records, memory.lengths, strict=False) for _ in range(n)]
    return state.recipe.visibility.shot_angle * (torch.tensor(shots, dtype=torch.float64) - chunk.shot)


def _grid(network: Runner, size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // network.patch[0], size[1] // network.patch[1]
