"""A run goes on from pieces: they hold what was there, to their rounding, and a broken set of them is refused in a sentence."""

from __future__ import annotations

import json

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.vae import VAEConfig, WanVAE, load_vae
from causalcine_core.weights.tensors import write_tensors
from training import pack
from training.components.checkpoint import read_state
from training.data.shards import Shards, save_shard
from training.stages.teacher_forcing import main


@pytest.fixture
def work(recipe_file, shards, tmp_path):
    """The folder of a run of four updates of eight, and the options that it goes on with."""
    options = [str(recipe_file()), "--data", str(shards), "--threads", "1"]
    main([*options, "--work", str(tmp_path / "run"), "--set", "run.steps=4"])
    return tmp_path / "run", options


@pytest.mark.parametrize("keep", [(), ("weights",), ("weights", "moments")])
def test_a_state_comes_back(work, tmp_path, monkeypatch, keep):
    monkeypatch.setattr(pack, "PIECE", 50_000)
    state = read_state(work[0] / "state.pt")
    paths = pack.save(state, tmp_path / "pieces", keep)
    assert len(paths) > 4 and sorted(paths) == sorted((tmp_path / "pieces").iterdir())
    assert max(path.stat().st_size for path in paths) <= 50_000
    back = pack.load(tmp_path / "pieces")
    for name in ("stage", "recipe", "step", "seconds", "samples", "hardware", "skipped"):
        assert back[name] == state[name]
    was, now = state["parts"]["model"], back["parts"]["model"]
    assert now["weights"].keys() == was["weights"].keys() and now["average"].keys() == was["average"].keys()
    for name, weight in now["average"].items():
        large = weight.numel() > pack.SMALL
        assert weight.dtype == torch.float32
        assert torch.equal(weight, was["average"][name].bfloat16().float() if large else was["average"][name])
    for name, weight in now["weights"].items():
        wanted = was["weights" if "weights" in keep else "average"][name]
        torch.testing.assert_close(weight, wanted, atol=0, rtol=2**-8)
    for one, other in zip(now["optimizers"], was["optimizers"], strict=True):
        assert one["param_groups"] == other["param_groups"]
        assert one["state"].keys() == (other["state"].keys() if "moments" in keep else set())
        for number, moments in one["state"].items():
            for name, moment in moments.items():
                torch.testing.assert_close(moment, other["state"][number][name], atol=0, rtol=2**-8)
    assert back["own"] == {"data": {}, "followed": None, "text": state["own"]["text"]}


def test_a_run_goes_on_from_pieces_with_other_data(work, shards, tmp_path, capsys):
    pack.main(["save", str(work[0] / "state.pt"), str(tmp_path / "pieces")])
    new = tmp_path / "new" / "state.pt"
    pack.main(["restore", str(tmp_path / "pieces"), str(new)])
    with pytest.raises(InputError, match="exists already"):
        pack.main(["restore", str(tmp_path / "pieces"), str(new)])
    for kind in ("films", "stills"):  # rendered on that machine
        held = Shards(shards, kind)
        save_shard(shards / f"{kind}-7.safetensors", held.latents, held.records)
        (shards / f"{kind}-0.safetensors").unlink()
    main([*work[1], "--work", str(new.parent), "--resume"])
    assert "goes on at step 4" in capsys.readouterr().out
    state = read_state(new)
    assert state["step"] == 8
    assert state["own"]["data"] == {"stills": ["stills-7.safetensors"], "films": ["films-7.safetensors"]}


def test_pieces_that_are_not_whole_are_refused(work, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "PIECE", 50_000)
    folder = tmp_path / "pieces"
    with pytest.raises(InputError, match=r"holds no pieces of a state: it has no state\.json"):
        pack.load(folder)
    count = len(pack.save(read_state(work[0] / "state.pt"), folder)) - 1
    piece = folder / "state-02.part"
    data = piece.read_bytes()
    piece.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=r"state-02\.part is not what was written: it is damaged, or of another state"):
        pack.load(folder)
    piece.unlink()
    with pytest.raises(InputError, match=rf"state-02\.part is missing: piece 2 of {count} of the state"):
        pack.load(folder)
    (folder / pack.INDEX).write_text(json.dumps({"pieces": 3}))
    with pytest.raises(InputError, match="is no index of a state's pieces"):
        pack.load(folder)


def test_eight_bits_are_a_quarter_and_as_good_as_those_of_the_built_in_model(work, tmp_path):
    state = read_state(work[0] / "state.pt")
    sizes = [sum(p.stat().st_size for p in pack.save(state, tmp_path / str(c), (), c)) for c in (False, True)]
    assert sizes[1] < 0.75 * sizes[0]  # much of so small a network is kept in more bits
    back, was = pack.load(tmp_path / "True")["parts"]["model"], state["parts"]["model"]["average"]
    assert back["weights"].keys() == state["parts"]["model"]["weights"].keys()
    for name, weight in back["average"].items():
        largest = was[name].flatten(1).abs().amax(1, keepdim=True) if weight.ndim > 1 else was[name].abs()
        assert weight.dtype == torch.float32
        assert ((weight - was[name]).flatten(1 if weight.ndim > 1 else 0).abs() <= largest / 250 + 1e-6).all()


def test_frozen_weights_are_carried_as_they_are():
    """What has no average is kept itself, whatever is left out."""
    part = {
        "weights": {"a": torch.ones(2), "frozen": torch.zeros(2)},
        "average": {"a": torch.ones(2) * 2},
        "optimizers": [],
    }
    own = {"teacher": {"a": torch.randn(64, 64)}, "shards": ["films-0"], "living": {"0": 1}, "count": 3}
    state = {"parts": {"x": part, "y": {**part, "average": None}}, "own": own}
    for compacted in (False, True):
        back = pack.unpacked(pack.packed(state, (), compacted))["own"]
        torch.testing.assert_close(back.pop("teacher")["a"], own["teacher"]["a"], atol=0.02, rtol=0)
        assert back == {"shards": [], "living": {}, "count": 3}
    parts = pack.unpacked(pack.packed(state))["parts"]
    assert {name: float(t[0]) for name, t in parts["x"]["weights"].items()} == {"a": 2.0, "frozen": 0.0}
    assert {name: float(t[0]) for name, t in parts["y"]["weights"].items()} == {"a": 1.0, "frozen": 0.0}


def test_a_codec_in_eight_bits_is_read_as_any_other(tmp_path):
    torch.manual_seed(0)
    vae = WanVAE(VAEConfig(dim=8, dim_mult=(1, 1, 1, 1), num_res_blocks=1))
    write_tensors(tmp_path / "a.safetensors", vae.state_dict())
    pack.main(["codec", str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")])
    back = load_vae(tmp_path / "b.safetensors").state_dict()
    for name, weight in vae.state_dict().items():
        assert back[name].dtype == torch.float32
        torch.testing.assert_close(back[name], weight, atol=float(weight.abs().max()) / 200, rtol=0)
