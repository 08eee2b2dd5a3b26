"""Films that were cut short: their finished chunks as a state file, and the command that goes on from it."""

from __future__ import annotations

import argparse
import errno
import os
import shlex
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from ..errors import WorkerLostError
from ..memory.store import GIB
from ..sampling import State
from .console import mib, say

MOST = GIB  # bytes of a file with its memory that nobody asked for: a stop should not take long, nor fill the disk
ON_AGAIN = {"audio": None, "model": "nano", "device": None, "dtype": None, "attention": "auto"}  # what no state knows


def rescue(state: State, args: argparse.Namespace, files: Mapping[str, Path], *, memory: bool) -> None:
    """After a failure: keeps the chunks that were made, and says how they go on. memory: whether what is remembered goes along."""
    seconds = f"{state.frames / state.recipe.timeline.fps:.1f} s"
    if "growing" in files and files["growing"].exists():
        say(f"what was written so far plays: {files['growing']}")
    try:
        file, size = _keep(state, files, memory)
    except Exception as error:  # what is told in the end is what ended the film
        say(f"the {seconds} made so far are lost: {error}")
        return
    rest = "the whole film, and its rest, is" if state.planned else "the whole film is"
    again = _again(state, file, args, files["video"], "--whole")
    say(f"the {seconds} made so far are kept in {file} ({size}); {rest} made by: {again}")


def after_loss(lost: WorkerLostError, made: int, args: argparse.Namespace, files: Mapping[str, Path]) -> str:
    """Keeps the state of a film that lost a worker, and says where everything is. made: pixel frames that its video has not."""
    if lost.state is None:
        return f"{lost} before the first chunk was whole: nothing was written"
    seconds = (lost.state.frames - made) / lost.state.recipe.timeline.fps
    here = f"{lost}: the {seconds:.1f} s made so far are in {files['video']}"
    try:
        file, _ = _keep(lost.state, files, False)
    except Exception as error:
        return f"{here}; their state could not be kept: {error}"
    return f"{here}; finish it with: {_again(lost.state, file, args, Path('REST.mp4'))}"


def _keep(state: State, files: Mapping[str, Path], memory: bool) -> tuple[Path, str]:
    """Saves a film where a state was asked for, else beside the video, else where the machine has its temporary files; with what it
    remembers where there is room for that. Gives the file and its size in words; raises the first error where there is room nowhere.
    """
    video = files["video"]
    beside = (video.with_name(f"{video.stem}{end}.state") for end in ("", *(f"-{n}" for n in range(2, 1000))))
    asked = files.get("state") or next(path for path in beside if not path.exists())
    spare = Path(tempfile.gettempdir()) / f"causalcine-{uuid.uuid4().hex[:8]}.state"
    memory = memory and state.local_memory is not None and ("state" in files or state.nbytes() <= MOST)
    first: Exception | None = None
    for file in (asked, spare):
        for whole in (True, False) if memory else (False,):
            try:
                _check_room(file, state.nbytes(memory=whole))
                state.save(file, memory=whole)
            except Exception as error:  # a full disk; a memory that is full already
                first = first or error
            else:
                return file, mib(file.stat().st_size) + ("" if whole else ", without what is remembered")
    assert first is not None
    raise first


def _check_room(file: Path, size: int) -> None:
    """Raises OSError where a disk has no room for a file: known before it is filled to the brim."""
    room = shutil.disk_usage(file.parent).free
    if size > room:
        raise OSError(errno.ENOSPC, f"{file} would take {mib(size)}, and its disk has {mib(room)} left")


def _again(state: State, file: Path, args: argparse.Namespace, video: Path, *more: str) -> str:
    """The command that goes on from a state, computed as before."""
    words = ["causalcine", "continue", str(file), "-o", str(video), *more]
    for name, usual in ON_AGAIN.items():
        if (value := getattr(args, name)) != usual:
            words += [f"--{name}", str(value)]
    folder = args.lora_folder or (args.story and os.path.dirname(args.story))  # beside the story LoRAs are sought too
    if folder and any(shot.lora for shot in state.shots):
        words += ["--lora-folder", folder]
    return shlex.join([*words, *(["--compile"] if args.compile else [])])
