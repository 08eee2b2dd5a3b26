"""Attention in the dtypes and on the devices that it chooses its kernel by."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.model import kernels


@pytest.mark.parametrize("scores", [2**21, 40])
def test_bfloat16_on_a_cpu_is_attention_too(scores, monkeypatch):
    """Head by head, and some queries at a time, it is what float32 gives, to bfloat16's rounding."""
    monkeypatch.setattr(kernels, "CACHED_SCORES", scores)
    q, k, v = (torch.randn(2, n, 3, 8) for n in (7, 11, 11))
    with torch.no_grad():
        ours = kernels.sdpa(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours.float(), kernels.sdpa(q, k, v), atol=0.03, rtol=0.03)
