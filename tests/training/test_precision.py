"""Mixed precision in training is that of inference: the same rounding, and so the same frames recalled."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor

from causalcine_core.memory import (
    FrameStore,
    KVMemory,
    PackedView,
    ResolvedMemory,
    RolloutView,
    WritingView,
    describe,
    describe_query,
    route,
)
from causalcine_core.model import CausalWanTransformer, TextKV, WanConfig, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.model.transformer import Compute
from training.components.precision import inference_dtypes, rounded
from training.model import Model

from ..helpers import TINY, tiny_net

BF16 = torch.bfloat16
SIZE, CHUNK, COUNT, SIGMA = (8, 8), 3, 12, 0.7
SETTINGS = ResolvedMemory(1, 4)


class Words:
    """An encoder of texts that are numbers."""

    def encode(self, prompts):
        return torch.cat([torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(int(p))) for p in prompts])


@pytest.fixture
def model() -> Model:
    made = Model(TINY, Words(), BF16, Compute(), torch.device("cpu"))
    made.net.load_state_dict(tiny_net().state_dict())
    return made


def test_large_layers_alone_are_rounded_and_gradients_reach_the_weights_unrounded(model):
    weights = dict(model.net.named_parameters())
    dtypes = inference_dtypes(TINY, BF16)
    assert {name for name, dtype in dtypes.items() if dtype == BF16} >= {
        "blocks.0.self_attn.q.weight",
        "blocks.2.ffn.2.bias",
    }
    fine = ("norm", "modulation", "time_", "patch_embedding", "head")
    assert all(dtypes[name] == torch.float32 for name in weights if any(part in name for part in fine))
    with rounded(model.net, dtypes):
        inside = model.net.blocks[0].self_attn.q
        loss = inside(torch.ones(1, TINY.dim, dtype=BF16)).float().sum()
        assert inside.weight.dtype == BF16
    assert dict(model.net.named_parameters()).keys() == weights.keys()
    assert all(parameter is weights[name] for name, parameter in model.net.named_parameters())
    loss.backward()
    assert weights["blocks.0.self_attn.q.weight"].grad.dtype == torch.float32
    assert weights["blocks.0.self_attn.q.weight"].grad.eq(1).all()


def test_weights_are_whole_again_after_an_error(model):
    with pytest.raises(RuntimeError, match="out of memory"), model.computing():
        raise RuntimeError("out of memory")
    assert all(parameter.dtype == torch.float32 for parameter in model.net.parameters())


class Film:
    """Random latents in chunks, two films side by side, and what a pass over them needs."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.clean, self.noisy = (torch.randn(2, 16, CHUNK * COUNT, *SIZE, generator=generator) for _ in range(2))
        self.grid = (SIZE[0] // 2, SIZE[1] // 2)
        self.shots = [n // 2 for n in range(COUNT)]
        self.prompts = [str(n) for n in range(max(self.shots) + 1)]

    def packed(self, model: Model, around=lambda view: view) -> Tensor:
        """The velocity of the noisy half, as training computes it. around: what attention goes through instead of the view."""
        view = PackedView([CHUNK] * COUNT, SETTINGS, Rope(TINY.head_dim, self.grid, "cpu"))
        rows = [shot for shot in self.shots for _ in range(CHUNK)]
        timesteps = torch.zeros(2, view.frames)
        timesteps[:, view.clean :] = 1000 * SIGMA
        with model.computing():
            text = model.read(self.prompts, torch.tensor(rows[: view.clean] + rows).expand(2, -1), CHUNK)
            latents = view.pack(self.clean, self.noisy)
            return model.velocity(latents, timesteps, text, around(view)).detach()[:, :, view.clean :]


class Watch:
    """A packed view that keeps the queries and keys of every layer."""

    def __init__(self, view: PackedView):
        self.view, self.seen = view, dict[int, tuple[Tensor, Tensor]]()

    def attend(self, layer, q, k, v, kernel):
        self.seen[layer] = q.detach(), k.detach()
        return self.view.attend(layer, q, k, v, kernel)


@pytest.fixture
def packed_choices(monkeypatch):
    """What packed passes recall from now on, `[B, chunks, k]` by layer."""
    chosen: list[Tensor] = []

    def recorded(*given):
        chosen.append(route(*given))
        return chosen[-1]

    monkeypatch.setattr(sys.modules[PackedView.__module__], "route", recorded)
    return chosen


def test_choices_in_bfloat16_are_made_in_float32(model, packed_choices):
    """Queries and keys are rounded, but neither their means nor the scores: those are compared with float64's."""
    film, decisions = Film(1), 0
    views = []
    film.packed(model, lambda view: views.append(Watch(view)) or views[0])
    for layer, (q, k) in views[0].seen.items():
        assert k.dtype == BF16
        descriptors = k[:, : (COUNT - 1) * CHUNK].double().mean(2).flatten(2)  # B F HD
        for row in range(COUNT):
            first = (COUNT - 1 + row) * CHUNK
            query = q[:, first : first + CHUNK].double().mean((1, 2)).flatten(1)
            far = max(0, row - 1) * CHUNK
            scores = (descriptors[:, :far] @ query[:, :, None])[..., 0]
            best = scores.topk(min(4, far), -1).indices.sort(-1).values
            told = packed_choices[layer][:, COUNT - 1 + row]
            assert torch.equal(told[:, : best.shape[1]], best) and told[:, best.shape[1] :].eq(-1).all()
            decisions += 2 * (far > 4)
    assert decisions == TINY.num_layers * 2 * (COUNT - 3)


@pytest.mark.parametrize("seed", [2, 3])
@pytest.mark.parametrize("grad", [True, False])
def test_training_in_bfloat16_recalls_what_inference_recalls(model, packed_choices, grad, seed):
    """Promise 1 in mixed precision: the packed pass of float32 weights that compute in bfloat16, with gradients as in training,
    against a network that was cast to bfloat16, chunk by chunk through a bfloat16 cache, on the same clean history."""
    film = Film(seed)
    with torch.set_grad_enabled(grad):
        velocity = film.packed(model)
    trained = torch.stack(packed_choices)[:, :, COUNT - 1 :]  # of the noisy chunks

    net = CausalWanTransformer(TINY, dtype=BF16)
    net.load_state_dict(model.net.state_dict())
    layers = project_text(net, Words().encode(film.prompts).to(BF16))
    tokens = film.grid[0] * film.grid[1]
    memory = KVMemory(FrameStore(TINY.num_layers, 2, (tokens, 2, TINY.head_dim), BF16, torch.device("cpu")))
    rope, routed = Rope(TINY.head_dim, film.grid, "cpu"), 0
    for i in range(COUNT):
        part = slice(i * CHUNK, (i + 1) * CHUNK)
        rollout = RolloutView(memory, SETTINGS, rope, CHUNK)
        kv = TextKV(layers, torch.full((2, CHUNK), film.shots[i]), CHUNK)
        with torch.no_grad():
            one = net(film.noisy[:, :, part].to(BF16), torch.full((2, CHUNK), 1000 * SIGMA), kv, rollout)
            inferred = rollout.recalled()
            torch.testing.assert_close(velocity[:, :, part], one, atol=0.05, rtol=0.05)
            writing = WritingView(rollout)
            net(film.clean[:, :, part].to(BF16), torch.zeros(2, CHUNK), kv, writing)
            memory = writing.after
        assert torch.equal(trained[:, :, i].sort(-1).values, inferred.sort(-1).values)
        routed += int((inferred >= 0).any(-1).sum())
    assert routed == TINY.num_layers * 2 * (COUNT - 2)


def test_descriptors_of_rounded_keys_and_queries_are_not_rounded():
    frames = torch.randn(2, 3, 16, 2, 48, generator=torch.Generator().manual_seed(0)).to(BF16)
    assert torch.equal(describe(frames), frames.float().mean(2))
    assert torch.equal(describe_query(frames), frames.float().mean((1, 2)))


def test_autocast_around_a_choice_does_not_change_it():
    """A product under autocast would round descriptors to bfloat16, and so the choice between frames that are nearly as good."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(4, 6, 2, 48, generator=generator)
    descriptors = torch.randn(4, 1, 2, 48, generator=generator) + 0.01 * torch.randn(4, 40, 2, 48, generator=generator)
    with torch.autocast("cpu", BF16):
        inside = route(query, descriptors, 5)
    assert torch.equal(inside, route(query, descriptors, 5))


def test_a_model_of_real_shape_needs_no_other_code():
    """The published sizes are built from a preset, without memory, and know what they compute in."""
    config = WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30)
    with torch.device("meta"):
        dtypes = inference_dtypes(config, BF16)
    assert sum(dtype == BF16 for dtype in dtypes.values()) > 500
