"""The teacher's ODE: it passes the student's levels exactly, and its path is that of a plain solver."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.memory import ResolvedMemory
from causalcine_core.model import WanConfig
from causalcine_core.sampling import sampling_levels
from training.components.packed import PackedPass
from training.components.student import Student, Teacher, make_student
from training.components.text import Text
from training.components.trajectory import Trajectory, solve, solver_levels
from training.recipe import Run

from .. import reference
from ..conftest import RECIPE, WORDS

IDS = {",": 2, "[character1]": 3, "[character2]": 4, "a": 5, "cat": 6, "red": 7}  # behind padding and unknown


def test_the_solver_passes_the_students_levels_as_the_same_numbers():
    """48 steps at shift 5 have 1000, 937.5, 833.3 and 625 at 0, 12, 24 and 36 (training.md)."""
    student = Student(steps=4, shift=5.0).recipe()
    levels = solver_levels(student, 48)
    assert [levels[i] for i in (0, 12, 24, 36, 48)] == sampling_levels(student).tolist()
    assert levels == pytest.approx([5 * s / (1 + 4 * s) for s in (1 - i / 48 for i in range(49))], abs=1e-7)
    assert levels == sorted(set(levels), reverse=True)


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 8, 12])
@pytest.mark.parametrize("shift", [1.0, 3.0, 8.0])
def test_any_number_of_steps_that_divides_the_solvers_is_passed(steps, shift):
    student = Student(steps=steps, shift=shift).recipe()
    assert solver_levels(student, 48)[:: 48 // steps] == sampling_levels(student).tolist()


def test_levels_of_the_first_chunk_are_passed_too():
    student = Student(levels=(1000,), first_levels=(1000, 750, 500, 250), shift=1.0).recipe()
    levels = solver_levels(student, 8)
    assert levels[0] == 1 and [levels[i] for i in (2, 4, 6)] == [0.75, 0.5, 0.25]


@pytest.mark.parametrize(
    ("student", "says"),
    [
        (Student(steps=5), r"pass no timestep 923\.077, .*, such as those of 50 steps"),
        (
            Student(levels=(1000, 0.5), shift=1.0),
            r"pass no timestep 0\.5, .*, but no even schedule of up to 1000 steps",
        ),
        (Student(first_levels=(1000, 700), shift=1.0), r"pass no timestep 700, .*, such as those of 60 steps"),
        (Student(levels=(999, 500), shift=1.0), r"pass no timestep 999, .*, such as those of 1000 steps"),
    ],
)
def test_a_solver_that_passes_them_by_is_refused(student, says):
    with pytest.raises(InputError, match=rf"^solver_steps 48 at shift [\d.]+ {says}"):
        solver_levels(student.recipe(), 48)


def test_states_are_kept_where_the_path_passes_and_the_end_is_where_it_ends():
    """The velocity `x` has the path x(s) = x(1) exp(s - 1); many Euler steps come near it, and the plain ones are the same."""
    noise = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    levels = [1 - i / 400 for i in range(401)]
    states = solve(lambda x, level: x, noise, levels, [1.0, levels[100], levels[300]])
    for state, s in zip(states, (1.0, 0.75, 0.25, 0.0), strict=True):
        torch.testing.assert_close(state, noise * torch.tensor(s - 1).double().exp(), atol=0, rtol=2e-3)
    torch.testing.assert_close(states[1], noise * (1 - 1 / 400) ** 100)
    torch.testing.assert_close(states[3], noise * (1 - 1 / 400) ** 400)


def test_a_trajectory_is_that_of_a_plain_solver():
    """Guided Euler steps of the reference's packed pass, written from the papers in float64: the unguided branch reads the
    negative text in its history as well."""
    torch.manual_seed(0)
    run = Run(steps=1, device="cpu", precision="fp32")
    config = WanConfig.from_dict(RECIPE["model"])
    _, teacher = make_student(config, Text(heads=2, layers=1), run, WORDS, torch.device("cpu"))
    with torch.no_grad():  # no weight is zero or one, so that each matters
        for parameter in teacher.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
        teacher.text.tokens.weight[0] = 0
    clean, noise = torch.randn(2, 1, 16, 12, 4, 4)
    prompts = [["[character1] , a red cat", "a cat", "[character1]", "red"]]
    layout = PackedPass(teacher, (3,) * 4, (4, 4), ResolvedMemory(1, 2))
    student = Student(steps=2, shift=3.0).recipe()
    levels, kept = solver_levels(student, 4), sampling_levels(student)[:-1].tolist()
    how = Teacher(guidance=2.5, negative="a red red")
    states = Trajectory(teacher, how, layout, clean, noise, prompts, levels, kept).states

    weights = {name: p.detach().double() for name, p in teacher.named_parameters()}
    shape = reference.Shape(heads=2, text_heads=2, chunk=3, window=1, top_k=2)
    told = [[IDS[word] for word in text.split()] for text in prompts[0]]
    untold = [[IDS[word] for word in how.negative.split()]] * 4
    x, past = noise[0].double(), clean[0].double()
    expected = []
    sigmas = [3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25, 0)]
    for i in range(4):
        if i % 2 == 0:
            expected.append(x)
        guided, unguided = (reference.packed_pass(weights, shape, past, x, sigmas[i], of) for of in (told, untold))
        x = x + (sigmas[i + 1] - sigmas[i]) * (unguided + 2.5 * (guided - unguided))
    expected.append(x)
    assert states.shape == (3, 1, 16, 12, 4, 4)
    for state, plain in zip(states[:, 0], expected, strict=True):
        torch.testing.assert_close(state.double(), plain, atol=2e-5 * float(plain.abs().max()), rtol=0)
    assert (states[-1] - states[0]).abs().mean() > 0.1
