"""Why a file is no text-to-video Wan transformer: the likely cause, told from its keys and shapes."""

from __future__ import annotations

from collections.abc import Mapping

from .header import Shape
from .layouts import is_lora

# (a piece of a key, what has it): the first one found decides
_KINDS = (
    ("quantized_weight_", "NVFP4 weights: take the bf16 file of the same model"),
    ("vace_", "a VACE model, which needs control video: take the plain text-to-video model"),
    ("img_emb.", "an image-to-video model: take the text-to-video one"),
    ("condition_embedder.image_embedder.", "an image-to-video model: take the text-to-video one"),
    ("k_img.", "an image-to-video model: take the text-to-video one"),
    ("add_k_proj.", "an image-to-video model: take the text-to-video one"),
    ("fps_embedding", "a SkyReels diffusion-forcing model, which is another architecture"),
    ("audio_injector", "a speech-to-video model"),
    ("pose_patch_embedding", "a Wan Animate model"),
    ("control_adapter", "a camera-control model"),
    ("ref_conv", "a Wan Fun control model"),
)
_STRANGERS = (
    ("decoder.upsamples.", "a VAE: in ComfyUI it belongs into Load VAE"),
    ("decoder.up_blocks.", "a VAE: in ComfyUI it belongs into Load VAE"),
    ("decoder.conv_in.", "a VAE: in ComfyUI it belongs into Load VAE"),
    ("decoder.conv1.", "a VAE: in ComfyUI it belongs into Load VAE"),
    ("relative_attention_bias", "a text encoder (T5): in ComfyUI it belongs into Load CLIP"),
    ("token_embedding.", "a text encoder: in ComfyUI it belongs into Load CLIP"),
    ("text_model.", "a text encoder (CLIP): in ComfyUI it belongs into Load CLIP"),
    ("vision_model.", "a CLIP vision model"),
    ("visual.", "a CLIP vision model"),
    ("double_blocks.", "a HunyuanVideo or Flux model"),
    ("double_stream_modulation", "a Flux model"),
    ("joint_blocks.", "a Stable Diffusion 3 or Mochi model"),
    ("transformer_blocks.", "a transformer of another family, such as LTX or CogVideoX"),
    ("input_blocks.", "a Stable Diffusion model"),
    ("down_blocks.", "a U-Net of Stable Diffusion's kind"),
)


def no_network(shapes: Mapping[str, Shape]) -> str:
    """Why no Wan transformer is in a file of these keys."""
    if not shapes:
        return "it holds no tensors"
    loras = sum(is_lora(key) for key in shapes)
    if 2 * loras > len(shapes):
        return (
            "it looks like a LoRA alone: merge it into its base with causalcine convert BASE OUT --lora FILE, or load it "
            "with a LoRA node"
        )
    for piece, what in _STRANGERS:
        if any(piece in key for key in shapes):
            return f"it looks like {what}"
    return f"it is of another architecture: its first key is {min(shapes)}"


def wrong_network(shapes: Mapping[str, Shape], missing: int = 0, total: int = 0) -> str | None:
    """Why a Wan transformer of these shapes, by Wan's names, cannot be rolled out. None where nothing speaks against."""
    for piece, what in _KINDS:
        if any(piece in name for name in shapes):
            return f"it looks like {what}"
    patch, head = shapes.get("patch_embedding.weight", ()), shapes.get("head.head.weight", ())
    if len(patch) == 5 and 0 not in patch and len(head) == 2:
        channels, cell = patch[1], patch[2] * patch[3] * patch[4]
        if head[0] != channels * cell:
            kind = "an image-to-video model" if channels == 36 else "an image, control or inpainting model"
            return f"it looks like {kind} ({channels} channels in, {head[0] // cell} out): take the text-to-video one"
    if not missing:
        return None
    if "patch_embedding.weight" not in shapes or "head.head.weight" not in shapes:
        return (
            "it looks like one part of several, or incomplete: give the folder that holds all parts with their index, or "
            "load it again"
        )
    if missing < total / 2:
        return "it looks incomplete: load it again"
    return "it is of another architecture or incomplete"
