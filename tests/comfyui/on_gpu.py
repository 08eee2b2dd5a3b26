"""Runs a graph in a ComfyUI that believes it has a GPU:

    python on_gpu.py GRAPH.json CUSTOM_NODES MODELS OUTPUT FREE_MIB [ComfyUI's arguments]

in the ComfyUI's folder, with its Python. Prints `success`, or what went wrong.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

graph, custom_nodes, models, output, free = sys.argv[1:6]
sys.argv = [sys.argv[0], *sys.argv[6:]]
sys.path[0] = str(Path.cwd())  # not this file's folder, whose modules may have the names of ComfyUI's

spec = importlib.util.spec_from_file_location("pretended", Path(__file__).parents[1] / "gpu.py")
pretended: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = pretended
spec.loader.exec_module(pretended)


def say(event: str, data: Any, *_: Any) -> None:
    if event == "execution_error":
        print(data["exception_message"], *data["traceback"][-3:])


with pretended.pretended_gpu(free=int(free) * 2**20):
    import comfy.options

    comfy.options.enable_args_parsing()
    importlib.import_module("utils.install_util")  # before another module of this name, as ComfyUI's own main does
    import comfy.model_management
    import execution
    import folder_paths
    import server

    import nodes

    assert comfy.model_management.get_torch_device().type == "cuda"
    folder_paths.set_output_directory(output)
    for kind in Path(models).iterdir():
        folder_paths.add_model_folder_path(kind.name, str(kind), is_default=True)
    for pack in Path(custom_nodes).iterdir():
        assert asyncio.run(nodes.load_custom_node(str(pack))), pack
    user = mock.MagicMock(client_id="x", sockets_metadata={}, send_sync=say)
    user.prompt_queue.get_current_queue_volatile.return_value = ([], [])
    server.PromptServer.instance = user
    told = inspect.signature(execution.PromptExecutor).parameters
    cache = {"cache_args": {"ram": 0, "lru": 0, "ram_inactive": 0}} if "cache_args" in told else {}
    executor = execution.PromptExecutor(user, **cache)
    prompt = json.loads(Path(graph).read_text())
    wanted = [
        key
        for key, entry in prompt.items()
        if getattr(nodes.NODE_CLASS_MAPPINGS[entry["class_type"]], "OUTPUT_NODE", False)
    ]
    executor.execute(prompt, "prompt", {}, wanted)
    print("success" if executor.success else "failed")
