"""What a film will need, from shapes alone: nothing is loaded and nothing is made."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from .memory import MemorySettings, ResolvedMemory
from .memory.attention_buffer import AttentionBuffer
from .memory.store import GIB, frame_bytes, least_budget
from .model import CausalWanTransformer, WanConfig
from .model.float8 import FLOAT8
from .plan import plan
from .runner import Runner
from .sampling import Recipe, State
from .sampling.passes import most_held, most_near, open_store
from .story import Shot, Story, check_size
from .vae import WanVAE, published_vae


@dataclass(frozen=True)
class Needs:
    """Bytes, but where the name says otherwise.

    weights: of the transformer. frame: one latent frame's keys and values, all layers, and branches where the recipe
    guides; frame_8bit: the same in 8 bits. memory: what the store takes for this film; host: of that, what lies in the
    host's memory. working: what a chunk takes meanwhile (`working_bytes`). total: on the device.
    frames: latent frames of the film; kept_frames: of them remembered to the end. least_budget: the smallest memory
    budget that can be chosen.
    """

    weights: int
    frame: int
    frame_8bit: int
    memory: int
    host: int
    working: int
    total: int
    frames: int
    kept_frames: int
    least_budget: int


def film_needs(
    config: WanConfig,
    recipe: Recipe,
    memory: MemorySettings,
    *,
    width: int,
    height: int,
    seconds: float,
    dtype: torch.dtype,
) -> Needs:
    """What a film of one shot needs beside text encoder and VAE. Raises InputError for a budget that is too small.

    dtype: of the network; with float8_e4m3fn all but the blocks' linears is in bfloat16.
    """
    eight_bit = dtype == FLOAT8
    dtype = torch.bfloat16 if eight_bit else dtype
    stride = published_vae(config.in_dim).spatial_stride * config.patch_size[1]
    check_size(width, height, stride)
    settings = recipe.memory(memory)
    time, film = recipe.timeline, Story([Shot("film", seconds=seconds)])
    chunks = plan(film, chunk=time.chunk, first_chunk=time.first_chunk, fps=time.fps).chunks
    frames, branches = chunks[-1].latents[1], recipe.branches
    shape = ((width // stride) * (height // stride), config.num_heads, config.head_dim)
    frame = frame_bytes(config.num_layers, branches, shape, dtype)
    small = frame_bytes(config.num_layers, branches, shape)
    near = most_near(recipe, settings)
    store = open_store(recipe, settings, config.num_layers, branches, shape, dtype, torch.device("meta"))
    on_device, host = store.bytes_for(most_held(recipe, settings, chunks))
    working = working_bytes(config, recipe, settings, shape[0], dtype)
    weights = sum(
        p.numel() * (1 if eight_bit and name.startswith("blocks.") and p.ndim == 2 else p.element_size())
        for name, p in CausalWanTransformer(config, device="meta", dtype=dtype).named_parameters()
    )
    return Needs(
        weights=weights,
        frame=frame,
        frame_8bit=small,
        memory=on_device + host,
        host=host,
        working=working,
        total=weights + on_device + working,
        frames=frames,
        kept_frames=frames
        if store.limit is None
        else min(frames, near - recipe.timeline.chunk + store.limit),  # no pinned chunk
        least_budget=least_budget(settings, frame, small, near, recipe.timeline.chunk),
    )


def state_bytes(runner: Runner, vae: WanVAE, film: State) -> tuple[int, int]:
    """About how many bytes the state of a film takes as a file, once all that it has planned is made: with what is remembered, and
    without."""
    last = (film.planned or [film.records[-1].plan])[-1]
    rows, columns = runner.grid(film.size)
    branches, shape = film.recipe.branches, (rows * columns, runner.own_heads, runner.head_dim)
    cast, nowhere = len(film.references), torch.device("meta")
    store = open_store(film.recipe, film.settings, runner.layers, branches, shape, runner.dtype, nowhere, cast)
    frame = runner.channels * film.size[0] * film.size[1]
    with nowhere:
        _, decoder = WanVAE(vae.config).decode(torch.empty(1, runner.channels, last.length, *film.size))
    numbers = (cast + last.latents[1]) * frame + sum(tensor.numel() for tensor in decoder.tensors().values())
    small = numbers * torch.float32.itemsize
    return small + sum(store.bytes_for(cast + last.latents[0])), small


def working_bytes(config: WanConfig, recipe: Recipe, settings: ResolvedMemory, tokens: int, dtype: torch.dtype) -> int:
    """What a chunk takes on the device beside weights and store: the rotated copy of what it sees (`AttentionBuffer`), the keys
    and values of two texts, and the activations of a pass. tokens: of one latent frame."""
    span = settings.top_k + most_near(recipe, settings) + recipe.at_once - recipe.timeline.chunk
    layer = 2 * recipe.branches * config.dim * dtype.itemsize  # of one token's keys and values
    seen = layer * span * tokens
    kept = seen * config.num_layers if seen * config.num_layers <= AttentionBuffer.ROOM else seen
    texts = 2 * layer * config.text_len * config.num_layers
    activations = 4 * recipe.branches * recipe.at_once * tokens * (2 * config.ffn_dim + 12 * config.dim)
    return kept + texts + activations


def advice(needs: Needs, settings: ResolvedMemory) -> list[str]:
    """Sentences for a person: what it takes, and what to change for less."""
    gib = {name: value / GIB for name, value in asdict(needs).items()}
    host = f", and {gib['host']:.2f} GiB of the host's memory" if needs.host else ""
    lines = [
        f"weights {gib['weights']:.2f} GiB, memory {gib['memory'] - gib['host']:.2f} GiB, work {gib['working']:.2f} GiB: "
        f"{gib['total']:.2f} GiB beside text encoder and VAE{host}",
        f"one latent frame is {needs.frame / 2**20:.1f} MiB, in 8 bits {needs.frame_8bit / 2**20:.1f} MiB; the film has "
        f"{needs.frames}, of which {needs.kept_frames} are remembered to the end",
    ]
    if settings.budget is None:
        lines.append(
            f"a memory budget bounds this at any length: from {gib['least_budget']:.2f} GiB on (--memory-budget), more "
            "frames for the same with --memory-storage 8bit"
        )
    if not settings.on_host:
        lines.append(
            "--memory-storage host or host_8bit keeps what lies beyond the window in the host's memory instead"
        )
    return lines


def to_dict(needs: Needs, settings: ResolvedMemory) -> dict[str, Any]:
    return asdict(needs) | {"advice": advice(needs, settings)}
