"""What a pipeline is put together from: out of a checkpoint, or tiny and random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .card import Card
from .model import CausalWanTransformer, WanConfig
from .model.transformer import Compute
from .runner import Runner, describe_network, fingerprint, pick_device, pick_dtype, prepare_network
from .sampling import Recipe
from .text import NanoTextEncoder, TextConfig
from .vae import VAEConfig, WanVAE, vae_from_weights
from .weights.checkpoint import Checkpoint, assign


@dataclass(frozen=True)
class Parts:
    """A transformer as it computes, its text encoder and VAE, and how it wants to be run."""

    network: Runner
    text: NanoTextEncoder
    vae: WanVAE
    recipe: Recipe


def parts_of(
    checkpoint: Checkpoint, name: str, device: str | None, dtype: torch.dtype | None, compute: Compute | None
) -> Parts:
    """The parts of an all-in-one checkpoint on a device, none of which is trained. name: of it, for sentences. dtype: of the
    transformer, None: as `pick_dtype`; text encoder and VAE are float32. Raises InputError where weights and header disagree."""
    place = pick_device(device)
    source = f"checkpoint {name}"
    card = Card.of(checkpoint.header, source)
    vae = vae_from_weights(checkpoint.vae, source)
    net = CausalWanTransformer(card.model, device="meta", dtype=pick_dtype(place, dtype))
    assign(net, checkpoint.model, source)
    with torch.device("meta"):
        text = NanoTextEncoder(card.text)
    assign(text, checkpoint.text, source)
    for module in (net, text, vae):
        module.eval().requires_grad_(False)
    identity = fingerprint(checkpoint.header["model"], checkpoint.model)
    network = prepare_network(net.to(place), identity, dtype, compute)
    return Parts(network, text.to(place, torch.float32), vae.to(place, torch.float32), card.recipe)


def random_parts(seed: int, vocabulary: Sequence[str], text_len: int) -> Parts:
    """Tiny untrained parts of the real architecture. text_len: words and marks of a prompt that are read."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        config = WanConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, freq_dim=32, text_dim=32, text_len=text_len)
        net = CausalWanTransformer(config).initialize()
        torch.nn.init.xavier_uniform_(net.head.head.weight)
        text = NanoTextEncoder(TextConfig(tuple(vocabulary), dim=32, heads=2, layers=1, length=text_len))
        vae = WanVAE(
            VAEConfig(dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2)
        )
    for module in (net, text, vae):
        module.eval().requires_grad_(False)
    recipe = Recipe.of(steps=2, width=32, height=32, window=1, top_k=2, seconds=1.5)
    return Parts(describe_network(net, f"random-{seed}"), text, vae, recipe)
