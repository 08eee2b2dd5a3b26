"""A codec's training on clips that are drawn in no time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from training.data.footage import Footage
from training.recipe import read
from training.stages import vae as stage
from training.trainer import Trainer

from ..conftest import changed
from ..footage import CODEC, moving_spots

RECIPE: dict[str, Any] = {
    "run": {"steps": 8, "device": "cpu", "precision": "fp32"},
    "model": CODEC,
    "footage": {
        "stills": 24,
        "films": 24,
        "clip_frames": 17,
        "curriculum": [
            {
                "until": 1.0,
                "batches": [
                    {"share": 0.7, "count": 2, "frames": 9, "crop": 16},
                    {"share": 0.3, "count": 2, "frames": 1, "crop": 16},
                ],
            }
        ],
    },
    "optimizer": {"learning_rate": 1e-3, "muon_learning_rate": 1e-3, "weight_decay": 0, "warmup": 2},
    "adversary": {"patches": 3, "size": 16, "buffer": 4, "ramp": 2},
    "linear_start": 8,
    "encoder_until": 0.5,
    "adversarial_from": 0.25,
    "measured": [1, 73],
}


@pytest.fixture
def footage(monkeypatch) -> Footage:
    """What the stage renders, and in place of unseen films one more clip with a cut."""
    clips = moving_spots(24)
    rendered = Footage(clips[:, 0], clips)
    monkeypatch.setattr(stage.Footage, "cached", lambda *_: rendered)
    monkeypatch.setattr(stage, "unseen_films", lambda count, frames: [(moving_spots(1, frames, 1)[0], (36,))] * count)
    return rendered


@pytest.fixture
def training(footage, tmp_path):
    """`training(folder, **changes)`: a trainer of the tiny recipe, linearly started."""

    def make(folder: str = "run", start: bool = True, **changes: Any) -> Trainer:
        recipe = read(stage.VAERecipe, changed(RECIPE, **changes))
        (tmp_path / folder).mkdir(exist_ok=True)
        made = stage.VAETraining(recipe, torch.device("cpu"), tmp_path)
        if start:
            made.start()
        return Trainer(made, recipe, tmp_path / folder, torch.device("cpu"))

    return make
