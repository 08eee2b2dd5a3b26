"""The arithmetic of the auxiliary losses."""

from __future__ import annotations

import pytest

from training.losses.pointing import _cover


def test_a_character_is_where_its_box_lies():
    """Shares of the tokens that a box covers, row by row."""
    assert _cover((0.0, 0.5, 1.0, 1.0), (2, 2)) == [0, 0, 0.5, 0.5]
    assert _cover((0.25, 0.0, 0.75, 0.5), (2, 2)) == [0.5, 0.5, 0, 0]
    assert _cover((0.0, 0.0, 0.75, 0.5), (2, 2)) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert _cover(None, (2, 2)) == _cover((0.0, 1.0, 0.5, 1.0), (2, 2)) == [0, 0, 0, 0]
