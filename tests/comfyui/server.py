"""A real ComfyUI with this pack in it, talked to as a user does: over HTTP and the websocket."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import websocket

PACK = Path(__file__).resolve().parents[2]
START_SECONDS = 240  # a cold disk and a busy machine


def installations() -> list[Path]:
    """ComfyUI folders to test against: COMFYUI_PATH, separated by colons, else the usual places."""
    named = os.environ.get("COMFYUI_PATH")
    folders = named.split(os.pathsep) if named else ["~/ComfyUI", "~/ComfyUI-new"]
    return [path for folder in folders if folder and (path := Path(folder).expanduser() / "main.py").is_file()]


def python_of(main: Path) -> Path:
    """The interpreter of an installation: its own environment's, where it has one."""
    for name in (".venv", "venv"):
        for inside in ("bin/python", "Scripts/python.exe"):
            if (main.parent / name / inside).exists():
                return main.parent / name / inside
    return Path(shutil.which("python3") or "python3")


def inside(main: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python as an installation's own process begins, without a server."""
    begin = 'import sys; sys.argv = [sys.argv[0], "--cpu"]\nimport comfy.options; comfy.options.enable_args_parsing()\n'
    command = [python_of(main), "-c", begin + code]
    return subprocess.run(command, cwd=main.parent, capture_output=True, text=True, timeout=300)


def install(base: Path, name: str = "CausalCine", *, copy: bool = False) -> Path:
    """Put the pack under a base folder's custom_nodes: as a link, or as a copy of what a user would unzip."""
    target = base / "custom_nodes" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        unwanted = shutil.ignore_patterns(
            ".*", "__pycache__", "output", "training", "tests", "*.egg-info", "build", "dist"
        )
        shutil.copytree(PACK, target, ignore=unwanted)
    else:
        target.symlink_to(PACK, target_is_directory=True)
    return target


@dataclass
class Run:
    """One prompt's life: what the websocket said and what the history keeps."""

    prompt_id: str
    events: list[tuple[str, Any]] = field(default_factory=list)
    previews: list[bytes] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    history: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        return self.history.get("status", {}).get("status_str", "none")

    @property
    def cached(self) -> set[str]:
        return {node for kind, data in self.events if kind == "execution_cached" for node in data["nodes"]}

    def of(self, kind: str) -> list[Any]:
        return [data for name, data in self.events if name == kind]

    @property
    def error(self) -> str:
        return " ".join(data.get("exception_message", "") for data in self.of("execution_error"))

    def files(self, node: str) -> list[dict[str, str]]:
        out = self.history["outputs"].get(node, {})
        return [*out.get("images", []), *out.get("video", [])]


class Refused(Exception):  # noqa: N818
    """The server refused a prompt; `answer` is its JSON."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(json.dumps(answer))
        self.answer = answer


class Server:
    """A running ComfyUI over a base folder of its own, so that nothing of the installation is touched."""

    def __init__(self, main: Path, base: Path, *arguments: str, cwd: Path | None = None):
        self.main, self.base, self.log = main, base, base / "server.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for folder in (
            "models/checkpoints",
            "models/diffusion_models",
            "input",
            "output",
            "temp",
            "user",
            "custom_nodes",
        ):
            if not (base / "models-absent").exists() or not folder.startswith("models"):
                (base / folder).mkdir(parents=True, exist_ok=True)
        command = [python_of(main), main, "--cpu", "--listen", "127.0.0.1", "--port", str(self.port)]
        command += [
            "--base-directory",
            base,
            "--disable-auto-launch",
            "--database-url",
            "sqlite:///:memory:",
            *arguments,
        ]
        with self.log.open("wb") as log:
            environment = (
                {"OMP_NUM_THREADS": "1"} | os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            )
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd or main.parent,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ComfyUI did not start:\n{self.log.read_text(errors='replace')[-4000:]}")
            with contextlib.suppress(OSError):
                self.get("/system_stats")
                break
            time.sleep(0.3)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        return self.get("/system_stats")["system"]["comfyui_version"]

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def alive(self) -> bool:
        return self.process.poll() is None

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.loads(answer.read())

    def raw(self, path: str) -> tuple[int, dict[str, str], bytes]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=60) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def post(self, path: str, data: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            body = error.read()
            with contextlib.suppress(ValueError):
                raise Refused(json.loads(body)) from None
            raise
        return json.loads(body) if body else None

    def view(self, file: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        return self.raw(
            "/view?" + urllib.parse.urlencode({key: file[key] for key in ("filename", "subfolder", "type")})
        )

    def path(self, file: dict[str, str]) -> Path:
        return self.base / file["type"] / file["subfolder"] / file["filename"]

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        client = Client(self)
        try:
            yield client
        finally:
            client.socket.close()

    def run(self, prompt: dict[str, Any], **extra: Any) -> Run:
        """Queue a prompt and wait for its end."""
        with self.client() as client:
            return client.finish(client.queue(prompt, **extra))

    def memory(self) -> int:
        """Resident bytes of the server process."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


class Client:
    """A user's connection: queues prompts and listens."""

    def __init__(self, server: Server):
        self.server, self.id = server, uuid.uuid4().hex
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{server.port}/ws?clientId={self.id}", timeout=60)

    def queue(self, prompt: dict[str, Any], **extra: Any) -> Run:
        answer = self.server.post("/prompt", {"prompt": prompt, "client_id": self.id, **extra})
        assert not answer["node_errors"], answer
        return Run(answer["prompt_id"])

    def listen(self, run: Run, timeout: float = 600) -> Iterator[tuple[str, Any]]:
        """Messages of one prompt, until it ends. Previews come as ("preview", bytes)."""
        deadline = time.monotonic() + timeout
        while True:
            self.socket.settimeout(max(0.1, deadline - time.monotonic()))
            message = self.socket.recv()
            if isinstance(message, bytes):
                (kind,) = struct.unpack(">I", message[:4])
                if kind == 1:
                    run.previews.append(message[8:])
                    yield "preview", message[8:]
                elif kind == 3:
                    (length,) = struct.unpack(">I", message[4:8])
                    run.texts.append(message[8 + length :].decode())
                    yield "text", run.texts[-1]
                continue
            event = json.loads(message)
            kind, data = event["type"], event.get("data", {})
            if data.get("prompt_id") not in (None, run.prompt_id):
                continue
            run.events.append((kind, data))
            yield kind, data
            if kind in ("execution_success", "execution_error", "execution_interrupted"):
                return

    def finish(self, run: Run, timeout: float = 600) -> Run:
        for _ in self.listen(run, timeout):
            pass
        for _ in range(100):  # the history is filled a moment after the last message
            history = self.server.get(f"/history/{run.prompt_id}")
            if run.prompt_id in history:
                run.history = history[run.prompt_id]
                break
            time.sleep(0.05)
        return run
