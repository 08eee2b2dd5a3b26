"""Not-a-number and infinity: noticed once a chunk, without waiting for the device inside a pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import NotFiniteError
from ..model.kernels import Kernel
from ..model.transformer import View
from ..plan import PlannedChunk

CAUSES = (
    "half precision that overflows, a damaged checkpoint or LoRA, or a damaged state are the usual causes: try --dtype float32 "
    "(in ComfyUI --fp32-unet), and the model without LoRAs"
)


class FiniteCheck:
    """Of one chunk: what its passes gave, and on request which layer went wrong first."""

    def __init__(self, chunk: PlannedChunk, by_layer: bool = False):
        self.chunk, self.by_layer = chunk, by_layer
        self._passes: list[Tensor] = []
        self.layer: int | None = None

    def note(self, clean: Tensor) -> None:
        """One pass gave this."""
        self._passes.append(torch.isfinite(clean).all())

    def watched(self, view: View) -> View:
        return WatchedView(view, self) if self.by_layer else view

    def settle(self) -> None:
        """Raise NotFiniteError where a pass gave something that is no number."""
        good = torch.stack(self._passes).tolist() if self._passes else []
        if all(good):
            return
        where = f", layer {self.layer}" if self.layer is not None else ""
        raise NotFiniteError(
            f"chunk {self.chunk.index} (shot {self.chunk.shot + 1}) holds numbers that are none (NaN or infinity) from pass "
            f"{good.index(False) + 1} of {len(good)} on{where}: {CAUSES}"
        )


class WatchedView:
    """A view that waits for every layer, to say which is the first to read what is no number."""

    def __init__(self, view: View, check: FiniteCheck):
        self._view, self._check = view, check

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, kernel: Kernel) -> Tensor:
        out = self._view.attend(layer, q, k, v, kernel)
        if self._check.layer is None and not all(bool(torch.isfinite(t).all()) for t in (q, k, v, out)):
            self._check.layer = layer
        return out
