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
from ..memory import KVMemory, MemorySettings, RolloutView
from ..model.rope import Rope
from ..model.transformer import TextKV, forward, project_text
from ..story import PlannedChunk
from ..vae import denormalize, normalize
from .recipe import Recipe
from .schedule import add_noise, chunk_generator, predict_clean, sampling_levels
from .state import ChunkRecord, State, open_store

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


@dataclass(frozen=True)
class Network:
    """A causal network ready to run: a module tree with Wan's names, and where and how it computes."""

    net: Any
    layers: int
    heads: int
    head_dim: int
    channels: int
    device: torch.device
    dtype: torch.dtype
    patch: tuple[int, int] = (2, 2)
    fingerprint: str = ""


def begin(
    network: Network, recipe: Recipe, settings: MemorySettings, *, size: tuple[int, int], seed: int, batch: int = 1
) -> State:
    """The state before the first chunk. size: latent height and width. batch: films made side by side."""
    grid = _grid(network, size)
    branches = batch * (1 if recipe.guidance == 1 else 2)
    shape = (grid[0] * grid[1], network.heads, network.head_dim)
    settings = settings.resolve(recipe.window, recipe.top_k)
    store = open_store(recipe, settings, network.layers, branches, shape, network.dtype, network.device)
    return State(KVMemory(store), recipe, settings, seed, model=network.fingerprint)


