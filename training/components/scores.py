"""The two denoisers of self-forcing, and the heads on one of them: what they say of films that a student made, as losses.

A film is scored in one packed pass. Its clean half is the film itself, as a value, its noisy half the same film noised at one
level: each chunk is denoised after its own history, with the visibility and routing of a rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from causalcine_core import checks
from causalcine_core.errors import InputError
from causalcine_core.sampling import add_noise, predict_clean

from ..losses.adversarial import approximate_r1, critic_loss, generator_loss
from ..losses.dmd import chunk_means, dmd_gradient, dmd_loss
from ..model import Model
from .heads import Heads, Tap
from .packed import PackedPass
from .student import Teacher

BINS = (0.0, 0.25, 0.5, 0.75, 1.0)  # of noise levels, for curves


@dataclass(frozen=True)
class Adversarial:
    """The adversarial term: the student minimises L_DMD + weight * L_G, the fake denoiser and its heads
    L_flow + critic_weight * (L_D + r1 * L_R1).

    weight: 0: there are no heads, and no term. sigma: deviation of the noise of R1. teacher_steps: true samples are the teacher's own
    films, of so many passes a chunk; 0: they are the films of the data. blocks: of the fake denoiser that the heads look at,
    from 0, of nano by default. width, heads, queries: as of `Heads`.
    """

    weight: float = 0.0
    critic_weight: float = 0.03
    r1: float = 1.0
    sigma: float = 0.1
    teacher_steps: int = 0
    blocks: tuple[int, ...] = (3, 5, 7)
    width: int = 128
    heads: int = 4
    queries: int = 1

    def __post_init__(self) -> None:
        for name in ("weight", "critic_weight", "r1"):
            checks.number(getattr(self, name), name, 0, 1e6)
        checks.number(self.sigma, "sigma", 1e-6, 10)
        checks.whole(self.teacher_steps, "teacher_steps", 0, 1000)
        for name in ("width", "heads", "queries"):
            checks.whole(getattr(self, name), name, 1, 65_536)
        if self.width % self.heads:
            raise InputError(f"width must be a multiple of heads ({self.heads}), got {self.width}")


@dataclass(frozen=True)
class Shown:
    """Films as the denoisers are shown them. layout: of the packed pass; chunks before its first are history only. clean, noise: all
    frames `[B, C, F, h, w]`. levels: `[B]` in 0..1. prompts, described: of each film's chunks."""

    layout: PackedPass
    clean: Tensor
    noise: Tensor
    levels: Tensor
    prompts: Sequence[Sequence[str]]
    described: Sequence[Sequence[str]]

    @property
    def chunks(self) -> tuple[int, ...]:
        """Frames of each chunk that is denoised."""
        return self.layout.chunks[self.layout.first :]

    def new(self, films: Tensor) -> Tensor:
        """The frames that are denoised, of all."""
        return films[:, :, self.layout.view.history :]

    def with_new(self, films: Tensor) -> Tensor:
        """All clean frames, with other ones where they are denoised."""
        return torch.cat([self.clean[:, :, : self.layout.view.history], films], 2)

    def noised(self, films: Tensor) -> Tensor:
        return add_noise(films, self.noise, self._levels)

    def denoised(self, noisy: Tensor, velocity: Tensor) -> Tensor:
        """What the new frames are without noise, by a denoiser's velocity: in float32."""
        return predict_clean(self.new(noisy).float(), velocity.float(), self._levels)

    @property
    def _levels(self) -> Tensor:
        return self.levels[:, None, None, None, None]


class Scores:
    """teacher: the real denoiser, frozen. fake: the one that is trained on what the student makes. heads: on the fake one; None:
    there is no adversarial term."""

    def __init__(self, teacher: Model, fake: Model, heads: Heads | None, guide: Teacher, adversarial: Adversarial):
        self.teacher, self.fake, self.heads = teacher, fake, heads
        self.guide, self.adversarial = guide, adversarial

    def of_student(self, made: Tensor, shown: Shown) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The student's losses, and curves. made: the new frames, with their gradient.

        Gradients of both losses are taken here, at what was made, and what they took is let go of: one way back through the
        rollout is left to do.
        """
        at, losses = made.detach().requires_grad_(), {}
        noisy = shown.noised(shown.with_new(at))
        if self.heads is None:
            with torch.no_grad():
                answer = self._answer(shown, shown.clean, noisy)
        else:
            answer, logits = self._judge(shown, shown.clean, noisy)
            loss = generator_loss(logits)
            losses["adversarial"] = carried(loss.detach(), made, torch.autograd.grad(loss, at)[0])
        noisy = noisy.detach()
        real, fake = self.real(shown, noisy), shown.denoised(noisy, answer.detach())
        gradient = dmd_gradient(made.detach(), real, fake, shown.chunks)
        return losses | {"dmd": dmd_loss(made, gradient)}, {"lag": gradient.abs().mean()}

    @torch.no_grad()
    def real(self, shown: Shown, noisy: Tensor) -> Tensor:
        """What the teacher takes the new frames for: guided, and told what those look like who are called by name only."""
        said = shown.described if self.guide.described else shown.prompts
        velocity = shown.layout.guided(
            self.teacher, shown.clean, noisy, shown.levels, said, self.guide.guidance, self.guide.negative
        )
        return shown.denoised(noisy, velocity)

    def of_fake(self, shown: Shown, true: Tensor, nearby: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses of the fake denoiser and its heads, and curves. true: other films of the same texts, all frames. nearby: noise of
        unit deviation for them."""
        noisy, losses = shown.noised(shown.clean), {}
        if self.heads is None:
            answer = self._answer(shown, shown.clean, noisy)
        else:
            answer, of_made = self._judge(shown, shown.clean, noisy)
            _, of_true = self._judge(shown, true, shown.noised(true))
            losses["critic"] = critic_loss(of_true, of_made)
            if self.adversarial.r1:
                _, around = self._judge(shown, true, shown.noised(true + self.adversarial.sigma * nearby))
                losses["r1"] = approximate_r1(of_true, around)
        errors = chunk_means((answer - shown.new(shown.noise - shown.clean)).square(), shown.chunks)
        losses["flow"] = errors.mean()
        return losses, by_level(errors.detach().mean(1), shown.levels)

    def _answer(self, shown: Shown, clean: Tensor, noisy: Tensor, tap: Tap | None = None) -> Tensor:
        """The fake denoiser's velocity of the new frames."""
        return shown.layout.velocity(self.fake, clean, noisy, shown.levels, shown.prompts, tap=tap)

    def _judge(self, shown: Shown, clean: Tensor, noisy: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the heads' logits of the new chunks `[B, N]`."""
        assert self.heads is not None
        tap = Tap(self.fake.net, self.adversarial.blocks)
        velocity = self._answer(shown, clean, noisy, tap)
        features = [feature[:, shown.layout.view.clean :] for feature in tap.features]
        return velocity, self.heads(features, shown.chunks)


def carried(value: Tensor, made: Tensor, gradient: Tensor) -> Tensor:
    """A scalar of this value and this gradient with respect to `made`."""
    through = (made * gradient).sum()
    return value + (through - through.detach())


def by_level(errors: Tensor, levels: Tensor) -> dict[str, Tensor]:
    """Means of errors `[B]` in a few bins of noise levels, by name, without bins that are empty."""
    bins = torch.bucketize(levels, torch.tensor(BINS[1:-1], device=levels.device))
    means = {}
    for n in sorted(set(bins.tolist())):
        means[f"flow {BINS[n]:g} to {BINS[n + 1]:g}"] = errors[bins == n].mean()
    return means
