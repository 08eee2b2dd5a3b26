"""Progress bar, live preview, text on the node, and cancel, while a film is made."""

from __future__ import annotations

import argparse
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import comfy.model_management as mm
import comfy.options
import comfy.utils
from comfy.cli_args import LatentPreviewMethod, args, parser
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer

from ...causalcine_core.runner import Runner
from ...causalcine_core.sampling import StepInfo
from . import vae as vaes
from .pictures import still
from .queue import running

PREVIEW_EVERY = 0.5  # seconds
PREVIEW_SIZE = 512  # pixels; the server enlarges and shrinks to it


class Progress:
    """Called after every denoising pass: looks for a cancel first, then reports."""

    def __init__(self, vae: Any, tiny: vaes.TinyPreview | None, latent_format: Any):
        """What previews are made with: a VAE, else a tiny decoder, else the format's factors of red, green and blue."""
        self.vae, self.tiny, self.latent_format = vae, tiny, latent_format
        self.chunks = self.chunk = self.steps = 0
        self.shown = 0.0

    @classmethod
    def of(cls, runner: Runner, vae: Any, latent_format: Any) -> Progress:
        """Of films of a network: with this VAE, or where it is None with a tiny decoder, if there is one."""
        tiny = vaes.TinyPreview.find(runner.channels, runner.device) if vae is None and previews_wanted() else None
        return cls(vae, tiny, latent_format)

    def begin(self, chunks: int, steps: int) -> None:
        self.chunks, self.steps = chunks, steps
        self.bar = comfy.utils.ProgressBar(chunks * steps)

    def __call__(self, info: StepInfo) -> None:
        mm.throw_exception_if_processing_interrupted()
        if info.step == 1:
            self.chunk += 1
            say(f"Shot {info.chunk.shot + 1}, chunk {self.chunk} of {self.chunks}")
        done = (self.chunk - 1) * self.steps + info.step * self.steps // info.steps  # a first chunk may have more
        now = time.monotonic()
        preview = None
        if (info.step == info.steps or now - self.shown >= PREVIEW_EVERY) and previews_are_seen():
            self.shown = now
            preview = ("JPEG", self.picture(info), PREVIEW_SIZE)
        self.bar.update_absolute(done, self.chunks * self.steps, preview)

    def picture(self, info: StepInfo) -> Image.Image:
        """A frame of the chunk being made. It moves on from step to step, so that motion shows."""
        frame = (info.step - 1) * info.clean.shape[2] // info.steps
        latent = info.clean[:1, :, frame : frame + 1].float()
        return still(latent, self.vae, self.tiny, self.latent_format)


def previews_are_seen() -> bool:
    """Whether previews are wanted, and whoever queued the film, or anybody where it has no client, is there to see them."""
    server = getattr(PromptServer, "instance", None)
    if server is None or not previews_wanted():
        return False
    return server.client_id in server.sockets if server.client_id is not None else bool(server.sockets)


def previews_wanted() -> bool:
    """Whether nobody has chosen `none`, with --preview-method or (0.33) in the page's settings.

    Where nobody has chosen anything, stock samplers show nothing, but a film takes minutes: it is shown as it grows.
    """
    if args.preview_method != LatentPreviewMethod.NoPreviews:
        return True
    return _method_of_command_line() is None and running().get("preview_method") != LatentPreviewMethod.NoPreviews.value


@functools.cache
def _method_of_command_line() -> LatentPreviewMethod | None:
    """The method that ComfyUI was started with, None where it was started with none of these."""
    if not comfy.options.args_parsing:
        return None
    chosen, _ = parser.parse_known_args(namespace=argparse.Namespace(preview_method=None))
    return chosen.preview_method


def say(text: str) -> None:
    """A line of text on the node that is running."""
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id, server.client_id)


def tell(*lines: str) -> None:
    """Put facts into the log and onto the node that is running."""
    for line in lines:
        logging.info("CausalCine: %s", line)
    say("\n".join(lines))


def warn(sentences: Sequence[str]) -> None:
    """Put warnings into the log and onto the node that is running."""
    for sentence in sentences:
        logging.warning("CausalCine: %s", sentence)
    if sentences:
        say("\n".join(sentences))
