"""Networks of the public sizes with random weights: what a chunk, its decode and the memory cost, without any file.

    causalcine bench --random-weights --model 1.3b --device cuda [--size 832x480] [--chunks 60] [--memory-budget GIB]

The span is that of a film with memory: a window of 3 chunks, 5 recalled frames, 3 own ones; four steps and the writing
pass, unguided.
"""

from __future__ import annotations

import resource
import statistics
import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from causalcine_core.memory import MemorySettings
from causalcine_core.memory.store import GIB
from causalcine_core.model import PRESETS, CausalWanTransformer, WanConfig
from causalcine_core.model.kernels import AUTO, Fastest, Kernel
from causalcine_core.runner import pick_compute, pick_device, pick_dtype, prepare_network
from causalcine_core.sampling import begin, rollout
from causalcine_core.story import check_size
from causalcine_core.vae import TinyDecoder, WanVAE, published_vae

from .against import CHUNK, RECIPE, TOP_K, WINDOW, in_turns, long_film
from .progress import watched

EARLY = 50
DECODERS = ("vae", "tiny")
DENSE_BF16 = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "4090": 165, "5090": 210}  # TFLOP/s, by device name


def measure_shape(
    model: str,
    *,
    device: str | None = None,
    dtype: torch.dtype | None = None,
    attention: str = AUTO,
    compile: bool = False,
    decoder: str = "vae",
    size: tuple[int, int] = (832, 480),
    chunks: int = 60,
    layers: int | None = None,
    memory: MemorySettings | None = None,
) -> dict[str, Any]:
    """Roll `chunks` chunks out. decoder: one of DECODERS. layers: blocks, where fewer than the model's are wanted. Figures that do
    not apply are left out."""
    config = PRESETS[model] if layers is None else replace(PRESETS[model], num_layers=layers)
    place, shape = pick_device(device), published_vae(config.in_dim)
    computes, compute = pick_dtype(place, dtype), pick_compute(place, attention, compile)
    stride = shape.spatial_stride
    width, height = check_size(*size, stride * config.patch_size[1])
    grid = (height // stride, width // stride)
    torch.manual_seed(0)
    net = _random(CausalWanTransformer(config, device="meta", dtype=computes), place)
    network = prepare_network(net, "random", dtype, compute)
    text = torch.randn(1, config.text_len, config.text_dim)
    film = long_film(chunks + 2)
    settings, early_chunks = memory or MemorySettings(), min(EARLY, chunks // 2)
    start = partial(begin, network, RECIPE, settings, size=grid, seed=0)
    make = partial(rollout, network, text_of=lambda shot: text, size=grid)
    state, early = start(), None
    for chunk in watched(make(film[:chunks], state=state), "chunks", chunks):
        state, latent = chunk.state, chunk.latent
        if chunk.index + 1 == early_chunks and settings.budget is None:
            early = state  # shares its frames with the rest; under a budget it would hold what that lets go of
    kept = state.local_memory
    assert kept is not None
    store_gib, forgotten = kept.store.nbytes / GIB, kept.evicted
    if early is None:
        *_, last = watched(make(film[:early_chunks], state=start()), "early chunks", early_chunks)
        early = last.state
    early_seconds, chunk_seconds = in_turns(lambda begun: make(film[begun.chunks :], state=begun), (early, state))
    tflop = chunk_tflop(config, grid)
    vae = TinyDecoder(shape.z_dim, shape.patch_size) if decoder == "tiny" else WanVAE(shape)
    vae.to(torch.float32 if place.type == "cpu" else computes)
    decode_seconds = _decode_seconds(_random(vae, place), latent)
    frames = CHUNK * shape.temporal_stride
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "CPU"
    out: dict[str, Any] = {
        "model": f"{model}, random weights" + (f", {layers} blocks" if layers else ""),
        "device": name,
        "dtype": str(dtype or computes).removeprefix("torch."),
        "attention": _chosen(compute.kernel, attention),
        "compiled": compile,
        "decoder": decoder,
        "size": f"{width}x{height}",
        "chunks": chunks,
        "seconds_per_chunk": round(chunk_seconds, 4),
        f"over_seconds_at_{early_chunks}": round(chunk_seconds / early_seconds, 3),
        "network_fps": round(frames / chunk_seconds, 2),
        "decode_fps": round(frames / decode_seconds, 2),
        "both_fps": round(frames / (chunk_seconds + decode_seconds), 2),
        "tflop_per_chunk": round(tflop, 3),
        "tflop_per_second": round(tflop / chunk_seconds, 3),
        "store_gib": round(store_gib, 3),
        "forgotten_frames": forgotten,
        "peak_rss_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    if place.type == "cuda":
        out["peak_device_gib"] = round(torch.cuda.max_memory_allocated(place) / GIB, 2)
    limit = next((value for key, value in DENSE_BF16.items() if key in name), None)
    if limit is not None and computes == torch.bfloat16:  # of bfloat16, also where the linears are in 8 bits
        out["share_of_limit"] = round(tflop / chunk_seconds / limit, 3)
    return out


def _chosen(kernel: Kernel, name: str) -> str:
    """The kernel that was asked for, or those that were measured to be the fastest."""
    return ", ".join(sorted(set(kernel.choices.values()))) if isinstance(kernel, Fastest) else name


def chunk_tflop(config: WanConfig, grid: tuple[int, int]) -> float:
    """Multiplications and additions of a chunk's passes, linears and attention, in 10^12."""
    tokens = grid[0] // config.patch_size[1] * (grid[1] // config.patch_size[2])
    own, span = CHUNK * tokens, (TOP_K + (WINDOW + 1) * CHUNK) * tokens
    linears = 2 * own * (6 * config.dim**2 + 2 * config.dim * config.ffn_dim)
    attention = 4 * own * (span + config.text_len) * config.dim
    return (RECIPE.schedule.steps + 1) * config.num_layers * (linears + attention) / 1e12


def _random(module: Any, device: torch.device) -> Any:
    """The module on a device, its weights small noise."""
    module = module.to_empty(device=device).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.02)
    return module


@torch.no_grad()
def _decode_seconds(vae: WanVAE | TinyDecoder, latent: torch.Tensor) -> float:
    """Median seconds of decoding one chunk after the first."""
    weight = next(vae.parameters())
    latent, seconds = latent.to(weight.device, weight.dtype), []
    state: Any = None
    for _ in range(4):
        began = time.perf_counter()
        video, state = vae.decode(latent, state)
        video[0, 0, 0, 0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
