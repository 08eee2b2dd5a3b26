"""What every stage of the transformer computes with: text encoder and network, in training as in inference."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
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
from .components.lora import Lora, add_adapters, merged, plain_name, without_adapters
from .components.precision import inference_dtypes, rounded
from .components.text import TextEncoder
from .recipe import Run, read

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
        self.lora = Lora()
        self._dtypes = inference_dtypes(config, dtype) if dtype != torch.float32 else {}

    def adapt(self, lora: Lora) -> None:
        """From here on its adapters alone are trained, of which a rank of 0 makes none."""
        if lora.rank:
            self.lora = lora
            self.requires_grad_(False)
            add_adapters(self.net, lora)
            names = [name for name, _ in self.net.named_parameters()] if self._dtypes else []
            self._dtypes = {name: self._dtypes[plain_name(name)] for name in names}

    def weights(self, averaged: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """All weights under the names of a plain model, adapters merged. averaged: those that stand in for its own, by their names
        in `state_dict`."""
        return merged(self.state_dict() | dict(averaged or {}), self.lora)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Weights of a plain model, as `weights` gives them; its adapters begin anew. Raises RuntimeError where they do not fit."""
        self.load_state_dict(without_adapters(weights, self))

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
            _take(self, averaged(read_state(path), given), given)
            return
        file = read_network(path)
        if file.config != self.config:
            raise InputError(f"{given} holds a network of another shape than the recipe's model")
        weights = {f"net.{name}": weight for name, weight in file.weights.items()}
        if isinstance(self.text, nn.Module):
            weights |= {f"text.{name}": weight for name, weight in load_checkpoint(path).text.items()}
        _take(self, weights, given)


def averaged(state: Mapping[str, Any], given: str = "") -> dict[str, Tensor]:
    """The weights of a run's model, under the names of a plain one: averaged where it trains, else as they are. given: what gave the
    state, for the InputError where the run trains no transformer."""
    if "model" not in state["parts"]:
        run = f"{given} is the state of a run that" if given else f"a run of stage {state['stage']}"
        raise InputError(f"{run} trains no transformer: there are no weights of one in it")
    part = state["parts"]["model"]
    lora = read(Lora, state["recipe"].get("lora", {}), "lora")
    return merged({**part["weights"], **(part["average"] or {})}, lora)


def _take(model: Model, weights: dict[str, Tensor], given: str) -> None:
    try:
        model.take(weights)
    except RuntimeError as error:
        raise InputError(f"{given} does not fit the recipe's model ({str(error).splitlines()[-1].strip()})") from None
