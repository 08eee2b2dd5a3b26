"""Training through a rollout: gradients of the very functions that make a film, against those of the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from causalcine_core.memory import MemorySettings
from causalcine_core.model import CausalWanTransformer, TextKV, project_text
from causalcine_core.model.transformer import Compute
from causalcine_core.runner import describe_network
from causalcine_core.sampling import Recipe
from causalcine_core.sampling.denoise import ChunkVelocity, denoise
from causalcine_core.sampling.passes import Passes
from causalcine_core.sampling.schedule import sampling_levels
from causalcine_core.sampling.solvers import SOLVERS

from . import reference
from .helpers import planned, text
from .reference import Shot
from .test_reference import CONFIG, SEED, SIZE, weights

CHUNKS = 5
FIELDS = {"chunk": 1, "first_chunk": 1, "window": 1, "top_k": 2, "steps": 3, "sampler": "renoise", "context_noise": 0.1}


def network() -> CausalWanTransformer:
    net = CausalWanTransformer(CONFIG)
    net.load_state_dict(weights())
    return net


def rolled_out(
    net: CausalWanTransformer,
    recipe: Recipe,
    exit_step: int | None = None,
    checkpointed: bool = False,
    noises: list[Tensor] | None = None,
) -> list[Tensor]:
    """Clean latents of a film's chunks, with gradients. noises: what the chunks begin from, noted as it is drawn."""
    runner = replace(describe_network(net, ""), compute=Compute(checkpointed=checkpointed))
    settings = MemorySettings().resolve(recipe.visibility.window, recipe.visibility.top_k)
    passes, out = Passes.of(runner, recipe, settings, SIZE), []
    memory, layers = passes.blank(), project_text(net, text(0))
    chunks = planned(CHUNKS, recipe.timeline.chunk, recipe.timeline.first_chunk)
    for chunk in chunks:
        view, noise = passes.view(memory, chunk, [0] * CHUNKS), passes.noise(SEED, chunk)
        x = noise().requires_grad_(noises is not None)
        if noises is not None:
            noises.append(x)
        levels, solver = sampling_levels(recipe).tolist(), SOLVERS[recipe.schedule.sampler]()
        velocity = ChunkVelocity(runner, TextKV(layers), view)
        clean = denoise(velocity, x, levels, solver, noise, exit_step=exit_step)
        memory = passes.write(passes.context(clean, SEED, chunk), layers, view, view.recalled())
        out.append(clean)
    return out


def target(n: int) -> Tensor:
    """Any fixed direction: the gradient is that of what lies along it."""
    return torch.randn(1, 16, 1, *SIZE, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize(
    ("sampler", "exit_step"), [("renoise", None), ("renoise", 0), ("renoise", 1), ("renoise", 2), ("unipc", None)]
)
def test_gradients_through_a_routed_rollout_are_the_references(sampler, exit_step, checkpointed):
    """Of the last two chunks of five: they recall, they see a window, and whatever came before is a value."""
    fields = FIELDS | {"sampler": sampler}
    net = network()
    ours = rolled_out(net, Recipe.of(**fields), exit_step, checkpointed)
    loss = sum((clean * target(n)).sum() for n, clean in enumerate(ours[-2:]))
    loss.backward()

    leaves = {name: t.double().requires_grad_() for name, t in weights().items()}
    plain = reference.Network(leaves, CONFIG.num_heads, CONFIG.num_layers)
    settings = reference.Settings(**fields, exit_step=exit_step)
    film = reference.Film(plain, [Shot(text(0).double(), CHUNKS)], settings, SIZE, SEED).make()
    assert all(film[-1].recalled[0][0].values())
    expected = sum((made.latent * target(n)).sum() for n, made in enumerate(film[-2:]))
    expected.backward()

    torch.testing.assert_close(loss.double(), expected, atol=1e-4, rtol=1e-5)
    for name, parameter in net.named_parameters():
        theirs = leaves[name].grad
        assert theirs.abs().max() > 1e-6, name
        off = 1e-5 * theirs.abs().max().item()
        torch.testing.assert_close(
            parameter.grad.double(), theirs, atol=off, rtol=1e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_history_is_a_value():
    """No gradient reaches an earlier chunk, neither its latents nor what it began from; a chunk's own reaches what it began from."""
    noises: list[Tensor] = []
    ours = rolled_out(network(), Recipe.of(**FIELDS | {"sampler": "euler"}), noises=noises)
    grads = torch.autograd.grad(ours[-1].sum(), [*noises, *ours[:-1]], allow_unused=True)
    assert [grad is None for grad in grads] == [True] * (CHUNKS - 1) + [False] + [True] * (CHUNKS - 1)


def test_nothing_before_the_exit_step_is_recorded_and_nothing_after_it_is_run():
    asked: list[bool] = []
    for exit_step in (0, 1, 2):
        net = network()
        net.patch_embedding.register_forward_hook(lambda *given: asked.append(torch.is_grad_enabled()))
        rolled_out(net, Recipe.of(**FIELDS), exit_step)
        writing = [False]
        assert asked == ([False] * exit_step + [True] + writing) * CHUNKS
        asked.clear()
