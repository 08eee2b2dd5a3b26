"""DMD's gradient against scores that are known in closed form, and training on it."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.sampling import add_noise
from training.losses.dmd import dmd_gradient, dmd_loss

CHUNKS = (1, 3, 2)  # frames of each


class Gaussian:
    """A distribution of independent numbers, of which score and best denoiser are known at every noise level."""

    def __init__(self, mean: float, deviation: float):
        self.mean, self.deviation = mean, deviation

    def log_density(self, noisy, level):
        """Of the distribution under noise, by the sum of two Gaussians."""
        variance = (1 - level) ** 2 * self.deviation**2 + level**2
        return -((noisy - (1 - level) * self.mean) ** 2) / (2 * variance)

    def score(self, noisy, level):
        at = noisy.detach().double().requires_grad_()
        (gradient,) = torch.autograd.grad(self.log_density(at, level).sum(), at)
        return gradient

    def denoised(self, noisy, level):
        """The mean of all that may lie under `noisy`, by Bayes' rule for two Gaussians."""
        precision = 1 / self.deviation**2 + (1 - level) ** 2 / level**2
        return (self.mean / self.deviation**2 + (1 - level) * noisy / level**2) / precision


def made(seed: int = 0, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 4, 6, 2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("level", [0.05, 0.4, 0.95])
def test_the_gradient_is_the_difference_of_the_scores(level):
    """Up to t^2 / (1 - t), which turns scores into clean predictions (Tweedie), and the stated division."""
    real, fake = Gaussian(1.5, 0.5), Gaussian(-0.5, 0.8)
    x = fake.mean + fake.deviation * made()
    noisy = add_noise(x, made(1), level)
    told = real.denoised(noisy, level)
    gradient = dmd_gradient(x, told, fake.denoised(noisy, level), CHUNKS)
    scores = level**2 / (1 - level) * (fake.score(noisy, level) - real.score(noisy, level))
    for part, expected, at, aim in zip(*(t.split(CHUNKS, 2) for t in (gradient, scores, x, told)), strict=True):
        for sample in range(2):
            distance = sum(abs(float(a) - float(b)) for a, b in zip(at[sample].flatten(), aim[sample].flatten()))
            scaled = expected[sample] * at[sample].numel() / distance
            torch.testing.assert_close(part[sample].double(), scaled, atol=2e-5, rtol=2e-5)


def test_it_is_exactly_zero_where_the_two_agree():
    x, told = made(), made(1)
    assert dmd_gradient(x, told, told.clone(), CHUNKS).eq(0).all()
    assert dmd_gradient(told, told, told, CHUNKS).eq(0).all()  # 0 / 0


def test_each_chunk_of_each_sample_has_its_own_scale():
    """Another unit in one chunk changes nothing in it, nor anywhere else."""
    x, real, fake = made(), made(1), made(2)
    whole = dmd_gradient(x, real, fake, CHUNKS)
    for t in (x, real, fake):
        t[1, :, 1:4] *= 1000
    torch.testing.assert_close(dmd_gradient(x, real, fake, CHUNKS), whole)
    x[0, :, 4:] = real[0, :, 4:] + 2 * (x[0, :, 4:] - real[0, :, 4:])  # twice as far away
    expected = whole.clone()
    expected[0, :, 4:] /= 2
    torch.testing.assert_close(dmd_gradient(x, real, fake, CHUNKS), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("whose", [0, 1, 2])
def test_a_chunk_that_went_wrong_moves_nothing_and_the_others_move_on(bad, whose):
    told = [made(), made(1), made(2)]
    whole = dmd_gradient(*told, CHUNKS)
    told[whose][0, 2, 2, 1, 1] = bad
    gradient = dmd_gradient(*told, CHUNKS)
    assert gradient.isfinite().all() and gradient[0, 2, 2, 1, 1] == 0
    kept = torch.ones(2, 6, dtype=torch.bool)
    kept[0, 1:4] = False
    assert torch.equal(gradient.movedim(2, 1)[kept], whole.movedim(2, 1)[kept])


def test_it_is_computed_in_float32():
    x, real, fake = (made(n).bfloat16() for n in range(3))
    gradient = dmd_gradient(x, real, fake, CHUNKS)
    assert gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, dmd_gradient(x.float(), real.float(), fake.float(), CHUNKS))


def test_the_loss_has_that_gradient_and_no_other():
    x, real, fake = (made(n).requires_grad_() for n in range(3))
    gradient = dmd_gradient(x, real, fake, CHUNKS)
    loss = dmd_loss(x, gradient)
    assert loss.item() == pytest.approx(0.5 * gradient.square().mean().item(), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(x.grad * x.numel(), gradient, atol=1e-5, rtol=1e-5)
    assert real.grad is fake.grad is None


def test_a_generator_that_follows_it_becomes_the_target():
    """A line from noise to numbers; the fake denoiser is exact for whatever it makes now."""
    torch.manual_seed(0)
    target, slope, offset = Gaussian(2.0, 0.5), torch.tensor(1.5).requires_grad_(), torch.tensor(-1.0).requires_grad_()
    optimizer = torch.optim.Adam([slope, offset], 0.03, betas=(0.0, 0.999))
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.03 * (1 - step / 400)
        x = offset + slope * torch.randn(16, 4, 6, 2, 3)
        level = 0.02 + 0.96 * torch.rand(16, 1, 1, 1, 1)
        noisy = add_noise(x.detach(), torch.randn_like(x), level)
        fake = Gaussian(offset.item(), abs(slope.item()))
        optimizer.zero_grad()
        gradient = dmd_gradient(x, target.denoised(noisy, level), fake.denoised(noisy, level), CHUNKS)
        dmd_loss(x, gradient).backward()
        optimizer.step()
    assert offset.item() == pytest.approx(target.mean, abs=0.02)
    assert abs(slope.item()) == pytest.approx(target.deviation, abs=0.02)
