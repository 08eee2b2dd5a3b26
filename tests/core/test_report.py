"""The report says what was made, and its picture says what was remembered."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from causalcine_core import MemorySettings, Pipeline, Recipe, Shot, State, Story
from causalcine_core.memory import ResolvedMemory
from causalcine_core.plan import plan
from causalcine_core.report import build_report, check_report, memory_map, recall_summary, to_json

STORY = Story([Shot("a fox runs", frames=33), Shot("snow", frames=30), Shot("the fox sleeps", frames=20)])


@pytest.fixture(scope="module")
def state(pipe: Pipeline) -> State:
    *_, last = pipe.stream(STORY, seed=2**63)
    return last.state


@pytest.fixture(scope="module")
def report(state: State) -> dict:
    return build_report(state, model={"name": "tiny"}, warnings=["one"])


def synthetic(chunks: int, layers: int = 4, k: int = 3) -> dict:
    """A film of many chunks in shots of 10 that all recall latent frame 0, and half of the layers the frame 12 back."""
    story = Story([Shot("x", frames=120)] * (chunks // 10))
    made = plan(story)
    head = check_report(
        made, recipe=Recipe.of(top_k=k), settings=ResolvedMemory(3, k), size=(96, 96), seed=1, model={"name": "x"}
    )
    routing = [
        [[0, c.latents[0] - 12 if layer % 2 else -1, -1] if c.latents[0] > 12 else [-1] * k for layer in range(layers)]
        for c in made.chunks
    ]
    return head | {
        "chunks": [
            {"index": c.index, "shot": c.shot, "frames": list(c.frames), "seconds": 0.1, "routing": r}
            for c, r in zip(made.chunks, routing)
        ]
    }


def test_the_report_has_the_keys_of_the_contract(report):
    keys = ["format", "frames", "fps", "size", "seed", "model", "settings", "versions", "warnings", "shots", "chunks"]
    keys.append("memory")
    assert list(report) == keys
    assert list(report["shots"][0]) == ["index", "prompt", "asked", "frames"]
    assert list(report["chunks"][0]) == ["index", "shot", "frames", "seconds", "routing"]
    assert report["format"] == 1
    assert (report["frames"], report["fps"], report["size"], report["seed"]) == (81, 16, [32, 32], 2**63)
    assert isinstance(report["fps"], int)
    assert report["shots"][1] == {"index": 1, "prompt": "snow", "asked": [33, 63], "frames": [33, 57]}
    assert report["warnings"] == ["one", "shot 2 ends half way between two chunk ends; the earlier is taken"]
    assert np.array(report["chunks"][-1]["routing"]).shape == (2, 2)


def test_the_report_survives_json_and_reads_line_by_line(report):
    text = to_json(report)
    assert json.loads(text) == json.loads(json.dumps(report)) == report
    assert len(text.splitlines()) == 2 + len(report) + 2 + len(report["shots"]) + len(report["chunks"])


def test_a_name_that_is_no_text_can_be_written(report):
    """A model's file may be called in bytes that no encoding knows."""
    odd = report | {"model": {"name": "\udcff \u573a \U0001f3ac.safetensors"}}
    assert json.loads(to_json(odd).encode("utf-8")) == json.loads(json.dumps(odd))


def test_the_report_of_a_film_that_was_stopped_ends_where_it_ends(pipe: Pipeline):
    stream = pipe.stream(STORY)
    chunk = [next(stream) for _ in range(4)][-1]
    report = build_report(chunk.state, model={})
    assert report["frames"] == 45
    assert [shot["frames"] for shot in report["shots"]] == [[0, 33], [33, 45]]
    assert report["chunks"][-1]["frames"] == [33, 45]


def test_the_check_is_the_report_without_chunks(pipe: Pipeline, report):
    recipe, settings = pipe.recipe, pipe.recipe.memory()
    check = check_report(
        plan(STORY), recipe=recipe, settings=settings, size=(32, 32), seed=2**63, model={"name": "tiny"}
    )
    assert {**check, "warnings": 0} == {
        **{k: v for k, v in report.items() if k not in ("chunks", "memory")},
        "warnings": 0,
    }


