"""VAE: the built-in model's VAE as ComfyUI's VAE object, and decoding any causal Wan VAE piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.ldm.wan.vae
import comfy.ldm.wan.vae2_2
import comfy.model_management as mm
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

from ...causalcine_core.errors import InputError
from ...causalcine_core.vae import SCALES, TinyDecoder, WanVAE, denormalize

TINY_NAMES = {
    16: ("taew2_1", "lighttaew2_1"),
    48: ("taew2_2", "lighttaew2_2"),
}  # in models/vae_approx, by latent channels
PIECE = 3  # latent frames of our own VAE decoded at once; its stream has no rule of its own


class FirstStage(nn.Module):
    """What ComfyUI calls inside a VAE: encode and decode between -1..1 and raw latents, `[B C F H W]`."""

    def __init__(self, vae: WanVAE):
        super().__init__()
        self.vae = vae

    def encode(self, video: Tensor, **_: Any) -> Tensor:
        stride = self.vae.config.temporal_stride
        whole = 1 + (video.shape[2] - 1) // stride * stride
        return self.vae.encode(video[:, :, :whole])[0]

    def decode(self, latent: Tensor, **_: Any) -> Tensor:
        return self.vae.decode(latent)[0]


class CausalVAE(comfy.sd.VAE):
    """ComfyUI's VAE object around the core's VAE, so that VAE Decode, its tiled form and VAE Encode work."""

    def __init__(self, vae: WanVAE):
        config = vae.config
        time, space = config.temporal_stride, config.spatial_stride
        self.memory_used_encode = lambda shape, dtype: 64 * config.dim * shape[3] * shape[4] * mm.dtype_size(dtype)
        self.memory_used_decode = lambda shape, dtype: (
            64 * config.dim * shape[3] * shape[4] * space**2 * mm.dtype_size(dtype)
        )
        self.upscale_ratio = (lambda frames: max(0, frames * time - time + 1), space, space)
        self.downscale_ratio = (lambda frames: max(0, (frames + time - 1) // time), space, space)
        self.upscale_index_formula = self.downscale_index_formula = (time, space, space)
        self.latent_channels, self.latent_dim, self.output_channels = config.z_dim, 3, 3
        self.process_input = lambda image: image * 2.0 - 1.0
        self.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
        self.working_dtypes = [torch.float32]
        self.disable_offload = True
        self.not_video = self.handles_tiling = False
        self.crop_input = True
        self.extra_1d_channel = self.pad_channel_value = self.format_encoded = self.size = None
        self.audio_sample_rate = 44100
        self.device, self.vae_dtype = mm.vae_device(), torch.float32
        self.output_device = mm.intermediate_device()
        self.first_stage_model = FirstStage(vae.float()).eval().requires_grad_(False)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=mm.vae_offload_device()
        )


def check(vae: Any, latent: Tensor) -> None:
    """Raise InputError where a LATENT is no film of this VAE."""
    if latent.ndim != 5 or latent.shape[1] not in SCALES:
        raise InputError(
            f"samples are {list(latent.shape)}: a film's latent is [batch, {' or '.join(map(str, SCALES))}, frames, "
            "height, width]; connect the LATENT of CausalCine Sampler"
        )
    if not latent.shape[2]:
        raise InputError("samples hold no frame: nothing was made yet, or nothing is kept of the film")
    check_kind(vae, latent.shape[1])


def check_kind(vae: Any, channels: int) -> None:
    """Raise InputError where a VAE is none for films of so many latent channels."""
    if vae.latent_channels != channels or vae.latent_dim != 3:
        fitting = "connect the VAE of CausalCine Checkpoint Loader, or load Wan 2.1's VAE"
        raise InputError(
            f"vae has {vae.latent_channels} latent channels, the film {channels}: "
            + (fitting if channels == 16 else "load Wan 2.2's VAE")
        )


def pixel_frames(vae: Any, latent_frames: int) -> int:
    """Length in pixel frames of a film of so many latent frames."""
    return vae.upscale_ratio[0](latent_frames)


def frames(vae: Any, latent: Tensor) -> Iterator[Tensor]:
    """Decode one film `[1 C F h w]` in VAE space, a few frames at a time: float32 `[n H W 3]` in 0..1 on the CPU.

    Equal to decoding it whole, in memory that does not grow with its length.
    """
    check(vae, latent)
    load(vae, latent[:, :, :PIECE])
    for piece in _stream(vae, latent):
        video = vae.process_output(piece.to(vae.output_device).float())
        yield video[0].movedim(0, -1).cpu()
        mm.throw_exception_if_processing_interrupted()


def load(vae: Any, piece: Tensor) -> None:
    """Bring a VAE to its device, with room to decode a piece of this shape."""
    vae.throw_exception_if_invalid()
    memory = vae.memory_used_decode(piece.shape, vae.vae_dtype)
    mm.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=vae.disable_offload)


def still(vae: Any, latent: Tensor) -> Tensor:
    """One latent frame `[1 C 1 h w]` as a picture `[H W 3]` in 0..1, for previews. The VAE must be loaded."""
    x = latent.to(vae.device, vae.vae_dtype)
    with torch.no_grad():
        video = vae.first_stage_model.decode(x)
    return vae.process_output(video.float())[0, :, 0].movedim(0, -1).cpu()


def held(vae: Any, latent: Tensor, frames: int) -> Tensor:
    """One latent frame `[1 C 1 h w]` in VAE space as the latent of its picture held for so many pixel frames."""
    load(vae, latent)
    return vae.encode(still(vae, latent)[None].repeat(frames, 1, 1, 1))


class TinyPreview:
    """Pictures by a tiny decoder. LightX2V's files (light...) read latents in VAE space, the others in the model's."""

    def __init__(self, decoder: TinyDecoder, in_vae_space: bool):
        self.decoder, self.in_vae_space = decoder, in_vae_space

    @classmethod
    def find(cls, channels: int, device: torch.device) -> TinyPreview | None:
        """The file for films of so many latent channels, where there is one that can be read; a film needs none."""
        names = TINY_NAMES.get(channels, ())
        for name in sorted(folder_paths.get_filename_list("vae_approx")):
            stem = Path(name).name.lower()
            if not stem.startswith(names):
                continue
            try:
                weights = comfy.utils.load_torch_file(folder_paths.get_full_path("vae_approx", name), safe_load=True)
                decoder = TinyDecoder.from_weights(weights, name).to(device)
            except Exception as error:  # whatever a broken file makes the loader say
                logging.warning("CausalCine: no preview by %s: %s", name, error)
                continue
            logging.info("CausalCine: preview by %s", name)
            return cls(decoder, stem.startswith("light"))
        return None

    def still(self, latent: Tensor) -> Tensor:
        """One latent frame `[1 C 1 h w]`, in the model's space, as a picture `[H W 3]`."""
        latent = denormalize(latent) if self.in_vae_space else latent
        weight = next(self.decoder.parameters())
        return self.decoder.decode(latent.to(weight.device, weight.dtype))[0][0, :, 0].movedim(0, -1)


