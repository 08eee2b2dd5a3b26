"""Films kept on disk, and taken up again."""

from __future__ import annotations

import secrets
import shutil
from typing import Any, ClassVar

import comfy.model_management as mm
from comfy_api.latest import io

from ..causalcine_core.errors import InputError
from ..causalcine_core.film import before
from ..causalcine_core.sampling import State
from ..causalcine_core.sampling.state_files import read_label
from ..causalcine_core.story import MAX_FRAMES
from ..causalcine_core.vae import published_vae
from .adapt import files, states
from .adapt import vae as vaes
from .adapt.form import Form
from .adapt.pictures import thumbnail
from .adapt.progress import tell
from .adapt.queue import ancestry
from .adapt.stores import CPU, release_results
from .film import film_of
from .memory import StateType

PREFIX = "states/CausalCine"
NONE_YET = "none yet: CausalCine Save State makes one"


class CausalCineSaveState(Form):
    written: ClassVar[files.Written] = files.Written()

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineSaveState",
            display_name="CausalCine Save State",
            category="CausalCine",
            description="Keeps a film with all that it takes to go on, in ComfyUI's output folder: after a restart, or on another "
            "machine, CausalCine Load State takes it up. The file never replaces another.",
            inputs=[
                StateType.Input("state", tooltip="Of CausalCine Sampler."),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    tooltip="Start of the file's name; / makes subfolders of ComfyUI's output. %date:yyyy-MM-dd% works.",
                ),
                io.Boolean.Input(
                    "with_memory",
                    default=True,
                    tooltip="Yes: the film goes on bit for bit. No: a small file; what the film remembers is made anew when it goes "
                    "on, a pass for each chunk.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="For a sharp picture in the list of files; else its colours are rough.",
                ),
            ],
            outputs=[StateType.Output(display_name="STATE", tooltip="The same state.")],
            is_output_node=True,
        )

    @classmethod
    def check(cls, filename_prefix: str = PREFIX) -> None:
        files.clean_prefix(filename_prefix)

    @classmethod
    def fingerprint_inputs(cls, **widgets: Any) -> int:
        """Changes when the file that this node wrote for this state is gone: then it is written again."""
        return cls.written.lost(ancestry())

    @classmethod
    def execute(
        cls, state: State, filename_prefix: str = PREFIX, with_memory: bool = True, vae: Any = None
    ) -> io.NodeOutput:
        if not state.chunks:
            raise InputError("state holds no film yet: nothing of it was made")
        latent = state.latents[-1][:1, :, -1:]
        if vae is not None:
            vaes.check(vae, latent)
            vaes.load(vae, latent)
        stride = published_vae(latent.shape[1]).spatial_stride
        height, width = (side * stride for side in state.size)
        folder, name, subfolder, number = files.reserve(filename_prefix, (width, height))
        whole, small = state.nbytes(), state.nbytes(memory=False)
        needed, room = whole if with_memory else small, shutil.disk_usage(folder).free
        parts = (
            f"{states.size_text(whole - small)} of them memory" if with_memory and whole > small else "without memory"
        )
        tell(f"the state of {_length(state)} takes {states.size_text(needed)}, {parts}")
        if needed > room:
            hint = f": without memory it takes {states.size_text(small)}" if with_memory and small < room else ""
            raise InputError(
                f"filename_prefix {filename_prefix!r}: the state takes {states.size_text(needed)}, and the disk has "
                f"{states.size_text(room)} left{hint}"
            )
        unfinished = folder / f".{secrets.token_hex(8)}{states.SUFFIX}"
        try:
            state.save(unfinished, memory=with_memory, picture=thumbnail(latent, vae))
            path = files.publish(unfinished, name, number)
        except OSError as error:
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error.strerror
            raise InputError(f"filename_prefix {filename_prefix!r} cannot be written: {reason or error}") from None
        finally:
            unfinished.unlink(missing_ok=True)
        cls.written.keep(ancestry(), path)
        size = path.stat().st_size
        tell(f"{path}: {states.size_text(size)}")
        file = {
            "filename": path.name,
            "subfolder": subfolder,
            "type": "output",
            "name": states.name_of(path),
            "bytes": size,
        }
        return io.NodeOutput(state, ui={"states": [file], "text": [f"{path}, {states.size_text(size)}"]})


