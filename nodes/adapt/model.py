"""MODEL: the causal transformer inside ComfyUI's ModelPatcher, and a stock Wan MODEL seen as ours.

Weights stay under `diffusion_model.<Wan's name>` in ComfyUI's own layers, so that LoRA, offload and fp8 are its business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ...causalcine_core.errors import InputError
from ...causalcine_core.model import CausalWanTransformer, WanConfig
from ...causalcine_core.model.kernels import AUTO, Kernel, find_kernel
from ...causalcine_core.model.transformer import Compute
from ...causalcine_core.runner import Runner, fingerprint, pick_dtype, pick_fused_rows
from ...causalcine_core.sampling import Recipe
from ...causalcine_core.vae import SCALES
from ...causalcine_core.weights.checkpoint import check_weights
from .progress import tell

# What travels with a MODEL, as attachments: every clone of a patcher shares them, none is ever changed in place.
RECIPE = "causalcine_recipe"
FINGERPRINT = "causalcine_fingerprint"
PREVIEW_VAE = "causalcine_preview_vae"
ATTENTION = "causalcine_attention"

# Modes of torch.compile that use CUDA graphs, and those that are the same without.
CUDA_GRAPHS = {"reduce-overhead": "default", "max-autotune": "max-autotune-no-cudagraphs"}


class Transformer(CausalWanTransformer):
    """The core's transformer, built the way ComfyUI builds networks."""

    def __init__(self, *, causalcine: WanConfig, operations: Any, dtype: torch.dtype, device: Any = None, **_: Any):
        super().__init__(causalcine, ops=operations, device=device, dtype=dtype)
        self.dtype = dtype

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        raise InputError(
            "this model makes a film chunk by chunk, which a KSampler cannot do: connect it to CausalCine Sampler"
        )


class CausalWan(comfy.model_base.WAN21):
    def __init__(self, model_config: Any, device: Any = None):
        super(comfy.model_base.WAN21, self).__init__(model_config, comfy.model_base.ModelType.FLOW, device, Transformer)
        self.image_to_video = False


class CausalWanSupport(comfy.supported_models.WAN21_T2V):
    """Entry of ComfyUI's table of architectures, used without touching the table."""

    def get_model(self, state_dict: Any, prefix: str = "", device: Any = None) -> CausalWan:
        return CausalWan(self, device)


class CausalWan22Support(CausalWanSupport):
    """The same for Wan 2.2 5B, whose latents have 48 channels."""

    latent_format = comfy.latent_formats.Wan22


def build(
    weights: Mapping[str, Tensor],
    config: WanConfig,
    source: str,
    *,
    dtype: torch.dtype | None = None,
    reload: tuple[Callable[..., Any], tuple[Any, ...]] | None = None,
) -> Any:
    """A MODEL from weights under Wan's names. reload: how ComfyUI 0.33 can build it again."""
    check_weights(CausalWanTransformer(config, device="meta"), weights, source)
    supported = list(CausalWanSupport.supported_inference_dtypes)
    device = mm.get_torch_device()
    if dtype is None:
        size, kind = comfy.utils.calculate_parameters(weights), comfy.utils.weight_dtype(weights)
        dtype = mm.unet_dtype(model_params=size, supported_dtypes=supported, weight_dtype=kind)
    kind_of = CausalWanSupport if config.in_dim == 16 else CausalWan22Support
    support = kind_of({"image_model": "wan2.1", "model_type": "t2v", **config.to_dict(), "causalcine": config})
    cast = None if dtype == cpu_dtype() else mm.unet_manual_cast(dtype, device, supported)
    support.set_inference_dtype(dtype, cast)
    model = support.get_model(weights)
    offload = mm.unet_offload_device()
    patcher_type = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
    patcher = patcher_type(model, load_device=device, offload_device=offload)
    if not mm.is_device_cpu(offload):
        model.to(offload)
    dynamic = {"assign": True} if getattr(patcher, "is_dynamic", lambda: False)() else {}
    model.load_model_weights(dict(weights), "", **dynamic)
    patcher.cached_patcher_init = reload
    patcher.set_attachments(FINGERPRINT, fingerprint(config.to_dict(), dict(weights)))
    return patcher