def _stream(vae: Any, latent: Tensor) -> Iterator[Tensor]:
    stage = vae.first_stage_model
    if isinstance(stage, FirstStage):
        return _stream_ours(stage.vae, latent, vae.device)
    if isinstance(stage, comfy.ldm.wan.vae.WanVAE):
        return _stream_stock(stage, latent, vae.device, vae.vae_dtype)
    if isinstance(stage, comfy.ldm.wan.vae2_2.WanVAE):
        return _stream_stock_22(stage, latent, vae.device, vae.vae_dtype)
    raise InputError(
        f"vae is a {type(stage).__name__}, which cannot be decoded piece by piece: use ComfyUI's VAE Decode for it, or "
        "Wan's own VAE"
    )


@torch.no_grad()
def _stream_ours(vae: WanVAE, latent: Tensor, device: torch.device) -> Iterator[Tensor]:
    state = None
    for piece in latent.split(PIECE, 2):
        video, state = vae.decode(piece.to(device, torch.float32), state)
        yield video


@torch.no_grad()
def _stream_stock(stage: Any, latent: Tensor, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """ComfyUI's own Wan decoder, called as its own `decode` calls it: one frame, then two at a time.

    Its 0.33 version is only exact when no call but the first and the very last has a single frame.
    """
    wan = comfy.ldm.wan.vae
    slots = getattr(wan, "count_cache_layers", None) or wan.count_conv3d
    cache: list[Any] = [None] * slots(stage.decoder)
    for piece in (latent[:, :, :1], *latent[:, :, 1:].split(2, 2)):
        if not piece.shape[2]:
            continue
        video = stage.decoder(stage.conv2(piece.to(device, dtype)), feat_cache=cache, feat_idx=[0])
        yield torch.cat(video, 2) if isinstance(video, list) else video


@torch.no_grad()
def _stream_stock_22(stage: Any, latent: Tensor, device: torch.device, dtype: torch.dtype) -> Iterator[Tensor]:
    """ComfyUI's own Wan 2.2 decoder, called as its own `decode` calls it: one frame at a time."""
    wan = comfy.ldm.wan.vae2_2
    cache: list[Any] = [None] * wan.count_conv3d(stage.decoder)
    for i, piece in enumerate(latent.split(1, 2)):
        x = stage.conv2(piece.to(device, dtype))
        yield wan.unpatchify(stage.decoder(x, feat_cache=cache, feat_idx=[0], first_chunk=i == 0), patch_size=2)
