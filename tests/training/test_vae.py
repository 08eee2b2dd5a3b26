"""The arithmetic around the VAE's training: its linear start and the folding of latent statistics."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.vae import VAEConfig, WanVAE, load_vae, normalize, save_vae
from training.components import vae_start as start
from training.stages import vae as training


@pytest.fixture
def footage() -> torch.Tensor:
    """Clips uint8 `[N 17 32 32 3]`: a soft bright spot that moves over a slope of colour."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    clips = []
    for _ in range(24):
        at, speed, tint = (
            torch.rand(2, generator=generator) * 32,
            torch.randn(2, generator=generator),
            torch.rand(3, generator=generator),
        )
        frames = []
        for t in range(17):
            square = (x - at[0] - speed[0] * t) ** 2 + (y - at[1] - speed[1] * t) ** 2
            frames.append((x + y)[..., None] * 2 * tint + 120 * torch.exp(-square / 60)[..., None])
        clips.append(torch.stack(frames).clamp(0, 255).to(torch.uint8))
    return torch.stack(clips)


@pytest.fixture
def vae() -> WanVAE:
    torch.manual_seed(0)
    return WanVAE(VAEConfig.preset("nano")).eval().requires_grad_(False)


def test_the_linear_start_already_reconstructs(vae, footage):
    start.start_linear(vae, training.to_video(footage))
    assert training.psnr(vae, list(footage[:2])) > 20
    _, std = training.latent_statistics(vae, list(footage))
    assert std.min() > 0.3 and std.max() < 3


def test_the_linear_start_refuses_a_vae_that_resamples_pictures(footage):
    with pytest.raises(ValueError, match="purely temporal"):
        start.start_linear(WanVAE(VAEConfig(dim=4)), training.to_video(footage))


def test_folding_gives_unit_model_latents_and_the_same_pictures(vae, footage):
    vae = vae.double()
    videos = [training.to_video(clip[None]).double() for clip in footage[:3]]
    before = [vae.decode(vae.encode(video)[0], clamp=False)[0] for video in videos]
    _, logvar_before, _ = vae.encode_moments(videos[0])
    latents = torch.cat([vae.encode(video)[0][0].flatten(1) for video in videos], 1)
    training.fold_statistics(vae, latents.mean(1), latents.std(1))
    after = [vae.decode(vae.encode(video)[0], clamp=False)[0] for video in videos]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(old, new, atol=1e-8, rtol=1e-8)
    unit = torch.cat([normalize(vae.encode(video)[0])[0].flatten(1) for video in videos], 1)
    torch.testing.assert_close(unit.mean(1), torch.zeros(16).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(unit.std(1), torch.ones(16).double(), atol=1e-6, rtol=0)
    gain = 2.8184 / latents.std(1)[0]
    torch.testing.assert_close(vae.encode_moments(videos[0])[1][:, 0], logvar_before[:, 0] + 2 * gain.log())


def test_the_loss_is_zero_only_for_the_same_video():
    video = torch.rand(1, 3, 5, 16, 16)
    assert training.reconstruction_loss(video, video, 2, 1.0) == 0
    assert training.reconstruction_loss(video.roll(1, -1), video, 2, 1.0) > 0.1


def test_a_stopped_run_goes_on_where_it_was(tmp_path, monkeypatch, footage):
    monkeypatch.setattr(
        training.Footage, "render", classmethod(lambda cls, *numbers: cls(footage[:, 0].contiguous(), footage))
    )
    numbers = {"crop": 16, "batch_clip": 1, "batch_still": 1, "precision": "fp32", "log_every": 100}
    whole = training.Trainer(training.VAERecipe(steps=4, **numbers), tmp_path / "whole")
    whole.run()
    parts = training.Trainer(training.VAERecipe(steps=4, **numbers), tmp_path / "parts")
    parts.train_step(), parts.train_step()
    parts.save()
    again = training.Trainer(training.VAERecipe(steps=4, **numbers), tmp_path / "parts")
    assert again.step == 2
    again.run()
    for one, other in zip(whole.ema.parameters(), again.ema.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert again.finish("test").exists()


def test_a_decoder_is_trained_on_alone_and_the_latents_stay(tmp_path, monkeypatch, footage, vae):
    """Every film has the latents that it had, also in the file that comes out; only what is made of them changes."""
    monkeypatch.setattr(
        training.Footage, "render", classmethod(lambda cls, *numbers: cls(footage[:, 0].contiguous(), footage))
    )
    save_vae(vae, tmp_path / "begun.safetensors", {})
    recipe = training.VAERecipe(
        steps=3, crop=16, batch_clip=1, batch_still=1, precision="fp32", decoder_only=True, latent_noise=0.3
    )
    with pytest.raises(InputError, match="name it with --init"):
        training.Trainer(recipe, tmp_path / "run")
    trainer = training.Trainer(recipe, tmp_path / "run", tmp_path / "begun.safetensors")
    trainer.run()
    made = load_vae(trainer.finish("test"))
    video = training.to_video(footage[:1])
    latent, _ = vae.encode(video)
    torch.testing.assert_close(made.encode(video)[0], latent, atol=1e-6, rtol=0)
    assert (made.decode(latent)[0] - vae.decode(latent)[0]).abs().max() > 1e-4
