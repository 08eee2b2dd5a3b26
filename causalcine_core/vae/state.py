"""What a causal pass over a film must remember between two pieces of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..checks import show
from ..errors import InputError


@dataclass(frozen=True)
class VAEState:
    """The last frames that each causal layer of the encoder, or of the decoder, has seen, in layer order.

    A value: passes read it and return a new one, so any number of continuations may start from it. The beginning
    of a film has no state (None).
    """

    past: tuple[Tensor, ...]

    def tensors(self) -> dict[str, Tensor]:
        """A flat dict, as safetensors saves it."""
        return {f"past.{index}": tensor for index, tensor in enumerate(self.past)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> VAEState:
        """The inverse of `tensors`. Raises InputError when a layer is missing."""
        names = [f"past.{index}" for index in range(len(tensors))]
        missing = [name for name in names if name not in tensors]
        if missing:
            raise InputError(f"a VAE state of {len(names)} tensors has no {missing[0]!r}, got {show(sorted(tensors))}")
        return cls(tuple(tensors[name] for name in names))

    def to(self, *args: Any, **kwargs: Any) -> VAEState:
        """As `Tensor.to`, for every tensor."""
        return VAEState(tuple(tensor.to(*args, **kwargs) for tensor in self.past))

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.past)


class Tape:
    """One pass over a piece: hands each causal layer its past, and collects what it will need next time.

    Layers must call `read` and then `write` once each, always in the same order.
    """

    def __init__(self, state: VAEState | None):
        self._past = None if state is None else list(state.past)
        self._next: list[Tensor] = []

    @property
    def begins(self) -> bool:
        """Whether nothing came before this piece."""
        return self._past is None

    def read(self, like: Tensor, frames: int) -> Tensor | None:
        """The `frames` before this piece at the calling layer, or None at the beginning of the film. like: the piece there, `[B C F H
        W]`. Raises InputError where the state is one of another VAE, direction or size."""
        if self._past is None:
            return None
        if len(self._next) == len(self._past):
            raise InputError(
                f"the VAE's state has only {len(self._past)} layers: it is one of another VAE or direction"
            )
        past, wanted = self._past[len(self._next)], (*like.shape[:2], frames, *like.shape[3:])
        if tuple(past.shape) != wanted or not past.is_floating_point():
            raise InputError(
                f"the VAE's state has {list(past.shape)} in layer {len(self._next)} where {list(wanted)} is needed: it is one of "
                "another VAE or size"
            )
        return past

    def write(self, frames: Tensor) -> None:
        """Keep `frames` for the next piece: a copy, so that a view does not keep the whole piece alive."""
        self._next.append(frames.clone(memory_format=torch.contiguous_format))

    def state(self) -> VAEState:
        """The state after the piece."""
        if self._past is not None and len(self._next) != len(self._past):
            raise InputError(
                f"the VAE's state has {len(self._past)} layers where {len(self._next)} are needed: it is one of another VAE or "
                "direction"
            )
        return VAEState(tuple(self._next))
