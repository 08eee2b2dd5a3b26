"""The VAE against diffusers' implementation, and streaming against whole.

In double precision, so that the tolerances speak of the method and not of the order of a sum.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from causalcine_core import Pipeline
from causalcine_core.errors import InputError
from causalcine_core.vae import (
    VAEConfig,
    VAEState,
    WanVAE,
    denormalize,
    frames_to_uint8,
    load_vae,
    normalize,
    save_vae,
    uint8_to_frames,
)
from causalcine_core.vae import wan as wan_module
from causalcine_core.vae.load import vae_from_weights
from causalcine_core.weights.built_in import BUILT_IN

SMALL_WAN = VAEConfig(dim=4, z_dim=16, num_res_blocks=2)  # Wan2.1's four stages, thin
SMALL_PATCHED = VAEConfig(dim=4, dim_mult=(1, 2, 4), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2)
SMALL_NANO = VAEConfig(
    dim=4,
    dim_mult=(2, 3, 4),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    spatial_downsample=(False, False),
    patch_size=8,
)
SMALL_WAN22 = VAEConfig(dim=4, decoder_dim=6, num_res_blocks=2, patch_size=2, residual=True)
SMALL_CODEC = VAEConfig(
    dim=4,
    dim_mult=(1, 2, 2),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    spatial_downsample=(True, False),
    patch_size=4,
    flat=1,
    shuffle=True,
)
SMALL_GROWING = VAEConfig(  # Wan2.2's shortcuts where more channels leave a stage than come in
    dim=4, dim_mult=(1, 2, 4), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2, residual=True, flat=2
)
CONFIGS = {
    "wan2.1": SMALL_WAN,
    "patched": SMALL_PATCHED,
    "nano": SMALL_NANO,
    "wan2.2": SMALL_WAN22,
    "codec": SMALL_CODEC,
    "growing": SMALL_GROWING,
}
IN_DIFFUSERS = {
    "wan2.1": SMALL_WAN,
    "patched": SMALL_PATCHED,
    "wan2.2": SMALL_WAN22,
}  # which always halves rows and columns with frames


@pytest.fixture(params=CONFIGS)
def config(request) -> VAEConfig:
    return CONFIGS[request.param]


@pytest.fixture(params=IN_DIFFUSERS)
def reference(request) -> AutoencoderKLWan:
    """diffusers' VAE with random weights; `.ours` is the config that ours must find in them."""
    config = IN_DIFFUSERS[request.param]
    torch.manual_seed(0)
    model = AutoencoderKLWan(
        base_dim=config.dim,
        decoder_base_dim=config.decoder_dim,
        is_residual=config.residual,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temporal_downsample),
        in_channels=config.image_channels,
        out_channels=config.image_channels,
        patch_size=None if config.patch_size == 1 else config.patch_size,
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.uniform_(0.5, 1.5)
    model.ours = config
    return model.double().eval().requires_grad_(False)


@pytest.fixture
def vae(config) -> WanVAE:
    torch.manual_seed(1)
    return WanVAE(config).double().eval().requires_grad_(False)


