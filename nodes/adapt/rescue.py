"""Films that were cut short: their chunks as a file in ComfyUI's temp folder, from which the same film goes on."""

from __future__ import annotations

import hashlib
import logging
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import folder_paths
from server import PromptServer
from torch import Tensor

from ...causalcine_core.errors import InputError
from ...causalcine_core.memory.store import GIB
from ...causalcine_core.sampling import State
from . import files, states
from .pictures import thumbnail
from .progress import tell
from .queue import ancestry

PREFIX = "CausalCine"
MOST = GIB  # bytes of a file with its memory: a cancel should not take long, nor fill the disk


@dataclass
class Kept:
    """Where the chunks of films lie that were cut short, by what those were to become."""

    files: dict[str, Path] = field(default_factory=dict)

    def keep(self, error: BaseException, asked: State, made: State, vae: Any) -> None:
        """Keep what was made of a film until `error` ended it, and say so: in the error, or where it is a cancel, of which ComfyUI
        shows nothing, on the page.

        Args:
            error: what ended it; its sentence goes on with where the film is.
            asked: the film as it was to be made.
            made: the film as far as it was made.
            vae: for a picture of it; it may be None.
        """
        done, all_of_it = made.chunks - asked.chunks, len(asked.planned)
        if done < 1:
            return
        try:
            path = _write(made, vae)
        except (OSError, InputError) as why:
            said = f"the {done} of {all_of_it} chunks that were made could not be kept: {why}"
        else:
            self.files[_job(asked)] = path
            said = (
                f"{done} of {all_of_it} chunks are kept as {states.name_of(path)}: queue the same again and it goes on from there, or "
                "take them up with CausalCine Load State"
            )
        _say_with(error, said)

    def taken_up(self, asked: State) -> State:
        """Where a film goes on: `asked`, or as far as the same one had come when it was cut short."""
        path = self.files.pop(_job(asked), None)
        if path is None:
            return asked
        try:
            state = State.load(path)
        except InputError as error:  # deleted, as the temp folder is
            logging.info("CausalCine: %s: the film is made from its beginning", error)
            return asked
        tell(f"going on after {state.chunks - asked.chunks} chunks that were made before")
        return state


def keep_film(error: BaseException, state: State, vae: Any) -> None:
    """Keep a film that was made and could not be written as a video: the cache may let go of it. Said as `Kept.keep` says it."""
    try:
        said = f"the film itself is kept as {states.name_of(_write(state, vae))}: CausalCine Load State takes it up"
    except (OSError, InputError) as why:
        said = f"the film itself could not be kept: {why}"
    _say_with(error, said)


def _say_with(error: BaseException, said: str) -> None:
    if isinstance(error, mm.InterruptProcessingException):
        tell(said)
        server = getattr(PromptServer, "instance", None)
        if server is not None:
            server.send_sync("causalcine.kept", {"text": said}, server.client_id)
        return
    logging.warning("CausalCine: %s", said)
    if isinstance(error, OSError) and error.strerror:
        error.strerror = f"{error.strerror}. {said}"
    else:
        error.args = (f"{error}. {said}",)


def _write(state: State, vae: Any) -> Path:
    """A film as a file in the temp folder, with its memory where that is not too large. Raises OSError and InputError."""
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    whole, small, room = state.nbytes(), state.nbytes(memory=False), shutil.disk_usage(temp).free
    if small > room:
        raise InputError(f"they take {states.size_text(small)}, and the disk has {states.size_text(room)} left")
    folder, name, _, number = files.reserve(PREFIX, (0, 0), temp)
    unfinished = folder / f".{secrets.token_hex(8)}{states.SUFFIX}"
    try:
        state.save(unfinished, memory=whole <= min(MOST, room), picture=_picture(state.latents[-1][:1, :, -1:], vae))
        return files.publish(unfinished, name, number)
    finally:
        unfinished.unlink(missing_ok=True)


def _picture(latent: Tensor, vae: Any) -> bytes:
    try:
        return thumbnail(latent, vae)
    except BaseException as error:  # no memory, a second cancel: the film itself is what matters
        logging.info("CausalCine: a film that is kept has a rough picture: %s", error)
        return thumbnail(latent)


def _job(start: State) -> str:
    """What tells one film to be made from another: what is asked, and all nodes that lead to it."""
    asked = (ancestry(), start.model, start.recipe, start.settings, start.seed, start.shots, start.planned)
    asked += tuple((one.name, one.caption) for one in start.references)
    digest = hashlib.sha256(repr(asked).encode(errors="surrogatepass"))
    for latent in (*(one.latent for one in start.references), *start.latents):
        digest.update(latent.contiguous().numpy().tobytes())
    return digest.hexdigest()
