"""Pages of the host's memory that are on their way before a layer asks for them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .store import FrameStore, Page, Rows


class Prefetch:
    """Reads what a chunk recalls, where frames may lie on the host.

    While a layer computes, the pages are fetched that the next one chose in the last pass: denoising passes of a chunk
    mostly agree. On a GPU the copies run beside the computation, in a stream of their own. What was foretold wrongly is
    fetched when it is asked for, so the guess changes nothing but the time.
    """

    def __init__(self, store: FrameStore, far: Rows):
        self._store, self._far = store, store.pages(far)
        self._choices: dict[int, list[list[int]]] = {}  # of each layer, in its last pass
        self._pages: dict[int, tuple[list[list[int]], Tensor, Tensor]] = {}
        on_gpu = store.device.type == "cuda"
        self._stream = torch.cuda.Stream(store.device) if on_gpu else None

    def read(self, layer: int, wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, k, S, H, D]` of frames: of each branch k numbers of far ones."""
        k, v = self._taken(layer, wanted)
        self._choices[layer] = wanted
        self._foretell((layer + 1) % self._store.layers)
        return k, v

    def _taken(self, layer: int, wanted: list[list[int]]) -> tuple[Tensor, Tensor]:
        pages = self._of(wanted)
        self._store.recalled += sum(slab.host for row in pages for slab, _ in row)
        if layer not in self._pages:
            return self._store.fetch(layer, pages)
        had, k, v = self._pages.pop(layer)
        if self._stream is not None:
            here = torch.cuda.current_stream(self._store.device)
            here.wait_stream(self._stream)
            k.record_stream(here)
            v.record_stream(here)
        self._store.foretold += sum(
            pages[branch][place][0].host and frame in had[branch]
            for branch, row in enumerate(wanted)
            for place, frame in enumerate(row)
        )
        if had == wanted:
            return k, v
        right_k, right_v = torch.empty_like(k), torch.empty_like(v)
        for branch, row in enumerate(wanted):
            for place, frame in enumerate(row):
                to = right_k[branch, place], right_v[branch, place]
                if frame in had[branch]:
                    lies = had[branch].index(frame)
                    to[0].copy_(k[branch, lies])
                    to[1].copy_(v[branch, lies])
                else:
                    self._store.fetch_page(layer, branch, pages[branch][place], *to)
        return right_k, right_v

    def _foretell(self, layer: int) -> None:
        guess = self._choices.get(layer)
        if guess is None:
            return
        with contextlib.ExitStack() as aside:
            if self._stream is not None:
                self._stream.wait_stream(torch.cuda.current_stream(self._store.device))
                aside.enter_context(torch.cuda.stream(self._stream))
            self._pages[layer] = (guess, *self._store.fetch(layer, self._of(guess)))

    def _of(self, frames: Sequence[Sequence[int]]) -> list[list[Page]]:
        return [[self._far[f] for f in row] for row in frames]
