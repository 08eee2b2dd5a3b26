"""`causalcine evaluate --cast`: stories that only name, with pictures and without."""

from __future__ import annotations

import json

import numpy as np

from training.evaluation.cast import cast_report, named_only
from training.evaluation.evaluate import main
from training.world.benchmark import benchmark_film
from training.world.grammar import mentions
from training.world.planning import portrait

from .test_evaluate import pipe, readers  # noqa: F401


def test_nobody_is_described_and_everybody_is_named():
    for number in range(10):
        film = benchmark_film(number)
        story = named_only(film)
        assert len(story["shots"]) == len(film.shots)
        for shot, told in zip(film.shots, story["shots"], strict=True):
            assert all(not mention.text for mention in mentions(told["prompt"]))
            assert all(who.name in told["prompt"] and who.kind not in told["prompt"].split() for who in shot.characters)


def test_a_portrait_is_the_same_for_a_seed_and_another_for_another_look():
    first, second = benchmark_film(0).characters[:2]
    one = portrait(first, 3)
    assert one.shape == (96, 96, 3) and np.array_equal(one, portrait(first, 3))
    assert not np.array_equal(one, portrait(second, 3))


def test_figures_are_of_all_characters_paired():
    def read(colour: bool, kind: bool) -> list[dict]:
        return [{"cast": [{"colour": colour, "kind": kind, "mark": True}] * 2}]

    results = [{"with": read(True, i < 5), "without": read(i < 2, False), "recalled": 0.5} for i in range(10)]
    figures = cast_report(results, "nano")["figures"]
    assert (figures["colour_with"]["mean"], figures["colour_without"]["mean"]) == (1.0, 0.2)
    assert (figures["kind_with"]["mean"], figures["colour_gain"]["mean"], figures["kind_with"]["n"]) == (0.5, 0.8, 20)
    assert figures["kind_with"]["low"] < 0.4 and figures["kind_with"]["high"] > 0.6


def test_one_command_prints_both_and_goes_on_where_it_stopped(readers, tmp_path, capsys):  # noqa: F811
    args = ["nano", "--cast", "--stories", "1", "--out", str(tmp_path / "out"), "--probe", str(readers), "--json"]
    main(args)
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found["stories"] == 1 and found["figures"]["recalled"]["mean"] > 0
    assert "colour_with" in said.err and "colour_without" in said.err
    (kept,) = (tmp_path / "out/cast").glob("*.json")
    changed = json.loads(kept.read_text()) | {"recalled": 0.25}
    kept.write_text(json.dumps(changed))
    main(args)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["figures"]["recalled"]["mean"] == 0.25
