"""In a ComfyUI that believes it has a GPU: what lies on which device, as far as that can be told without one (`tests/gpu.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from .conftest import HERE, equipped
from .graphs import film, find, node
from .server import python_of

PLENTY, LITTLE = 60_000, 300  # MiB that are said to be free; ComfyUI keeps some hundred for others


def run(main: Path, weights: Path, folder: Path, graph: dict[str, Any], free: int, *flags: str) -> int:
    """Run a graph; how many frames its film has."""
    (folder / "graph.json").write_text(json.dumps(graph))
    paths = [folder / "graph.json", equipped(folder, main, weights) / "custom_nodes", weights, folder / "out"]
    command = [python_of(main), HERE / "on_gpu.py", *paths, str(free), *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=main.parent, capture_output=True, text=True, timeout=300, env=environment)
    assert done.stdout.splitlines()[-1:] == ["success"], (done.stdout + done.stderr)[-3000:]
    (made,) = (folder / "out").rglob("*.mp4")
    return imageio_ffmpeg.count_frames_and_secs(str(made))[0]


@pytest.mark.parametrize("storage", ["full", "host_8bit"])
def test_a_film_is_made_on_a_gpu(main: Path, weights: Path, tmp_path: Path, storage: str) -> None:
    """Text, film, preview, memory map and mp4 of an all-in-one checkpoint."""
    graph = film(seconds=1.5)
    graph["6"] = node("CausalCineMemory", window=1, top_k=2, storage=storage)
    graph["3"]["inputs"]["memory"] = ["6", 0]
    assert run(main, weights, tmp_path, graph, PLENTY) == 69


@pytest.mark.parametrize(
    ("loader", "free", "flags"),
    [("ours", PLENTY, []), ("ours", LITTLE, ["--novram"]), ("UNETLoader", LITTLE, ["--lowvram"])],
)
def test_weights_may_stay_in_the_computers_memory(
    main: Path, weights: Path, tmp_path: Path, graph: dict[str, Any], loader: str, free: int, flags: list[str]
) -> None:
    """Template (c): all weights on the GPU, none, or some."""
    if loader != "ours":
        stock = {"unet_name": "causal_wan_1.3b.safetensors", "weight_dtype": "default"}
        graph[find(graph, "CausalCineModelLoader")] = node(loader, **stock)
    assert run(main, weights, tmp_path, graph, free, *flags) == 21
