"""The measure of how easy latents are to model, on latents of which that is known."""

from __future__ import annotations

import pytest
import torch

from training.evaluation import latents
from training.evaluation.probe import LABELS
from training.world import make_still


def labels(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.stack([torch.randint(len(LABELS[n]), (count,), generator=generator) for n in latents.ASKED], 1)


def test_stills_hold_one_character_and_its_labels():
    pictures, told = latents.stills(3, latents.SEED)
    seed, found = latents.SEED, []
    while len(found) < 3:
        picture, _, shot = make_still(seed)
        seed += 1
        if len(shot.cast) == 1:
            found.append((picture, shot))
    for i, (picture, shot) in enumerate(found):
        assert (pictures[i].numpy() == picture).all()
        assert LABELS["colour"][told[i, 3]] == shot.characters[0].colour
        assert LABELS["setting"][told[i, 0]] == shot.setting


def test_a_guess_of_nothing_leaves_the_whole_error():
    torch.manual_seed(0)
    model = latents.Denoiser(4, width=48, layers=1, places=4)
    clean = torch.randn(32, 4, 4, 4)
    torch.nn.init.zeros_(model.out.bias)
    # a velocity of zero says that the clean latent is the noisy one: (1 - s) x + s e
    error = latents.clean_error(model, clean, labels(32), 0.5)
    assert error == pytest.approx(0.5**2 + 0.5**2, abs=0.05)


def test_latents_that_the_labels_tell_are_easier_than_noise():
    told = labels(256)
    table = torch.randn(len(LABELS["colour"]), 4, 4, 4, generator=torch.Generator().manual_seed(1))
    plain, noise = table[told[:, 3]], torch.randn(256, 4, 4, 4, generator=torch.Generator().manual_seed(2))
    models = [latents.train(x, told, 400, batch=32, width=48, layers=2) for x in (plain, noise)]
    errors = [latents.clean_error(model, x, told, 0.8) for model, x in zip(models, (plain, noise))]
    assert errors[0] < 0.6 * errors[1]
