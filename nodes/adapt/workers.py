"""A MODEL given to workers that Ray starts, one crew at a time, and the film of a crew that lost one.

A crew lives as long as a MODEL that carries it: when ComfyUI's cache lets go of that, as after /free, the GPUs are free again.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.sd
import folder_paths
import torch

from ...causalcine_core.distributed.launch import share_heads
from ...causalcine_core.distributed.ray_executor import RayExecutor
from ...causalcine_core.errors import InputError, WorkerLostError
from ...causalcine_core.model.kernels import AUTO
from ...causalcine_core.runner import Runner
from ...causalcine_core.sampling import State
from . import model as models
from .progress import tell, warn

CREW = "causalcine_crew"

_crews: weakref.WeakValueDictionary[tuple[int, str], RayExecutor] = weakref.WeakValueDictionary()  # by size and device
_weights: weakref.WeakKeyDictionary[RayExecutor, tuple[Any, ...]] = weakref.WeakKeyDictionary()  # which ones a crew has
_lost: tuple[str, State] | None = None  # a job, and how far it had come


def with_workers(model: Any, count: int) -> Any:
    """A clone of a MODEL that `count` workers will run, 0 for one on each GPU. Raises InputError where they cannot."""
    count = count or (1 if _on_cpu(model) else torch.cuda.device_count())
    share_heads(count, models.config_of(model).num_heads)
    key = (count, _device(model))
    crew = _crews.get(key) or RayExecutor(*key)  # starts nothing yet
    _crews[key] = crew
    return models.with_attachment(model, CREW, crew)


def crew_of(model: Any) -> RayExecutor | None:
    """The workers that a MODEL asks for."""
    return model.get_attachment(CREW)


def give(crew: RayExecutor, model: Any, network: Runner) -> None:
    """The crew gets this MODEL's weights, patches and all, unless it has them. They go through a file that ComfyUI writes."""
    weights = (weakref.ref(model.model), model.patches_uuid, network.dtype)
    if crew.at_work and _weights.get(crew) == weights:
        return
    if any(weight.is_meta for weight in model.model.diffusion_model.state_dict().values()):
        raise InputError(
            "workers cannot take this model: only its own layers can read its weights, as those of a GGUF file; load a "
            "safetensors file, which may be fp8"
        )
    _weights.pop(crew, None)
    for other in list(_crews.values()):
        if other is not crew:
            other.close()
    if model.model_options.get("torch_compile_kwargs") or "optimized_attention_override" in _options(model):
        warn(["compile and attention nodes do not act on workers: choose attention in CausalCine Model Loader"])
    tell(f"{crew.size} workers take the model: this may take a while")
    temporary = Path(folder_paths.get_temp_directory())
    temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        path = Path(folder) / "model.safetensors"
        comfy.sd.save_checkpoint(str(path), model)
        if not _on_cpu(model):
            mm.unload_all_models()  # the workers want the GPUs
        attention = model.get_attachment(models.ATTENTION) or AUTO
        crew.load(path, models.config_of(model), dtype=network.dtype, attention=attention)
    _weights[crew] = weights


def keep(start: State, error: WorkerLostError) -> WorkerLostError:
    """Keep what a crew made from `start` until it lost a worker; gives the error to raise."""
    global _lost
    state: State | None = error.state
    if state is None:  # it was lost before it began
        return error
    _lost = _job(start), state
    made = f"{state.chunks - start.chunks} of {len(start.planned)} chunks are kept"
    return WorkerLostError(f"{error}. {made}: queue the same again and it goes on from there")


def kept(start: State) -> State:
    """Where a job goes on: `start`, or how far the same job had come when it lost a worker."""
    global _lost
    if _lost is None or _lost[0] != _job(start):
        return start
    state, _lost = _lost[1], None
    tell(f"going on after {state.chunks - start.chunks} chunks that were made before a worker was lost")
    return state


def _job(start: State) -> str:
    """What tells one job from another."""
    asked = (start.model, start.recipe, start.settings, start.seed, start.shots, start.planned)
    digest = hashlib.sha256(repr(asked).encode())
    for latent in start.latents:
        digest.update(latent.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _on_cpu(model: Any) -> bool:
    return mm.is_device_cpu(model.load_device)


def _device(model: Any) -> str:
    if not _on_cpu(model) and model.load_device.type != "cuda":
        raise InputError(f"workers run on NVIDIA or AMD GPUs and on CPUs, not on {model.load_device}")
    return "cpu" if _on_cpu(model) else "cuda"


def _options(model: Any) -> dict[str, Any]:
    return model.model_options.get("transformer_options", {})
