"""What the distillations share: how a student makes films, where it and its teacher come from, and guided packed passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.memory import ResolvedMemory
from causalcine_core.model import CausalWanTransformer, WanConfig
from causalcine_core.sampling import sampling_levels
from causalcine_core.weights.checkpoint import FORMAT, save_weights
from causalcine_core.weights.tensors import write_torch
from training import export
from training.components import checkpoint
from training.components.packed import PackedPass
from training.components.student import Student, Teacher, begin, make_student
from training.components.text import Text
from training.recipe import Run, plain, read
from training.stage import Stage
from training.trainer import run_stage

from ..conftest import RECIPE, WORDS

CONFIG = WanConfig.from_dict(RECIPE["model"])


def pair():
    """A student and a teacher of weights that are drawn anew."""
    run = Run(steps=1, device="cpu", precision="fp32")
    student, teacher = make_student(CONFIG, Text(heads=2, layers=1), run, WORDS, torch.device("cpu"))
    torch.nn.init.xavier_uniform_(student.net.head.head.weight)
    return student, teacher


def state_file(path: Path, model, **parts) -> Path:
    """A run's state of a model and other parts."""
    state = {name: {} for name in checkpoint.FIELDS}
    state["format"] = checkpoint.FORMAT
    state["parts"] = {"model": {"weights": model.state_dict(), "average": None}, **parts}
    write_torch(path, state)
    return path


# --- how a student makes films


def test_a_student_takes_a_few_even_steps_of_the_shifted_schedule():
    recipe = Student(steps=4, shift=5.0).recipe(width=96, height=64)
    levels = sampling_levels(recipe)
    expected = [5 * s / (1 + 4 * s) for s in (1, 0.75, 0.5, 0.25, 0)]
    assert levels.tolist() == pytest.approx(expected, abs=1e-7)
    assert [1000 * s for s in expected[:4]] == pytest.approx([1000, 937.5, 833.333, 625], abs=1e-3)
    assert not recipe.guidance.on and recipe.schedule.sampler == "renoise"
    assert (recipe.picture.width, recipe.picture.height) == (96, 64)


def test_levels_of_its_own_count_its_steps_and_the_first_chunk_may_have_others():
    student = read(Student, {"levels": [1000, 500], "first_levels": [1000, 750, 250]}, "student")
    assert student.steps == 2
    assert sampling_levels(student.recipe()).tolist() == [1, 0.5, 0]
    assert sampling_levels(student.recipe(), first=True).tolist() == [1, 0.75, 0.25, 0]
    assert read(Student, plain(student), "student") == student  # as a state keeps it


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"steps": 0}, "student.steps must be a whole number from 1 to 1000, got 0"),
        (
            {"levels": [500, 1000]},
            "student.levels must be a list of 1 to 1000 timesteps above 0 and up to 1000, falling",
        ),
        ({"first_levels": [0]}, "student.first_levels must be a list of 1 to 1000 timesteps"),
        ({"sampler": "rolling"}, "student.sampler must be one of renoise, euler, unipc"),
        ({"top_k": -1}, "student.top_k must be a whole number"),
        ({"routing": "any"}, "student.routing must be one of every_step"),
        ({"guidance": 3}, 'student has an unknown field "guidance"'),
    ],
)
def test_a_student_that_cannot_be_is_refused_by_field(given, says):
    with pytest.raises(InputError) as error:
        read(Student, given, "student")
    assert says in str(error.value)


def test_a_teacher_that_cannot_be_is_refused_by_field():
    with pytest.raises(InputError, match=r"teacher\.guidance must be a number from 0 to 100, got -1"):
        read(Teacher, {"guidance": -1}, "teacher")


def test_a_student_is_exported_as_it_was_trained():
    trained = {"student": plain(Student(levels=(1000, 625), shift=5, window=2, top_k=1, sampler="euler"))}
    flat = export.rollout(trained, width=96, height=64).to_dict()
    wanted = {"steps": 2, "levels": (1000, 625), "shift": 5, "window": 2, "top_k": 1, "sampler": "euler"}
    assert wanted | {"guidance": 1, "width": 96, "height": 64} == {
        name: flat[name] for name in (*wanted, "guidance", "width", "height")
    }
    for name, value in {"steps": 8, "sampler": "unipc", "guidance": 3.0}.items():
        with pytest.raises(InputError, match=f"--{name} is for models of many steps"):
            export.rollout(trained, **{name: value})
    many = export.rollout({"shift": 3.0, "window": 1, "top_k": 2}, steps=20)
    assert (many.schedule.steps, many.schedule.sampler, many.guidance.scale) == (20, "unipc", 3)


