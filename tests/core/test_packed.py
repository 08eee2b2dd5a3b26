"""Linears packed for a CPU: the same network, faster."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from causalcine_core import Pipeline
from causalcine_core.model import packed
from causalcine_core.model.packed import PackedLinear, pack
from causalcine_core.story import Shot, Story

from ..helpers import tiny_net

STORY = Story([Shot("a red robot walks", seconds=1.4)])


def film(pipe: Pipeline) -> torch.Tensor:
    return torch.cat([chunk.latent for chunk in pipe.stream(STORY, steps=2, decode=False, seed=1)], 2)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_a_packed_block_gives_what_it_gave(dtype, off):
    net = tiny_net().to(dtype)
    other = copy.deepcopy(net)
    pack(other)
    assert type(other.blocks[0].self_attn.o) is (PackedLinear if packed.packs(dtype) else nn.Linear)
    x = torch.randn(2, 5, net.config.dim, dtype=dtype)

    def computed(net) -> list[torch.Tensor]:
        own, cross, ffn = net.blocks[0].self_attn, net.blocks[1].cross_attn, net.blocks[1].ffn
        qkv = own.packed_qkv(x) if hasattr(own, "packed_qkv") else torch.cat([own.q(x), own.k(x), own.v(x)], -1)
        return [qkv, own.o(x), cross.k(x), ffn(x)]

    for ours, plain in zip(computed(other), computed(net), strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, plain, atol=off, rtol=off)


def test_the_built_in_model_is_packed_on_a_cpu_and_makes_the_same_film(monkeypatch):
    ours = Pipeline.from_pretrained("nano", device="cpu", dtype=torch.float32)
    kinds = {type(module) for block in ours.network.net.blocks for module in block.modules()}
    assert (PackedLinear in kinds) == packed.packs(torch.float32)
    described = ours.describe()
    monkeypatch.setattr(packed, "packs", lambda dtype: False)
    plain = Pipeline.from_pretrained("nano", device="cpu", dtype=torch.float32)
    assert described == plain.describe()
    assert described["parameters"] == sum(p.numel() for p in plain.network.net.parameters())
    torch.testing.assert_close(film(ours), film(plain), atol=1e-3, rtol=1e-3)


def test_where_a_processor_cannot_linears_stay(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not packed.packs(torch.float32)
    net = tiny_net()
    pack(net)
    assert type(net.blocks[0].ffn[0]) is nn.Linear
    assert type(net.blocks[0].ffn[1]) is nn.GELU
