"""A film, chunk by chunk: denoised, then written into memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from causalcine_core.sampling import chunk_generator

from .memory import Look, Past
from .network import Network
from .samplers import levels, sample
from .story import Settings, Shot, plan, seen


@dataclass(frozen=True)
class Made:
    """A chunk: latents in model space `[B, C, c, h, w]`; frames recalled in its last pass, by film, branch and layer."""

    latent: Tensor
    recalled: list[list[dict[int, list[int]]]]


class Film:
    """Films made side by side. size: latent height and width. negative: text `[1, T, text_dim]` of the unguided branch."""

    def __init__(
        self,
        network: Network,
        shots: Sequence[Shot],
        settings: Settings,
        size: tuple[int, int],
        seed: int,
        negative: Tensor | None = None,
    ):
        self.network, self.settings, self.size, self.seed, self.negative = network, settings, size, seed, negative
        self.chunks = plan(shots, settings)
        self.batch, branches = len(shots[0].text), 1 if settings.guidance == 1 else 2
        self.past = [[Past() for _ in range(branches)] for _ in range(self.batch)]
        self.uses: list[dict[int, float]] = [{} for _ in range(self.batch)]  # of frames, in layers and branches
        self.turns: dict[int, int] = {}  # chunks that could have recalled a frame
        self.under_way: list[Tensor] = []  # of a rolling film: chunks half made, each a pass behind the one before
        self.made: list[Made] = []

    def make(self) -> list[Made]:
        for n in range(len(self.chunks)):
            if n:
                self.remember(n)
            self.made.append(self.roll(n) if self.settings.sampler == "rolling" else self.denoise(n))
        return self.made

    def begin(self, n: int) -> int:
        """First frame of a chunk."""
        return sum(chunk.length for chunk in self.chunks[:n])

    def noise(self, n: int, use: str = "") -> Callable[[], Tensor]:
        chunk = self.chunks[n]
        generator = chunk_generator(self.seed if chunk.seed is None else chunk.seed, n, use)
        shape = (self.batch, self.network.weights["patch_embedding.weight"].shape[1], chunk.length, *self.size)
        return lambda: torch.randn(shape, generator=generator).double()

    def looks(self, n: int, frames: int, settings: Settings, keeps: bool = False) -> list[list[Look]]:
        """Of every branch of every film, as chunk n sees it."""
        view, shot = seen(self.chunks, n, settings), self.chunks[n].shot
        return [
            [past.look(view, frames, shot, settings, self.size[1] // 2, keeps) for past in film] for film in self.past
        ]

    def velocity(self, x: Tensor, levels: Sequence[float], texts: Sequence[Tensor], looks: list[list[Look]]) -> Tensor:
        """Of `x [B, C, F, h, w]`, guided. levels, texts: of each frame."""
        films = []
        for film, branches in enumerate(looks):
            reads = [[text[film] for text in texts]]
            if self.negative is not None:
                reads.append([self.negative[0]] * len(texts))
            out = [
                self.network.velocity(x[film], levels, read, look.attend)
                for read, look in zip(reads, branches, strict=True)
            ]
            films.append(out[0] if len(out) == 1 else out[1] + self.settings.guidance * (out[0] - out[1]))
        return torch.stack(films)

    def denoise(self, n: int) -> Made:
        chunk, noise = self.chunks[n], self.noise(n)
        looks = self.looks(n, chunk.length, self.settings, keeps=self.settings.routing == "first_step")
        texts = [chunk.text] * chunk.length

        def velocity(x: Tensor, level: float) -> Tensor:
            return self.velocity(x, [level] * chunk.length, texts, looks)

        latent = sample(
            noise(), velocity, levels(self.settings, n), noise, self.settings.sampler, self.settings.exit_step
        )
        return Made(latent, [[dict(look.recalled) for look in film] for film in looks])

    def roll(self, n: int) -> Made:
        """Chunk n, and with it the chunks after it, as many at once as there are steps (Rolling Forcing, arXiv:2509.25161)."""
        through, length = levels(self.settings, n), self.settings.chunk
        for done in range(len(through) - 1 if n == 0 else 1):
            first = done + 1 if n == 0 else len(through) - 1  # passes of chunk n, with this one
            if len(self.under_way) < min(len(through) - 1, len(self.chunks) - n):
                self.under_way.append(self.noise(n + len(self.under_way))())
            passes = [first - i for i in range(len(self.under_way))]
            level = [through[p - 1] for p in passes for _ in range(length)]
            texts = [self.chunks[n + i].text for i in range(len(passes)) for _ in range(length)]
            x, looks = torch.cat(self.under_way, 2), self.looks(n, len(level), self.settings)
            clean = x - torch.tensor(level).double()[:, None, None] * self.velocity(x, level, texts, looks)
            for i, (p, one) in enumerate(zip(passes, clean.split(length, 2), strict=True)):
                ahead = through[p]
                noise = self.noise(n + i, f"pass {p}")() if ahead else 0
                self.under_way[i] = (1 - ahead) * one + ahead * noise
        return Made(self.under_way.pop(0), [[dict(look.recalled) for look in film] for film in looks])

    def remember(self, n: int) -> None:
        """Write what chunk n is to see and memory lacks: the chunk before it, or its whole window once more, under its own text."""
        settings, again = self.settings, 0
        if settings.recompute or self.chunks[n].rewrite:
            again = min(n, settings.window)
        first = n - max(again, 1)
        for past in (past for film in self.past for past in film):
            begin = self.begin(first)
            past.frames = {number: frame for number, frame in past.frames.items() if number < begin}
        for i, m in enumerate(range(first, n)):
            how = settings
            if settings.recompute and again:  # nothing older than what is written anew
                how = replace(settings, window=i, top_k=0, sink=0)
            self.write(m, self.chunks[n if again else m].text, how, new=m == n - 1)

    @torch.no_grad()
    def write(self, n: int, text: Tensor, settings: Settings, new: bool) -> None:
        """A pass over a finished chunk, at the level of context noise; its keys and values are remembered, as values without gradient.
        new: for the first time."""
        length, level, far = self.chunks[n].length, settings.context_noise, seen(self.chunks, n, settings)[1]
        x = (1 - level) * self.made[n].latent + level * self.noise(n, "context")()
        looks = self.looks(n, length, settings)
        self.velocity(x, [level] * length, [text] * length, looks)
        if new:
            self.turns.update({frame: self.turns.get(frame, 0) + 1 for frame in far})
        for film, branches in enumerate(self.past):
            for recalled in self.made[n].recalled[film] if new else ():
                for frame in (frame for frames in recalled.values() for frame in frames):
                    share = 1 / (len(branches) * self.network.layers)
                    self.uses[film][frame] = self.uses[film].get(frame, 0) + share
            dropped = self.least_used(film, far)
            for past, look in zip(branches, looks[film], strict=True):
                past.frames = {number: frame for number, frame in past.frames.items() if number not in dropped}
                for number in far if settings.eight_bit else ():
                    if number in past.frames:
                        past.frames[number].cool()
                past.frames |= {self.begin(n) + i: frame for i, frame in enumerate(look.own)}

    def least_used(self, film: int, far: list[int]) -> list[int]:
        """Frames that a budget has no room for: those that were recalled least, for as often as they could have been."""
        far = [frame for frame in far if frame in self.past[film][0].frames]
        worth = {frame: (self.uses[film].get(frame, 0) + 0.25) / (self.turns.get(frame, 0) + 4) for frame in far}
        limit = len(far) if self.settings.limit is None else self.settings.limit
        return sorted(far, key=lambda frame: worth[frame])[: max(0, len(far) - limit)]
