"""The packed pass of teacher forcing, from samples to velocities (CausalCine, arXiv, May 2026, Sec. 3.2).

One pass over clean chunks at timestep 0, then noisy chunks at one noise level of their sample, or each at its own. The frames
that a chunk sees, and what it recalls, come from the same code as in a rollout (`causalcine_core.memory.PackedView`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from causalcine_core.memory import PackedView, ResolvedMemory
from causalcine_core.model.rope import Rope
from causalcine_core.model.transformer import View

from ..model import Model
from .heads import Tap


class PackedPass:
    """The layout of samples of one shape: which frames are packed, at which places, under which texts."""

    def __init__(
        self,
        model: Model,
        chunks: Sequence[int],
        size: tuple[int, int],
        memory: ResolvedMemory,
        *,
        first: int = 0,
        references: int = 0,
    ):
        """chunks: latent frames of each chunk. size: rows and columns of a latent frame. first: the first chunk that is
        denoised; those before it are history only. references: how many of these are pictures from outside the film."""
        device = model.net.get_parameter("patch_embedding.weight").device
        _, high, wide = model.config.patch_size
        self.grid = (size[0] // high, size[1] // wide)
        self.chunks, self.first, self.device = tuple(chunks), first, device
        rope = Rope(model.config.head_dim, self.grid, device, model.config.rope_theta)
        self.view = PackedView(list(chunks), memory, rope, device, first=first, references=references)
        self._lengths = torch.tensor(self.chunks, device=device)
        self.run = self.chunks[0] if len(set(self.chunks)) == 1 else 1  # frames of one prompt in a row, everywhere

    def each(self, of_chunks: Tensor) -> Tensor:
        """Values of the denoised chunks `[B, N - first]` as values of their frames `[B, F]`."""
        return of_chunks.repeat_interleave(self._lengths[self.first :], 1)

    def velocity(
        self,
        model: Model,
        clean: Tensor,
        noisy: Tensor,
        levels: Tensor,
        prompts: Sequence[Sequence[str]],
        view: View | None = None,
        tap: Tap | None = None,
    ) -> Tensor:
        """A model's answer for the chunks that are denoised, `[B, C, F, h, w]`.

        clean, noisy: all frames, each `[B, C, all, h, w]`. levels: in 0..1, of each sample `[B]` or of each of its denoised chunks
        `[B, N - first]`. prompts: of each sample, the text of each chunk. view: what self-attention sees, by default the
        packed view itself. tap: looks on at some of the model's blocks.
        """
        latents = self.view.pack(clean, noisy)
        of_clean = torch.zeros(len(latents), self.view.clean, device=latents.device)
        timesteps = torch.cat([of_clean, self.timesteps(levels)], 1)
        unique, before, own = self.rows(prompts)
        text = model.read(unique, torch.cat([before, own], 1), self.run)
        compute = tap.into(model.compute) if tap is not None else None
        return model.velocity(latents, timesteps, text, view or self.view, compute)[:, :, self.view.clean :]

    def timesteps(self, levels: Tensor) -> Tensor:
        """Of the denoised frames, `[B, F]` in 0..1000. levels: as in `velocity`."""
        levels = levels if levels.ndim == 2 else levels[:, None].expand(-1, len(self.chunks) - self.first)
        return 1000 * self.each(levels)

    def rows(self, prompts: Sequence[Sequence[str]]) -> tuple[list[str], Tensor, Tensor]:
        """All different prompts, and which of them each clean and each denoised frame reads, `[B, clean]` and `[B, F]`."""
        said = [text for of in prompts for text in of]
        unique = list(dict.fromkeys(said))
        rows = torch.tensor([unique.index(text) for text in said], device=self.device).view(len(prompts), -1)
        return unique, rows[:, :-1].repeat_interleave(self._lengths[:-1], 1), self.each(rows[:, self.first :])

    def guided(
        self,
        model: Model,
        clean: Tensor,
        noisy: Tensor,
        levels: Tensor,
        prompts: Sequence[Sequence[str]],
        scale: float,
        negative: str = "",
    ) -> Tensor:
        """The answer of `velocity`, guided as in `Answers`, without gradient."""
        return Answers(self, model, clean, prompts, scale, negative)(noisy[:, :, self.view.history :], levels)


class Answers:
    """What a model answers to noisy chunks over one clean history: keys and values of the clean half, which no noisy frame can change,
    and of the texts are computed once, so that each answer costs half a packed pass. No gradients are recorded.

    scale: of guidance in the usual form, unguided + scale * (guided - unguided). The unguided branch reads `negative`
    everywhere, in its history as well, as in a rollout; at scale 1 there is none.
    """

    @torch.no_grad()
    def __init__(
        self,
        layout: PackedPass,
        model: Model,
        clean: Tensor,
        prompts: Sequence[Sequence[str]],
        scale: float = 1,
        negative: str = "",
    ):
        """clean: all frames `[B, C, all, h, w]`. prompts: of each sample, the text of each chunk."""
        self._layout, self._model, self._scale = layout, model, scale
        if scale != 1:
            clean, prompts = torch.cat([clean, clean]), [*prompts, *([negative] * len(of) for of in prompts)]
        unique, before, own = layout.rows(prompts)
        read, length = model.read(unique, before, layout.run), layout.view.clean
        of_clean, self._view = layout.view.halves()
        self._text = replace(read, rows=own)
        if length:
            model.velocity(clean[:, :, :length], torch.zeros(len(clean), length, device=clean.device), read, of_clean)

    @torch.no_grad()
    def __call__(self, noisy: Tensor, levels: Tensor) -> Tensor:
        """Velocity of the denoised frames `[B, C, F, h, w]`. levels: as in `PackedPass.velocity`."""
        timesteps = self._layout.timesteps(levels)
        if self._scale == 1:
            return self._model.velocity(noisy, timesteps, self._text, self._view)
        noisy, timesteps = torch.cat([noisy, noisy]), torch.cat([timesteps, timesteps])
        guided, unguided = self._model.velocity(noisy, timesteps, self._text, self._view).chunk(2)
        return unguided + self._scale * (guided - unguided)


def window_of(kind: str, window: int, clip_window: int) -> int:
    """Chunks that a chunk always sees in samples of a kind: as in inference where chunks follow one another, `clip_window` where they
    were picked, none where there is one chunk."""
    return {"still": 0, "take": window, "film": window}.get(kind, clip_window)
