"""The benchmark of real shapes: its arithmetic is counted by hand, and its commands run where there is no GPU."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import torch

from benchmarks.progress import print_rows
from benchmarks.run import main
from benchmarks.shapes import chunk_tflop, measure_shape
from causalcine_core.errors import InputError
from causalcine_core.memory import MemorySettings
from causalcine_core.model import PRESETS


@pytest.mark.parametrize(("model", "tflop"), [("1.3b", 175), ("14b", 1068)])
def test_the_work_of_a_chunk_is_that_of_the_table(model, tflop):
    assert chunk_tflop(PRESETS[model], (60, 104)) == pytest.approx(tflop, rel=0.02)


def test_a_shape_is_measured_within_its_budget():
    small = {"device": "cpu", "dtype": torch.float32, "size": (32, 32), "chunks": 24, "layers": 1}
    free = measure_shape("nano", **small)
    kept = measure_shape("nano", **small, memory=MemorySettings(budget=0.0004))
    assert free["forgotten_frames"] == 0 < kept["forgotten_frames"]
    assert kept["store_gib"] <= 0.0004
    assert free["network_fps"] > 0 < free["decode_fps"]
    assert "share_of_limit" not in free  # nothing is said of a limit that is not known


def test_a_shape_is_measured_in_every_way_a_gpu_would_be():
    """8-bit floats, another attention, compiled blocks: what each needs is there, on a CPU too."""
    small = {"device": "cpu", "size": (32, 32), "chunks": 20, "layers": 1}
    plain = measure_shape("nano", **small)
    eight = measure_shape("nano", **small, dtype=torch.float8_e4m3fn, attention="math", decoder="tiny")
    assert (plain["attention"], plain["compiled"], eight["attention"]) == ("auto", False, "math")
    assert eight["dtype"] == "float8_e4m3fn" != plain["dtype"]
    assert (plain["decoder"], eight["decoder"]) == ("vae", "tiny")


def test_every_figure_is_there_as_soon_as_it_is_measured(capsys):
    """Minutes may lie between two of them."""

    def figures() -> Iterator[tuple[str, object]]:
        yield "model", "nano"
        assert "nano" in capsys.readouterr().out
        yield "rollout", {"steps": 2}
        assert "steps" in capsys.readouterr().out

    print_rows(figures(), as_json=False)
    print_rows(iter([("model", "nano"), ("rollout", {"steps": 2}), ("rollout", {"late": 3})]), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"model": "nano", "rollout": {"steps": 2, "late": 3}}


def test_a_benchmark_says_how_far_it_is(capsys):
    measure_shape("nano", device="cpu", dtype=torch.float32, size=(32, 32), chunks=20, layers=1)
    out, err = capsys.readouterr()
    assert out == ""
    assert "chunks: 100%" in err
    assert "turns: 100%" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "2b"], "must be one of nano, 1.3b"),
        (["--model", "nano", "--chunks", "3"], "at least 20"),
        (["--model", "nano", "--size", "big"], "WIDTHxHEIGHT"),
        (["--model", "5b", "--size", "64x48"], "multiples of 32"),
    ],
)
def test_bad_shapes_are_named(arguments, message):
    with pytest.raises(InputError, match=message):
        main(["--random-weights", "--device", "cpu", *arguments])
