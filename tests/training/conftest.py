"""Shards of a few films and stills, and recipes that train a tiny model on them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import yaml

from training.data.shards import save_shard
from training.world.grammar import mentions

torch.set_num_threads(1)  # these models are too small to share, and tests run beside other work

WORDS = ("a", "red", "cat", ",", "[character1]", "[character2]")

SHOTS = [
    {"prompt": "[character1], a red cat,", "chunks": [0, 2], "names": ["[character1]"], "name_only": False},
    {"prompt": "a cat", "chunks": [2, 5], "names": [], "name_only": False},
    {"prompt": "[character1]", "chunks": [5, 7], "names": ["[character1]"], "name_only": True},
]

CAPTIONS = (
    "[character1], a red cat with stripes, sleeps by the sea at night, wide shot.",
    "medium shot of [character3], a red cat with dark stripes, waving in the desert.",
    "[character2], a blue bird, jumps and [character1], a green ghost wearing a hat, waves at night in the street, wide shot.",
    "[character1], an orange robot, waves and [character2], a red cat with stripes, jumps in the kitchen by day, wide shot.",
    "wide shot: [character1], a blue bird, hops and [character3], a green ghost in a tall black hat, sits in a meadow at dusk.",
    "[character2], an orange robot, sleeps in a meadow by day, close up.",
)

RECIPE: dict[str, Any] = {
    "model": {
        "dim": 96,
        "ffn_dim": 128,
        "num_heads": 2,
        "num_layers": 3,
        "freq_dim": 32,
        "text_dim": 24,
        "text_len": 8,
    },
    "text": {"heads": 2, "layers": 1},
    "run": {"steps": 8, "device": "cpu", "precision": "fp32", "log_every": 2, "save_every": 2},
    "optimizer": {"learning_rate": 1e-3, "muon_learning_rate": 2e-3, "warmup": 2, "cooldown": 0.5},
    "ema": {"decay": 0.9},
    "window": 1,
    "top_k": 2,
    "teacher_every": 3,
    "auxiliary": {"naming": 0.3, "pointing": 0.3, "binding": 0.3},
    "mixture": {
        "batch": {"still": 2, "reunion": 4, "clip": 2, "film": 1},
        "curriculum": [{"until": 1.0, "mix": {"still": 1.0, "reunion": 1.0, "clip": 1.0, "film": 1.0}}],
    },
}


def changed(recipe: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A recipe with other values; `run={"steps": 4}` changes that field of `run` alone."""
    out = copy.deepcopy(recipe)
    for name, value in changes.items():
        out[name] = {**out.get(name, {}), **value} if isinstance(value, dict) and name in out else value
    return out


@pytest.fixture
def recipe_file(tmp_path):
    """`recipe_file(**changes)`: the tiny recipe as a file."""

    def write(**changes: Any):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(changed(RECIPE, **changes)))
        return path

    return write


@pytest.fixture
def shards(tmp_path):
    """A folder of four films of seven chunks whose latents count their frames, and of stills."""
    folder = tmp_path / "data"
    folder.mkdir()
    films = torch.arange(21.0).view(1, 1, 21, 1, 1).expand(4, 16, 21, 4, 4)
    record = {"chunk": 3, "shots": SHOTS, "cast": [{}] * 21}
    save_shard(folder / "films-0.safetensors", list(films), [record] * 4)
    records = [
        {
            "chunk": 1,
            "shots": [{"prompt": caption, "chunks": [0, 1], "names": [], "name_only": False}],
            "cast": [{m.name: (i / 10, 0.0, (i + j + 1) / 10, 1.0) for j, m in enumerate(mentions(caption))}],
        }
        for i, caption in enumerate(CAPTIONS)
    ]
    stills = torch.arange(float(len(CAPTIONS))).view(-1, 1, 1, 1, 1).expand(-1, 16, 1, 4, 4)
    save_shard(folder / "stills-0.safetensors", list(stills), records)
    return folder
