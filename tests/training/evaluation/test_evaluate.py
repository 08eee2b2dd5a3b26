"""`causalcine evaluate`: what it counts, that it goes on where it stopped, and the arithmetic of its figures."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from causalcine_core import Pipeline, Story
from causalcine_core.errors import InputError
from causalcine_core.memory import MemorySettings
from causalcine_core.sampling import Recipe
from causalcine_core.text import NanoTextEncoder, TextConfig
from training.evaluation import cut_modes, evaluate, publish, run
from training.evaluation.evaluate import main
from training.evaluation.figures import (
    consistency,
    cut_figures,
    differences,
    drift_of_readings,
    figures,
    look_hits,
    quarter,
)
from training.evaluation.films import generate, is_recalled, read_film, without_memory
from training.evaluation.memories import MEMORIES, memory_of
from training.evaluation.probe import Probe, save_probe
from training.world import make_film
from training.world.benchmark import benchmark_film

SMALL = Recipe.of(steps=1, width=32, height=32, window=1, top_k=2, guidance=2.0)


@pytest.fixture
def pipe() -> Pipeline:
    torch.set_num_threads(1)
    made = Pipeline.random(recipe=SMALL)
    words = TextConfig(
        ("a", "cat", "[character1]"), dim=32, heads=2, layers=1, length=64
    )  # enough for the world's prompts
    made.text = NanoTextEncoder(words).eval().requires_grad_(False)
    made.network = replace(made.network, text_len=64)
    return made


@pytest.fixture
def readers(tmp_path, monkeypatch, pipe):
    """An untrained probe, a cut reader that costs nothing, and the random pipeline under the name nano."""
    torch.manual_seed(0)
    path = tmp_path / "probe.safetensors"
    save_probe(Probe().eval(), path, {"command": "test"})
    monkeypatch.setattr(evaluate, "PROBE", path)
    monkeypatch.setattr(run, "find_cuts", lambda frames: [45])
    monkeypatch.setattr(evaluate.Pipeline, "from_pretrained", lambda *args, **kwargs: pipe)
    monkeypatch.chdir(tmp_path)
    return path


def shot(**changes) -> dict:
    one = {"by_name": False, "recalled": False, "gap": 0, "kind": True, "colour": True, "mark": True}
    return {"setting": True, "time": True, "frames": [0, 45], "cast": [one | changes]}


def result(*shots: dict, **changes) -> dict:
    return {"frames": 180, "cuts": {"asked": [45], "found": [45]}, "shots": list(shots)} | changes


def test_only_described_characters_count_as_described_and_only_far_ones_as_recalled():
    films = [result(shot(), shot(by_name=True, kind=False), shot(by_name=True, recalled=True, colour=False))]
    found = figures(films)
    assert (found["kind"].mean, found["kind"].n) == (1.0, 1)
    assert (found["by_name_colour"].mean, found["by_name_kind"].mean, found["by_name_kind"].n) == (0.0, 1.0, 1)
    assert (found["setting"].mean, found["setting"].n) == (1.0, 3)
    assert "by_name_colour_top_k_0" not in found


def test_memory_is_compared_on_the_same_characters():
    far = shot(by_name=True, recalled=True)
    blind = shot(by_name=True, recalled=True, colour=False)
    films = [result(shot(), far, shots_without_memory=[shot(), blind]), result(shot(), far)]
    found = figures(films)
    assert found["by_name_colour"].n == 2
    assert (found["by_name_colour_top_k_0"].mean, found["by_name_colour_top_k_0"].n) == (0.0, 1)
    assert (found["by_name_colour_gain"].mean, found["by_name_kind_gain"].mean) == (1.0, 0.0)


def test_cut_figures_are_means_over_films():
    found = cut_figures([([45], [45]), ([], [45]), ([46], [45])])
    assert found["cut_f1"].mean == pytest.approx(2 / 3)
    assert found["cut_precision"].mean == pytest.approx(2 / 3)
    assert found["cut_offset"].mean == pytest.approx(0.5)


def test_quarters_hold_their_own_shots_and_cuts():
    shots = [shot() | {"frames": list(frames)} for frames in ((0, 44), (44, 100), (100, 130), (130, 180))]
    whole = result(*shots, cuts={"asked": [44, 100, 130], "found": [44, 139]})
    first, last = quarter(whole, 0), quarter(whole, 3)
    assert [s["frames"] for s in first["shots"]] == [[0, 44]]
    assert [s["frames"] for s in last["shots"]] == [[130, 180]]
    assert first["cuts"] == {"asked": [44], "found": [44]}
    assert last["cuts"] == {"asked": [], "found": [139]}
    parts = [quarter(whole, i) for i in range(4)]
    assert sum(len(p["shots"]) for p in parts) == 4


def test_recall_begins_where_the_window_ends():
    film = next(f for f in map(make_film, range(60_000_000, 60_001_000)) if is_recalled(f, 36))
    far = [s for s in film.shots if any(a.name_only and a.gap >= 36 for a in s.cast)]
    assert is_recalled(film, 36) == [s.index for s in far]
    assert is_recalled(film, 10_000) == []


def test_without_memory_the_film_is_the_same_until_routing_begins(pipe):
    film = make_film(60_000_003, 6.0, size=(32, 32))
    frames, state, fork = generate(pipe, film, seed=3)
    assert fork is not None
    assert len(frames) == state.frames == film.frames
    plain = without_memory(pipe, fork, frames, film.frames)
    assert plain.shape == frames.shape
    assert np.array_equal(plain[: fork.frames], frames[: fork.frames])
    whole = pipe.stream(Story.from_dict(film.story()), seed=3, memory=MemorySettings(top_k=0))
    assert np.array_equal(plain, np.concatenate([chunk.frames for chunk in whole]))
    assert not np.array_equal(plain, frames)


def test_shots_beyond_the_frames_are_not_read():
    torch.manual_seed(0)
    probe = Probe().eval().requires_grad_(False)
    film = make_film(60_000_003, 6.0, size=(32, 32))
    ranges = [(s.first, s.end) for s in film.shots]
    part = read_film(probe, film, ranges, film.render(0, film.shots[0].end), 36)
    assert len(part) == 1
    assert part[0]["frames"] == list(ranges[0])


def test_looks_are_consistent_where_the_readings_of_a_character_agree():
    """Whatever was asked; pairs of shots of the same name only."""
    cat, dog = [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]
    film = [shot(name="a", odds=cat), shot(name="a", odds=cat), shot(name="b", odds=dog)]
    assert consistency([film]).mean == pytest.approx(1)
    assert consistency([[*film, shot(name="b", odds=cat)]]).mean == pytest.approx(0.5)  # one pair of each
    assert consistency([[shot(name="a", odds=cat)]]).n == 0
    half = [shot(name="a", odds=[1.0, 0.0]), shot(name="a", odds=[1.0, 1.0])]
    assert consistency([film, half]).mean == pytest.approx((1 + 0.5**0.5) / 2)


def test_runs_are_compared_on_the_same_characters_of_the_same_stories():
    blind = shot(by_name=True, recalled=True, colour=False)
    ours = [result(shot(), shot(by_name=True, recalled=True)), result(shot())]
    others = [result(shot(kind=False) | {"time": False}, blind), result(shot(), cuts={"asked": [45], "found": []})]
    found = differences(ours, others)
    assert (found["by_name_colour"].mean, found["by_name_colour"].n, found["by_name_kind"].mean) == (1, 1, 0)
    assert (found["kind"].mean, found["colour"].mean, found["setting"].mean) == (0.5, 0, 0)
    assert (found["time"].mean, found["time"].n) == (pytest.approx(1 / 3), 3)
    assert found["cut_f1"].mean == 0.5
    assert differences(ours, ours)["kind"].mean == 0


def test_drift_is_what_the_last_quarter_lacks_against_the_first():
    shots = [shot(), shot(), shot(kind=False), shot(kind=False) | {"setting": False}]
    spans = [[0, 45], [45, 90], [90, 135], [135, 180]]
    found = drift_of_readings([result(*(one | {"frames": span} for one, span in zip(shots, spans, strict=True)))])
    assert [found[name].mean for name in ("setting", "kind", "colour")] == [-1, -1, 0]


@pytest.mark.parametrize("name", MEMORIES)
def test_every_memory_sees_as_many_latent_frames(name):
    """To the nearest chunk, where the window grows by whole ones."""
    recipe = Recipe.of(window=3, top_k=5, chunk=3)
    held = memory_of(name, recipe).resolve(3, 5)
    span = 3 * held.window + held.top_k
    assert (held.top_k == 0) == (name == "window")
    assert abs(span - (3 * 3 + 5)) <= 1 and (name == "window" or span == 14)


def test_a_run_writes_its_report_and_resumes(readers, monkeypatch, capsys, tmp_path):
    arguments = ["nano", "--stories", "2", "--long", "1", "--seconds-long", "15", "--json"]
    main(arguments)
    report = json.loads(capsys.readouterr().out)
    out = tmp_path / "output/evaluate/nano-camr"
    assert json.loads((out / "quality.json").read_text()) == report
    assert (report["stories"], report["seeds"], report["memory"]) == (2, [52_000_000, 52_000_001], "camr")
    found = report["figures"]
    assert found["setting"].keys() == {"mean", "low", "high", "n", "ceiling"}
    assert {"sharpness", "motion", "border_8", "border_16", "psnr", "consistency", "by_name_colour_gain"} <= set(found)
    assert found["frechet"]["features"] == 192 and found["frechet"]["samples"] == 2 * 5 * 4
    assert found["frechet"]["mean"] > 0 and found["frechet"]["ceiling"] > 0
    assert set(report["kinds"]) == {"reappearance", "scene change"}
    assert report["long"]["films"] == 1
    assert report["long"]["first_quarter"]["cut_f1"]["n"] == 1
    assert {"sharpness", "setting", "motion"} <= set(report["long"]["drift"])
    assert set(report["long"]["flicker"]) == {"chunk", "window"}
    assert (out / "quality_sheet.jpg").stat().st_size > 10_000
    assert "| setting |" in (out / "quality.md").read_text()

    def never(*args):
        raise AssertionError("made again")

    monkeypatch.setattr(run, "generate", never)
    monkeypatch.setattr(run, "round_trip", never)
    main(arguments)
    assert json.loads(capsys.readouterr().out) == report
    with pytest.raises(InputError, match="another model or other settings"):
        main([*arguments, "--steps", "3"])


def test_another_memory_is_another_run_on_the_same_stories(readers, tmp_path):
    """With a folder of its own, and not made again without memory; the truth is read once."""
    common = ["nano", "--stories", "1", "--long", "0"]
    main([*common, "--memory", "even"])
    main([*common, "--memory", "window", "--against", "output/evaluate/nano-even"])
    folders = [tmp_path / "output/evaluate" / f"nano-{name}" for name in ("even", "window")]
    reports = [json.loads((folder / "quality.json").read_text()) for folder in folders]
    assert [report["memory"] for report in reports] == ["even", "window"]
    assert all("by_name_colour_gain" not in report["figures"] for report in reports)
    films = [json.loads((folder / "films/52000000.json").read_text()) for folder in folders]
    assert films[0]["pictures"] != films[1]["pictures"]
    assert len(list((tmp_path / "output/evaluate/ceilings").glob("*/*.json"))) == 1
    other = reports[1]["against"]
    assert other["run"] == "nano-even" and other["figures"]["setting"]["n"] == 5
    assert "more than nano-even" in (folders[1] / "quality.md").read_text()
    assert "| figure | even (top-k 2) |" in (folders[0] / "quality.md").read_text()
    with pytest.raises(InputError, match="as many stories"):
        main(["nano", "--stories", "2", "--long", "0", "--memory", "even", "--against", "output/evaluate/nano-window"])


def test_parts_together_are_the_whole(tmp_path, readers):
    for part in ("0/2", "1/2"):
        main(["nano", "--out", "parts", "--part", part, "--stories", "2", "--long", "0"])
    assert sorted(p.name for p in (tmp_path / "parts" / "films").iterdir()) == ["52000000.json", "52000001.json"]
    assert not (tmp_path / "parts" / "quality.json").exists()


@pytest.mark.parametrize(
    "bad", [["--stories", "0"], ["--stories", "101"], ["--part", "2/2"], ["--part", "x"], ["--memory", "all"], ["--x"]]
)
def test_bad_arguments_are_refused_before_anything_is_loaded(readers, bad, monkeypatch):
    monkeypatch.setattr(evaluate.Pipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    with pytest.raises(InputError):
        main(["nano", *bad])


def test_publishing_fills_the_page_between_its_marks(tmp_path, readers):
    out, docs = tmp_path / "run", tmp_path / "docs"
    docs.mkdir()
    (docs / "quality.md").write_text(f"before\n{publish.MARKS[0]}\nold\n{publish.MARKS[1]}\nafter\n")
    main(["nano", "--out", str(out), "--stories", "1", "--long", "0"])
    report = json.loads((out / "quality.json").read_text())
    made = json.loads((out / "films/52000000.json").read_text())
    sheet = publish.quality_sheet(out, [benchmark_film(0, size=(32, 32))], [made])
    publish.publish(report, sheet, docs)
    text = (docs / "quality.md").read_text()
    assert text.startswith(f"before\n{publish.MARKS[0]}\n1 unseen stories")
    assert text.endswith(f"{publish.MARKS[1]}\nafter\n")
    assert "old" not in text
    assert (docs / "images" / "quality_sheet.jpg").is_file()
    (docs / "quality.md").write_text("nothing to fill")
    with pytest.raises(InputError, match="must hold the lines"):
        publish.publish(report, sheet, docs)


@pytest.mark.parametrize(("page", "marks"), [("quality.md", publish.MARKS), ("cuts.md", publish.CUT_MARKS)])
def test_the_pages_in_the_repository_have_their_marks(page, marks):
    text = (publish.DOCS / page).read_text(encoding="utf-8")
    assert [text.count(mark) for mark in marks] == [1, 1]


def test_each_cut_mode_makes_the_same_stories(tmp_path, readers, monkeypatch, capsys):
    """A folder a mode; the modes act (jumps move what is seen), and what is there is not made again."""
    arguments = ["--model", "some.safetensors", "--out", str(tmp_path), "--stories", "1", "--probe", str(readers)]
    assert cut_modes.main([*arguments, "--modes", "native,flush+rope_jump"]) == 0
    out = capsys.readouterr().out
    assert "| `native` |" in out and "| `flush+rope_jump` |" in out
    films = [tmp_path / "some" / mode / "films" / "50000000.json" for mode in ("native", "flush+rope_jump")]
    assert all(film.is_file() for film in films)
    kept = [json.loads((tmp_path / "some" / mode / "run.json").read_text()) for mode in ("native", "flush+rope_jump")]
    assert [one["recipe"]["cut"] for one in kept] == ["native", "flush+rope_jump"]
    monkeypatch.setattr(run, "generate", None)
    assert cut_modes.main([*arguments, "--modes", "native"]) == 0
    assert cut_modes.main([*arguments, "--modes", "wipe"]) == 2
    assert cut_modes.main([*arguments, "--modes", "flush@some"]) == 2
    said = capsys.readouterr().err
    assert "modes must be one of native, flush" in said and "a whole number behind @, how many frames" in said


def test_no_figure_is_written_for_nothing():
    assert look_hits([[shot()]], lambda one: one["recalled"]) == {"kind": [[]], "colour": [[]], "mark": [[]]}
