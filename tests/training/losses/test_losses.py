"""The losses against their formulas, written out."""

from __future__ import annotations

import random

import pytest
import torch

from training.losses.adversarial_patches import (
    PatchDiscriminator,
    ReplayBuffer,
    discriminator_loss,
    draw_patches,
    guidance,
    guided_loss,
)
from training.losses.haar import haar, haar_loss
from training.losses.reconstruction import edge_loss, kl_loss, pixel_loss, rhythm_loss


def films(frames: int = 9, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.rand(2, 3, frames, size, size, generator=generator, dtype=torch.float64) for _ in range(2))


def test_pixel_loss_is_l1_plus_a_weight_times_mse():
    a, b = films()
    expected = (a - b).abs().sum() / a.numel() + 0.7 * ((a - b) ** 2).sum() / a.numel()
    torch.testing.assert_close(pixel_loss(a, b, 0.7), expected)


def test_edge_loss_compares_neighbours_at_every_scale():
    a, b = films(5, 8)
    e = a - b
    half = (e[..., ::2, ::2] + e[..., 1::2, ::2] + e[..., ::2, 1::2] + e[..., 1::2, 1::2]) / 4
    terms = []
    for x in (e, half):
        terms += [(x[:, :, 1:] - x[:, :, :-1]), (x[..., 1:, :] - x[..., :-1, :]), (x[..., 1:] - x[..., :-1])]
    expected = sum(term.abs().mean() for term in terms) / 6
    torch.testing.assert_close(edge_loss(a, b, 2), expected)


def test_edge_loss_of_stills_has_no_time():
    a, b = films(1, 8)
    e = a - b
    expected = ((e[..., 1:, :] - e[..., :-1, :]).abs().mean() + (e[..., 1:] - e[..., :-1]).abs().mean()) / 2
    torch.testing.assert_close(edge_loss(a, b, 1), expected)


def test_haar_keeps_energy_and_knows_constants():
    x, _ = films()
    low, high = haar(x, 4)
    torch.testing.assert_close(low.square().sum() + high.square().sum(), x.square().sum())
    assert haar(torch.ones(1, 4), 1)[1].abs().max() == 0


def test_haar_loss_of_an_error_that_lasts_a_group_of_four():
    """An error of 1 in one group of two: its only 3-D coefficients are the lowest ones.

    In rows and columns a constant c has the low coefficients 2c and 4c and no details; in time as well 2 * 2**0.5 c and,
    after one more level in time, 4c.
    """
    video = torch.zeros(1, 3, 9, 8, 8, dtype=torch.float64)
    output = video.clone()
    output[:, :, 1:5] = 1
    torch.testing.assert_close(haar_loss(output, video), torch.tensor(4 * 0.5 / 5, dtype=torch.float64))


def test_haar_loss_sees_a_change_within_a_group_in_the_details_alone():
    video = torch.zeros(1, 3, 5, 8, 8, dtype=torch.float64)
    output = video.clone()
    output[:, :, 1], output[:, :, 2] = 1, -1  # sums to nothing over the pair
    # one of seven details of the first level in time is 8**0.5 in one of two pairs, all other terms are zero
    torch.testing.assert_close(haar_loss(output, video), torch.tensor(8**0.5 / 2 / 7 / 5, dtype=torch.float64))


def test_haar_loss_of_the_same_film_is_zero_and_stills_have_no_time():
    a, b = films(1)
    assert haar_loss(a, a) == 0
    e = a - b
    corners = e[..., ::2, ::2], e[..., ::2, 1::2], e[..., 1::2, ::2], e[..., 1::2, 1::2]

    def details(p, q, r, s):
        return [((p - q + r - s) / 2), ((p + q - r - s) / 2), ((p - q - r + s) / 2)]

    low = sum(corners) / 2
    deeper = low[..., ::2, ::2], low[..., ::2, 1::2], low[..., 1::2, ::2], low[..., 1::2, 1::2]
    terms = [sum(d.abs().mean() for d in details(*level)) / 3 for level in (corners, deeper)]
    terms.append((sum(deeper) / 2).abs().mean())
    torch.testing.assert_close(haar_loss(a, b), sum(terms) / 3)


