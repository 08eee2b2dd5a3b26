"""The script that spends the minutes of a borrowed machine, on this one, with seconds for minutes and a tiny network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from causalcine_core.vae import VAEConfig, WanVAE
from causalcine_core.weights.tensors import write_tensors
from training import pack
from training.components.checkpoint import read_state
from training.stages.teacher_forcing import main

ROOT = Path(__file__).parents[2]


def spend(folder: Path, recipe: Path, minutes: float, *options: str) -> str:
    settings = {
        "PYTHON": sys.executable,
        "CARRIED": str(folder / "carried"),
        "OUT": str(folder / "out"),
        "ROOM": str(folder / "room"),
        "WORKERS": "0",
        "RESERVE": "6",
        "SIZE": "32x32",
        "STILLS_A_SHARD": "6",
        "FILMS_A_SHARD": "1",
        "PYTHONPATH": str(folder / "lacks"),
        "OMP_NUM_THREADS": "1",
    }
    command = [
        str(ROOT / "training" / "on_gpu.sh"),
        str(minutes),
        "teacher_forcing",
        str(recipe),
        "--threads",
        "1",
        *options,
    ]
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_minutes_are_spent_on_the_run_that_is_due(recipe_file, shards, tmp_path):
    """A run of one update is carried in pieces to an empty room, where films are drawn and it goes on to its last step; what it
    gave lies in OUT. There is no ffmpeg on that machine."""
    for folder in ("carried", "lacks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "lacks" / "imageio_ffmpeg.py").write_text("raise ImportError('not here')")
    torch.manual_seed(0)
    vae = WanVAE(VAEConfig(dim=8, dim_mult=(1, 1, 1, 1), num_res_blocks=1))
    write_tensors(tmp_path / "carried" / "vae.safetensors", vae.state_dict())
    preview = {"seconds": 1.5, "size": [32, 32], "steps": 1}
    run = {"steps": 4, "preview_every": 100, "log_every": 1}
    recipe = recipe_file(run=run, preview=preview, model={"text_len": 56})
    here = [str(recipe), "--data", str(shards), "--work", str(tmp_path / "here"), "--threads", "1"]
    main([*here, "--set", "run.max_seconds=1e-9"])
    pack.save(read_state(tmp_path / "here" / "state.pt"), tmp_path / "carried" / "teacher_forcing")
    told = spend(tmp_path, recipe, 20)
    assert "goes on at step 1" in told
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "log.jsonl",
        "preview-0000004.png",
        "teacher_forcing",
        "train.log",
    }
    state = pack.load(out / "teacher_forcing")
    assert state["step"] == 4
    assert 0 < state["recipe"]["run"]["max_seconds"] <= 20 * 60 - 6
    films = [path.name for path in (tmp_path / "room" / "data").glob("films-*")]
    assert min(films) == "films-01001000.safetensors"  # other films than those of the first update
    assert [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()] == [2, 3, 4]