def rollout(
    network: Network,
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
        text_of: text `[B, T, text_dim]` of a shot, asked once when the shot begins.
        state: where to start; never changed.
        size: latent height and width.
        negative: text of the unguided branch, needed when the recipe guides.
        shot_seeds: seeds of shots that have their own.
        on_step: called after every pass; an exception raised in it stops the rollout and loses this chunk only.
    """
    rope = Rope(network.head_dim, _grid(network, size), network.device)
    if chunks:
        state.memory.store.reserve(chunks[-1].latents[1])
    texts = _Texts(network, state.recipe, text_of, negative)
    for i, chunk in enumerate(chunks):
        if chunk.index != state.chunks:
            raise InputError(f"chunk {chunk.index} cannot follow a state of {state.chunks} chunks")
        text = texts.of(chunk)
        if chunk.rewrite:
            state = replace(state, memory=_rewritten(network, chunk, text, state, rope))
        seed = (shot_seeds or {}).get(chunk.shot, state.seed)
        began = time.perf_counter()
        latent, memory, routing = _make_chunk(network, chunk, text, state, rope, size, seed, on_step)
        record = ChunkRecord(chunk, time.perf_counter() - began, routing)
        state = replace(state.extended(memory, latent, record), planned=tuple(chunks[i + 1 :]))
        yield Chunk(chunk.index, chunk.shot, latent, routing, state, record.seconds)


class _Texts:
    """Cross-attention keys and values of the text in force, made anew only where it changes."""

    def __init__(self, network: Network, recipe: Recipe, text_of: Callable[[int], Tensor], negative: Tensor | None):
        if recipe.guidance != 1 and negative is None:
            raise InputError(f"guidance is {recipe.guidance:g}: a guided rollout needs the text of the negative prompt")
        self.network, self.text_of = network, text_of
        self.negative = negative if recipe.guidance != 1 else None
        self._mixture: tuple[tuple[int, float], ...] = ()
        self._shots: dict[int, Tensor] = {}
        self._layers: TextLayers = ()

    @torch.no_grad()
    def of(self, chunk: PlannedChunk) -> TextLayers:
        mixture = chunk.text or ((chunk.shot, 1.0),)
        if mixture != self._mixture:
            self._shots = {
                shot: self._shots[shot] if shot in self._shots else self.text_of(shot) for shot, _ in mixture
            }
            parts = [self._shots[shot] * weight if weight != 1 else self._shots[shot] for shot, weight in mixture]
            text = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
            if self.negative is not None:
                text = torch.cat([text, self.negative.expand_as(text)])
            self._layers = project_text(self.network.net, text.to(self.network.device, self.network.dtype))
            self._mixture = mixture
        return self._layers


@torch.no_grad()
def _make_chunk(
    network: Network,
    chunk: PlannedChunk,
    text_layers: TextLayers,
    state: State,
    rope: Rope,
    size: tuple[int, int],
    seed: int,
    on_step: Callable[[StepInfo], None] | None,
) -> tuple[Tensor, KVMemory, Tensor]:
    recipe, device = state.recipe, network.device
    frames = chunk.latents[1] - chunk.latents[0]
    branches = state.memory.store.batch
    batch = branches if recipe.guidance == 1 else branches // 2
    view = RolloutView(state.memory, state.settings, rope, frames, **_sight_of(chunk, recipe))
    text = _text_of_frames(text_layers, branches, frames, device)
    generator = chunk_generator(seed, chunk.index)

    def noise() -> Tensor:
        return torch.randn(batch, network.channels, frames, *size, generator=generator).to(device)

    def velocity(x: Tensor, level: float) -> Tensor:
        timesteps = torch.full((branches, frames), 1000 * level, device=device)
        out = forward(network.net, x.to(network.dtype).repeat(branches // batch, 1, 1, 1, 1), timesteps, text, view)
        if recipe.guidance == 1:
            return out
        guided, unguided = out.chunk(2)
        return unguided + recipe.guidance * (guided - unguided)

    x = noise()
    levels = sampling_levels(recipe, first=chunk.index == 0).tolist()
    for step, (level, following) in enumerate(zip(levels, levels[1:], strict=False)):
        v = velocity(x, level)
        clean = predict_clean(x, v, level)
        if following == 0:
            x = clean
        elif recipe.sampler == "euler":
            x = x + (following - level) * v
        else:
            x = add_noise(clean, noise(), following)
        if on_step is not None:
            on_step(StepInfo(chunk, step + 1, len(levels) - 1, clean))

    context = add_noise(x, noise(), recipe.context_noise) if recipe.context_noise else x
    velocity(context, recipe.context_noise)  # the pass that writes this chunk's keys and values
    return denormalize(x).float().cpu(), view.commit(), view.routing()[:, 0]


@torch.no_grad()
def _rewritten(network: Network, chunk: PlannedChunk, text_layers: TextLayers, state: State, rope: Rope) -> KVMemory:
    """The memory with the window before `chunk` written once more, under the text that is now in force."""
    first = max(0, state.chunks - (state.settings.window or 0))
    memory, recipe = state.memory.without(state.chunks - first), state.recipe
    branches = memory.store.batch
    for record, latent in zip(state.records[first:], state.latents[first:], strict=True):
        frames = latent.shape[2]
        view = RolloutView(memory, state.settings, rope, frames, **_sight_of(record.plan, recipe))
        x = normalize(latent)
        if recipe.context_noise:
            noise = torch.randn(x.shape, generator=chunk_generator(state.seed, record.plan.index))
            x = add_noise(x, noise, recipe.context_noise)
        x = x.to(network.device, network.dtype)
        timesteps = torch.full((branches, frames), 1000 * recipe.context_noise, device=network.device)
        text = _text_of_frames(text_layers, branches, frames, network.device)
        forward(network.net, x.repeat(branches // x.shape[0], 1, 1, 1, 1), timesteps, text, view)
        memory = view.commit()
    return memory


def _sight_of(chunk: PlannedChunk, recipe: Recipe) -> dict[str, Any]:
    cut = Cut.parse(chunk.cut, keep=recipe.cut_keep, jump=recipe.cut_jump)
    return {"shot_start": chunk.take, "cut": cut, "sink": recipe.sink}


def _text_of_frames(layers: TextLayers, branches: int, frames: int, device: torch.device) -> TextKV:
    return TextKV(layers, torch.arange(branches, device=device)[:, None].expand(-1, frames), frames)


def _grid(network: Network, size: tuple[int, int]) -> tuple[int, int]:
    return size[0] // network.patch[0], size[1] // network.patch[1]
