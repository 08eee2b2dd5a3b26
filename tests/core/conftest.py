"""A tiny all-in-one checkpoint, and frames to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from causalcine_core import Pipeline
from causalcine_core.model import save_checkpoint

torch.set_num_threads(1)  # these models are too small to share, and tests run beside other work

VOCABULARY = ("a", "fox", "runs", "in", "the", "snow", "sleeps", ".", ",")


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    return Pipeline.random(vocabulary=VOCABULARY)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pipe: Pipeline) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    header = {
        "model": pipe.network.net.config.to_dict(),
        "text": pipe.text.config.to_dict(),
        "recipe": pipe.recipe.to_dict(),
        "card": {"command": "none, random weights"},
    }
    parts = {"model": pipe.network.net, "text": pipe.text, "vae": pipe.vae}
    save_checkpoint(path, header, **{name: part.state_dict() for name, part in parts.items()})
    return path


@pytest.fixture
def frames():
    """`frames(n, width, height)`: a coloured gradient with a bright square that moves, uint8 `[n H W 3]`."""

    def make(n: int, width: int = 64, height: int = 48) -> np.ndarray:
        y, x = np.mgrid[0:height, 0:width]
        ground = np.stack([255 * x / width, 255 * y / height, 128 + 60 * np.sin(x / 9)], -1).astype(np.uint8)
        film = np.repeat(ground[None], n, 0)
        for i in range(n):
            film[i, 8:24, i % (width - 16) : i % (width - 16) + 16] = (250, 220, 40)
        return film

    return make
