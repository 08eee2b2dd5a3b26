"""What may lie in a .pt file beside plain tensors, as training scripts and enemies leave it."""

import pytest
import torch
from safetensors.torch import load_file

from causalcine_core import cli
from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig
from causalcine_core.weights.source import open_source
from tests.helpers import tiny_net

WIDE = WanConfig(dim=256, ffn_dim=320, num_heads=2, num_layers=2, freq_dim=32, text_dim=24)


def saved(tmp_path, data):
    torch.save(data, tmp_path / "a.pt")
    return tmp_path / "a.pt"


def test_a_dictionary_that_holds_itself_ends(tmp_path):
    data = {"a": {"weight": torch.zeros(2)}}
    data["a"]["again"] = data
    assert open_source(saved(tmp_path, data), pickles=True).shapes["a.weight"] == (2,)


def test_a_tensor_that_is_not_plain_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r'holds "b\.weight", which is no plain tensor'):
        open_source(saved(tmp_path, {"a": torch.zeros(2), "b": {"weight": torch.eye(3).to_sparse()}}), pickles=True)


def test_a_key_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(InputError, match="no plain tensor"):
        open_source(saved(tmp_path, {"\ud800": torch.zeros(2)}), pickles=True)


def test_weights_that_share_their_memory_are_written_each(tmp_path, capsys):
    """Views of one tensor, as a script that ties or packs its weights saves them."""
    weights = dict(tiny_net(0, WIDE).state_dict())
    packed = torch.cat([weights["blocks.0.self_attn.q.bias"], weights["blocks.0.self_attn.k.bias"]])
    dim = len(packed) // 2
    weights |= {"blocks.0.self_attn.q.bias": packed[:dim], "blocks.0.self_attn.k.bias": packed[dim:]}
    weights["blocks.1.self_attn.q.bias"] = weights["blocks.1.self_attn.k.bias"] = weights["blocks.0.norm3.bias"]
    for name in ("head.head.weight", "patch_embedding.weight"):
        weights[name] = weights[name].transpose(0, 1).contiguous().transpose(0, 1)
    path, out = saved(tmp_path, {"model": weights}), tmp_path / "out.safetensors"
    assert cli.main(["convert", str(path), str(out)]) == 0, capsys.readouterr().err
    written = load_file(out)
    assert all(torch.equal(written[name], tensor) for name, tensor in weights.items())
