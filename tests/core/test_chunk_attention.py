"""The one attention rule and its rotations by themselves, against the reference: any places, gaps, rows of different length."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.model.attention import chunk_attention
from causalcine_core.model.rope import Rope, axis_pairs, rotate

from ..reference.memory import attention_of_chunk
from ..reference.network import rotated

ROWS, COLUMNS, HEADS, DIM = 2, 3, 2, 26


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, ROWS * COLUMNS, HEADS, DIM, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head_dim", [6, 26, 48, 64, 128])
def test_rotations_are_those_of_three_axes_at_any_place(head_dim):
    """Also far out, where float32 angles would be off, and from tables that had to grow."""
    rope = Rope(head_dim, (ROWS, COLUMNS), "cpu")
    x = torch.randn(4, ROWS * COLUMNS, HEADS, head_dim, generator=torch.Generator().manual_seed(1))
    for begin in (0, 3, 5000, 11):
        ours = rotate(x, rope.table(begin + 4)[begin:])
        plain = rotated(x.double(), torch.arange(begin, begin + 4).double(), COLUMNS, torch.zeros(4).double())
        torch.testing.assert_close(ours.double(), plain, atol=1e-5, rtol=0)
    assert sum(axis_pairs(head_dim)) == head_dim // 2


def test_turns_come_on_top_in_time_alone():
    rope, x, turns = Rope(DIM, (ROWS, COLUMNS), "cpu"), drawn(3, seed=2), torch.tensor([0.0, -500.0, 1 / 6])
    ours = rotate(rotate(x, rope.table(3)), rope.turn(turns))
    plain = rotated(x.double(), torch.arange(3).double(), COLUMNS, turns.double())
    torch.testing.assert_close(ours.double(), plain, atol=1e-5, rtol=0)


def test_a_table_that_grew_in_inference_mode_trains_later():
    rope, x = Rope(DIM, (ROWS, COLUMNS), "cpu"), drawn(4, seed=2).requires_grad_()
    with torch.inference_mode():
        rope.table(4)
    rotate(x, rope.table(4)).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())  # lengths are kept


def test_what_is_rotated_keeps_its_dtype():
    x, table = drawn(2, seed=3).bfloat16(), Rope(DIM, (ROWS, COLUMNS), "cpu").table(2)
    assert rotate(x, table).dtype == torch.bfloat16
    torch.testing.assert_close(rotate(x, table), rotate(x.float(), table).bfloat16())


@pytest.mark.parametrize("gaps", [(0,), (5,), (4, 1), (0, 7, 2)])
@pytest.mark.parametrize("own", [1, 3])
@pytest.mark.parametrize("missing", [None, (0, 0, 0), (0, 2, 4)])
def test_a_chunk_attends_to_what_it_sees_at_compact_places(gaps, own, missing):
    """missing: frames of each row that are not there, each second one, so that holes lie in between."""
    rows = max(2, len(gaps))
    q, keys, values = drawn(rows, own, seed=4), drawn(rows, 9, seed=5), drawn(rows, 9, seed=6)
    q[:, 0] *= 3  # its favourites are felt
    valid = torch.ones(rows, 9, dtype=torch.bool)
    for row, n in enumerate(missing[-rows:] if missing else ()):
        valid[row, : 2 * n : 2] = False
    valid[:, 9 - own :] = True
    given = None if missing is None else valid
    rope = Rope(DIM, (ROWS, COLUMNS), "cpu")
    ours = chunk_attention(q, keys, values, rope, given, gaps)
    for row in range(rows):
        seen = valid[row].nonzero()[:, 0].tolist()
        of_row = gaps[row % len(gaps)]
        k, v = keys[row, seen].double(), values[row, seen].double()
        plain = attention_of_chunk(q[row].double(), list(k), list(v), of_row, [0.0] * len(seen), COLUMNS)
        torch.testing.assert_close(ours[row].double(), plain, atol=1e-5, rtol=0)
