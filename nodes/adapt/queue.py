"""What ComfyUI is running: the prompt around a node, where a node is not told it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from comfy_execution.utils import get_executing_context
from server import PromptServer


def running() -> dict[str, Any]:
    """What was sent beside the prompt that is running (extra_data); empty where there is none."""
    item = _item()
    return item[3] if item else {}


def ancestry() -> str | None:
    """A digest of the node that is running and of all that leads to it, whatever their numbers; None where it cannot be told.

    Two nodes of one digest do the same. Known in `fingerprint_inputs` too, where ComfyUI 0.3.64 gives no hidden inputs.
    """
    item, context = _item(), get_executing_context()
    if item is None or context is None or context.node_id not in item[2]:
        return None
    return _digest(item[2], context.node_id, {})


def _item() -> tuple[Any, ...] | None:
    """The running item of the queue: number, id, prompt, extra_data, ..."""
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is None or context is None:
        return None
    now, _ = server.prompt_queue.get_current_queue_volatile()
    return next((item for item in now if item[1] == context.prompt_id), None)


def _digest(prompt: dict[str, Any], node_id: str, known: dict[str, str]) -> str:
    if node_id not in known:
        entry = prompt[node_id]
        inputs = {name: _source(prompt, value, known) for name, value in entry["inputs"].items()}
        text = json.dumps([entry["class_type"], inputs], sort_keys=True, default=str)
        known[node_id] = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return known[node_id]


def _source(prompt: dict[str, Any], value: Any, known: dict[str, str]) -> Any:
    """The value of an input, or what a link leads to."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt:
        return [_digest(prompt, value[0], known), value[1]]
    return value
