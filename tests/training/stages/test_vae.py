"""The codec's training: its linear start, its schedule, going on after a stop, and the file that comes out."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from causalcine_core.vae import VAEConfig, WanVAE, load_vae, normalize
from training.data.footage import Footage, to_video
from training.linear_start import start_linear
from training.stages import vae as stage

MODEL = {
    "dim": 24,
    "dim_mult": [1, 2, 2],
    "num_res_blocks": 1,
    "temporal_downsample": [True, True],
    "spatial_downsample": [True, False],
    "patch_size": 4,
    "flat": 1,
    "shuffle": True,
}
RECIPE = stage.CodecRecipe(
    steps=8,
    model=MODEL,
    phases=(stage.Phase(1.0, (stage.Batch(0.7, 2, 9, 16), stage.Batch(0.3, 2, 1, 16))),),
    adversary=stage.Adversary(patches=3, size=16, buffer=4, ramp=2),
    linear_start=8,
    encoder_until=0.5,
    adversarial_from=0.25,
    muon_rate=1e-3,
    warmup_steps=2,
    measured=(1, 73),
    log_every=100,
    measure_every=100,
)


@pytest.fixture(scope="module")
def footage() -> Footage:
    """Clips of a soft bright spot that moves over a slope of colour, 32 x 32."""
    generator = np.random.default_rng(0)
    y, x, t = np.mgrid[:32, :32, :17].astype(np.float32)
    clips = []
    for _ in range(24):
        at, speed, tint = generator.random(2) * 32, generator.normal(size=2), generator.random(3)
        square = (x - at[0] - speed[0] * t) ** 2 + (y - at[1] - speed[1] * t) ** 2
        film = (x + y)[..., None] * 2 * tint + 120 * np.exp(-square / 60)[..., None]
        clips.append(np.clip(film, 0, 255).astype(np.uint8).transpose(2, 0, 1, 3))
    return Footage(np.stack(clips)[:, 0], np.stack(clips))


def config() -> VAEConfig:
    return VAEConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in MODEL.items()})


def weights(trainer: stage.Trainer) -> dict[str, torch.Tensor]:
    judge = {f"judge.{name}": value for name, value in trainer.judge.state_dict().items()}
    return trainer.vae.state_dict() | {f"ema.{n}": v for n, v in trainer.ema.state_dict().items()} | judge


@torch.no_grad()
def psnr(vae: WanVAE, video: torch.Tensor) -> float:
    output = vae.decode(vae.encode(video)[0])[0]
    return -10 * float(torch.log10((output - video).square().mean() / 4))


def test_the_linear_start_already_reconstructs(footage):
    torch.manual_seed(0)
    vae = WanVAE(config()).eval().requires_grad_(False)
    video = to_video(torch.from_numpy(footage.clips[:20]))
    unseen = to_video(torch.from_numpy(footage.clips[20:]))
    assert psnr(vae, unseen) < 15
    start_linear(vae, video)
    assert psnr(vae, unseen) > 22
    std = vae.encode(unseen)[0].std((0, 2, 3, 4))
    assert std.min() > 0.3 and std.max() < 3


def test_the_linear_start_refuses_another_layout(footage):
    with pytest.raises(ValueError, match="layout"):
        start_linear(WanVAE(VAEConfig(dim=4)), to_video(torch.from_numpy(footage.clips)))


def test_a_killed_run_goes_on_bit_for_bit(footage, tmp_path):
    """What was done after the last save is done again, and all weights are those of a run that was never stopped."""
    whole = stage.Trainer(RECIPE, tmp_path / "whole", footage)
    while whole.step < 7:
        whole.train_step()
    killed = stage.Trainer(RECIPE, tmp_path / "killed", footage)
    for stop in (3, 5):  # before and after the encoder is kept
        while killed.step < stop:
            killed.train_step()
        killed.save()
        killed.train_step()  # lost
        killed = stage.Trainer(RECIPE, tmp_path / "killed", footage)
        assert killed.step == stop
    while killed.step < 7:
        killed.train_step()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(killed)[name]), name
    assert killed.sums == whole.sums


def test_a_full_disk_is_one_sentence_and_the_state_before_it_stays(footage, tmp_path, monkeypatch, capsys):
    trainer = stage.Trainer(RECIPE, tmp_path, footage)
    trainer.save()
    before = (tmp_path / "state.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        trainer.save()
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "not saved" in line]
    assert "No space left on device" in said and "the run goes on" in said
    assert (tmp_path / "state.pt").read_bytes() == before and not list(tmp_path.glob(".causalcine*"))


def test_a_run_that_is_told_to_stop_saves_after_the_step_under_way(footage, tmp_path):
    trainer = stage.Trainer(replace(RECIPE, measured=(0, 73)), tmp_path, footage)
    step = trainer.train_step

    def stop() -> None:
        step()
        trainer.stopped = trainer.step == 2

    trainer.train_step = stop
    trainer.run()
    assert stage.Trainer(RECIPE, tmp_path, footage).step == 2


def test_the_encoder_stays_once_it_is_kept_and_the_decoder_goes_on(footage, tmp_path):
    trainer = stage.Trainer(RECIPE, tmp_path, footage)
    while trainer.step < 4:
        trainer.train_step()
    averaged = {name: value.clone() for name, value in trainer.ema.encoder.state_dict().items()}
    before = trainer.vae.decoder.conv1.weight.clone()
    while trainer.step < 7:
        trainer.train_step()
    for name, value in trainer.vae.encoder.state_dict().items():
        assert torch.equal(value, averaged[name]), name
    for name, value in trainer.ema.encoder.state_dict().items():
        torch.testing.assert_close(value, averaged[name], atol=1e-6, rtol=1e-6)
    assert not torch.equal(trainer.vae.decoder.conv1.weight, before)


def test_schedules_follow_steps():
    recipe = replace(RECIPE, steps=100, warmup_steps=10, final_rate=0.1)
    assert recipe.factor(0) == pytest.approx(0.1)
    assert recipe.factor(50) == pytest.approx(0.55)
    assert recipe.factor(100) == pytest.approx(0.1)


def test_the_adversary_comes_in_slowly(footage, tmp_path):
    trainer = stage.Trainer(
        replace(RECIPE, steps=100, adversary=stage.Adversary(weight=0.5, ramp=10)), tmp_path, footage
    )
    weights = []
    for trainer.step in (25, 30, 35, 90):
        weights.append(trainer._weight("adversarial"))
    assert weights == [0, 0.25, 0.5, 0.5]


def test_muon_and_adamw_share_all_weights():
    vae = WanVAE(config())
    optimizer = stage.Optimizer(vae, 1e-3, (0.9, 0.99), 1e-3)
    counts = [sum(p.numel() for p in part.param_groups[0]["params"]) for part in optimizer.parts]
    assert sum(counts) == sum(p.numel() for p in vae.parameters()) and min(counts) > 0
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    for p in vae.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step(1.0)
    for name, p in vae.named_parameters():
        assert (p - before[name]).abs().max() > 1e-6, name


def test_the_exported_file_has_unit_model_latents_and_the_same_pictures(footage, tmp_path):
    trainer = stage.Trainer(replace(RECIPE, precision="fp32"), tmp_path, footage)
    trainer.train_step()
    trainer.export(tmp_path / "vae.safetensors", "test")
    made = load_vae(tmp_path / "vae.safetensors")
    assert made.config == config()
    video = to_video(torch.from_numpy(footage.clips))
    with torch.no_grad():
        ours = trainer.ema.decode(trainer.ema.encode(video)[0])[0]
        latent = made.encode(video)[0]
        torch.testing.assert_close(made.decode(latent)[0], ours, atol=2e-3, rtol=0)
    unit = normalize(latent)
    torch.testing.assert_close(unit.mean((0, 2, 3, 4)), torch.zeros(16), atol=2e-3, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3, 4)), torch.ones(16), atol=2e-3, rtol=0)


def test_the_recipe_of_the_built_in_codec_is_read(tmp_path):
    recipe = stage.CodecRecipe.load(stage.Path(stage.__file__).parents[1] / "recipes" / "codec.yaml")
    config = VAEConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in recipe.model.items()})
    assert (config.z_dim, config.spatial_stride, config.temporal_stride) == (16, 8, 4)
    assert recipe.phases[-1].until == 1.0 and recipe.encoder_until < recipe.adversarial_from < 1
