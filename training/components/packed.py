"""The packed pass of teacher forcing, from samples to velocities (CausalCine, arXiv, May 2026, Sec. 3.2).

One pass over clean chunks at timestep 0, then noisy chunks at one noise level of their sample, or each at its own. The frames
that a chunk sees, and what it recalls, come from the same code as in a rollout (`causalcine_core.memory.PackedView`).
"""

from __future__ import annotations

from collections.abc import Sequence

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
        self._run = self.chunks[0] if len(set(self.chunks)) == 1 else 1  # frames of one prompt in a row, everywhere

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
        timesteps = torch.zeros(len(latents), self.view.frames, device=latents.device)
        timesteps[:, self.view.clean :] = 1000 * (self.each(levels) if levels.ndim == 2 else levels[:, None])
        said = [text for of in prompts for text in of]
        unique = list(dict.fromkeys(said))
        rows = torch.tensor([unique.index(text) for text in said], device=latents.device).view(len(prompts), -1)
        before = rows[:, :-1].repeat_interleave(self._lengths[:-1], 1)
        text = model.read(unique, torch.cat([before, self.each(rows[:, self.first :])], 1), self._run)
        compute = tap.into(model.compute) if tap is not None else None
        return model.velocity(latents, timesteps, text, view or self.view, compute)[:, :, self.view.clean :]

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
        """The same, guided: unguided + scale * (guided - unguided). The unguided branch reads `negative` everywhere, history as well,
        as in a rollout; at scale 1 there is none."""
        if scale == 1:
            return self.velocity(model, clean, noisy, levels, prompts)
        both = [*prompts, *([negative] * len(of) for of in prompts)]
        clean, noisy, levels = (torch.cat([t, t]) for t in (clean, noisy, levels))
        guided, unguided = self.velocity(model, clean, noisy, levels, both).chunk(2)
        return unguided + scale * (guided - unguided)
