"""The codec's figures, on codecs whose faults are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from training.evaluation import codec


class Faulty(nn.Module):
    """A 'VAE' whose latents are the pictures and whose decoding is `fault` of them."""

    def __init__(self, fault):
        super().__init__()
        self.weight, self.fault = nn.Parameter(torch.zeros(1)), fault

    def encode(self, video):
        return video, None

    def decode(self, video):
        return self.fault(video), None


@pytest.fixture(scope="module")
def films() -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Two films of noise that is smoothed and moves a pixel a frame."""
    generator = np.random.default_rng(0)
    wide = generator.integers(40, 200, (32, 32 + 80, 3)).astype(np.float32)
    wide = (wide + np.roll(wide, 1, 0) + np.roll(wide, 1, 1)) / 3
    moving = np.stack([wide[:, t : t + 32] for t in range(73)]).astype(np.uint8)
    return [(moving, ()), (moving[:, ::-1].copy(), (40,))]


def test_a_perfect_border_is_like_any_other_place():
    steps = [np.ones(31), np.ones(31)]
    assert codec.border_step(steps, 8) == 1
    rows = np.ones(31)
    rows[7::8] = 3  # the steps over the borders of squares of 8
    assert codec.border_step([rows, np.ones(31)], 8) == 2
    assert codec.border_step([rows, rows], 16) > 1


def test_gradients_are_mean_luma_steps():
    frames = np.zeros((2, 3, 4, 3), np.uint8)
    frames[:, :, 2:] = 100  # grey: luma 100
    rows, columns = codec.gradients(frames)
    np.testing.assert_allclose(rows, 0)
    np.testing.assert_allclose(columns, [0, 100, 0], rtol=1e-5)


def test_noise_of_known_size_has_its_psnr(films):
    def fault(video):
        sign = torch.ones_like(video)
        sign[..., ::2] = -1
        return video + sign * 10 / 127.5

    report = codec.measure(Faulty(fault), films)
    assert report["psnr"] == pytest.approx(20 * np.log10(255 / 10), abs=0.05)
    assert report["gradient"] > 1.05


def test_blur_is_seen_in_the_gradient(films):
    report = codec.measure(Faulty(lambda video: (video + video.roll(1, -1)) / 2), films)
    assert report["gradient"] < 0.9


def test_a_grid_is_seen_at_its_borders(films):
    def fault(video):
        column = torch.arange(video.shape[-1]) // 8 % 2
        return video + 0.3 * (column - 0.5)

    report = codec.measure(Faulty(fault), films)
    assert report["border_8"] > 1.2 and report["border_4"] < report["border_8"]


def test_frames_held_for_a_latent_frame_blink(films):
    def fault(video):
        held = video.clone()
        for first in range(1, video.shape[2], 4):
            held[:, :, first + 1 : first + 4] = (
                0.9 * held[:, :, first : first + 1] + 0.1 * video[:, :, first + 1 : first + 4]
            )
        return held

    report = codec.measure(Faulty(fault), films)
    assert report["luma_step_latent"] > 1.5 and report["luma_step_chunk"] > 1.5
    assert report["luma_step_latent_true"] == pytest.approx(1, abs=0.1)
