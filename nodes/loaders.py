"""Loading weights: the all-in-one checkpoint with its own text encoder and VAE, and a bare causal Wan network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..causalcine_core import checks
from ..causalcine_core.card import Card
from ..causalcine_core.errors import InputError
from ..causalcine_core.model import load_checkpoint, read_network
from ..causalcine_core.model.kernels import AUTO, KERNELS, find_kernel
from ..causalcine_core.sampling import FAMILIES, choose_family
from ..causalcine_core.text import NanoTextEncoder
from ..causalcine_core.vae import vae_from_weights
from ..causalcine_core.weights.built_in import BUILT_IN
from ..causalcine_core.weights.checkpoint import assign
from .adapt import clip, model, vae
from .adapt.form import Form
from .adapt.progress import tell

NANO = "nano (built-in)"
DTYPES = {
    "default": None,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8_e4m3fn": torch.float8_e4m3fn,
}
FAMILY_LABELS = [AUTO, *(family.label for family in FAMILIES)]


class CausalCineCheckpointLoader(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineCheckpointLoader",
            display_name="CausalCine Checkpoint Loader",
            category="CausalCine",
            description="Loads an all-in-one CausalCine file: the causal video model, its text encoder and its VAE. The "
            "built-in nano needs no download and runs on a CPU.",
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[NANO, *choices("checkpoints")],
                    default=NANO,
                    tooltip="nano comes with the pack. Other CausalCine files go into models/checkpoints.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The causal video model; LoRA nodes work on it."),
                io.Clip.Output(display_name="CLIP", tooltip="Its text encoder."),
                io.Vae.Output(display_name="VAE", tooltip="Its video VAE."),
            ],
        )

    @classmethod
    def check(cls, checkpoint: str | None = None) -> None:
        if checkpoint is not None:
            _checkpoint(checkpoint)

    @classmethod
    def execute(cls, checkpoint: str) -> io.NodeOutput:
        return io.NodeOutput(*load_all(_checkpoint(checkpoint), checkpoint))


class CausalCineModelLoader(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = choices("diffusion_models")
        return io.Schema(
            node_id="CausalCineModelLoader",
            display_name="CausalCine Model Loader",
            category="CausalCine",
            description="Loads a causal Wan text-to-video network in any public layout (Wan's own, ComfyUI's, diffusers', "
            "training scripts'). Text encoder and VAE are ComfyUI's: Load CLIP (type wan, umt5) and Load VAE (Wan 2.1; "
            "Wan 2.2 for 5B).",
            inputs=[
                io.Combo.Input(
                    "model_name",
                    options=files or ["put a .safetensors file into models/diffusion_models"],
                    tooltip="A .safetensors file in models/diffusion_models; of several parts, any. A .pt file first goes "
                    "through causalcine convert.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(DTYPES),
                    default="default",
                    tooltip="How weights are kept. default: as ComfyUI would choose for this file and device.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(KERNELS),
                    default="auto",
                    tooltip="What computes attention. auto: as an attention node or ComfyUI's options ask, else on a GPU whatever "
                    "measures fastest. flash-attn and sage need their packages; sage rounds.",
                ),
                io.Combo.Input(
                    "family",
                    options=FAMILY_LABELS,
                    default=AUTO,
                    optional=True,
                    tooltip="How it was trained to be run. auto: as the file says, else told from its shape where that can "
                    "be; the node shows what was taken and why. CausalCine Recipe changes single values.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="The causal video model; LoRA nodes work on it.")],
        )

    @classmethod
    def check(
        cls, model_name: str | None = None, dtype: str = "default", attention: str = AUTO, family: str = AUTO
    ) -> None:
        checks.choice(dtype, "dtype", DTYPES)
        checks.choice(attention, "attention", KERNELS)
        checks.choice(family, "family", FAMILY_LABELS)
        if model_name is not None:
            find("diffusion_models", model_name, "model_name")

    @classmethod
    def execute(
        cls, model_name: str, dtype: str = "default", attention: str = "auto", family: str = AUTO
    ) -> io.NodeOutput:
        cls.check(model_name, dtype, attention, family)
        find_kernel(attention)
        loaded = load_network(find("diffusion_models", model_name, "model_name"), DTYPES[dtype], family)
        return io.NodeOutput(model.with_attachment(loaded, model.ATTENTION, attention))


def _checkpoint(name: str) -> Path:
    if name != NANO:
        return find("checkpoints", name, "checkpoint")
    if not BUILT_IN["nano"].is_file():
        raise InputError(f"the built-in model is missing from {BUILT_IN['nano'].parent}: install CausalCine again")
    return BUILT_IN["nano"]


def load_all(path: Path, name: str) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of an all-in-one file."""
    file = load_checkpoint(path)
    source = f"checkpoint {name}"
    card = Card.of(file.header, source)
    with torch.device("meta"):
        encoder = NanoTextEncoder(card.text)
    assign(encoder, file.text, source)
    decoder = vae.CausalVAE(vae_from_weights(file.vae, source))
    network = model.build(
        file.model,
        card.model,
        source,
        dtype=model.cpu_dtype(),
        reload=(_network_only, (path, name)),
    )
    network.set_attachments(model.RECIPE, card.recipe)
    network.set_attachments(model.PREVIEW_VAE, decoder)
    return network, clip.build(encoder.float().eval().requires_grad_(False)), decoder


def load_network(path: Path, dtype: torch.dtype | None = None, family: str = AUTO) -> Any:
    """MODEL of a bare network in any layout, with the recipe of its family; says what was found and taken."""
    file = read_network(path)
    choice = choose_family(file.config, file.header, family)
    tell(f"{path.name}: {file}", str(choice))
    network = model.build(
        file.weights,
        file.config,
        f"checkpoint {path.name}",
        dtype=dtype,
        reload=(_reload_network, (path, dtype, family)),
    )
    network.set_attachments(model.RECIPE, choice.recipe)
    return network


def _reload_network(path: Path, dtype: torch.dtype | None, family: str, **_: Any) -> Any:
    return load_network(path, dtype, family)


def _network_only(path: Path, name: str, **_: Any) -> Any:
    return load_all(path, name)[0]


def choices(kind: str) -> list[str]:
    """Safetensors files of one of ComfyUI's model folders; empty where the folder is missing or unreadable."""
    try:
        return [name for name in folder_paths.get_filename_list(kind) if name.lower().endswith(".safetensors")]
    except (OSError, KeyError):
        return []


def find(kind: str, name: str, field: str) -> Path:
    """The file that a field names, with either slash between folders; InputError names the folder to put it into."""
    if not isinstance(name, str):
        raise InputError(f"{field} must be the name of a file in models/{kind}, got {checks.show(name)}")
    for spelling in (name, name.replace("\\", "/"), name.replace("/", "\\")):
        path = folder_paths.get_full_path(kind, spelling)
        if path is not None:
            return Path(path)
    folders = folder_paths.get_folder_paths(kind)
    raise InputError(f"{field} {name!r} is not in models/{kind}: put the file into {folders[0] if folders else kind}")
