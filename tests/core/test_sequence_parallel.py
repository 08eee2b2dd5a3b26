"""Several workers make one film: the same as one worker's, and nothing is lost when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from causalcine_core import Pipeline, State, Story
from causalcine_core.cli import main
from causalcine_core.commands.checkout import SOURCE
from causalcine_core.distributed import launch
from causalcine_core.distributed.launch import share_heads
from causalcine_core.distributed.mesh import join_mesh, meet
from causalcine_core.errors import InputError
from causalcine_core.references import reference, save_cast


def story(path: Path, seconds: float) -> str:
    shots = [{"prompt": "a fox runs", "seconds": seconds}, {"prompt": "a fox sleeps", "seconds": seconds}]
    path.write_text(json.dumps({"shots": shots, "width": 32, "height": 48}))
    return str(path)


def torchrun(folder: Path, checkpoint: Path, *arguments: str) -> subprocess.Popen:
    """Two workers on gloo, in a session of their own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [
            *command,
            "-m",
            "causalcine_core",
            "generate",
            *arguments,
            "--model",
            str(checkpoint),
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def worker(launcher: int, rank: int) -> int:
    """Process number of a worker that torchrun started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}\0".encode() in b"\0" + (entry / "environ").read_bytes():
                return int(entry.name)
        except OSError:
            continue
    raise AssertionError(f"torchrun has no worker {rank}")


def test_two_workers_make_the_film_of_one(tmp_path, checkpoint):
    written = story(tmp_path / "story.json", 2)
    cast = (reference("a fox", torch.randn(1, 16, 1, 6, 4, generator=torch.Generator().manual_seed(1))),)
    save_cast(cast, tmp_path / "cast.safetensors")
    given = ("--cast", "cast.safetensors", "--save-state", "two", "--json")
    running = torchrun(tmp_path, checkpoint, written, "-o", "two.mp4", *given)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    pipe = Pipeline.from_pretrained(checkpoint, device="cpu", dtype=torch.float32)
    *_, last = pipe.stream(Story.load(written), decode=False, cast=cast)
    two = State.load(tmp_path / "two")
    assert two.memory is None and two.chunks == last.state.chunks == 6
    assert len(out.splitlines()) == 1 and len(json.loads(out)["chunks"]) == 6
    torch.testing.assert_close(two.film(), last.state.film(), atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(two.records, last.state.records, strict=True):
        assert torch.equal(ours.routing, theirs.routing)


def test_a_worker_that_dies_leaves_a_film_that_can_be_finished(tmp_path, checkpoint):
    written = story(tmp_path / "story.json", 300)
    running = torchrun(tmp_path, checkpoint, written, "-o", "film.mp4", "--save-state", "film.state")
    deadline = time.monotonic() + 60
    while not (film := list(tmp_path.glob(".causalcine-*.mp4"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert film
    time.sleep(1)  # some chunks
    os.kill(worker(running.pid, 1), signal.SIGKILL)
    killed = time.monotonic()
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - killed < 10
    assert running.returncode != 0
    assert "made so far are in film.mp4; finish it with: causalcine continue film.state" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.mp4", "film.state", "story.json"]

    pipe, state = (
        Pipeline.from_pretrained(checkpoint, device="cpu", dtype=torch.float32),
        State.load(tmp_path / "film.state"),
    )
    assert state.chunks and state.planned
    following = next(iter(pipe.stream(None, state=state, decode=False)))
    for chunk in pipe.stream(Story.load(written), decode=False):
        if chunk.index == following.index:
            break
    torch.testing.assert_close(following.state.film(), chunk.state.film(), atol=1e-4, rtol=1e-4)


def test_heads_that_cannot_be_shared_are_named():
    with pytest.raises(InputError, match=r"5 workers cannot share 12 attention heads evenly: start 1, 2, 3, 4, 6, 12"):
        share_heads(5, 12)
    assert share_heads(4, 12) == 3


def test_ranks_that_do_not_divide_the_heads_are_told_so_before_torch_is_imported(tmp_path, checkpoint):
    """By the first rank, in one line; a torchrun adds its own about exit codes."""
    told = f"""
import sys
from causalcine_core.cli import main
code = main(["generate", {story(tmp_path / "story.json", 2)!r}, "-o", "film.mp4", "--model", {str(checkpoint)!r}])
print("torch" in sys.modules)
sys.exit(code)
"""
    launched = {**os.environ, "PYTHONPATH": str(SOURCE), "WORLD_SIZE": "3", "RANK": "0"}
    ran = subprocess.run([sys.executable, "-c", told], cwd=tmp_path, env=launched, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == "False\n"
    assert ran.stderr == "causalcine: 3 workers cannot share 2 attention heads evenly: start 1, 2\n"
    assert [path.name for path in tmp_path.iterdir()] == ["story.json"]


def test_the_first_rank_speaks_for_all_and_another_only_for_itself(monkeypatch, capsys):
    """Who is still there after the first has said what is wrong is alone in it."""
    waited = []
    monkeypatch.setattr(launch.time, "sleep", waited.append)
    for rank in ("0", "2"):
        monkeypatch.setenv("RANK", rank)
        assert main(["generate", "nowhere.txt", "-o", "film.mp4"]) == 2
        assert "no such story file" in capsys.readouterr().err
        assert waited == ([launch.GRACE] if rank == "2" else [])


@pytest.mark.parametrize(
    ("device", "gpus", "told"),
    [
        ("cuda", 0, "device 'cuda' is not available here"),
        ("cuda", 1, "2 workers were started, but there are 1 GPUs here: start at most as many"),
        (None, 1, "2 workers were started, but there are 1 GPUs here: start at most as many"),
        ("cuda:1", 2, "device is 'cuda:1': several workers run on cpu or cuda, where each takes a GPU of its own"),
        ("mps", 0, "device is 'mps': several workers run on cpu or cuda"),
    ],
)
def test_a_device_that_ranks_cannot_have_is_named(monkeypatch, device, gpus, told):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(InputError, match=told):
        join_mesh(device=device)


@pytest.mark.parametrize(
    "dims", [{"data": 3, "sp": 2}, {"data": -1, "sp": -1}, {"data": 0, "sp": 4}, {"data": 3, "sp": -1}]
)
def test_a_mesh_that_the_ranks_do_not_fill_is_named(dims):
    with pytest.raises(InputError, match="mesh is "):
        meet(0, 4, "nowhere", dims=dims)
