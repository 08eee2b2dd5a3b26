"""The table of families: its numbers, how a row is chosen, and a first chunk of more passes than the rest."""

from __future__ import annotations

import pytest
import torch

from causalcine_core import InputError
from causalcine_core.cut import Cut
from causalcine_core.memory import MemorySettings
from causalcine_core.model import PRESETS, WanConfig
from causalcine_core.sampling import Recipe, begin, rollout, sampling_levels
from causalcine_core.sampling.families import FAMILIES, choose_family, find_family
from causalcine_core.sampling.schedule import reshifted, warped

from ..helpers import network, planned, text, tiny_net, tiny_recipe

FIVE_B = WanConfig(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48)


def test_warped_steps_are_those_of_the_shifted_schedule():
    assert warped((1000, 750, 500, 250), 5) == pytest.approx((1000, 937.5, 833.333, 625), abs=1e-3)
    assert warped((1000, 740, 500, 260), 8) == pytest.approx((1000, 957.929, 888.889, 737.589), abs=1e-3)
    assert reshifted(warped((1000, 750, 500), 5), 5, 8) == pytest.approx(warped((1000, 750, 500), 8))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_every_row_is_whole(family):
    recipe = family.recipe
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert Cut.parse(family.recipe.cut.mode) is not None
    assert find_family(family.key) is find_family(family.name.upper()) is find_family(family.label) is family
    assert recipe.guidance.on or recipe.schedule.sampler in ("renoise", "rolling") or family.key == "longlive-2"
    levels = sampling_levels(recipe)
    assert levels[0] == 1 and levels[-1] == 0 and bool((levels.diff() < 0).all())


def test_numbers_of_the_table():
    row = {family.key: family.recipe.to_dict() for family in FAMILIES}
    assert len(row) == len(FAMILIES)
    four = pytest.approx((1000, 937.5, 833.333, 625), abs=1e-3)
    assert row["self-forcing"]["levels"] == row["longlive-1"]["levels"] == row["reward-forcing"]["levels"] == four
    assert row["krea"]["levels"] == (1000, 937, 833, 625)
    assert row["causvid"]["levels"] == (1000, 757, 522)
    assert row["streamdiffusion-v2"]["levels"] == (1000, 750, 500, 250)
    assert row["shotstream"]["levels"] == pytest.approx((1000, 957.929, 888.889, 737.589), abs=1e-3)
    assert row["rolling-forcing"]["levels"] == pytest.approx((1000, 952.381, 882.353, 769.231, 555.556), abs=1e-3)
    assert row["shotstream"]["shift"] == row["causvid"]["shift"] == 8
    assert row["rolling-forcing"]["steps"] == 5
    for key, steps in (("causal-forcing-2step", 2), ("causal-forcing-1step", 1)):
        assert (row[key]["chunk"], row[key]["steps"], row[key]["first_levels"]) == (1, steps, four)
    five = row["longlive-2"]
    assert [five[name] for name in ("chunk", "fps", "width", "height", "sampler")] == [8, 24, 1280, 704, "unipc"]