# --- where it and its teacher come from


def test_student_and_teacher_begin_with_the_same_weights(tmp_path):
    given, _ = pair()
    student, teacher = pair()
    begin(student, teacher, state_file(tmp_path / "state.pt", given), Teacher())
    for one in (student, teacher):
        assert all(torch.equal(one.state_dict()[name], weight) for name, weight in given.state_dict().items())
    with torch.no_grad():
        student.net.head.head.weight.add_(1)
    assert not torch.equal(student.net.head.head.weight, teacher.net.head.head.weight)  # they share no tensor


def test_a_teacher_may_come_from_a_file_of_its_own(tmp_path):
    """As in the second distillation, whose student begins with the first one's and whose scores with the many-step model."""
    of_student, of_teacher = pair()[0], pair()[0]
    begun, file = state_file(tmp_path / "state.pt", of_student), state_file(tmp_path / "teacher.pt", of_teacher)
    student, teacher = pair()
    begin(student, teacher, begun, Teacher(file=str(file)))
    assert torch.equal(student.net.head.head.weight, of_student.net.head.head.weight)
    assert torch.equal(teacher.net.head.head.weight, of_teacher.net.head.head.weight)


def test_a_teacher_of_another_shape_is_refused_by_field(tmp_path):
    student, teacher = pair()
    begun, file = state_file(tmp_path / "state.pt", student), tmp_path / "net.safetensors"
    other = WanConfig.from_dict(RECIPE["model"] | {"num_layers": 2})
    weights = CausalWanTransformer(other).initialize().state_dict()
    save_weights(file, weights, {"format": FORMAT, "kind": "network", "model": other.to_dict()})
    with pytest.raises(InputError, match=r"^teacher\.file .*net\.safetensors holds a network of another shape"):
        begin(student, teacher, begun, Teacher(file=str(file)))


def test_only_the_students_transformer_is_trained():
    student, teacher = pair()
    assert not any(p.requires_grad for p in teacher.parameters())
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in student.named_parameters() if name.startswith("net.")} != set()


@dataclass(frozen=True)
class Only:
    """The smallest recipe there is."""

    run: Run


def test_a_stage_that_distills_begins_with_a_file(tmp_path):
    class Distills(Stage):
        """A stage."""

        name, recipe_type, needs_start = "distills", Only, True

    (tmp_path / "r.yaml").write_text("run: {steps: 1}")
    with pytest.raises(InputError, match=r"distills begins with a model that was trained before: .* --start-from"):
        run_stage(Distills, [str(tmp_path / "r.yaml"), "--work", str(tmp_path / "w")])


# --- guided packed passes


@pytest.fixture
def packed():
    """A model, a packed pass of three chunks, clean and noisy latents `[2, 16, 9, 4, 4]`, and their prompts."""
    torch.manual_seed(0)
    model, _ = pair()
    layout = PackedPass(model, (3, 3, 3), (4, 4), ResolvedMemory(1, 1))
    clean, noisy = torch.randn(2, 2, 16, 9, 4, 4)
    return model, layout, clean, noisy, [["a cat", "a red cat", "a"], ["red", "red", "a red"]]


@torch.no_grad()
def test_guidance_is_of_the_usual_form(packed):
    """uncond + s (cond - uncond), where the unguided branch reads the negative text everywhere, its history as well."""
    model, layout, clean, noisy, prompts = packed
    levels = torch.tensor([0.8, 0.3])
    told = layout.velocity(model, clean, noisy, levels, prompts)
    untold = layout.velocity(model, clean, noisy, levels, [["cat"] * 3] * 2)
    for scale in (3.0, 0.5):
        found = layout.guided(model, clean, noisy, levels, prompts, scale, "cat")
        torch.testing.assert_close(found, untold + scale * (told - untold), atol=1e-5, rtol=1e-5)
    alone = layout.guided(model, clean, noisy, levels, prompts, 1.0, "cat")
    torch.testing.assert_close(alone, told, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_each_noisy_chunk_may_have_a_level_of_its_own(packed):
    """It is what it would be if the others had it too, for a noisy chunk sees no other."""
    model, layout, clean, noisy, prompts = packed
    levels = torch.tensor([[0.9, 0.5, 0.1], [0.2, 0.4, 0.6]])
    found = layout.velocity(model, clean, noisy, levels, prompts)
    for i in range(3):
        alone = layout.velocity(model, clean, noisy, levels[:, i], prompts)
        torch.testing.assert_close(found[:, :, 3 * i : 3 * i + 3], alone[:, :, 3 * i : 3 * i + 3], atol=1e-6, rtol=0)
