"""A running ComfyUI as a script sees it: prompts in, files and reasons out."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

PATIENCE = 60.0  # seconds that a server may not answer, as while it is busy loading


class Refused(Exception):  # noqa: N818
    """ComfyUI refused a prompt; the text says why."""


class Gone(Exception):  # noqa: N818
    """ComfyUI does not answer."""


class ComfyUI:
    """address: such as http://127.0.0.1:8188."""

    def __init__(self, address: str):
        self.address = address.rstrip("/")

    def queue(self, graph: dict[str, Any]) -> str:
        """The prompt's id. Raises Refused where it, or a part of it, would not be run."""
        answer = self._ask("/prompt", {"prompt": graph})
        if "prompt_id" in answer and answer.get("node_errors"):  # it would run without what is at fault
            self.cancel([answer["prompt_id"]])
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise Refused(_why(answer, graph))
        return str(answer["prompt_id"])

    def waiting(self) -> set[str]:
        """Ids of the prompts that wait or run."""
        queue = self._ask("/queue")
        return {item[1] for item in (*queue["queue_running"], *queue["queue_pending"])}

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """What is known of a prompt that has ended."""
        entry: dict[str, Any] | None = self._ask(f"/history/{prompt_id}").get(prompt_id)
        return entry

    def knows(self, prompt_id: str) -> bool:
        return prompt_id in self.waiting() or self.history(prompt_id) is not None

    def cancel(self, prompt_ids: Sequence[str]) -> None:
        """Take prompts out of the queue, and stop them where they run. Others are left alone."""
        if prompt_ids:
            self._ask("/queue", {"delete": list(prompt_ids)})
        for item in self._ask("/queue")["queue_running"]:
            if item[1] in prompt_ids:
                self._ask("/interrupt", {"prompt_id": item[1]})

    def made(self, history: dict[str, Any]) -> dict[str, Any]:
        """Seconds and files, below ComfyUI's output folder, of a prompt that has ended."""
        times = [message["timestamp"] for _, message in history["status"]["messages"] if "timestamp" in message]
        files = [
            f"{file['subfolder']}/{file['filename']}".lstrip("/")
            for output in history["outputs"].values()
            for kind in ("images", "video", "gifs", "audio")
            for file in output.get(kind, ())
            if file.get("type") == "output"
        ]
        return {"seconds": (max(times) - min(times)) / 1000 if times else 0.0, "files": files}

    def _ask(self, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.address + path, body, {"Content-Type": "application/json"})
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                    text = answer.read()
                return json.loads(text) if text else {}
            except urllib.error.HTTPError as error:
                text = error.read()
                try:
                    return json.loads(text)
                except ValueError:
                    raise Gone(f"{self.address} answers {error.code} to {path}: is it a ComfyUI?") from None
            except (OSError, ValueError) as error:
                refused = isinstance(getattr(error, "reason", error), ConnectionRefusedError)
                if refused or path == "/prompt" or time.monotonic() > deadline:  # a prompt is never queued twice
                    raise Gone(
                        f"no ComfyUI answers at {self.address} ({getattr(error, 'reason', error)}); is it started?"
                    ) from None
                time.sleep(1)


def reason_of(history: dict[str, Any]) -> str | None:
    """Why a prompt that has ended has failed; None: it has not."""
    for kind, message in history["status"]["messages"]:
        if kind == "execution_error":
            return f"{message['node_type']} (node {message['node_id']}): {message['exception_message'].strip()}"
        if kind == "execution_interrupted":
            return f"it was cancelled in ComfyUI, at {message.get('node_type')}"
    return None if history["status"]["status_str"] == "success" else f"it ended as {history['status']['status_str']}"


def _why(answer: dict[str, Any], graph: dict[str, Any]) -> str:
    """The sentences of a prompt that was refused: of its nodes, or of the whole."""
    said = [
        f"{graph.get(key, {}).get('class_type', 'node')} (node {key}): {error.get('details') or error.get('message')}"
        for key, entry in (answer.get("node_errors") or {}).items()
        for error in entry["errors"]
    ]
    error = answer.get("error") or {}
    whole = error if isinstance(error, str) else f"{error.get('message', '')} {error.get('details', '')}".strip()
    return "; ".join(dict.fromkeys(said)) or whole or "ComfyUI refused it without a reason"
