"""Gradients through a rollout: those of a plain reference, and none from one chunk to an earlier one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from causalcine_core.memory import ResolvedMemory
from causalcine_core.model import TextKV, project_text
from causalcine_core.sampling import ChunkVelocity, denoise
from causalcine_core.sampling.passes import Passes
from causalcine_core.sampling.solvers import SOLVERS
from causalcine_core.sampling.unroll import unroll
from tests import reference
from tests.helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE, COUNT, SEED = (4, 4), 3, 3
FIELDS = {"steps": 3, "window": 1, "top_k": 2, "sampler": "renoise", "shift": 2.0}


def passes_of(checkpointed: bool = False) -> Passes:
    net = tiny_net()
    for name in ("weight", "bias"):
        net.head.head.get_parameter(name).mul_(0.1)  # so that rounding does not grow from chunk to chunk
    runner = network(net.requires_grad_(True))
    runner = replace(runner, compute=replace(runner.compute, checkpointed=checkpointed))
    return Passes.of(runner, tiny_recipe(**FIELDS), ResolvedMemory(1, 2), SIZE)


def goal(n: int) -> Tensor:
    return torch.randn(1, 16, 3, *SIZE, generator=torch.Generator().manual_seed(50 + n))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("exit_step", [0, 1, 2])
def test_gradients_through_a_routed_rollout_are_the_references(exit_step, checkpointed):
    """Of every weight, with activation checkpointing and without; the last chunk recalls frames by content."""
    passes = passes_of(checkpointed)
    chunks = planned(COUNT, shots=list(range(COUNT)))
    loss, recalled = torch.zeros(()), 0
    for n, one in enumerate(unroll(passes, chunks, text, seed=SEED, exit_step=exit_step)):
        loss = loss + (one.clean - goal(n)).square().mean()
        recalled += int((one.view.recalled() >= 0).sum())
    loss.backward()
    assert recalled > 0

    weights = {name: t.detach().double().requires_grad_() for name, t in passes.runner.net.named_parameters()}
    shots = [reference.Shot(text(n).double(), 1) for n in range(COUNT)]
    settings = reference.Settings(chunk=3, first_chunk=3, exit_step=exit_step, **FIELDS)
    film = reference.Film(reference.Network(weights, TINY.num_heads, TINY.num_layers), shots, settings, SIZE, SEED)
    expected = sum((made.latent - goal(n).double()).square().mean() for n, made in enumerate(film.make()))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, parameter in passes.runner.net.named_parameters():
        theirs = weights[name].grad
        assert theirs.norm() > 0, name
        assert (parameter.grad - theirs).norm() < 1e-5 * theirs.norm(), name


@pytest.mark.parametrize("checkpointed", [False, True])
def test_no_gradient_of_a_chunk_reaches_an_earlier_one(checkpointed):
    """Chunk 2 depends on chunk 1 through memory, and its gradient with respect to what chunk 1 was made from is none."""
    passes = passes_of(checkpointed)
    first, second = planned(2)
    layers = project_text(passes.runner.net, text(0))

    def make(chunk, memory, x):
        view = passes.view(memory, chunk, [0] * chunk.index)
        velocity = ChunkVelocity(passes.runner, TextKV(layers), view)
        noise = passes.noise(SEED, chunk)
        return view, denoise(velocity, x, [1.0, 0.5, 0.0], SOLVERS["renoise"](), noise, exit_step=1)

    x = torch.randn(1, 16, 3, *SIZE, requires_grad=True)
    view, one = make(first, passes.blank(), x)
    memory = passes.write(one, layers, view)
    _, two = make(second, memory, torch.randn(1, 16, 3, *SIZE))
    assert torch.autograd.grad(two.sum(), x, allow_unused=True, retain_graph=True) == (None,)
    weight = passes.runner.net.get_parameter("blocks.0.self_attn.q.weight")
    assert torch.autograd.grad(two.sum(), weight)[0].abs().max() > 0
    changed = passes.write(one + 1, layers, view)
    assert not torch.equal(make(second, changed, torch.zeros_like(x))[1], make(second, memory, torch.zeros_like(x))[1])


def test_the_exit_step_is_the_last_pass_and_the_only_one_that_is_recorded():
    passes, asked = passes_of(), []
    chunk = planned(1)[0]
    layers = project_text(passes.runner.net, text(0))
    velocity = ChunkVelocity(passes.runner, TextKV(layers), passes.view(passes.blank(), chunk, []))

    def watched(x: Tensor, level: float) -> Tensor:
        out = velocity(x, level)
        asked.append((level, out.requires_grad))
        return out

    levels = [1.0, 0.75, 0.5, 0.25, 0.0]
    for exit_step in range(4):
        asked.clear()
        noise = passes.noise(SEED, chunk)
        denoise(watched, noise(), levels, SOLVERS["renoise"](), noise, exit_step=exit_step)
        assert asked == [(level, n == exit_step) for n, level in enumerate(levels[: exit_step + 1])]
    with pytest.raises(IndexError):
        denoise(watched, passes.noise(SEED, chunk)(), levels, SOLVERS["renoise"](), lambda: None, exit_step=4)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_with_activation_checkpointing_a_block_runs_once_more_on_the_way_back(checkpointed):
    """Else it would keep what it is there not to keep, and give the very same gradients."""
    passes, runs = passes_of(checkpointed), []
    compute = passes.runner.compute
    watched = replace(compute, enter=lambda *given: runs.append(1) or compute.enter(*given))
    passes = replace(passes, runner=replace(passes.runner, compute=watched))
    (one,) = unroll(passes, planned(1), text, seed=SEED, exit_step=1)
    assert len(runs) == 2 * TINY.num_layers
    one.clean.sum().backward()
    assert len(runs) == (3 if checkpointed else 2) * TINY.num_layers
