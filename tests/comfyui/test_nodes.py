"""What the server says of the nodes, and what loading them does."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from .graphs import film, node
from .server import PACK, Refused, Server, inside, install

IDS = [
    "CausalCineCheckpointLoader",
    "CausalCineModelLoader",
    "CausalCineRecipe",
    "CausalCineShotList",
    "CausalCineShot",
    "CausalCineMemory",
    "CausalCineSampler",
    "CausalCineStreamingDecode",
    "CausalCineSaveVideo",
    "CausalCineCast",
    "CausalCineMemoryMap",
    "CausalCineSaveState",
    "CausalCineLoadState",
    "CausalCineState",
    "CausalCineWorkers",
]


def test_every_node_is_there_with_a_tooltip_on_everything(server: Server) -> None:
    info = server.get("/object_info")
    for name in IDS:
        entry = info[name]
        assert entry["category"] == "CausalCine" and len(entry["description"]) > 30
        inputs = {key: spec for part in ("required", "optional") for key, spec in entry["input"].get(part, {}).items()}
        for key, spec in inputs.items():
            assert spec[1].get("tooltip"), f"{name}.{key}"
        assert all(entry["output_tooltips"]), name


def test_nodes_look_the_same_in_any_order(server: Server) -> None:
    """C31: classes that inherit from one another could share a schema."""
    whole = server.get("/object_info")
    for seed in range(3):
        order = random.Random(seed).sample(IDS, len(IDS))
        for name in order:
            assert server.get(f"/object_info/{name}")[name] == whole[name]
    assert not any(any(whole[name]["output_is_list"]) for name in IDS)


def test_a_missing_file_is_named_with_its_folder_before_anything_is_queued(server: Server) -> None:
    for graph in (
        film(checkpoint="gone.safetensors"),
        {"1": node("CausalCineModelLoader", model_name="gone.safetensors", dtype="default", attention="auto")},
    ):
        if "2" not in graph:
            graph |= {k: v for k, v in film().items() if k != "1"} | {
                "9": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")
            }
            graph["2"]["inputs"]["clip"], graph["4"]["inputs"]["vae"] = ["9", 1], ["9", 2]
        with pytest.raises(Refused) as refused:
            server.run(graph)
        assert "gone.safetensors" in str(refused.value) and "models/" in str(refused.value)


def test_both_slashes_find_a_file(server: Server) -> None:
    """C34."""
    for name in ("wan/tiny.safetensors", "wan\\tiny.safetensors"):
        graph = film()
        graph["1"] = node("CausalCineModelLoader", model_name=name, dtype="default", attention="auto")
        graph["8"] = node("CausalCineCheckpointLoader", checkpoint="random.safetensors")
        graph["9"] = node("TestTextEncoder")
        graph["2"]["inputs"]["clip"], graph["4"]["inputs"]["vae"] = ["9", 0], ["8", 2]
        graph["3"]["inputs"] |= {"width": 32, "height": 32, "steps": 1}
        run = server.run(graph)
        assert run.status == "success", run.error


def test_the_workflows_name_no_subfolder() -> None:
    """C34."""
    for path in (PACK / "workflows/api").glob("*.json"):
        for entry in json.loads(path.read_text(encoding="utf-8")).values():
            for key, value in entry["inputs"].items():
                if key in ("checkpoint", "model_name", "vae_name", "clip_name"):
                    assert "/" not in value and "\\" not in value


def test_odd_model_folders_do_not_break_the_nodes(main: Path, tmp_path: Path) -> None:
    """C35: no folder, a dangling link, an unreadable folder, 5,000 files."""
    install(tmp_path)
    (tmp_path / "models-absent").touch()  # the server helper then makes no model folders
    server = Server(main, tmp_path)
    try:
        checks = [lambda: None]
        models = tmp_path / "models/diffusion_models"

        def dangling() -> None:
            models.mkdir(parents=True, exist_ok=True)
            (models / "gone.safetensors").symlink_to("/nowhere")
            locked = models / "locked"
            locked.mkdir()
            locked.chmod(0)

        def many() -> None:
            for i in range(5000):
                (models / f"{i}.safetensors").touch()

        checks += [dangling, many]
        for prepare in checks:
            prepare()
            time.sleep(1.1)  # ComfyUI looks at folder times in whole seconds
            began = time.monotonic()
            for name in IDS:
                assert name in server.get(f"/object_info/{name}")
            assert time.monotonic() - began < 2
        empty = server.get("/object_info/CausalCineModelLoader")["CausalCineModelLoader"]["input"]["required"][
            "model_name"
        ]
        choices = empty[1].get("options", empty[0])
        assert "4999.safetensors" in choices
    finally:
        server.close()


def test_an_empty_choice_is_explained(main: Path, tmp_path: Path) -> None:
    """C35."""
    install(tmp_path)
    server = Server(main, tmp_path)
    try:
        entry = server.get("/object_info/CausalCineModelLoader")["CausalCineModelLoader"]["input"]["required"][
            "model_name"
        ]
        (choice,) = entry[1].get("options", entry[0])
        assert "models/diffusion_models" in choice
    finally:
        server.close()


def test_loading_the_pack_replaces_nothing_of_comfyui(main: Path, tmp_path: Path) -> None:
    """C40."""
    target = install(tmp_path)
    code = f"""
import asyncio, types
import utils.extra_config  # first, as main.py does: comfy/utils.py would take its name
import nodes, execution, latent_preview, folder_paths, server, comfy.sd, comfy.samplers, comfy.sample, comfy.model_base
theirs = "comfy comfy_api comfy_execution nodes execution latent_preview folder_paths server".split()
def identities():
    out = {{}}
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in theirs:
            for key, value in list(vars(module).items()):
                if isinstance(value, (types.FunctionType, type)):
                    out[name, key] = id(value)
                    if isinstance(value, type) and value.__module__ == name:
                        out |= {{(name, key, k): id(v) for k, v in vars(value).items() if isinstance(v, types.FunctionType)}}
    return out
before = identities()
ok = asyncio.run(nodes.load_custom_node({str(target)!r}))
after = identities()
changed = [key for key in before if after.get(key) != before[key]]
print("loaded", ok, "CausalCineSampler" in nodes.NODE_CLASS_MAPPINGS, "changed", changed)
"""
    done = inside(main, code)
    assert "loaded True True changed []" in done.stdout, done.stdout + done.stderr[-3000:]


def test_templates_and_help_are_served(server: Server) -> None:
    assert sorted(server.get("/workflow_templates")["CausalCine"]) == [
        "cast",
        "five_shots",
        "history",
        "shot_by_shot",
        "takes",
        "wan_1_3b",
    ]
    for name in ("cast", "five_shots", "history", "shot_by_shot", "takes", "wan_1_3b"):
        assert server.raw(f"/api/workflow_templates/CausalCine/{name}.json")[0] == 200
        status, _, body = server.raw(f"/api/workflow_templates/CausalCine/{name}.jpg")
        assert status == 200 and body.startswith(b"\xff\xd8")
    for name in IDS:
        status, _, body = server.raw(f"/extensions/CausalCine/docs/{name}.md")
        assert status == 200 and len(body) > 200, name