def test_rhythm_loss_compares_mean_luma_steps():
    video = torch.zeros(1, 3, 5, 4, 4, dtype=torch.float64)
    video += torch.arange(5.0).view(1, 1, 5, 1, 1) * 0.1  # steps of 0.1 everywhere
    held = video.clone()
    held[:, :, 1:5] = held[:, :, 1:2]  # a jump into the group, and no motion in it
    wrong = torch.tensor([0.0, 0.1, 0.1, 0.1], dtype=torch.float64).mean() / (0.1 + 0.004)
    torch.testing.assert_close(rhythm_loss(held, video), wrong)
    assert rhythm_loss(video, video) == 0
    assert rhythm_loss(video[:, :, :1], video[:, :, :1]) == 0
    for channel, weight in enumerate((0.2126, 0.7152, 0.0722)):  # of luma, Rec. 709
        still = torch.zeros_like(video)
        moves = still.clone()
        moves[:, channel] = video[:, channel]
        torch.testing.assert_close(rhythm_loss(moves, still), torch.tensor(0.1 * weight / 0.004, dtype=torch.float64))


def test_kl_is_that_of_a_normal():
    mean, logvar = torch.tensor([0.5, -1.0]), torch.tensor([0.2, -0.3])
    normal = torch.distributions.Normal(mean, (0.5 * logvar).exp())
    unit = torch.distributions.Normal(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(kl_loss(mean, logvar), torch.distributions.kl_divergence(normal, unit).mean())


@pytest.fixture
def judge() -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(4, width=8)


def patches(count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.rand(count, 9, 16, 16, generator=generator),
        torch.rand(count, 9, 16, 16, generator=generator),
        torch.randn(count, 4, 2, 2, generator=generator),
    )


def test_the_discriminator_sees_the_latent(judge):
    fake, _, latent = patches()
    assert len(judge(fake, latent)) == 4
    assert (judge(fake, latent)[-1] - judge(fake, latent + 1)[-1]).abs().max() > 1e-5


def test_discriminator_loss_is_least_squares():
    true, fake = [torch.tensor([0.5, 1.5]), torch.tensor([2.0])], [torch.tensor([0.1, 0.3]), torch.tensor([-1.0])]
    expected = ((0.25 + 0.25) / 2 + (0.01 + 0.09) / 2 + 1.0 + 1.0) / 2
    torch.testing.assert_close(discriminator_loss(true, fake), torch.tensor(expected))


def test_guidance_has_unit_deviation_and_leads_towards_the_true_scores(judge):
    fake, true, latent = patches()
    direction = guidance(judge, fake, true, latent)
    torch.testing.assert_close(direction.std((1, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)

    def gap(x):
        return sum((a - b).square().mean() for a, b in zip(judge(x, latent), judge(true, latent), strict=True))

    assert gap(fake + 0.01 * direction) < gap(fake)
    assert all(parameter.grad is None for parameter in judge.parameters())


def test_the_guided_loss_pushes_by_its_reach_alone():
    fake = torch.rand(2, 9, 4, 4, requires_grad=True)
    direction = torch.randn(2, 9, 4, 4)
    loss = guided_loss(fake, direction, 0.1)
    torch.testing.assert_close(loss, (0.1 * direction).square().mean())
    loss.backward()
    torch.testing.assert_close(fake.grad, -2 * 0.1 * direction / fake.numel())


def test_half_of_the_shown_fakes_are_earlier_ones():
    buffer, rng = ReplayBuffer(4), random.Random(0)
    first, second = ((torch.full((4, 9, 2, 2), n), torch.full((4, 4, 1, 1), n)) for n in (0.0, 1.0))
    assert buffer.mixed(*first, rng)[0].eq(0).all()  # nothing earlier yet
    buffer.add(*first, rng)
    shown, latent = buffer.mixed(*second, rng)
    assert shown.mean((1, 2, 3)).tolist() == [1, 1, 0, 0] and latent.flatten(1).mean(1).tolist() == [1, 1, 0, 0]
    buffer.add(*second, rng)
    assert len(buffer.pairs) == 4 and any(frames.eq(1).all() for frames, _ in buffer.pairs)
    for n in range(2, 60):  # a new one takes the place of any
        buffer.add(torch.full((1, 9, 2, 2), float(n)), torch.zeros(1, 4, 1, 1), rng)
    assert min(frames.mean().item() for frames, _ in buffer.pairs) > 10


def test_patches_lie_on_their_latents():
    latent = torch.arange(2 * 3 * 4 * 4.0).view(2, 1, 3, 4, 4)
    spread = latent.repeat_interleave(8, 3).repeat_interleave(8, 4)
    video = torch.cat([spread[:, :, :1], spread[:, :, 1:].repeat_interleave(4, 2)], 2).expand(-1, 3, -1, -1, -1)
    fake, true, seen = draw_patches(video + 0.5, video, latent, 20, 16, 8, random.Random(0))
    assert fake.shape == (20, 9, 16, 16) and seen.shape == (20, 1, 2, 2)
    torch.testing.assert_close(fake, true + 0.5)
    torch.testing.assert_close(true[:, 1, ::8, ::8], seen[:, 0])  # the red of the middle frame
