"""What adversarial heads see of a denoiser, and that a logit belongs to its chunk."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from causalcine_core.memory import ResolvedMemory
from causalcine_core.model.transformer import Compute
from training.components.heads import Heads, Tap
from training.components.packed import PackedPass
from training.model import Model

from ...helpers import TINY, tiny_net

CHUNKS, SIZE, LEVELS = (1, 3, 3), (4, 4), torch.tensor([0.6])
WAYS = {
    "plain": Compute(),
    "checkpointed": Compute(checkpointed=True),
    "compiled": Compute().compiled(backend="eager"),
}


class Words:
    def encode(self, prompts):
        return torch.ones(len(prompts), 8, TINY.text_dim)


def model(compute: Compute, blocks: int = TINY.num_layers) -> Model:
    made = Model(replace(TINY, num_layers=blocks), Words(), torch.float32, compute, torch.device("cpu"))
    weights = tiny_net().state_dict()
    made.net.load_state_dict({name: weights[name] for name in made.net.state_dict()})
    return made


def heads() -> Heads:
    """Whose logits are not zero."""
    torch.manual_seed(0)
    made = Heads(TINY.dim, 2, 16, heads=2)
    torch.nn.init.normal_(made.judge[-1].weight)
    return made


def films(seed: int) -> torch.Tensor:
    return torch.randn(1, 16, 7, *SIZE, generator=torch.Generator().manual_seed(seed))


def look(of: Model, noisy, clean=None, blocks=(0, 2), judges: Heads | None = None):
    """Features of the noisy half, and the heads' logits of them."""
    layout = PackedPass(of, CHUNKS, SIZE, ResolvedMemory(1, 2))
    tap = Tap(of.net, blocks)
    clean = films(1) if clean is None else clean
    velocity = layout.velocity(of, clean, noisy, LEVELS, [["a"] * 3], tap=tap)
    features = [feature[:, layout.view.clean :] for feature in tap.features]
    return velocity, features, (judges or heads())(features, CHUNKS)


@pytest.mark.parametrize("way", ["plain", "checkpointed"])
def test_features_are_the_residual_stream_after_a_block(way):
    """Fed to the last layer, they give what the network says that ends with that block."""
    x = films(2)
    _, features, _ = look(model(WAYS[way]), x)
    for feature, blocks in zip(features, (1, 3), strict=True):
        short = model(Compute(), blocks)
        seen: list[torch.Tensor] = []
        short.net.head.norm.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        look(short, x, blocks=(0,), judges=Heads(TINY.dim, 1, 16))
        torch.testing.assert_close(feature, seen[0][:, 4:])


@pytest.mark.parametrize("way", ["checkpointed", "compiled"])
def test_gradients_are_the_same_in_every_way_of_computing(way):
    """Of weights, heads and the noisy input, through features alone and through features and velocity."""
    found = []
    for name in ("plain", way):
        of, judges, x = model(WAYS[name]), heads(), films(2).requires_grad_()
        velocity, _, logits = look(of, x, judges=judges)
        (alone,) = torch.autograd.grad(logits.square().sum(), x, retain_graph=True)
        (logits.square().sum() + velocity.square().mean()).backward()
        parameters = [p for p in (*of.net.parameters(), *judges.parameters()) if p.grad is not None]
        found.append([alone, x.grad, *(p.grad for p in parameters)])
    assert len(found[0]) > 40 and found[0][0].abs().max() > 0
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_logit_judges_its_chunk_after_its_history():
    """The noisy tokens of another chunk do not reach it; the clean history does."""
    of, x, clean = model(Compute()), films(2).requires_grad_(), films(1).requires_grad_()
    _, _, logits = look(of, x, clean)
    assert logits.shape == (1, 3)
    for chunk, frames in enumerate((slice(0, 1), slice(1, 4), slice(4, 7))):
        now, before = torch.autograd.grad(logits[0, chunk], (x, clean), retain_graph=True)
        own = torch.zeros(7, dtype=torch.bool)
        own[frames] = True
        assert now[:, :, own].abs().max() > 0 and now[:, :, ~own].eq(0).all()
        assert before[:, :, frames.start :].eq(0).all()
        assert (before.abs().max() > 0) == (chunk > 0)


def test_chunks_are_judged_alike_wherever_they_lie():
    """The same features give the same logit at any place in a film and a batch."""
    judges = heads()
    features = [torch.randn(2, 1, 3, 4, TINY.dim) for _ in range(2)]  # B, a chunk of 3, S
    alone = judges([f[:, 0] for f in features], (3,))
    films_of = [torch.cat([f[:, 0], torch.randn(2, 1, 4, TINY.dim), f[:, 0]], 1) for f in features]
    logits = judges(films_of, (3, 1, 3))
    torch.testing.assert_close(logits[:, 0], alone[:, 0])
    torch.testing.assert_close(logits[:, 2], alone[:, 0])


def test_heads_begin_by_having_no_say():
    torch.manual_seed(0)
    logits = Heads(TINY.dim, 2, 16)([torch.randn(1, 3, 4, TINY.dim) for _ in range(2)], (3,))
    assert logits.eq(0).all()