SEEN = {  # window in chunks, recalled frames, sink, cut mode, and what of a recipe is neither common nor a level
    "self-forcing": (4, 6, 0, "flush", {}),
    "causal-forcing": (4, 6, 0, "flush", {}),
    "causal-forcing-frame": (14, 6, 0, "flush", {"chunk": 1, "first_chunk": 1}),
    "causal-forcing-2step": (14, 6, 0, "flush", {"chunk": 1, "first_chunk": 1}),
    "causal-forcing-1step": (14, 6, 0, "flush", {"chunk": 1, "first_chunk": 1}),
    "causal-forcing-long": (2, 0, 3, "flush", {"sampler": "rolling"}),
    "longlive-1": (2, 0, 3, "flush", {}),
    "memflow": (2, 3, 3, "flush", {}),
    "shotstream": (6, 6, 0, "flush", {"shift": 8.0, "cut_keep": 0, "shot_angle": 1 / 6}),
    "infinity-rope": (1, 6, 1, "flush+rope_jump", {"cut_jump": 42}),
    "rolling-forcing": (1, 0, 3, "flush", {"sampler": "rolling"}),
    "reward-forcing": (1, 0, 3, "flush", {}),
    "krea": (1, 0, 0, "flush", {"recompute": True}),
    "causvid": (4, 6, 0, "flush", {"shift": 8.0}),
    "streamdiffusion-v2": (1, 0, 0, "flush", {"shift": 8.0}),
    "longlive-2": (
        2,
        0,
        8,
        "rope_jump+pinned+phrase",
        {"chunk": 8, "first_chunk": 8, "sampler": "unipc", "cut_jump": 8, "fps": 24, "width": 1280, "height": 704},
    ),
    "wan-base": (3, 5, 0, "native", {"sampler": "euler", "guidance": 5.0}),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_what_a_row_sees_and_how_it_cuts(family):
    window, top_k, sink, cut, others = SEEN[family.key]
    row = family.recipe.to_dict()
    assert {name: row.pop(name) for name in ("window", "top_k", "sink", "cut")} == {
        "window": window,
        "top_k": top_k,
        "sink": sink,
        "cut": cut,
    }
    usual = Recipe.of(sampler="renoise").to_dict() | others
    for name in ("steps", "levels", "first_levels"):  # `test_numbers_of_the_table`
        row.pop(name)
    assert row == {name: usual[name] for name in row}


@pytest.mark.parametrize(
    ("key", "frames"),
    [
        ("self-forcing", 21),
        ("causal-forcing-frame", 21),
        ("longlive-1", 12),
        ("rolling-forcing", 21),
        ("causal-forcing-long", 21),
        ("memflow", 15),
        ("reward-forcing", 9),
        ("krea", 6),
        ("longlive-2", 32),
        ("shotstream", 27),
    ],
)
def test_a_chunk_sees_as_many_frames_as_in_training(key, frames):
    recipe = find_family(key).recipe
    seen = recipe.visibility
    assert seen.sink + seen.window * recipe.timeline.chunk + recipe.at_once + seen.top_k == frames


@pytest.mark.parametrize(
    ("config", "header", "name", "key", "why"),
    [
        (PRESETS["1.3b"], None, None, "self-forcing", "tell no family"),
        (PRESETS["14b"], {}, "auto", "krea", "14B"),
        (FIVE_B, None, None, "longlive-2", "48 latent channels"),
        (PRESETS["1.3b"], None, "Causal-Forcing++ 2-step", "causal-forcing-2step", "chosen"),
        (PRESETS["1.3b"], {"recipe": {"chunk": 1}}, "krea", "krea", "set aside"),
    ],
)
def test_the_row_is_chosen_and_said_why(config, header, name, key, why):
    choice = choose_family(config, header, name)
    assert choice.family is find_family(key)
    assert choice.recipe is choice.family.recipe
    assert why in choice.reason and why in str(choice)


def test_a_recipe_in_the_file_wins_over_the_table():
    recipe = tiny_recipe(steps=7)
    choice = choose_family(PRESETS["1.3b"], {"recipe": recipe.to_dict(), "family": "memflow"})
    assert (choice.recipe, choice.family) == (recipe, find_family("memflow"))
    assert "header" in choice.reason
    assert choose_family(PRESETS["1.3b"], {"recipe": recipe.to_dict()}).family is None


def test_an_unknown_family_names_those_there_are():
    with pytest.raises(InputError, match=r'family must be one of self-forcing, causal-forcing.*, got "sora"'):
        find_family("sora")


def test_the_first_chunk_passes_its_own_levels():
    recipe = tiny_recipe(sampler="renoise", levels=(1000, 500), first_levels=(1000, 900, 700, 400))
    net = tiny_net()

    def run(recipe):
        state = begin(network(net), recipe, MemorySettings(), size=(4, 4), seed=3)
        return list(rollout(network(net), planned(3), text, state, size=(4, 4), on_step=steps.append))

    steps: list = []
    chunks = run(recipe)
    assert [(s.step, s.steps) for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 2), (2, 2), (1, 2), (2, 2)]
    plain = run(recipe.changed(first_levels=None))
    as_many = run(recipe.changed(levels=recipe.schedule.first_timesteps, first_levels=None))
    assert torch.equal(chunks[0].latent, as_many[0].latent)
    assert not torch.equal(chunks[0].latent, plain[0].latent)
    assert not torch.equal(chunks[1].latent, as_many[1].latent)


@pytest.mark.parametrize(
    ("levels", "says"),
    [
        ([], r"got \[\]"),
        ([500, 1000], r"got \[500, 1000\]"),
        ([1000, 1000], r"got \[1000, 1000\]"),
        ([1001], "got 1001 in it"),
        ([0], "got 0 in it"),
        ([float("nan")], "got NaN in it"),
        ([float("inf")], "got Infinity in it"),
        (["a"], 'got "a" in it'),
        ([True], "got true in it"),
        ("1000", 'got "1000"'),
        (1000, "got 1000"),
    ],
)
def test_bad_first_levels_are_named(levels, says):
    with pytest.raises(
        InputError,
        match=f"first_levels must be a list of 1 to 1000 timesteps above 0 .* falling, .*{says}",
    ):
        tiny_recipe(first_levels=levels)
