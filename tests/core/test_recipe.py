"""Recipes, memory settings and configs: nested in Python, flat in files, and safe to read out of any file."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass

import pytest

from causalcine_core import InputError, MemorySettings, Recipe
from causalcine_core.memory import ResolvedMemory
from causalcine_core.model import PRESETS, WanConfig
from causalcine_core.sampling.recipe import PLACES
from causalcine_core.text import TextConfig
from causalcine_core.vae import VAEConfig

FLAT = Recipe().to_dict()
OTHER = {
    "chunk": 6, "first_chunk": 1, "steps": 3, "levels": (1000.0, 600.0, 200.0), "first_levels": (1000.0, 500.0), "shift": 3.0,
    "sampler": "renoise", "guidance": 4.0, "negative": "blur", "window": 7, "top_k": 9, "context_noise": 0.1, "fps": 24.0,
    "width": 96, "height": 64, "seconds": 1.5, "sink": 2, "cut": "flush+phrase", "cut_keep": 1, "cut_jump": 3,
    "cut_phrase": "Cut.", "recompute": True, "shot_angle": 0.5,
}  # fmt: skip


def test_every_field_has_one_place_and_one_flat_name():
    recipe = Recipe()
    parts = {part.name: getattr(recipe, part.name) for part in fields(recipe)}
    assert all(is_dataclass(part) for part in parts.values())
    assert sorted(PLACES.values()) == sorted(f"{name}.{f.name}" for name, part in parts.items() for f in fields(part))


def test_what_is_written_flat_is_read_back_as_it_was():
    recipe = Recipe.of(**OTHER)
    assert recipe.to_dict() == OTHER
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert Recipe.from_dict({}) == Recipe() == Recipe.of()


def test_each_flat_field_changes_its_own_place_and_nothing_else():
    """But for a chunk, which its first chunk has to fit, and explicit timesteps, which are counted by steps."""
    with_it = {"chunk": {"chunk", "first_chunk"}, "levels": {"levels", "steps"}}
    for name, value in OTHER.items():
        given = {each: OTHER[each] for each in with_it.get(name, {name})}
        made = Recipe.of(**given).to_dict()
        assert made[name] == value
        assert {each for each in FLAT if made[each] != FLAT[each]} == set(given)


def test_explicit_timesteps_give_way_to_another_number_of_steps_only():
    recipe = Recipe.of(levels=(1000, 500), first_levels=(1000, 750, 250))
    assert recipe.changed(steps=2) == recipe
    assert recipe.changed(guidance=3.0).schedule == recipe.schedule
    fewer = recipe.changed(steps=4).schedule
    assert (fewer.steps, fewer.timesteps, fewer.first_timesteps) == (4, None, (1000.0, 750.0, 250.0))


NUMBERS = [True, "3", None, [3], {"a": 3}, math.nan, math.inf, -math.inf, 10**400, -1]
WRONG = {
    **{name: [*NUMBERS, 0, 2.0, 2.5] for name in ["chunk", "first_chunk", "steps", "width", "height"]},
    **{name: [*NUMBERS, 1025, 2.0] for name in ["window", "top_k", "sink", "cut_keep", "cut_jump"]},
    **{name: [*NUMBERS, 0] for name in ["shift", "fps", "seconds"]},
    **{name: [*NUMBERS, 101] for name in ["guidance", "context_noise", "shot_angle"]},
    **{name: [None, 3, True, "", "nothing", ["euler"], "euler\ud800", {}] for name in ["sampler", "cut"]},
    **{name: [None, 3, True, ["a"], "a\0", "\ud800"] for name in ["negative", "cut_phrase"]},
    "recompute": [None, 0, 1, "true", [True]],
    "levels": [3, True, "1000", [], [[1000]], [0], [1000.1], [None], [math.nan], [10**400], [500, 1000], {"1000": 1}, [1] * 1001],
}  # fmt: skip
WRONG["first_levels"] = WRONG["levels"]


def test_every_field_is_tried():
    assert set(WRONG) == set(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_a_wrong_value_out_of_a_file_is_one_sentence_that_names_the_field(name):
    for value in WRONG[name]:
        with pytest.raises(InputError) as refused:
            Recipe.from_dict({name: value})
        told = str(refused.value)
        assert told.startswith(f"recipe.{name} "), told
        assert "\n" not in told and len(told) < 400 and told.isprintable(), told


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "recipe must be an object of fields, got null"),
        ([], "recipe must be an object of fields, got []"),
        ("steps", 'recipe must be an object of fields, got "steps"'),
        ({"step": 3}, 'recipe has an unknown field "step", did you mean "steps"? allowed are chunk, '),
        ({"timesteps": [1000]}, 'recipe has an unknown field "timesteps"'),
        ({"schedule": {"steps": 3}}, 'recipe has an unknown field "schedule"; allowed are chunk, '),
        ({"a\ud800" * 10**6: 3}, "recipe has an unknown field"),
    ],
)
def test_what_is_no_recipe_is_one_sentence(data, said):
    with pytest.raises(InputError) as refused:
        Recipe.from_dict(data)
    assert str(refused.value).startswith(said)
    assert len(str(refused.value)) < 500


def test_a_value_nested_without_end_is_named_and_not_shown():
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    for value in (nested, {"a": nested}):
        with pytest.raises(
            InputError, match=r"recipe\.chunk must be a whole number from 1 to 64, got \w+ that cannot be shown"
        ):
            Recipe.from_dict({"chunk": value})


def test_asked_memory_becomes_what_holds():
    recipe = Recipe.of(window=4, top_k=6)
    assert recipe.memory() == recipe.memory(MemorySettings()) == ResolvedMemory(4, 6)
    asked = MemorySettings(top_k=0, routing="first_step", budget=0.5, storage="host_8bit")
    held = recipe.memory(asked)
    assert held == ResolvedMemory(4, 0, "first_step", 0.5, "host_8bit")
    assert ResolvedMemory.from_dict(json.loads(json.dumps(held.to_dict()))) == held


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window": None}, "memory.window must be a whole number from 0 to 1024, got null"),
        ({"top_k": 2.5}, "memory.top_k must be a whole number from 0 to 1024, got 2.5"),
        ({"budget": math.inf}, "memory.budget must be a number of GiB above 0, got Infinity"),
        ({"budget": math.nan}, "memory.budget must be a number of GiB above 0, got NaN"),
        ({"budget": "1"}, 'memory.budget must be a number of GiB above 0, got "1"'),
        ({"storage": ["full"]}, 'memory.storage must be one of full, 8bit, host, host_8bit, got ["full"]'),
        ({"routing": None}, "memory.routing must be one of every_step, first_step, rag, sink, fifo, even, got null"),
        ({"sink": 3}, 'memory has an unknown field "sink"; allowed are window, '),
    ],
)
def test_wrong_memory_out_of_a_state_is_one_sentence(change, said):
    with pytest.raises(InputError) as refused:
        ResolvedMemory.from_dict(ResolvedMemory(1, 2).to_dict() | change)
    assert str(refused.value).startswith(said)


CONFIGS = {
    "model": (WanConfig.from_dict, PRESETS["nano"].to_dict()),
    "text": (TextConfig.from_dict, TextConfig(("a", "cat")).to_dict()),
    "vae": (lambda data: VAEConfig(**data), {f.name: getattr(VAEConfig(), f.name) for f in fields(VAEConfig)}),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_config_of_wrong_values_is_one_sentence_that_names_the_field(what):
    read, good = CONFIGS[what]
    read(json.loads(json.dumps(good)) if what != "vae" else good)
    for name, value in good.items():
        wrong = [math.nan, math.inf, 10**400, -1, "3", {}, [[1]], [None], [1.5, 2, 2], [True] * 20]
        for bad in [*wrong, *([True] if value is not True and value is not False else [0])]:
            with pytest.raises(InputError) as refused:
                read(good | {name: bad})
            assert str(refused.value).startswith(f"{what}.{name}"), (name, bad, str(refused.value))
            assert len(str(refused.value)) < 200


@pytest.mark.parametrize(
    ("what", "change", "said"),
    [
        ("model", {"dim": 250}, "model.dim must be an even multiple of num_heads (4), got 250"),
        ("model", {"dim": 252}, "model.dim must be an even multiple of num_heads (4), got 252"),
        ("model", {"freq_dim": 33}, "model.freq_dim must be even, got 33"),
        ("model", {"patch_size": [2, 2, 2]}, "model.patch_size[0] must be 1, as a causal model has it, got 2"),
        ("model", {"heads": 2}, 'model has an unknown field "heads", did you mean'),
        ("text", {"heads": 3}, "text.dim must be a multiple of heads (3), got 256"),
        ("text", {"vocabulary": ["a", 3]}, "text.vocabulary[1] must be text in quotes, got 3"),
        ("text", {"vocabulary": "abc"}, "text.vocabulary must be a list of 1 to 1000000 words"),
        ("vae", {"temporal_downsample": (True,)}, "vae.temporal_downsample must be a list of 3 of true and false"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_one_sentence(what, change, said):
    read, good = CONFIGS[what]
    with pytest.raises(InputError) as refused:
        read(good | change)
    assert str(refused.value).startswith(said)


def test_a_config_that_lacks_a_field_says_which():
    with pytest.raises(InputError, match=r"^model\.ffn_dim is missing$"):
        WanConfig.from_dict({"dim": 256, "num_heads": 4, "num_layers": 8})
    with pytest.raises(InputError, match=r"^text\.vocabulary is missing$"):
        TextConfig.from_dict({})
