"""Recipes are read whole: what does not fit is one sentence that names the field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from causalcine_core.errors import InputError
from causalcine_core.model import PRESETS
from training.recipe import EMA, Optimizer, Run, _load, differences, plain, read, read_recipe
from training.stages.teacher_forcing import TeacherForcingRecipe

from .conftest import RECIPE, changed

RECIPES = sorted((Path(__file__).parents[2] / "training" / "recipes").glob("*.yaml"))
OF_OTHER_STAGES = ("codec", "ode_init", "self_forcing")


@pytest.mark.parametrize("path", [p for p in RECIPES if not p.stem.startswith(OF_OTHER_STAGES)], ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_is_read(path):
    recipe = read_recipe(TeacherForcingRecipe, path)
    assert (recipe.model == PRESETS["nano"]) == (not path.stem.startswith("base"))
    assert read(TeacherForcingRecipe, plain(recipe)) == recipe  # as a state keeps it


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"run": {"steps": 0}}, "run.steps must be a whole number from 1 to 1000000000, got 0"),
        ({"run": {"steps": 2.5}}, "run.steps must be a whole number"),
        ({"run": {"precision": "fp16"}}, "run.precision must be one of auto, bf16, fp32"),
        ({"run": {"seconds": 60}}, 'run has an unknown field "seconds"'),
        ({"optimizer": {"learning_rate": "fast"}}, "optimizer.learning_rate must be a number"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate must be a number from 0 to 1"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas must be a list of 2"),
        ({"optimizer": {"warmup": 1.5}}, "optimizer.warmup must be a whole number"),
        ({"ema": {"decay": 1.5}}, "ema.decay must be a number from 0 to 1"),
        ({"model": "huge"}, "model must be one of nano"),
        ({"model": {"width": 3}}, "width"),
        ({"mixture": {"batch": {"stills": 3}}}, "mixture.batch must be one of still"),
        ({"mixture": {"batch": {"still": 3}}}, "is missing: the curriculum mixes it in"),
        (
            {"mixture": {"curriculum": [{"until": 1, "mix": {"x": 1}}]}},
            "mixture.curriculum[0].mix must be one of still",
        ),
        ({"mixture": {"curriculum": 3}}, "mixture.curriculum must be a list"),
        ({"auxiliary": {"name": 1}}, "auxiliary must be one of naming"),
        ({"auxiliary": 3}, "auxiliary must be an object"),
        ({"window": -1}, "window must be a whole number from 0"),
        ({"text": {"encoder": "t5"}}, "text.encoder must be one of nano, umt5"),
        ({"text_dropout": True}, "text_dropout must be a number"),
    ],
)
def test_what_does_not_fit_is_named(recipe_file, changes, says):
    with pytest.raises(InputError) as error:
        read_recipe(TeacherForcingRecipe, recipe_file(**changes))
    assert says in str(error.value)
    assert str(error.value).startswith("recipe ") and "\n" not in str(error.value)


def test_what_is_missing_or_no_yaml_is_named(tmp_path):
    lacks = {name: value for name, value in RECIPE.items() if name != "mixture"}
    for text, says in {
        yaml.safe_dump(lacks): "mixture is missing",
        "- a\n- b": "must be an object of fields",
        "": "must be an object of fields",
        "a: [": "is no YAML",
    }.items():
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(InputError, match=says):
            read_recipe(TeacherForcingRecipe, tmp_path / "r.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(TeacherForcingRecipe, tmp_path / "other.yaml")


def test_fields_are_changed_from_the_command_line(recipe_file):
    changes = ["run.steps=3", "optimizer.learning_rate=2e-6", "model=nano", "run.device=cpu", "mixture.batch.still=7"]
    recipe = read_recipe(TeacherForcingRecipe, recipe_file(), changes)
    assert (recipe.run.steps, recipe.optimizer.learning_rate, recipe.model) == (3, 2e-6, PRESETS["nano"])
    assert (recipe.run.device, recipe.mixture.batch["still"]) == ("cpu", 7)
    for change, says in {
        "run.steps": "--set must be like",
        "run.step=3": 'did you mean "steps"',
        "x.y=1": 'unknown field "x"',
    }.items():
        with pytest.raises(InputError, match=says):
            read_recipe(TeacherForcingRecipe, recipe_file(), [change])


def test_numbers_are_read_as_people_write_them(tmp_path):
    """YAML takes 1e-3, which has no point, for text."""
    (tmp_path / "o.yaml").write_text("learning_rate: 1e-3\nweight_decay: 0\nbetas: [0, .999]\n")
    assert read_recipe(Optimizer, tmp_path / "o.yaml") == Optimizer(1e-3, weight_decay=0, betas=(0, 0.999))


def test_differences_name_the_field_and_both_values():
    before = read(TeacherForcingRecipe, RECIPE)
    after = read(TeacherForcingRecipe, changed(RECIPE, run={"steps": 9}, auxiliary={"naming": 0.5}, top_k=3))
    found = differences(plain(before), plain(after))
    assert found == {"run.steps": (8, 9), "auxiliary.naming": (0.3, 0.5), "top_k": (2, 3)}


def test_the_schedule_is_a_function_of_the_step():
    """Linear up over the warm-up, level, then a cosine to zero over the last part of the run."""
    recipe = Optimizer(1.0, warmup=4, cooldown=0.5)
    factors = [recipe.factor(step, 8) for step in range(8)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[5:] == pytest.approx([0.853553, 0.5, 0.146447], abs=1e-6)
    assert [Optimizer(1.0).factor(step, 8) for step in (0, 7)] == [1, 1]


def test_defaults_are_allowed_values():
    assert Run(steps=1).max_seconds == 0
    assert EMA().decay == 0.999


def test_a_recipe_may_hold_only_what_differs_from_another(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "model: nano\nrun: {steps: 7, seed: 3}\nmixture: {batch: {still: 2, clip: 1}, curriculum: [1, 2]}\n"
    )
    (tmp_path / "b.yaml").write_text(
        "extends: a.yaml\nrun: {steps: 9}\nmixture: {batch: {still: 5}, curriculum: [3]}\n"
    )
    (tmp_path / "c.yaml").write_text("extends: b.yaml\nrun: {seed: 4}\n")
    assert _load(tmp_path / "c.yaml") == {
        "model": "nano",
        "run": {"steps": 9, "seed": 4},
        "mixture": {"batch": {"still": 5, "clip": 1}, "curriculum": [3]},
    }
    (tmp_path / "a.yaml").write_text("extends: c.yaml\n")
    with pytest.raises(InputError, match=r"recipe .*a\.yaml: extends must name another recipe, got c\.yaml"):
        _load(tmp_path / "c.yaml")
    (tmp_path / "a.yaml").write_text("extends: 3\n")
    with pytest.raises(InputError, match=r"recipe .*a\.yaml: extends must be"):
        _load(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"none\.yaml cannot be read"):
        (tmp_path / "a.yaml").write_text("extends: none.yaml\n")
        _load(tmp_path / "b.yaml")
