"""Latents to pictures, a few frames at a time."""

from __future__ import annotations

from typing import Any

import comfy.utils
import torch
from comfy_api.latest import io

from .adapt import vae as vaes
from .adapt.form import Form


class CausalCineStreamingDecode(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineStreamingDecode",
            display_name="CausalCine Streaming Decode",
            category="CausalCine",
            description="Decodes a film of any length in the memory of a few frames. The pictures are those of VAE Decode; "
            "to save a long film, use CausalCine Save Video, which never holds them all.",
            inputs=[
                io.Latent.Input("samples", tooltip="The film so far, of CausalCine Sampler."),
                io.Vae.Input("vae", tooltip="The VAE of the checkpoint, or Wan's own (2.1, or 2.2 for a 5B model)."),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="All frames of the film.")],
        )

    @classmethod
    def execute(cls, samples: dict[str, Any], vae: Any) -> io.NodeOutput:
        latent = samples["samples"]
        vaes.check(vae, latent)
        bar = comfy.utils.ProgressBar(latent.shape[0] * vaes.pixel_frames(vae, latent.shape[2]))
        pictures = []
        for film in latent.split(1):
            for piece in vaes.frames(vae, film):
                pictures.append(piece)
                bar.update(len(piece))
        return io.NodeOutput(torch.cat(pictures))
