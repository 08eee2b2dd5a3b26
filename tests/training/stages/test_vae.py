"""The codec's training: its course, going on after a stop, what it begins with and the file that comes out."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils._pytree import tree_flatten

from causalcine_core.errors import InputError
from causalcine_core.vae import VAEConfig, WanVAE, load_vae, normalize, save_vae
from training.components.checkpoint import read_state
from training.data.footage import to_video
from training.recipe import plain, read, read_recipe
from training.stage import Update
from training.stages import vae as stages
from training.stages.vae import VAERecipe, VAETraining, main

from ...gpu import GPU, pretended_gpu
from ..conftest import changed
from ..footage import codec_config
from .conftest import RECIPE


def run_to(trainer, step: int) -> None:
    while trainer.step < step:
        trainer.update()


def decoded(vae: WanVAE, footage) -> torch.Tensor:
    with torch.no_grad():
        return vae.decode(vae.encode(to_video(torch.from_numpy(footage.clips)))[0])[0]


def averaged(stage: VAETraining) -> dict[str, torch.Tensor]:
    return stage.vae.state_dict() | stage.average.state_dict()


def of_encoder(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: w.clone() for name, w in weights.items() if name.startswith(("encoder.", "conv1."))}


# --- the course of a run


def test_a_run_that_is_stopped_goes_on_bit_for_bit(training):
    """What was done after the last save is done again: weights, averages, moments, fakes and counters are those of one run."""
    whole = training("whole")
    run_to(whole, 7)
    stopped = training("stopped")
    for stop in (3, 5):  # with the discriminator, and before and after the encoder is kept
        run_to(stopped, stop)
        stopped.save()
        stopped.update()  # lost
        stopped = training("stopped", start=False)
        stopped.resume()
    run_to(stopped, 7)
    one, other = (tree_flatten(trainer.state()) for trainer in (whole, stopped))
    assert one[1] == other[1] and len(one[0]) > 100
    for a, b in zip(one[0], other[0], strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or isinstance(a, float)


def test_the_averaged_encoder_stays_and_the_decoder_goes_on(training):
    made = training()
    run_to(made, 4)
    kept, latents = of_encoder(averaged(made.stage)), made.stage.deviation.clone()
    before = made.stage.vae.decoder.conv1.weight.clone()
    run_to(made, 7)
    for weights in (made.stage.vae.state_dict(), averaged(made.stage)):
        for name, value in kept.items():
            assert torch.equal(weights[name], value), name
    assert torch.equal(made.stage.deviation, latents)
    assert not torch.equal(made.stage.vae.decoder.conv1.weight, before)


def test_the_discriminator_comes_in_slowly_and_learns_from_then_on(training):
    made = training(run={"steps": 100}, adversary={"weight": 0.5, "ramp": 10}, linear_start=0)
    weights = []
    for step in (25, 29, 34, 90):
        made.stage.updating(step)
        weights.append(made.stage.weights["adversarial"])
    assert weights == pytest.approx([0.05, 0.25, 0.5, 0.5])
    assert made.stage.draw(24).trains == ("vae",)
    before = [p.detach().clone() for p in made.stage.discriminator.parameters()]
    run_to(made, 1)
    assert all(torch.equal(p, b) for p, b in zip(made.stage.discriminator.parameters(), before, strict=True))
    made.step = 25
    made.update()
    assert not any(torch.equal(p, b) for p, b in zip(made.stage.discriminator.parameters(), before, strict=True))
    assert len(made.stage.fakes.pairs) == 3


def test_what_is_not_finite_leaves_no_trace(training):
    """Neither in the fakes that are kept nor in the deviation that latents are measured by."""
    made = training()
    run_to(made, 3)
    fakes, deviation = len(made.stage.fakes.pairs), made.stage.deviation.clone()
    draw = made.stage.draw

    def broken(step):
        update = draw(step)
        update.batches[0].video.fill_(math.nan)
        return Update(update.kind, update.batches, update.samples, update.trains)

    made.stage.draw = broken
    made.update()
    assert (made.skipped, len(made.stage.fakes.pairs)) == (1, fakes) and torch.equal(made.stage.deviation, deviation)


def test_passes_run_in_the_precision_of_the_recipe_and_weights_stay_float32(training):
    made = training(run={"precision": "bf16"}, linear_start=0)
    still = next(step for step in range(100) if made.stage.draw(step).kind == "still")
    (batch,) = made.stage.draw(still).batches
    with made.stage.computing():
        assert {p.dtype for p in made.stage.vae.parameters()} == {torch.bfloat16}
        made.stage.losses(batch)["pixel"].backward()
    assert {p.dtype for p in made.stage.vae.parameters()} == {torch.float32}
    learning = [p.grad for p in made.stage.vae.parameters() if p.grad is not None]  # a still leaves what doubles frames
    assert len(learning) > 50 and {gradient.dtype for gradient in learning} == {torch.float32}


def test_it_computes_where_its_recipe_says(training, tmp_path, monkeypatch):
    """On the pretended GPU, which refuses tensors that lie elsewhere: the losses of the CPU, fakes among them. Gradients do not go
    through that GPU, so there is a made-up guidance here."""
    monkeypatch.setattr(stages, "guidance", lambda discriminator, fake, true, latent: true - fake)
    here = training().stage
    recipe = here.recipe
    with torch.no_grad():
        expected = here.losses(here.draw(3).batches[0])
    with pretended_gpu(), torch.no_grad():
        there = VAETraining(recipe, GPU, tmp_path)
        there.start()
        assert {p.device for part in there.parts.values() for p in part.module.parameters()} == {GPU}
        found = there.losses(there.draw(3).batches[0])
        there.updated(3)
        assert {t.device for t in (*found.values(), *there.fakes.pairs[0], there.deviation)} == {GPU}
        for name, value in expected.items():
            assert found[name].item() == pytest.approx(value.item(), rel=1e-4), name


# --- what a run begins with, and what it writes


@pytest.fixture
def vae_file(training, tmp_path) -> Path:
    """A codec with latents in the published statistics, as a run writes it."""
    made = training("before")
    made.update()
    (path,) = made.stage.finish(tmp_path / "before", made.state())
    return path


def test_the_file_has_unit_model_latents_and_the_same_pictures(training, footage, tmp_path):
    made = training()
    run_to(made, 2)
    (path,) = made.stage.finish(tmp_path, made.state())
    vae = load_vae(path)
    assert vae.config == codec_config()
    with made.stage.average.applied():
        torch.testing.assert_close(decoded(vae, footage), decoded(made.stage.vae, footage), atol=2e-3, rtol=0)
    with torch.no_grad():
        unit = normalize(vae.encode(to_video(torch.from_numpy(footage.clips)))[0])
    torch.testing.assert_close(unit.mean((0, 2, 3, 4)), torch.zeros(16), atol=2e-3, rtol=0)
    torch.testing.assert_close(unit.std((0, 2, 3, 4)), torch.ones(16), atol=2e-3, rtol=0)


def test_a_run_begins_with_a_file(training, footage, vae_file):
    """The same pictures, by latents of unit deviation, as the losses expect."""
    made = training(start=False)
    made.stage.start_from(vae_file)
    torch.testing.assert_close(
        decoded(made.stage.vae, footage), decoded(load_vae(vae_file), footage), atol=2e-3, rtol=0
    )
    latents = made.stage.vae.encode(to_video(torch.from_numpy(footage.clips)))[0]
    torch.testing.assert_close(latents.std((0, 2, 3, 4)), torch.ones(16), atol=2e-3, rtol=0)
    assert all(torch.equal(made.stage.average.weights[n], p) for n, p in made.stage.vae.named_parameters())


def test_the_decoder_alone_leaves_the_latents_of_the_file_as_they_are(training, footage, vae_file, tmp_path):
    """To the bit, over updates, a stop and the file that is written: what was trained on these latents stays valid."""
    made = training("alone", start=False, encoder_until=0)
    made.stage.start_from(vae_file)
    run_to(made, 2)
    made.save()
    made = training("alone", start=False, encoder_until=0)
    made.resume()
    run_to(made, 4)
    (path,) = made.stage.finish(tmp_path / "alone", made.state())
    before, after = load_vae(vae_file).state_dict(), load_vae(path).state_dict()
    assert all(torch.equal(after[name], value) for name, value in of_encoder(before).items())
    assert not torch.equal(after["decoder.conv1.weight"], before["decoder.conv1.weight"])
    latents = load_vae(vae_file).encode(to_video(torch.from_numpy(footage.clips)))[0]
    torch.testing.assert_close(made.stage.deviation, latents.std((0, 2, 3, 4)).detach(), atol=1e-4, rtol=1e-4)


def test_a_run_begins_with_the_averages_of_another_run(training, tmp_path):
    first = training("first")
    run_to(first, 2)
    first.save()
    made = training(start=False, encoder_until=0)
    made.stage.start_from(tmp_path / "first" / "state.pt")
    for name, value in averaged(first.stage).items():
        assert torch.equal(made.stage.vae.state_dict()[name], value), name


def test_weights_that_do_not_fit_are_refused(training, tmp_path):
    made = training(start=False)
    save_vae(WanVAE(VAEConfig(dim=4)), tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="holds a VAE of another shape than the recipe's model"):
        made.stage.start_from(tmp_path / "other.safetensors")
    state = made.state()
    torch.save({"format": 2, **state, "parts": {"model": {}}}, tmp_path / "state.pt")
    with pytest.raises(InputError, match="is the state of a run that trains no VAE"):
        made.stage.start_from(tmp_path / "state.pt")


def test_the_command_trains_looks_measures_and_writes(footage, tmp_path):
    recipe, work = tmp_path / "tiny.yaml", tmp_path / "work"
    run = {"steps": 3, "preview_every": 2, "measure_every": 2, "log_every": 1}
    recipe.write_text(yaml.safe_dump(changed(RECIPE, run=run)))
    command = [str(recipe), "--work", str(work), "--data", str(tmp_path), "--threads", "1"]
    with pytest.raises(InputError, match="there is no state in"):
        main([*command, "--finish"])
    main(command)
    assert sorted(path.name for path in work.glob("*.png")) == [f"preview-000000{n}.png" for n in (0, 2, 3)]
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["measured"] for line in lines if "measured" in line}
    assert list(measured) == [0, 2, 3] and all(one["psnr"] > 15 for one in measured.values())
    assert any(name.endswith(" haar") for line in lines for name in line.get("mean", {}))
    written = load_vae(work / "vae.safetensors").state_dict()
    (work / "vae.safetensors").unlink()
    main([*command, "--finish"])
    again = load_vae(work / "vae.safetensors").state_dict()
    assert all(torch.equal(again[name], value) for name, value in written.items())
    assert read_state(work / "state.pt")["step"] == 3


# --- recipes


def test_the_recipe_of_the_built_in_codec_is_read():
    recipe = read_recipe(VAERecipe, Path(__file__).parents[3] / "training" / "recipes" / "codec.yaml")
    assert (recipe.model.z_dim, recipe.model.spatial_stride, recipe.model.temporal_stride) == (16, 8, 4)
    assert recipe.footage.curriculum[-1].until == 1.0 and recipe.encoder_until < recipe.adversarial_from < 1
    assert recipe.run.precision == recipe.run.device == "auto"
    assert read(VAERecipe, plain(recipe)) == recipe  # as a state keeps it


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"width": 3}}, 'model has an unknown field "width"'),
        ({"model": {"z_dim": 8}}, "model must have 16 or 48 latent channels"),
        ({"model": {"shuffle": False}}, "linear_start must be 0 for this model"),
        ({"linear_start": 25}, "linear_start must be a whole number from 0 to 24"),
        ({"weights": {"lpips": 1}}, "weights must be one of pixel, edge, haar, rhythm, kl"),
        ({"encoder_until": 2}, "encoder_until must be a number from 0 to 1"),
        ({"measured": [1, 74]}, "measured[1] must be 1 + 4n, got 74"),
        ({"measured": [1, 49]}, "measured[1] must be a whole number from 73"),
        ({"adversary": {"size": 20}}, "adversary.size must be a multiple of 8, got 20"),
        ({"adversary": {"size": 24}}, "a crop must be a multiple of 8, at least 24, got 16"),
        ({"footage": {"clip_frames": 5}}, "clip_frames must be at least the frames of a batch, 9, got 5"),
        ({"footage": {"curriculum": []}}, "footage.curriculum must not be empty"),
        ({"run": {"compile": True}}, "run.compile must be false"),
    ],
)
def test_what_does_not_fit_is_named(changes, says):
    with pytest.raises(InputError) as error:
        read(VAERecipe, changed(RECIPE, **changes))
    assert says in str(error.value) and "\n" not in str(error.value)
