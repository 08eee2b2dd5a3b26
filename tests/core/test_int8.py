"""Weights in 8 bits: small on disk, close to what they were."""

import torch

from causalcine_core.weights.int8 import SCALE, compact, expand


def test_large_matrices_lose_less_than_a_step_and_small_ones_a_half():
    generator = torch.Generator().manual_seed(0)
    weights = {"a.weight": torch.randn(64, 128, generator=generator), "b": torch.randn(7, generator=generator)}
    weights["a.weight"][3] *= 100  # a row of its own scale does not coarsen the others
    stored = compact(weights)
    assert stored["a.weight"].dtype == torch.int8
    assert stored["b"].dtype == torch.float16
    back = expand(stored)
    assert set(back) == set(weights)
    steps = stored["a.weight" + SCALE][:, None]
    assert ((back["a.weight"] - weights["a.weight"]).abs() <= 0.51 * steps).all()
    torch.testing.assert_close(back["b"].float(), weights["b"], atol=1e-3, rtol=1e-3)


def test_zero_rows_stay_zero():
    assert not expand(compact({"w": torch.zeros(64, 128)}))["w"].any()