def cpu_dtype() -> torch.dtype | None:
    """What the command line would compute in, where ComfyUI runs on a CPU and was not started with a choice of its own
    (--fp32-unet and the like); None elsewhere: as ComfyUI chooses."""
    device = mm.get_torch_device()
    chosen = any(given for name, given in vars(args).items() if name.endswith("_unet") or name == "force_fp32")
    return pick_dtype(device) if mm.is_device_cpu(device) and not chosen else None


def with_attachment(model: Any, key: str, value: Any) -> Any:
    """A clone of a MODEL that carries this value too."""
    model = model.clone()
    model.set_attachments(key, value)
    return model


def recipe_of(model: Any) -> Recipe | None:
    return model.get_attachment(RECIPE)


def is_ours(model: Any) -> bool:
    return isinstance(model.model, CausalWan)


def config_of(model: Any) -> WanConfig:
    """Architecture of a MODEL, read off attributes: its weights may be offloaded or quantised.

    Raises InputError where it is no Wan text-to-video network.
    """
    net = getattr(model.model, "diffusion_model", None)
    if isinstance(getattr(net, "config", None), WanConfig):
        return net.config
    parts = ("patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks", "head", "num_heads")
    if not all(hasattr(net, part) for part in parts):
        raise InputError(
            f"model is a {type(net).__name__}, not a Wan text-to-video network: load one with CausalCine Checkpoint Loader "
            "or CausalCine Model Loader, or connect a Wan text-to-video MODEL"
        )
    kind, channels = getattr(net, "model_type", "t2v"), getattr(net, "in_dim", 16)
    if kind != "t2v" or channels not in SCALES or hasattr(net, "vace_blocks"):
        raise InputError(
            f"model is a Wan network of another kind ({kind}, {channels} input channels): only text-to-video ones with 16 "
            "channels (Wan 2.1) or 48 (Wan 2.2 5B) can be rolled out; load one with CausalCine Model Loader"
        )
    names = ("dim", "ffn_dim", "num_heads", "in_dim", "out_dim", "freq_dim", "text_dim", "text_len", "eps")
    shape = {name: getattr(net, name) for name in names}
    return WanConfig(num_layers=len(net.blocks), patch_size=tuple(net.patch_size), **shape)


def network_of(model: Any) -> Runner:
    """A MODEL as the rollout wants it. The caller loads it on its device first."""
    config = config_of(model)
    base = model.model
    return Runner(
        net=base.diffusion_model,
        layers=config.num_layers,
        heads=config.num_heads,
        head_dim=config.head_dim,
        channels=config.in_dim,
        device=model.load_device,
        dtype=base.manual_cast_dtype or base.get_dtype(),
        patch=config.patch_size[1:],
        fingerprint=model.get_attachment(FINGERPRINT) or f"wan-{config.dim}x{config.num_layers}",
        compute=_compute_of(model),
    )


def _compute_of(model: Any) -> Compute:
    """How this MODEL asks to be computed: attention by its loader, an attention node or ComfyUI's options, and compile nodes."""
    compute = Compute(_kernel_of(model), fused_rows=pick_fused_rows(model.load_device))
    options = {k: v for k, v in model.model_options.get("torch_compile_kwargs", {}).items() if v is not None}
    if not options:
        return compute
    graphs = "CUDA graphs cannot be used for blocks that share their code: compiled without"
    if options.get("backend") == "cudagraphs":
        tell(graphs)
        options["backend"] = "inductor"
    if options.get("mode") in CUDA_GRAPHS:
        tell(graphs)
        options["mode"] = CUDA_GRAPHS[options["mode"]]
    tell("the blocks are compiled: the first passes of a new size take a while")
    return compute.compiled(**options)


def _kernel_of(model: Any) -> Kernel:
    name = model.get_attachment(ATTENTION) or AUTO
    options = model.model_options.get("transformer_options", {})
    asked = mm.sage_attention_enabled() or mm.flash_attention_enabled() or mm.xformers_enabled()
    if name != AUTO or not (asked or "optimized_attention_override" in options):
        return find_kernel(name, model.load_device)

    def comfyuis(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        heads = q.shape[2]
        q, keys, values = (t.flatten(2) for t in (q, keys, values))
        out = optimized_attention(q, keys, values, heads=heads, mask=mask, transformer_options=options)
        return out.unflatten(-1, (heads, -1))

    return comfyuis
