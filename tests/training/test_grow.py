"""A network that has grown answers as it did, and its ends follow the codec."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

from causalcine_core.errors import InputError
from causalcine_core.memory import PackedView, ResolvedMemory
from causalcine_core.model import CausalWanTransformer, TextKV, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.weights.built_in import BUILT_IN
from causalcine_core.weights.checkpoint import load_checkpoint
from training.components.grow import explained, fit_change, grow, patches, refit
from training.grow import main

from ..helpers import TINY, text, tiny_net

LARGER = replace(TINY, num_layers=7, ffn_dim=160)


def answer(config, weights, clean, noisy):
    net = CausalWanTransformer(config).eval().requires_grad_(False)
    net.load_state_dict(weights)
    view = PackedView([3, 3, 3], ResolvedMemory(1, 2), Rope(config.head_dim, (2, 3), "cpu"))
    latents = view.pack(clean, noisy)
    timesteps = torch.zeros(2, view.frames)
    timesteps[:, view.clean :] = 400.0
    layers = project_text(net, text(0))
    return net(latents, timesteps, TextKV(layers, torch.zeros(2, view.frames, dtype=torch.int64), 3), view)


@pytest.fixture
def videos():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 16, 9, 4, 6, generator=generator) for _ in range(2)]


def test_growing_changes_no_answer(videos):
    weights = tiny_net().state_dict()
    grown = grow(weights, TINY, LARGER)
    torch.testing.assert_close(answer(LARGER, grown, *videos), answer(TINY, weights, *videos), atol=1e-6, rtol=1e-5)
    assert grow(weights, TINY, TINY).keys() == weights.keys()
    homes = [0, 2, 4]  # of 7 layers, where the three lie
    for place in range(7):
        silent = place not in homes
        assert bool((grown[f"blocks.{place}.ffn.2.weight"] == 0).all()) == silent
        assert bool((grown[f"blocks.{place}.self_attn.q.weight"] != 0).all())  # so that gradients come through


def test_what_grew_learns(videos):
    """Zero outputs are no dead end: their weights have a gradient."""
    net = CausalWanTransformer(LARGER)
    net.load_state_dict(grow(tiny_net().state_dict(), TINY, LARGER))
    view = PackedView([9], ResolvedMemory(1, 0), Rope(TINY.head_dim, (2, 3), "cpu"))
    layers = project_text(net, text(0))
    rows = torch.zeros(2, 9, dtype=torch.int64)
    net(videos[0], torch.full((2, 9), 300.0), TextKV(layers, rows, 9), view).square().sum().backward()
    for name in ("blocks.1.self_attn.o.weight", "blocks.1.cross_attn.o.weight", "blocks.1.ffn.2.weight"):
        assert net.get_parameter(name).grad.abs().max() > 0
    assert net.get_parameter("blocks.0.ffn.2.weight").grad[:, 128:].abs().max() > 0


@pytest.mark.parametrize("change", [{"dim": 128, "num_heads": 2}, {"num_layers": 2}, {"text_dim": 32}])
def test_what_cannot_grow_is_refused_by_name(change):
    field = next(iter(change))
    with pytest.raises(
        InputError, match=rf"model\.{field} is .* cannot become {change[field]}: only num_layers and ffn_dim"
    ):
        grow(tiny_net().state_dict(), TINY, replace(TINY, **change))


def latents(count=40, seed=3):
    """Correlated ones, as a codec's are: `[16, F, 4, 6]`, of about zero mean."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(64, 64, generator=generator) / 8
    drawn = torch.randn(count * 6, 64, generator=generator) @ mixed
    return drawn.view(count, 2, 3, 16, 2, 2).permute(3, 0, 1, 4, 2, 5).reshape(16, count, 4, 6)


def changed(video, matrix):
    """`[B, C, F, h, w]` or `[C, F, h, w]` with another matrix of its patches."""
    if video.ndim == 5:
        return torch.stack([changed(one, matrix) for one in video])
    flat = patches(video, (2, 2)) @ matrix.T
    rows, columns = video.shape[2] // 2, video.shape[3] // 2
    return flat.view(-1, rows, columns, video.shape[0], 2, 2).permute(3, 0, 1, 4, 2, 5).reshape(video.shape)


