"""The packed pass in halves: what is asked of noisy chunks again and again is what the whole pass answers."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.memory import PackedView, ResolvedMemory
from causalcine_core.model import WanConfig
from causalcine_core.model.kernels import sdpa
from causalcine_core.model.rope import Rope
from training.components.packed import Answers, PackedPass
from training.components.student import make_student
from training.components.text import Text
from training.recipe import Run

from ..conftest import RECIPE, WORDS

PROMPTS = [["a cat", "a red cat", "a", "cat"], ["red", "red", "a red", "a red"]]


@pytest.fixture
def model():
    torch.manual_seed(0)
    config = WanConfig.from_dict(RECIPE["model"])
    run = Run(steps=1, device="cpu", precision="fp32")
    made, _ = make_student(config, Text(heads=2, layers=1), run, WORDS, torch.device("cpu"))
    torch.nn.init.xavier_uniform_(made.net.head.head.weight)
    return made


@torch.no_grad()
@pytest.mark.parametrize("first", [0, 2, 3])
@pytest.mark.parametrize("chunks", [(3, 3, 3, 3), (1, 3, 3, 3), (1, 1, 1, 1)])
def test_answers_over_a_kept_history_are_those_of_the_packed_pass(model, chunks, first):
    """Asked three times at other noise and levels, of each sample one or of each chunk; the clean half is computed once."""
    layout = PackedPass(model, chunks, (4, 4), ResolvedMemory(1, 2), first=first)
    clean = torch.randn(2, 16, sum(chunks), 4, 4)
    answers = Answers(layout, model, clean, PROMPTS)
    for levels in (torch.tensor([1.0, 0.5]), torch.tensor([0.2, 0.9]), torch.rand(2, 4 - first)):
        noisy = torch.randn_like(clean)
        whole = layout.velocity(model, clean, noisy, levels, PROMPTS)
        torch.testing.assert_close(answers(noisy[:, :, layout.view.history :], levels), whole, atol=2e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("routing", ["rag", "even"])
def test_halves_recall_what_the_whole_pass_recalls(model, routing):
    layout = PackedPass(model, (3,) * 4, (4, 4), ResolvedMemory(1, 2, routing))
    clean, noisy = torch.randn(2, 2, 16, 12, 4, 4)
    levels = torch.tensor([0.6, 0.3])
    found = Answers(layout, model, clean, PROMPTS)(noisy, levels)
    torch.testing.assert_close(found, layout.velocity(model, clean, noisy, levels, PROMPTS), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_a_chunk_without_history_is_answered_too(model):
    layout = PackedPass(model, (3,), (4, 4), ResolvedMemory(1, 2))
    clean, noisy = torch.randn(2, 2, 16, 3, 4, 4)
    levels, prompts = torch.tensor([0.7, 0.1]), [["a"], ["red"]]
    found = Answers(layout, model, clean, prompts)(noisy, levels)
    torch.testing.assert_close(found, layout.velocity(model, clean, noisy, levels, prompts), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_halves_turn_shots_as_the_whole_does():
    """shot_angle turns by the place in the packed sequence, which the noisy half must not lose."""
    torch.manual_seed(0)
    rope = Rope(32, (2, 2), "cpu")
    view = PackedView([3, 3, 3], ResolvedMemory(1, 2), rope, shots=[0, 1, 2], shot_angle=0.5, first=1)
    q, k, v = torch.randn(3, 2, view.frames, 4, 2, 32)
    whole = view.attend(0, q, k, v, sdpa)
    clean, noisy = view.halves()
    parts = [
        half.attend(0, *(t[:, frames] for t in (q, k, v)), sdpa)
        for half, frames in ((clean, slice(0, view.clean)), (noisy, slice(view.clean, None)))
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_no_gradient_is_recorded(model):
    layout = PackedPass(model, (3, 3), (4, 4), ResolvedMemory(1, 2))
    clean, noisy = torch.randn(2, 1, 16, 6, 4, 4)
    with torch.enable_grad():
        found = Answers(layout, model, clean, [["a", "a"]], 2.0)(noisy, torch.tensor([0.5]))
    assert not found.requires_grad
