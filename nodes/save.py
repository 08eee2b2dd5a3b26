"""The film as a file, written while it is decoded."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management as mm
import comfy.utils
import torch
from comfy_api.latest import InputImpl, io, ui

from ..causalcine_core.encoder import EncoderError, check_encoder
from ..causalcine_core.errors import InputError
from ..causalcine_core.video import VideoWriter
from .adapt import files
from .adapt import vae as vaes
from .adapt.audio import sound_of
from .adapt.form import Form, advanced
from .adapt.progress import tell, warn
from .adapt.queue import ancestry
from .adapt.rescue import keep_film
from .film import fps_of, state_of, story_of

PREFIX = "video/CausalCine"


class CausalCineSaveVideo(Form):
    written: ClassVar[files.Written] = files.Written()

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineSaveVideo",
            display_name="CausalCine Save Video",
            category="CausalCine",
            description="Decodes a film and writes it as mp4 (H.264), a few frames at a time: a film of any length needs the "
            "memory of a few frames. The file goes into ComfyUI's output folder and never replaces another.",
            inputs=[
                io.Latent.Input("samples", tooltip="The film so far, of CausalCine Sampler."),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint, or Wan's own (2.1, or 2.2 for a 5B model)."),
                io.Float.Input(
                    "fps",
                    default=0.0,
                    min=0.0,
                    max=120.0,
                    step=0.001,
                    tooltip="Frames per second. 0: as the film was made. Another number plays it faster or slower.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=PREFIX,
                    tooltip="Start of the file's name; / makes subfolders of ComfyUI's output. %date:yyyy-MM-dd% works.",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Sound under the film from its first frame on, cut where the film ends.",
                ),
                *advanced(
                    io.Boolean.Input(
                        "grow",
                        default=False,
                        tooltip="Meanwhile write NAME.growing.mp4 beside it, which plays up to the last second that was decoded, "
                        "without sound. It goes when the film is whole, and stays when that is stopped.",
                    )
                ),
            ],
            outputs=[io.Video.Output(display_name="VIDEO", tooltip="The file.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def check(cls, filename_prefix: str = PREFIX) -> None:
        files.clean_prefix(filename_prefix)
        _check_encoder(filename_prefix)

    @classmethod
    def fingerprint_inputs(cls, **widgets: Any) -> int:
        """Changes when the file that this node wrote for this film is gone: then it is written again."""
        return cls.written.lost(ancestry())

    @classmethod
    def execute(
        cls,
        samples: dict[str, Any],
        vae: Any,
        fps: float = 0.0,
        filename_prefix: str = PREFIX,
        audio: Any = None,
        grow: bool = False,
    ) -> io.NodeOutput:
        _check_encoder(filename_prefix, mm.throw_exception_if_processing_interrupted)
        latent = samples["samples"]
        vaes.check(vae, latent)
        if latent.shape[0] != 1:
            raise InputError(
                f"samples hold {latent.shape[0]} films side by side: save one at a time (Latent From Batch)"
            )
        made_at, total = fps_of(samples), vaes.pixel_frames(vae, latent.shape[2])
        fps = fps or made_at
        if fps != made_at:
            warn(
                [
                    f"the film was made for {made_at:g} fps: at {fps:g} its {total / made_at:.1f} s play in {total / fps:.1f} s"
                ]
            )
        with sound_of(audio) as sound:
            if sound is not None:
                warn(sound.notes(0, total / fps))
            how = {"fps": fps, "metadata": files.metadata(cls.hidden, story_of(samples)), "sound": sound}
            try:
                path, subfolder = cls._write(vae, latent, filename_prefix, grow, how)
            except BaseException as error:  # ComfyUI's cancel among them
                if (film := state_of(samples)) is not None:
                    keep_film(error, film, vae)
                raise
        cls.written.keep(ancestry(), path)
        shown = ui.SavedResult(path.name, subfolder, io.FolderType.output)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=ui.PreviewVideo([shown]))

    @classmethod
    def _write(cls, vae: Any, latent: Any, prefix: str, grow: bool, how: dict[str, Any]) -> tuple[Path, str]:
        """The film as a file of that prefix: where it is, and in which subfolder. how: arguments of the writer."""
        stride = vae.spacial_compression_decode()
        size = (latent.shape[4] * stride, latent.shape[3] * stride)
        folder, name, subfolder, number = files.reserve(prefix, size)
        unfinished = folder / f".{secrets.token_hex(8)}.mp4"
        how |= {"called": prefix, "on_wait": mm.throw_exception_if_processing_interrupted}
        if grow:
            how["grow"] = files.free(folder, f"{name}_{number:05}_", ".growing.mp4")
            tell(f"{how['grow'].name} can be played while it grows")
        bar, waiting = comfy.utils.ProgressBar(vaes.pixel_frames(vae, latent.shape[2])), list[torch.Tensor]()
        with VideoWriter(unfinished, size=size, **how) as video:
            for frames in vaes.frames(vae, latent):
                waiting.append((frames * 255).round().to(torch.uint8))
                if not grow or sum(map(len, waiting)) >= how["fps"]:
                    video.write(torch.cat(waiting))
                    waiting.clear()
                bar.update(len(frames))
            if waiting:
                video.write(torch.cat(waiting))
        return files.publish(unfinished, name, number), subfolder


def _check_encoder(prefix: str, on_wait: Callable[[], object] | None = None) -> None:
    """Raise InputError where ffmpeg cannot write the file that is asked for. on_wait: called while it is tried."""
    try:
        check_encoder(on_wait)
    except EncoderError as error:
        raise InputError(f"filename_prefix {prefix!r} cannot be written: {error}") from None