def test_patches_are_those_that_the_network_reads():
    net, video = tiny_net(), torch.randn(1, 16, 3, 4, 6)
    ours = patches(video[0], (2, 2)) @ net.patch_embedding.weight.flatten(1).T + net.patch_embedding.bias
    theirs = net.patch_embedding(video)[0].permute(1, 2, 3, 0).flatten(0, 2)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_codec_that_turns_patches_is_followed_exactly(videos):
    """A rotation of all 64 numbers of a patch, noise included: the fitted network gives the turned answer, which the old weights do
    not; and nothing is to be fitted where the codec is the same."""
    turn = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(4))).Q
    old = latents()
    new = changed(old, turn)
    weights = tiny_net().state_dict()
    fitted = refit(weights, fit_change(patches(old, (2, 2)), patches(new, (2, 2)), 3.0))
    before = answer(TINY, weights, *videos)
    after = answer(TINY, fitted, *(changed(video, turn) for video in videos))
    torch.testing.assert_close(after, changed(before, turn), atol=2e-3, rtol=1e-3)
    same = fit_change(patches(old, (2, 2)), patches(old, (2, 2)), 3.0)
    torch.testing.assert_close(same.inward, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(same.outward, torch.eye(64, dtype=torch.float64), atol=1e-6, rtol=0)


def test_a_codec_that_stretches_is_followed_as_least_squares_has_it():
    """Against a regression on noisy patches themselves, drawn many times: levels, clean half and turned noise as documented."""
    from training.losses.flow import draw_levels

    generator = torch.Generator().manual_seed(6)
    old = torch.randn(400, 4, generator=generator).double() @ torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.2])).double()
    stretch = torch.tensor(
        [[1.0, 0.3, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.4, 0.7, 0.0], [0.1, 0.0, 0.0, 1.0]]
    ).double()
    new = old @ stretch.T
    old, new = old - old.mean(0), new - new.mean(0)
    change = fit_change(old, new, 3.0)
    left, _, right = torch.linalg.svd(old.T @ new)
    turn = left @ right
    n = 400 * 500
    level = draw_levels(n, 3.0, generator).double()[:, None] * (torch.rand(n, 1, generator=generator) < 0.5)
    noise = torch.randn(n, 4, generator=generator).double()
    z, other = old.repeat(500, 1), new.repeat(500, 1)
    read, wanted = (1 - level) * other + level * noise, (1 - level) * z + level * noise @ turn.T
    assert (torch.linalg.lstsq(read, wanted).solution.T - change.inward).abs().max() < 0.03
    answered, needed = noise @ turn.T - z, noise - other
    assert (torch.linalg.lstsq(answered, needed).solution.T - change.outward).abs().max() < 0.03


def test_explained_is_one_for_a_linear_change_and_none_for_noise():
    generator = torch.Generator().manual_seed(7)
    one, other = (torch.randn(600, 4, generator=generator) for _ in range(2))
    known = torch.arange(600) < 450
    matrix = torch.randn(4, 4, generator=generator)
    assert explained(one, one @ matrix + 3, known) == pytest.approx(1, abs=1e-6)
    assert abs(explained(other, one, known)) < 0.1


def test_nano_grows_into_a_file_that_a_run_begins_with(tmp_path):
    held = load_checkpoint(BUILT_IN["nano"])
    shape = {**held.header["model"], "num_layers": 9, "patch_size": [1, 2, 2]}
    recipe = tmp_path / "r.yaml"
    fields = {"model": shape, "run": {"steps": 1}, "optimizer": {"learning_rate": 1e-3}}
    fields["mixture"] = {"curriculum": [{"until": 1.0, "mix": {"still": 1.0}}]}
    recipe.write_text(yaml.safe_dump(fields))
    main(["nano", "--recipe", str(recipe), "--out", str(tmp_path / "g.safetensors"), "--compact"])
    assert (tmp_path / "g.safetensors").stat().st_size < 1.1 * BUILT_IN["nano"].stat().st_size + 10**6
    grown = load_checkpoint(tmp_path / "g.safetensors")
    assert grown.header["model"]["num_layers"] == 9 and grown.text.keys() == held.text.keys()
    added, copied = grown.model["blocks.8.ffn.0.weight"], held.model["blocks.7.ffn.0.weight"]
    torch.testing.assert_close(added, copied, atol=1e-6, rtol=1e-5)
    assert not grown.model["blocks.8.ffn.2.weight"].any()
