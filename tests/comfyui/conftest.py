"""Starts each ComfyUI that is found, with this pack in it: under `--dist loadgroup` each in a worker of its own. Without one these
tests are skipped, loudly."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from causalcine_core.weights.built_in import BUILT_IN

from .checkpoint import random_checkpoint, random_wan, random_wan_vae
from .graphs import node
from .server import PACK, Server, install, installations

FOUND = installations()
HERE = Path(__file__).parent
NOTHING = (
    "NO COMFYUI WAS FOUND: its tests are SKIPPED. Set COMFYUI_PATH to one or more ComfyUI folders, separated by colons."
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.comfyui)
            main = getattr(item, "callspec", None) and item.callspec.params.get("main")
            if main:
                item.add_marker(pytest.mark.xdist_group(main.parent.name))
            if not FOUND:
                item.add_marker(pytest.mark.skip(reason=NOTHING))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not FOUND and any(HERE in Path(r.fspath).resolve().parents for r in terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"!!! {NOTHING}", red=True, bold=True)


@pytest.fixture(scope="session", params=FOUND or [None], ids=lambda path: path.parent.name if path else "none")
def main(request: pytest.FixtureRequest) -> Path:
    """main.py of one ComfyUI."""
    return request.param


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with small random files."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("checkpoints", "diffusion_models/wan", "vae", "text_encoders", "loras"):
        (folder / kind).mkdir(parents=True)
    random_checkpoint(folder / "checkpoints/random.safetensors")
    random_checkpoint(folder / "checkpoints/other.safetensors", seed=1)
    random_wan(folder / "diffusion_models/causal_wan_1.3b.safetensors")
    random_wan(folder / "diffusion_models/wan/tiny.safetensors", seed=1)
    random_wan(folder / "diffusion_models/wan2.2_ti2v_5b.safetensors", channels=48)
    random_wan_vae(folder / "vae/wan_2.1_vae.safetensors")
    (folder / "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors").touch()  # only listed, never read
    return folder


def equipped(base: Path, main: Path, weights: Path) -> Path:
    """A base folder with the pack, the nodes that tests look through, small models, and the GGUF pack where it is installed."""
    install(base)
    (base / "custom_nodes/test_helpers").symlink_to(HERE / "helper_nodes", target_is_directory=True)
    (base / "models").symlink_to(weights, target_is_directory=True)
    gguf = main.parent / "custom_nodes/ComfyUI-GGUF"
    if gguf.is_dir():
        (base / "custom_nodes/ComfyUI-GGUF").symlink_to(gguf, target_is_directory=True)
    return base


@pytest.fixture(scope="session")
def server(main: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(main, equipped(tmp_path_factory.mktemp("comfyui"), main, weights))
    try:
        yield running
        assert running.alive(), running.log_text()[-3000:]
    finally:
        running.close()


@pytest.fixture(scope="session")
def nano() -> str:
    """Value of the checkpoint widget: the built-in model, or a stand-in while it has not been trained."""
    return "nano (built-in)" if BUILT_IN["nano"].exists() else "random.safetensors"


@pytest.fixture
def api() -> Callable[..., dict[str, Any]]:
    """A shipped workflow in API form, on the quick random checkpoint."""

    def load(name: str, checkpoint: str = "random.safetensors") -> dict[str, Any]:
        graph = json.loads((PACK / f"workflows/api/{name}.json").read_text(encoding="utf-8"))
        return on(graph, checkpoint)

    return load


def on(graph: dict[str, Any], checkpoint: str) -> dict[str, Any]:
    graph = copy.deepcopy(graph)
    for entry in graph.values():
        if entry["class_type"] == "CausalCineCheckpointLoader":
            entry["inputs"]["checkpoint"] = checkpoint
    return graph


@pytest.fixture
def graph(api) -> dict[str, Any]:
    """Template (c), small and short."""
    graph = api("wan_1_3b")
    for key, entry in list(graph.items()):
        kind = entry["class_type"]
        if kind == "CLIPLoader":
            graph[key] = node("TestTextEncoder")
        elif kind == "CausalCineSampler":
            entry["inputs"] |= {"width": 64, "height": 48}
        elif kind == "CausalCineShotList":
            entry["inputs"] |= {"seconds": 0.5, "story": "one\n\ntwo"}
    return graph