class CausalCineLoadState(Form):
    read: ClassVar[files.Read] = files.Read()

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineLoadState",
            display_name="CausalCine Load State",
            category="CausalCine",
            description="Takes up a film that was kept: by CausalCine Save State, by a run that was cancelled or failed, or by "
            "`causalcine generate --save-state`. Samplers go on from it as from each other.",
            inputs=[
                io.MultiType.Input(
                    io.Combo.Input(
                        "state_file",
                        options=states.names() or [NONE_YET],
                        tooltip="A file in ComfyUI's output folder, or with [temp] in its temp folder, newest first. Those in temp "
                        "are gone when ComfyUI starts again: Save State keeps one.",
                    ),
                    types=[io.String],
                ),
            ],
            outputs=[
                StateType.Output(display_name="STATE", tooltip="Where a sampler can go on."),
                io.Latent.Output(display_name="LATENT", tooltip="The film so far."),
            ],
        )

    @classmethod
    def check(cls, state_file: str | None = None) -> None:
        if state_file == NONE_YET:
            raise InputError("state_file names no file: there is none yet in ComfyUI's output and temp folders")
        if state_file is not None:
            read_label(states.find(state_file, "state_file"))

    @classmethod
    def fingerprint_inputs(cls, state_file: str | None = None, **_: Any) -> str:
        """Changes when the file does, also where its name comes by a link, whose value is not known yet."""
        if state_file is None:
            return str(cls.read.changed(ancestry(), states.sign))
        try:
            return states.sign(states.find(state_file, "state_file"))
        except InputError:
            return "gone"

    @classmethod
    def execute(cls, state_file: str) -> io.NodeOutput:
        cls.check(state_file)
        path = states.find(state_file, "state_file")
        cls.read.keep(ancestry(), path, states.sign(path))
        needed = path.stat().st_size
        if needed > mm.get_free_memory(CPU):
            release_results(needed)
        if needed > (room := mm.get_free_memory(CPU)):
            raise InputError(
                f"state_file {state_file!r} takes {states.size_text(needed)} of memory, and this machine has {states.size_text(room)} "
                "left"
            )
        state = State.load(path)
        if not state.chunks:
            raise InputError(f"state_file {state_file!r} holds no film: nothing of it was made")
        tell(f"{state_file}: {_length(state)}" + ("" if state.memory else ", without memory, which is made anew"))
        return io.NodeOutput(state, film_of(state))


class CausalCineState(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineState",
            display_name="CausalCine State",
            category="CausalCine",
            description="Goes back to where a shot or a chunk of a film begins. A sampler behind it makes a retake from there: what "
            "comes before is kept as it is, bit for bit, and the state that came in stays whole.",
            inputs=[
                StateType.Input("state", tooltip="Of CausalCine Sampler or CausalCine Load State."),
                io.Int.Input(
                    "from_shot",
                    default=0,
                    min=0,
                    max=MAX_FRAMES,
                    tooltip="The first shot that is made anew, counted from 1. 0: as from_chunk says; where that is 0 too, the whole "
                    "film is kept.",
                ),
                io.Int.Input(
                    "from_chunk",
                    default=0,
                    min=0,
                    max=MAX_FRAMES,
                    tooltip="The first chunk that is made anew, counted from 1, to cut inside a shot. 0: as from_shot says.",
                ),
            ],
            outputs=[
                StateType.Output(display_name="STATE", tooltip="Where a sampler goes on with the retake."),
                io.Latent.Output(display_name="LATENT", tooltip="What is kept of the film."),
            ],
        )

    @classmethod
    def check(cls, from_shot: int = 0, from_chunk: int = 0) -> None:
        if from_shot and from_chunk:
            raise InputError("from_shot and from_chunk say the same in two ways: leave one of them at 0")

    @classmethod
    def execute(cls, state: State, from_shot: int = 0, from_chunk: int = 0) -> io.NodeOutput:
        cls.check(from_shot, from_chunk)
        if from_shot or from_chunk:
            state = before(state, shot=from_shot or None, chunk=from_chunk or None)
        tell(f"{_length(state)} kept" if state.chunks else "nothing is kept: the film is made anew")
        return io.NodeOutput(state, film_of(state))


def _length(state: State) -> str:
    shots = len({record.plan.shot for record in state.records})
    return f"{state.frames / state.recipe.timeline.fps:.1f} s in {shots} shot{'s' if shots > 1 else ''}"
