"""Attention in the dtypes and on the devices that it chooses its kernel by."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from causalcine_core import Pipeline
from causalcine_core.errors import InputError
from causalcine_core.model import KERNELS, Compute, kernels
from causalcine_core.model.kernels import Fastest, find_kernel, sdpa
from causalcine_core.model.rope import Rope, axis_pairs, rotate
from causalcine_core.story import Shot, Story


@pytest.mark.parametrize("deviation", [1, 3, 6])
@pytest.mark.parametrize("grad", [False, True])
def test_bfloat16_on_a_cpu_is_attention_too(deviation, grad):
    """What float32 gives, to the rounding of what comes out, however large the logits are."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 4, 64).bfloat16() * scale for n, scale in ((50, deviation), (700, 1), (700, 1)))
    with torch.set_grad_enabled(grad):
        ours = kernels.sdpa(q, k, v)
    exact = kernels.sdpa(q.double(), k.double(), v.double())
    assert ours.dtype == torch.bfloat16 and exact.dtype == torch.float64
    assert (ours - exact).norm() / exact.norm() < 0.0025


@pytest.mark.parametrize("shape", [(50, 700), (20, 30), (300, 900)])
def test_some_heads_have_the_bits_that_they_have_among_all(shape):
    """Ranks that share the heads make one rank's film: in bfloat16 a bit here and there would be another picture."""
    q, k, v = (torch.randn(1, n, 4, 64).bfloat16() for n in (shape[0], shape[1], shape[1]))
    with torch.no_grad():
        whole = kernels.sdpa(q, k, v)
        parts = [kernels.sdpa(q[:, :, i : i + 1], k[:, :, i : i + 1], v[:, :, i : i + 1]) for i in range(4)]
    assert torch.equal(whole, torch.cat(parts, 2))


def test_a_turned_shot_is_rotated_as_shotstream_rotates_it():
    """Its temporal angles have the shot's on top; space is as it was."""
    rope, shot_angle, shot = Rope(24, (2, 3), "cpu"), 1 / 6, 5
    x = torch.randn(4, 6, 2, 24)
    ours = rotate(rotate(x, rope.table(4)), rope.turn(torch.full((4,), shot * shot_angle)))
    angles = rope.table(4).angle()
    angles[..., : axis_pairs(24)[0]] += shot * shot_angle
    torch.testing.assert_close(ours, rotate(x, torch.polar(torch.ones_like(angles), angles)), atol=1e-5, rtol=0)


def qkv(length: int = 7, seen: int = 11) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, n, 3, 8, generator=generator) for n in (length, seen, seen)]


@pytest.mark.parametrize("name", [name for name in KERNELS if name not in ("flex", "flash-attn", "sage")])
@pytest.mark.parametrize("masked", [False, True])
def test_every_kernel_gives_the_same_attention(name, masked):
    mask = torch.ones(2, 1, 1, 11, dtype=torch.bool).triu(0) if masked else None
    if masked:
        mask[..., :4] = False
    torch.testing.assert_close(find_kernel(name)(*qkv(), mask), sdpa(*qkv(), mask), atol=1e-5, rtol=1e-4)


def test_an_unknown_kernel_and_one_that_is_not_installed_are_refused_by_name(monkeypatch):
    with pytest.raises(InputError, match="attention must be one of auto, sdpa, flash"):
        find_kernel("xformers")
    monkeypatch.setitem(kernels.PACKAGES, "sage", "a_package_that_is_not_there")
    with pytest.raises(InputError, match="attention is 'sage', but a_package_that_is_not_there is not installed"):
        find_kernel("sage")
    monkeypatch.setitem(kernels.BACKENDS, "cudnn", "OF_A_LATER_TORCH")
    with pytest.raises(InputError, match=r"attention is 'cudnn', which torch .* does not have: use auto"):
        find_kernel("cudnn")


def slowed(seconds: float, value: float):
    def kernel(q, keys, values, mask=None):
        time.sleep(seconds)
        return torch.full_like(q, value)

    return kernel


def refusing(*_):
    raise RuntimeError("No available kernel. Aborting execution.")


def test_the_fastest_is_measured_once_a_machine_and_shape(tmp_path):
    """And what was measured holds in the next process too: a film that is made again has the same bits."""
    file = tmp_path / "cache" / "attention.json"
    first = Fastest({"refusing": refusing, "slow": slowed(0.02, 1), "quick": slowed(0, 2)}, "this GPU", file)
    assert first(*qkv()).unique().item() == 2
    again = Fastest({"slow": slowed(0, 1), "quick": slowed(0.02, 2)}, "this GPU", file)
    assert again(*qkv()).unique().item() == 2
    assert again(*qkv(seen=12)).unique().item() == 1  # a shape it had not met
    assert Fastest({"slow": slowed(0, 1), "quick": slowed(0.02, 2)}, "another GPU", file)(*qkv()).unique().item() == 1
    mask = torch.ones(2, 1, 7, 11, dtype=torch.bool)
    assert torch.equal(again(*qkv(), mask), sdpa(*qkv(), mask))


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1'])
def test_a_broken_or_unwritable_table_of_choices_only_costs_time(tmp_path, content):
    (tmp_path / "broken.json").write_text(content)
    for file in (tmp_path / "broken.json", tmp_path / "broken.json" / "below a file", None):
        assert Fastest({"quick": slowed(0, 2)}, "this GPU", file)(*qkv()).unique().item() == 2


def test_auto_on_a_gpu_always_finds_a_kernel_and_keeps_its_choice(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(kernels.BACKENDS, "cudnn", "OF_A_LATER_TORCH")
    kernels._fastest.cache_clear()
    kernel = find_kernel("auto", "cuda:0")
    kernels._fastest.cache_clear()
    torch.testing.assert_close(kernel(*qkv()), sdpa(*qkv()), atol=1e-5, rtol=1e-4)
    assert "a GPU, torch" in (tmp_path / "causalcine/attention.json").read_text()


def test_where_no_kernel_takes_a_shape_it_is_said():
    with pytest.raises(RuntimeError, match="no attention kernel of refusing takes"):
        Fastest({"refusing": refusing}, "this GPU")(*qkv())


def test_a_compiled_network_makes_the_same_film():
    """The three runs of a block through dynamo; what inductor makes of them is its own business."""
    plain, compiled = Pipeline.random(), Pipeline.random()
    compiled.network = replace(compiled.network, compute=Compute().compiled(backend="eager", fullgraph=True))
    films = [
        torch.cat([chunk.latent for chunk in pipe.stream(Story([Shot("a cat", seconds=4)]), decode=False)], 2)
        for pipe in (plain, compiled)
    ]
    torch.testing.assert_close(*films)


def test_where_compiling_fails_one_sentence_says_so():
    def broken(graph, inputs):
        raise OSError("no compiler here")

    pipe = Pipeline.random()
    pipe.network = replace(pipe.network, compute=Compute().compiled(backend=broken))
    with pytest.raises(
        InputError, match=r"torch.compile does not work here .*OSError: no compiler here.*do without it"
    ):
        next(pipe.stream(Story([Shot("a cat")]), decode=False))
