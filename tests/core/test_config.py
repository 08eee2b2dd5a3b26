"""Shapes of a network: the published ones, and those that are none."""

from __future__ import annotations

import re

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.model.config import PRESETS
from causalcine_core.weights.built_in import BUILT_IN
from causalcine_core.weights.checkpoint import load_checkpoint

SMALL = {"dim": 48, "ffn_dim": 64, "num_heads": 2, "num_layers": 2}


@pytest.mark.parametrize(
    ("name", "dim", "ffn_dim", "heads", "layers", "channels", "billions"),
    [
        ("1.3b", 1536, 8960, 12, 30, 16, 1.419),
        ("5b", 3072, 14336, 24, 30, 48, 5.00),
        ("14b", 5120, 13824, 40, 40, 16, 14.288),
    ],
)
def test_presets_are_wans_own_configs(name, dim, ffn_dim, heads, layers, channels, billions):
    """Wan2.1's and Wan2.2's published config.json, and how many weights these make."""
    config = PRESETS[name]
    assert config.to_dict() == {
        "dim": dim,
        "ffn_dim": ffn_dim,
        "num_heads": heads,
        "num_layers": layers,
        "in_dim": channels,
        "out_dim": channels,
        "patch_size": (1, 2, 2),
        "freq_dim": 256,
        "text_dim": 4096,
        "text_len": 512,
        "eps": 1e-6,
        "rope_theta": 10000.0,
    }
    assert config.head_dim == 128
    net = CausalWanTransformer(config, device="meta")
    assert sum(weight.numel() for weight in net.parameters()) / 1e9 == pytest.approx(billions, abs=0.001)


def test_nano_is_what_its_file_holds():
    assert WanConfig.from_dict(load_checkpoint(BUILT_IN["nano"]).header["model"]) == PRESETS["nano"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, value) for name in ("dim", "ffn_dim", "num_heads", "num_layers", "text_len") for value in (0, -1, 1.5, True)),
        ("num_layers", 257),
        ("eps", -1e-9),
        ("eps", 1.1),
        ("rope_theta", 0.5),
        ("rope_theta", float("inf")),
        ("dim", 49),  # no multiple of the heads
        ("dim", 50),  # odd heads
        ("freq_dim", 15),
        ("patch_size", (2, 2, 2)),
        ("patch_size", (1, 2)),
        ("patch_size", (1, 2, 2, 2)),
        ("patch_size", (1, 0, 2)),
    ],
)  # fmt: skip
def test_what_is_no_network_is_refused_by_its_field(field, value):
    with pytest.raises(InputError, match=re.escape(f"model.{field}")):
        WanConfig(**SMALL | {field: value})


def test_edges_of_what_is_allowed():
    for edge in (
        {"eps": 0},
        {"eps": 1},
        {"rope_theta": 1},
        {"num_layers": 256},
        {"num_layers": 1},
        {"patch_size": [1, 1, 1]},
        {"freq_dim": 2},
    ):
        name, value = next(iter(edge.items()))
        kept = getattr(WanConfig(**SMALL | edge), name)
        assert kept == (tuple(value) if isinstance(value, list) else value)


def test_fresh_weights_are_drawn_as_wans():
    """Xavier linears without biases, small embeddings of text and time, and a head that begins at zero: a velocity of nothing."""
    config = WanConfig(**{**SMALL, "dim": 96, "num_heads": 4, "freq_dim": 64, "text_dim": 80})
    net, other = (
        CausalWanTransformer(config).initialize(torch.Generator().manual_seed(seed)).requires_grad_(False)
        for seed in (0, 1)
    )
    weights = dict(net.named_parameters())
    assert all(t.eq(0).all() for name, t in weights.items() if name.endswith("bias") and "norm" not in name)
    assert weights["head.head.weight"].eq(0).all()
    for name in ("text_embedding.0", "text_embedding.2", "time_embedding.0", "time_embedding.2"):
        assert weights[f"{name}.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    for name in ("blocks.1.self_attn.q", "blocks.0.ffn.0", "time_projection.1", "patch_embedding"):
        weight = weights[f"{name}.weight"].flatten(1)
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.98 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    for name in ("blocks.0", "blocks.1"):
        assert weights[f"{name}.modulation"].std().item() == pytest.approx(96**-0.5, rel=0.15)
    assert not torch.equal(weights["blocks.0.self_attn.q.weight"], other.blocks[0].self_attn.q.weight)
