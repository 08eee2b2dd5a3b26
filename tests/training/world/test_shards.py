"""Shards are made alike by one process and by several, and end when they are told to."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.vae import VAEConfig, WanVAE
from training.data.shards import Shards
from training.world.shards import encode_films, make_shards


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return WanVAE(VAEConfig(dim=8, dim_mult=(1, 1, 1, 1), num_res_blocks=1)).eval().requires_grad_(False)


def test_workers_draw_what_one_process_draws(vae, tmp_path):
    for workers in (0, 2):
        make_shards(
            "stills", vae, tmp_path / str(workers), count=5, first_seed=3, per_shard=3, size=(32, 32), workers=workers
        )
    alone, shared = (Shards(tmp_path / str(workers), "stills") for workers in (0, 2))
    assert alone.state() == shared.state() == ["stills-00000003.safetensors", "stills-00000006.safetensors"]
    assert alone.records == shared.records
    assert all(torch.equal(one, other) for one, other in zip(alone.latents, shared.latents, strict=True))


def test_time_ends_it_between_shards(vae, tmp_path):
    make_shards("stills", vae, tmp_path, count=10**6, per_shard=1, size=(32, 32), seconds=1e-9)
    assert not list(tmp_path.iterdir())


def test_films_are_encoded_as_they_are_whole(vae):
    """In pieces, and several at once: the latents of each in one call."""
    from training.world import make_film

    films = torch.stack([torch.from_numpy(make_film(seed, size=(16, 16)).render(0, 97)) for seed in (1, 2)])
    made = encode_films(vae, films.numpy())
    for film, latents in zip(films, made, strict=True):
        whole, _ = vae.encode(film.permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
        torch.testing.assert_close(latents, whole[0], atol=1e-4, rtol=1e-4)
