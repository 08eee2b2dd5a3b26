"""Films on disk: which there are in ComfyUI's output and temp folders, and what each says of itself to the page."""

from __future__ import annotations

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from safetensors import safe_open
from server import PromptServer

from ...causalcine_core import checks
from ...causalcine_core.errors import InputError
from ...causalcine_core.sampling.state_files import LATENTS, read_label
from .pictures import thumbnail

SUFFIX = ".state"
OUTPUT, TEMP = (
    " [output]",
    " [temp]",
)  # as ComfyUI marks names of files that lie in other folders than a node's usual one


def folders() -> dict[str, Path]:
    """The folders that hold films, by the mark of a name in them."""
    return {
        OUTPUT: Path(os.path.abspath(folder_paths.get_output_directory())),
        TEMP: Path(os.path.abspath(folder_paths.get_temp_directory())),
    }


def names() -> list[str]:
    """All state files, newest first: their names in the output folder, and with a mark those in the temp folder."""
    found: list[tuple[float, str]] = []
    for top in folders().values():
        for folder, inner, files in os.walk(top):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in files:
                if name.endswith(SUFFIX) and not name.startswith("."):
                    try:
                        found.append((os.path.getmtime(os.path.join(folder, name)), name_of(Path(folder, name))))
                    except OSError:  # gone meanwhile
                        continue
    return [name for _, name in sorted(found, key=lambda item: (-item[0], item[1]))]


def name_of(path: Path) -> str:
    """What a state file in one of the folders is called in a node."""
    for mark, top in folders().items():
        if path.is_relative_to(top):
            return path.relative_to(top).as_posix() + (mark if mark != OUTPUT else "")
    raise InputError(f"{path} lies in none of ComfyUI's output and temp folders")


def find(name: object, field: str) -> Path:
    """The file that a field names. Raises InputError where there is none, or it lies elsewhere."""
    if not isinstance(name, str) or not name.strip():
        raise InputError(f"{field} must be the name of a state file, got {checks.show(name)}")
    mark = next((mark for mark in folders() if name.endswith(mark)), None)
    top = folders()[mark or OUTPUT]
    path = Path(os.path.abspath(top / name.removesuffix(mark or "").replace("\\", "/")))
    if not path.is_relative_to(top):
        raise InputError(f"{field} {name!r} lies outside ComfyUI's {top.name} folder: give the name of a file in it")
    try:
        if path.is_file():
            return path
    except (OSError, ValueError):  # a name that no file can have
        pass
    raise InputError(
        f"{field} {name!r} is not in {top}: save a film there with CausalCine Save State, or choose another file"
    )


def sign(path: Path) -> str:
    """What changes when a file is written anew, even with its old size and time."""
    try:
        found = path.stat()
    except OSError:
        return "gone"
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}-{found.st_ctime_ns}"


def size_text(size: int) -> str:
    """Bytes in words, such as 48.2 MB."""
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if size >= one:
            return f"{size / one:.{1 if size < 100 * one else 0}f} {unit}"
    return f"{max(1, round(size / 1e3))} KB"


def told(name: str) -> dict[str, Any]:
    """What the page shows of a state file. Reads its header, and where that has no picture one frame. Raises InputError."""
    path = find(name, "state_file")
    label = read_label(path)
    picture = label.picture or _decoded(path, label.chunks)
    return {
        "name": name,
        "size": size_text(path.stat().st_size),
        "memory": size_text(label.memory) if label.memory else "",
        "chunks": label.chunks,
        "shots": label.shots,
        "seconds": label.seconds,
        "words": label.words,
        "picture": f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else "",
    }


def _decoded(path: Path, chunks: int) -> bytes:
    """The film's newest frame in rough colours."""
    if not chunks:
        return b""
    with safe_open(os.fspath(path), framework="pt") as file:
        return thumbnail(file.get_slice(LATENTS)[:1, :, -1:])


async def _list(request: web.Request) -> web.Response:
    return web.json_response(await asyncio.to_thread(names))


async def _one(request: web.Request) -> web.Response:
    try:
        return web.json_response(await asyncio.to_thread(told, request.query.get("name", "")))
    except InputError as error:
        return web.json_response({"error": str(error)}, status=404)


def add_routes() -> None:
    """`/causalcine/states`, names; `/causalcine/state?name=`, what one says of itself. To be called while ComfyUI loads its nodes."""
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.routes.get("/causalcine/states")(_list)
        server.routes.get("/causalcine/state")(_one)