def test_the_report_says_what_a_budget_made_the_film_forget(pipe: Pipeline):
    settings = MemorySettings(1, 2, budget=150_000 / 2**30)
    for chunk in pipe.stream(Story([Shot("a", seconds=9), Shot("b", seconds=2, cut="flush")]), memory=settings):
        state = chunk.state  # one at a time: who holds older states holds what they remember
    report = build_report(state, model={})
    gone = state.memory.evicted
    assert gone > 0
    assert report["warnings"][-1].startswith(f"{gone} of {state.film().shape[2]} latent frames were forgotten")
    assert [shot.get("cut") for shot in report["shots"]] == [None, "flush"]


def test_a_fraction_of_fps_is_kept(state: State):
    changed = dataclasses.replace(state, recipe=state.recipe.changed(fps=23.976))
    assert build_report(changed, model={})["fps"] == 23.976


def test_the_map_shows_recalls_window_and_self():
    picture = np.asarray(memory_map(synthetic(40))).astype(int)
    brightest, half = np.array([255, 226, 140]), np.array([232, 118, 30])
    assert (np.abs(picture - brightest).max(-1) < 3).sum() > 2_000  # frame 0, all layers, a line along the top
    assert (np.abs(picture - half).max(-1) < 3).sum() > 2_000  # a diagonal, half of the layers
    assert (np.abs(picture - np.array([52, 84, 120])).max(-1) < 3).sum() > 20_000


@pytest.mark.parametrize("chunks", [10, 1500, 12_000])
def test_the_map_is_bounded_and_quick_for_any_length(chunks):
    picture = memory_map(synthetic(chunks))
    assert picture.size == memory_map(synthetic(20)).size


def test_the_map_takes_pictures_and_films_without_memory(report, frames):
    plain = memory_map(report)
    shown = memory_map(report, {0: frames(1)[0], 2: np.zeros((96, 16, 3), np.uint8)})
    assert shown.size == plain.size
    assert shown.tobytes() != plain.tobytes()
    nothing = {**report, "chunks": [{**c, "routing": [[], []]} for c in report["chunks"]]}
    assert "Nothing was recalled" in recall_summary(nothing)[0]
    memory_map(nothing)
    with pytest.raises(ValueError, match="at least one chunk"):
        memory_map({**report, "chunks": []})


def test_the_summary_counts_what_lies_in_earlier_shots():
    first = recall_summary(synthetic(40))
    # chunks 5..39: frame 0 in 4 layers, the frame of 4 chunks before in 2; earlier: 30 * 4 + 12 * 2 of 35 * 6
    assert first[0].startswith("69% of all recalls reach into an earlier shot")
    assert "the moment at 0.0 s" in first[1]


def test_the_map_shows_the_cast_and_which_moments_recalled_it():
    report = synthetic(40)
    plain = memory_map(report)
    chunks = [
        {**c, "routing": [[*row, -3] if i >= 20 else row for row in c["routing"]]}
        for i, c in enumerate(report["chunks"])
    ]
    cast = {**report, "chunks": chunks, "cast": [{"name": name, "caption": name} for name in ("Ann", "Ben")]}
    shown = np.asarray(memory_map(cast, {-3: np.full((40, 60, 3), 77, np.uint8)})).astype(int)
    assert shown.shape[0] > plain.height
    below = shown[plain.height :]
    marks = np.abs(below - np.array([255, 226, 140])).max(-1) < 3
    half = shown.shape[1] // 2
    assert marks[:, half + 60 :].sum() > 4_000 and not marks[:, : half - 60].any()  # Ben, all layers, the second half
    assert (below == 77).all(-1).sum() > 1_000
    assert recall_summary(cast)[-1] == "20 of 40 chunks recalled a picture of the cast."
    assert recall_summary(cast)[:2] == recall_summary(report)
