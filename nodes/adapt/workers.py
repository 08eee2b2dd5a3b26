"""A MODEL given to workers that Ray starts.

A `Crew` lives as long as a MODEL that carries it: when ComfyUI's cache lets go of that, as after /free, the GPUs are free again.
"""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.sd
import folder_paths
import torch

from ...causalcine_core.distributed.launch import share_heads
from ...causalcine_core.errors import InputError
from ...causalcine_core.executors.ray_executor import RayExecutor
from ...causalcine_core.model.kernels import AUTO
from ...causalcine_core.runner import Runner
from . import model as models
from .progress import tell, warn

CREW = "causalcine_crew"  # attachment of a MODEL


@dataclass
class Crews:
    """Every crew that some MODEL carries, one of each size and device, of which one is at work at a time. There is one of these: the
    Workers node's."""

    alive: weakref.WeakValueDictionary[tuple[int, str], Crew] = field(default_factory=weakref.WeakValueDictionary)

    def attached(self, model: Any, count: int) -> Any:
        """A clone of a MODEL that `count` workers will run, 0 for one on each GPU; nothing is started yet. Raises InputError where
        they cannot."""
        count = count or (1 if _on_cpu(model) else torch.cuda.device_count())
        share_heads(count, models.config_of(model).num_heads)
        key = (count, _device(model))
        crew = self.alive.get(key) or Crew(RayExecutor(*key), self)
        self.alive[key] = crew
        return models.with_attachment(model, CREW, crew)


class Crew:
    """Workers, and whose weights they have."""

    def __init__(self, executor: RayExecutor, crews: Crews):
        self.executor, self.crews = executor, crews
        self._weights: tuple[Any, ...] | None = None

    def take(self, model: Any, runner: Runner) -> None:
        """Give the workers a MODEL's weights, patches and all, unless they have them. They go through a file that ComfyUI writes."""
        weights = (weakref.ref(model.model), model.patches_uuid, runner.dtype)
        if self.executor.at_work and self._weights == weights:
            return
        if any(weight.is_meta for weight in model.model.diffusion_model.state_dict().values()):
            raise InputError(
                "workers cannot take this model: only its own layers can read its weights, as those of a GGUF file; load a "
                "safetensors file, which may be fp8"
            )
        self._weights = None
        for other in list(self.crews.alive.values()):
            if other is not self:
                other.executor.close()
        if model.model_options.get("torch_compile_kwargs") or "optimized_attention_override" in _options(model):
            warn(["compile and attention nodes do not act on workers: choose attention in CausalCine Model Loader"])
        tell(f"{self.executor.size} workers take the model: this may take a while")
        temporary = Path(folder_paths.get_temp_directory())
        temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=temporary) as folder:
            path = Path(folder) / "model.safetensors"
            comfy.sd.save_checkpoint(str(path), model)
            if not _on_cpu(model):
                mm.unload_all_models()  # the workers want the GPUs
            attention = model.get_attachment(models.ATTENTION) or AUTO
            self.executor.load(path, models.config_of(model), dtype=runner.dtype, attention=attention)
        self._weights = weights


def crew_of(model: Any) -> Crew | None:
    """The workers that a MODEL asks for."""
    return model.get_attachment(CREW)


def _on_cpu(model: Any) -> bool:
    return mm.is_device_cpu(model.load_device)


def _device(model: Any) -> str:
    if not _on_cpu(model) and model.load_device.type != "cuda":
        raise InputError(f"workers run on NVIDIA or AMD GPUs and on CPUs, not on {model.load_device}")
    return "cpu" if _on_cpu(model) else "cuda"


def _options(model: Any) -> dict[str, Any]:
    return model.model_options.get("transformer_options", {})
