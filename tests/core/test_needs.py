"""What `inspect` says a film will need is what the film then takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from causalcine_core import cli
from causalcine_core.errors import InputError
from causalcine_core.memory import STORAGES, MemorySettings
from causalcine_core.memory.attention_buffer import AttentionBuffer
from causalcine_core.memory.store import GIB
from causalcine_core.model.float8 import FLOAT8
from causalcine_core.needs import film_needs, working_bytes
from causalcine_core.pipeline import Pipeline
from causalcine_core.story import Shot, Story
from causalcine_core.weights.built_in import BUILT_IN


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline.random()


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("frames", [None, 30, 45])
@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_store_takes_what_was_foretold(pipe: Pipeline, storage, frames, guidance):
    recipe = pipe.recipe.changed(guidance=guidance)
    ours = Pipeline(pipe.network, pipe.text, pipe.vae, recipe)

    def needs(settings):
        return film_needs(
            pipe.network.net.config,
            recipe,
            settings,
            width=32,
            height=32,
            seconds=36,
            dtype=torch.float32,
        )

    budget = None if frames is None else frames * needs(MemorySettings()).frame / GIB
    settings = MemorySettings(budget=budget, storage=storage)
    told = needs(settings)
    biggest = 0
    for chunk in ours.stream(Story([Shot("a cat", seconds=36)]), memory=settings, decode=False):
        memory = chunk.state.memory
        biggest = max(biggest, memory.store.nbytes)
    assert told.frames == chunk.state.film().shape[2]
    assert told.memory == pytest.approx(biggest, rel=0.1)
    assert told.kept_frames == pytest.approx(memory.frames - memory.evicted, rel=0.1)
    if budget is not None:
        assert told.memory <= budget * GIB
    assert told.weights == sum(p.numel() * p.element_size() for p in pipe.network.net.parameters())


def test_weights_in_8_bit_floats_take_what_was_foretold():
    """The scales, one a row, are what little more there is."""
    nano = Pipeline.from_pretrained("nano", dtype=FLOAT8)
    given = {"width": 96, "height": 96, "seconds": 3}
    told = film_needs(nano.network.net.config, nano.recipe, MemorySettings(), **given, dtype=FLOAT8)
    parts = [(p.qdata, p.scale) if hasattr(p, "qdata") else (p,) for p in nano.network.net.parameters()]
    held = sum(t.numel() * t.element_size() for part in parts for t in part)
    assert told.weights == pytest.approx(held, rel=0.05)
    assert (
        told.frame
        == film_needs(nano.network.net.config, nano.recipe, MemorySettings(), **given, dtype=torch.bfloat16).frame
    )


def test_the_rotated_copy_of_what_a_chunk_sees_is_counted_as_it_is_kept(pipe: Pipeline, monkeypatch):
    """For every layer where that fits, else once; and as many frames as the longest span has."""
    config, recipe = pipe.network.net.config, pipe.recipe
    settings = recipe.memory()
    spans: list[AttentionBuffer] = []
    begin = AttentionBuffer.__init__
    monkeypatch.setattr(AttentionBuffer, "__init__", lambda span, *given: (spans.append(span), begin(span, *given))[1])
    told = []
    for room in (0, AttentionBuffer.ROOM):
        monkeypatch.setattr(AttentionBuffer, "ROOM", room)
        told.append(working_bytes(config, recipe, settings, 4, torch.float32))
        list(pipe.stream(Story([Shot("a cat", seconds=9)]), decode=False))
        assert len(spans[-1]._kept) == (config.num_layers if room else 1)
    kept = sum(t.nbytes for pair in spans[-1]._kept.values() for t in pair)
    one = (told[1] - told[0]) / (config.num_layers - 1)
    pinned = recipe.timeline.chunk  # which this film has not
    frames = spans[-1].extent.frames
    assert one * config.num_layers == kept * (frames + pinned) / frames


@pytest.mark.parametrize("storage", STORAGES)
def test_the_least_budget_is_the_least_that_is_taken(pipe: Pipeline, storage):
    story = Story([Shot("a cat", seconds=3)])
    given = {"width": 32, "height": 32, "seconds": 3, "dtype": torch.float32}
    settings = MemorySettings(storage=storage)
    least = film_needs(pipe.network.net.config, pipe.recipe, settings, **given).least_budget / GIB
    pipe.stream(story, memory=replace(settings, budget=1.001 * least), decode=False)
    with pytest.raises(InputError, match="need at least"):
        pipe.stream(story, memory=replace(settings, budget=0.99 * least), decode=False)


def test_every_command_knows_the_built_in_model_by_its_name(tmp_path, capsys):
    (tmp_path / "s.txt").write_text("a cat")
    assert cli.main(["inspect", "nano", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"].startswith("CausalCine all-in-one")
    assert cli.main(["story", "check", str(tmp_path / "s.txt"), "--model", "nano"]) == 0
    assert cli.main(["convert", "nano", str(tmp_path / "network.safetensors")]) == 0


def test_inspect_says_what_a_film_needs(capsys):
    nano = str(BUILT_IN["nano"])
    assert cli.main(["inspect", nano, "--seconds", "60", "--dtype", "float32", "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)["film"]
    assert (
        cli.main(["inspect", nano, "--seconds", "60", "--memory-storage", "8bit", "--dtype", "float32", "--json"]) == 0
    )
    small = json.loads(capsys.readouterr().out)["film"]
    assert whole["size"] == "96x96"
    assert whole["frames"] == 240
    assert small["memory"] < 0.4 * whole["memory"]
    assert "memory budget" in " ".join(whole["advice"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--size", "96"], 'size must be WIDTHxHEIGHT in pixels, such as 832x480, got "96"'),
        (["--size", "100x96"], "nearest are"),
        (["--seconds", "0"], "seconds"),
        (["--memory-budget", "0.000001"], "need at least"),
    ],
)
def test_bad_questions_are_refused_by_name(flags, says, capsys):
    assert cli.main(["inspect", str(BUILT_IN["nano"]), *flags]) == 2
    assert says in capsys.readouterr().err
