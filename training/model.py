"""What every stage of the transformer computes with: text encoder and network, in training as in inference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from causalcine_core import checks
from causalcine_core.errors import InputError
from causalcine_core.model import (
    PRESETS,
    CausalWanTransformer,
    TextKV,
    WanConfig,
    load_checkpoint,
    project_text,
    read_network,
)
from causalcine_core.model.transformer import Compute, View, forward
from causalcine_core.runner import pick_compute, pick_dtype

from .components.checkpoint import read_state
from .components.precision import inference_dtypes, rounded
from .components.text import TextEncoder
from .recipe import Run

OUTER = ("net.patch_embedding", "net.head", "text.tokens", "text.positions")  # of a `Model`: what Muon does not train


def read_model(value: Any, name: str) -> WanConfig:
    """A recipe's field `model`: a preset's name, or the fields of a config."""
    if isinstance(value, dict):
        return WanConfig.from_dict(value)
    return PRESETS[checks.choice(value, name, PRESETS)]


def pick_precision(run: Run, device: torch.device) -> torch.dtype:
    """What the large layers of a recipe's run compute in."""
    return pick_dtype(device, {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}[run.precision])


def how(run: Run, device: torch.device) -> tuple[torch.dtype, Compute]:
    """What a recipe's run computes in, and how."""
    compute = pick_compute(device, compile=run.compile)
    return pick_precision(run, device), replace(compute, checkpointed=run.checkpointing)


class Model(nn.Module):
    """A transformer and the text encoder that it reads through, its weights in float32.

    dtype: of the large layers as they compute, exactly as a `Runner` of that type would; `computing` rounds them to it.
    """

    def __init__(
        self, config: WanConfig, text: TextEncoder, dtype: torch.dtype, compute: Compute, device: torch.device
    ):
        super().__init__()
        self.config, self.text, self.dtype, self.compute = config, text, dtype, compute
        self.net = CausalWanTransformer(config, device=device).initialize()
        self._dtypes = inference_dtypes(config, dtype) if dtype != torch.float32 else {}

    def frozen_copy(self) -> Model:
        """The same weights in tensors of their own, that are never trained."""
        shared = [self.compute] if isinstance(self.text, nn.Module) else [self.compute, self.text]
        return copy.deepcopy(self, {id(one): one for one in shared}).eval().requires_grad_(False)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """For all passes of a batch, the way back among them: the weights as they compute."""
        with rounded(self.net, self._dtypes):
            yield

    def read(self, prompts: Sequence[str], rows: Tensor, run: int) -> TextKV:
        """Keys and values of M prompts. rows: which of them each frame reads, `[B, F]`, in runs of `run` frames of one prompt."""
        return TextKV(project_text(self.net, self.text.encode(prompts).to(self.dtype)), rows, run)

    def velocity(
        self, latents: Tensor, timesteps: Tensor, text: TextKV, view: View, compute: Compute | None = None
    ) -> Tensor:
        """Float32 `[B, C, F, h, w]` of latents of that shape at timesteps `[B, F]` in 0..1000. compute: how; by default as ever."""
        return forward(self.net, latents.to(self.dtype), timesteps, text, view, compute or self.compute)

    def start_from(self, path: Path, option: str = "--start-from") -> None:
        """The weights of a checkpoint in any known layout, or of a run's state, averaged where it has averages. option: what gave
        the path.

        Raises InputError where they do not fit.
        """
        given = f"{option} {path}"
        if path.suffix == ".pt":
            parts = read_state(path)["parts"]
            if "model" not in parts:
                raise InputError(f"{given} is the state of a run that trains no transformer")
            weights = {**parts["model"]["weights"], **(parts["model"]["average"] or {})}
            _load(self, weights, given)
            return
        file = read_network(path)
        if file.config != self.config:
            raise InputError(f"{given} holds a network of another shape than the recipe's model")
        _load(self.net, file.weights, given)
        if isinstance(self.text, nn.Module):
            _load(self.text, load_checkpoint(path).text, given)


def _load(module: nn.Module, weights: dict[str, Tensor], given: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{given} does not fit the recipe's model ({str(error).splitlines()[-1].strip()})") from None