def film(frames: int, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(2, 3, frames, size, size, generator=generator, dtype=torch.float64) * 2 - 1


def latents(frames: int, size: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(2, 16, frames, size, size, generator=generator, dtype=torch.float64)


def decode_in_pieces(vae: WanVAE, latent: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    state, videos = None, []
    for piece in latent.split(lengths, dim=2):
        video, state = vae.decode(piece, state, clamp=False)
        videos.append(video)
    return torch.cat(videos, dim=2)


def test_encode_and_decode_equal_diffusers(reference):
    vae = vae_from_weights(reference.state_dict())
    assert vae.config == reference.ours
    video, latent = film(13), latents(4)
    mean, logvar, _ = vae.encode_moments(video)
    expected = reference.encode(video).latent_dist
    torch.testing.assert_close(mean, expected.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logvar, expected.logvar, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vae.decode(latent)[0], reference.decode(latent).sample, atol=1e-5, rtol=1e-5)


def test_the_shape_is_read_off_the_weights(vae):
    assert vae_from_weights(vae.state_dict()).config == vae.config


@pytest.mark.parametrize("lengths", [[1] * 8, [2, 2, 2, 2], [3, 3, 2], [1, 7], [7, 1], [1, 3, 3, 1]])
def test_promise_7_streaming_decode_equals_whole_decode(vae, lengths):
    latent = latents(8)
    whole, _ = vae.decode(latent, clamp=False)
    assert whole.shape == (2, 3, vae.config.pixel_frames(8), *[2 * vae.config.spatial_stride] * 2)
    torch.testing.assert_close(decode_in_pieces(vae, latent, lengths), whole, atol=1e-9, rtol=1e-9)


def test_bounding_memory_changes_nothing(vae, monkeypatch):
    latent, video = latents(6), film(21)
    whole, moments = vae.decode(latent, clamp=False)[0], vae.encode(video)[0]
    monkeypatch.setattr(wan_module, "PIECE_PIXELS", 2 * 4 * 16 * 16)
    torch.testing.assert_close(vae.decode(latent, clamp=False)[0], whole, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(vae.encode(video)[0], moments, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("lengths", [[1, 4, 4, 4, 4], [1, 16], [5, 8, 4], [9, 8], [17]])
def test_streaming_encode_equals_whole_encode(vae, lengths):
    video = film(17)
    whole, _ = vae.encode(video)
    state, parts = None, []
    for piece in video.split(lengths, dim=2):
        part, state = vae.encode(piece, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=1e-9, rtol=1e-9)


def test_promise_3_later_frames_never_change_earlier_ones(vae):
    latent = latents(5)
    other = torch.cat([latent[:, :, :3], latent[:, :, 3:] + 1], dim=2)
    known = vae.config.pixel_frames(3)
    first, second = vae.decode(latent)[0], vae.decode(other)[0]
    torch.testing.assert_close(first[:, :, :known], second[:, :, :known], atol=1e-6, rtol=0)
    assert not torch.allclose(first[:, :, known:], second[:, :, known:], atol=1e-3)


def test_promise_6_two_continuations_leave_the_state_alone(vae):
    latent = latents(6)
    _, state = vae.decode(latent[:, :, :3])
    before = [tensor.clone() for tensor in state.past]
    take, _ = vae.decode(latent[:, :, 3:], state)
    vae.decode(latent[:, :, 3:] * -2, state)
    again, _ = vae.decode(latent[:, :, 3:], state)
    assert torch.equal(take, again)
    assert all(torch.equal(old, new) for old, new in zip(before, state.past, strict=True))


def test_promise_6_a_saved_state_continues_bit_for_bit(vae, tmp_path):
    latent, video = latents(6), film(13)
    for run, first, rest in (
        (vae.decode, latent[:, :, :2], latent[:, :, 2:]),
        (vae.encode, video[:, :, :5], video[:, :, 5:]),
    ):
        _, state = run(first)
        save_file(state.tensors(), tmp_path / "state.safetensors")
        loaded = VAEState.from_tensors(load_file(tmp_path / "state.safetensors"))
        assert torch.equal(run(rest, loaded)[0], run(rest, state)[0])


def test_the_state_does_not_grow_with_the_film(vae):
    _, early = vae.decode(latents(2))
    _, late = vae.decode(latents(9))
    assert early.nbytes == late.nbytes
    assert sum(tensor.untyped_storage().nbytes() for tensor in late.past) == late.nbytes


def test_a_state_of_another_direction_vae_or_size_is_refused(vae):
    _, encoded = vae.encode(film(5))
    _, state = vae.decode(latents(1))
    wide = VAEState(tuple(tensor.repeat(1, 1, 1, 1, 2) for tensor in state.past))
    twice = VAEState(tuple(tensor.repeat(2, 1, 1, 1, 1) for tensor in state.past))
    flat = VAEState((state.past[0][0], *state.past[1:]))
    for other in (encoded, wide, twice, flat, VAEState(state.past[:-1]), VAEState((*state.past, state.past[-1]))):
        with pytest.raises(InputError, match="the VAE's state has"):
            vae.decode(latents(1), other)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_load_reads_original_and_comfyui_layouts(vae, tmp_path, prefix):
    path = tmp_path / "vae.safetensors"
    other = {"model.diffusion_model.blocks.0.weight": torch.zeros(1)} if prefix else {}
    save_file({prefix + name: tensor for name, tensor in vae.state_dict().items()} | other, path)
    loaded = load_vae(path)
    assert loaded.config == vae.config
    assert torch.equal(loaded.encode(film(5))[0], vae.encode(film(5))[0])


@pytest.mark.parametrize("prefix", ["", "vae."])
def test_load_reads_diffusers_layout(reference, tmp_path, prefix):
    path = tmp_path / "diffusers.safetensors"
    save_file({prefix + name: tensor for name, tensor in reference.state_dict().items()}, path)
    expected = reference.encode(film(5)).latent_dist.mean
    torch.testing.assert_close(load_vae(path).encode(film(5))[0], expected, atol=1e-5, rtol=1e-5)


def test_save_and_load_keep_the_weights(vae, tmp_path):
    save_vae(vae, tmp_path / "vae.safetensors", {"steps": 3})
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert loaded.config == vae.config
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("other", [torch.float16, torch.float8_e4m3fn])
def test_a_file_of_several_types_is_computed_in_one(vae, tmp_path, other):
    weights = {n: t.to(other) if t.ndim > 4 else t for n, t in vae.state_dict().items()}
    save_file(weights, tmp_path / "vae.safetensors")
    loaded = load_vae(tmp_path / "vae.safetensors")
    assert {t.dtype for t in loaded.state_dict().values()} == {torch.float32}
    assert loaded.double().decode(latents(1))[0].isfinite().all()


def test_tensors_of_another_rank_are_no_vae(vae, tmp_path):
    weights = dict(vae.state_dict())
    told = [name for name in weights if name.startswith("decoder.upsamples.") and name.endswith("resample.1.weight")]
    for name in ("encoder.conv1.weight", "conv2.weight", "decoder.head.0.gamma", *told):
        for odd in (weights[name].flatten(), weights[name][None], weights[name][:0], weights[name].int()):
            save_file(weights | {name: odd.contiguous()}, tmp_path / "vae.safetensors")
            with pytest.raises(InputError, match=r"^VAE file"):
                load_vae(tmp_path / "vae.safetensors")


def test_names_and_shapes_are_those_of_the_published_file():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in WanVAE(VAEConfig.preset("wan2.1")).state_dict().items()}
    assert len(shapes) == 194
    assert shapes["encoder.conv1.weight"] == (96, 3, 3, 3, 3)
    assert shapes["encoder.downsamples.5.time_conv.weight"] == (192, 192, 3, 1, 1)
    assert shapes["encoder.downsamples.6.shortcut.weight"] == (384, 192, 1, 1, 1)
    assert shapes["encoder.middle.1.norm.gamma"] == (384, 1, 1)
    assert shapes["decoder.upsamples.3.resample.1.weight"] == (192, 384, 3, 3)
    assert shapes["decoder.upsamples.3.time_conv.weight"] == (768, 384, 3, 1, 1)
    assert shapes["decoder.upsamples.4.residual.0.gamma"] == (192, 1, 1, 1)
    assert shapes["decoder.head.2.weight"] == (3, 96, 3, 3, 3)
    assert shapes["conv1.weight"] == (32, 32, 1, 1, 1)


def test_names_and_shapes_of_wan22_too():
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in WanVAE(VAEConfig.preset("wan2.2")).state_dict().items()}
    assert shapes["encoder.conv1.weight"] == (160, 12, 3, 3, 3)
    assert shapes["encoder.downsamples.1.downsamples.2.time_conv.weight"] == (320, 320, 3, 1, 1)
    assert shapes["encoder.downsamples.3.downsamples.1.residual.6.weight"] == (640, 640, 3, 3, 3)
    assert shapes["decoder.upsamples.1.upsamples.3.resample.1.weight"] == (1024, 1024, 3, 3)
    assert shapes["decoder.upsamples.2.upsamples.0.shortcut.weight"] == (512, 1024, 1, 1, 1)
    assert shapes["decoder.head.2.weight"] == (12, 256, 3, 3, 3)
    assert shapes["conv1.weight"] == (96, 96, 1, 1, 1)


@pytest.mark.parametrize(("name", "space", "channels"), [("wan2.1", 8, 16), ("nano", 8, 16), ("wan2.2", 16, 48)])
def test_presets_have_wans_strides(name, space, channels):
    config = VAEConfig.preset(name)
    assert (config.spatial_stride, config.temporal_stride, config.z_dim) == (space, 4, channels)


def test_bad_input_is_named(vae, tmp_path):
    with pytest.raises(InputError, match=r"1 \+ 4n frames, got 4"):
        vae.encode(film(4))
    with pytest.raises(InputError, match=f"multiples of {vae.config.spatial_stride}, got 12 x 12"):
        vae.encode(film(5, size=12))
    with pytest.raises(InputError, match=r"\[B 16 F H W\]"):
        vae.decode(torch.zeros(1, 4, 1, 2, 2))
    _, state = vae.encode(film(5))
    with pytest.raises(InputError, match="a multiple of 4 frames, got 5"):
        vae.encode(film(5), state)
    with pytest.raises(InputError, match="does not exist"):
        load_vae(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no Wan VAE"):
        load_vae(tmp_path / "other.safetensors")


def test_normalize_is_undone_by_denormalize():
    latent = latents(2)
    torch.testing.assert_close(denormalize(normalize(latent)), latent)
    assert normalize(torch.zeros(1, 16, 1, 1, 1))[0, 0].item() == pytest.approx(0.7571 / 2.8184)
    wide = torch.ones(1, 48, 2, 1, 1)
    torch.testing.assert_close(denormalize(normalize(wide)), wide)
    assert normalize(wide)[0, -1, 0].item() == pytest.approx(1.0667 / 0.7744)
    with pytest.raises(ValueError, match="16 or 48 channels"):
        normalize(torch.ones(1, 17, 1, 1, 1))


def test_uint8_frames_survive_the_round_trip():
    frames = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(4, 8, 8, 3)
    assert torch.equal(frames_to_uint8(uint8_to_frames(frames)), frames)
    assert frames_to_uint8(torch.full((1, 3, 1, 1, 1), 7.0)).flatten().tolist() == [255] * 3


def test_the_vae_of_an_all_in_one_file_in_8_bits_is_read():
    """The built-in one, as training scripts may name it."""
    vae = load_vae(BUILT_IN["nano"])
    pipe = Pipeline.from_pretrained("nano")
    assert vae.config == pipe.vae.config
    assert all(torch.equal(ours, pipe.vae.state_dict()[name]) for name, ours in vae.state_dict().items())
