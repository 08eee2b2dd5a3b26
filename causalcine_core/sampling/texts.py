"""What cross-attention reads while a film is made: keys and values of the texts in force, made anew only where they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..errors import InputError
from ..lora import LoRA
from ..model.transformer import TextKV, TextLayers
from ..numbering import called
from ..plan import PlannedChunk
from ..runner import Runner


class Texts:
    """Of the shots of a film, and of the prompt that guidance leads away from."""

    def __init__(self, length: int, text_of: Callable[[int], Tensor], negative: Tensor | None = None):
        """length: tokens of a text that the network reads; 0: any. text_of: text `[B, T, text_dim]` of a shot, asked once while it is
        in force. negative: of the unguided branch, where there is one. Texts shorter than the network reads end in zeros, as Wan
        pads its own; longer ones raise InputError."""
        self._length, self._text_of = length, text_of
        self.negative = None if negative is None else self._fitted(negative, "the negative prompt")
        self._shots: dict[int, Tensor] = {}
        self._layers: dict[tuple[tuple[LoRA, ...], tuple[tuple[int, float], ...]], TextLayers] = {}

    def hold(self, chunks: Sequence[PlannedChunk]) -> None:
        """Forget all but the texts of these chunks."""
        mixtures = {chunk.mixture for chunk in chunks}
        shots = {shot for mixture in mixtures for shot, _ in mixture}
        self._shots = {shot: text for shot, text in self._shots.items() if shot in shots}
        self._layers = {of: layers for of, layers in self._layers.items() if of[1] in mixtures}

    @torch.no_grad()
    def of(self, chunk: PlannedChunk, runner: Runner) -> TextLayers:
        """Of a chunk, as a network reads them: the film's, or with a shot's LoRAs. Those of chunks that share their text are one."""
        mixture = chunk.mixture
        of = runner.loras, mixture
        if of not in self._layers:
            for shot in {shot for shot, _ in mixture} - self._shots.keys():
                self._shots[shot] = self._fitted(self._text_of(shot), f"the text of {called(shot)}")
            self._layers[of] = self._projected(mixture, runner)
        return self._layers[of]

    def _fitted(self, text: Tensor, name: str) -> Tensor:
        length = self._length or text.shape[1]
        if text.shape[1] > length:
            raise InputError(f"{name} is {text.shape[1]} tokens long: the model reads at most {length}")
        return pad(text, (0, 0, 0, length - text.shape[1]))

    def _projected(self, mixture: Sequence[tuple[int, float]], runner: Runner) -> TextLayers:
        parts = [self._shots[shot] * weight if weight != 1 else self._shots[shot] for shot, weight in mixture]
        text = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        if self.negative is not None:
            text = torch.cat([text, self.negative.expand_as(text)])
        return runner.project_text(text)


def joined(texts: Sequence[TextLayers], frames: int) -> TextKV:
    """The texts of chunks that are made in one pass, each `frames` latent frames long."""
    own = list({id(text): text for text in texts}.values())
    if len(own) == 1:
        return TextKV(own[0])
    layers = tuple((torch.cat([k for k, _ in of]), torch.cat([v for _, v in of])) for of in zip(*own, strict=True))
    branches, device = own[0][0][0].shape[0], own[0][0][0].device
    first = [branches * next(i for i, one in enumerate(own) if one is text) for text in texts]
    return TextKV(layers, spread(first, frames, device) + torch.arange(branches, device=device)[:, None], frames)


def spread(values: Sequence[float], times: int, device: torch.device) -> Tensor:
    """Each value as many times as said, `[1, n]`, made on the device: a copy from the host would wait for it."""
    return torch.cat([torch.full((1, times), value, device=device) for value in values], 1)
