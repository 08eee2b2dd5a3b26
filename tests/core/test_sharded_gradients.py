"""A pass that two ranks share is one rank's: forward, and every gradient, also with activation checkpointing and under FSDP."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from causalcine_core.distributed.mesh import average_gradients, leave_mesh, meet
from causalcine_core.distributed.sequence_parallel import SequenceParallel
from causalcine_core.memory import FrameStore, KVMemory, PackedView, ResolvedMemory, RolloutView, WritingView
from causalcine_core.model.rope import Rope
from causalcine_core.model.transformer import Compute, TextKV, View, forward, project_text

from ..helpers import TINY, text, tiny_net

SIZE = (6, 4)  # three rows of patches: one rank has two of them
RANKS = 2
CASES = [
    "packed",
    "packed, checkpointed",
    "packed, FSDP",
    "chunk",
    "chunk, checkpointed",
    "two passes",
    "two passes, checkpointed",
]
ROPE = Rope(TINY.head_dim, (SIZE[0] // 2, SIZE[1] // 2), "cpu")
SETTINGS = ResolvedMemory(1, 2)


def noise(seed: int, frames: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 16, frames, *SIZE, generator=torch.Generator().manual_seed(seed))


def gradients(case: str, sharding: SequenceParallel | None) -> dict[str, Tensor]:
    """What a pass gives, and the gradients of its loss by all parameters, the latents and the text, averaged over the ranks."""
    net = tiny_net().requires_grad_(True)
    prompts = torch.cat([text(i) for i in range(2)]).requires_grad_(True)
    latents = noise(1, 12 if "packed" in case else 3).requires_grad_(True)

    def velocity(x: Tensor, timesteps: Tensor, kv: TextKV, view: View) -> Tensor:
        def run(x: Tensor, view: View) -> Tensor:
            return forward(net, x, timesteps, kv, view, Compute(checkpointed="checkpointed" in case))

        return run(x, view) if sharding is None else sharding.forward(run, x, view, (2, 2))

    def made() -> Tensor:
        layers = project_text(net, prompts)
        if "packed" in case:
            return packed(latents, layers, velocity, sharding)
        return chunks(latents, layers, velocity, sharding, memory_of(sharding), 2 if "two" in case else 1)

    whole, by_fsdp = Whole(net, made), "FSDP" in case and sharding is not None
    if by_fsdp:
        fully_shard(whole, mesh=DeviceMesh.from_group(sharding.group, "cpu"))
    out = whole()
    (out * noise(2, out.shape[2])).sum().mul(1e-2).backward()
    leaves = {"latents": latents, "text": prompts}
    if not by_fsdp:
        leaves |= dict(net.named_parameters())
    if sharding is not None:
        average_gradients(leaves.values(), sharding.group)
    found = {name: leaf.grad for name, leaf in leaves.items()}
    if by_fsdp:  # has averaged them, and holds a part of each
        found |= {name: leaf.grad.full_tensor() for name, leaf in net.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {"velocity": out.detach()} | {f"gradient of {name}": gradient for name, gradient in found.items()}


class Whole(nn.Module):
    """A network and what is done with it: FSDP gathers its parameters for as long."""

    def __init__(self, net: nn.Module, work: Callable[[], Tensor]):
        super().__init__()
        self.net, self.work = net, work

    def forward(self) -> Tensor:
        return self.work()


def packed(latents: Tensor, layers: tuple, velocity: Callable, sharding: SequenceParallel | None) -> Tensor:
    """Four chunks of teacher forcing, of which the last recalls; the latents are the clean half."""
    view = PackedView([3] * 4, SETTINGS, ROPE, total=sharding.total if sharding else None)
    rows = torch.zeros(2, view.frames, dtype=torch.int64)
    rows[:, view.clean + 6 :] = 1
    timesteps = torch.zeros(2, view.frames)
    timesteps[:, view.clean :] = 600.0
    out = velocity(view.pack(latents, noise(3, 12)), timesteps, TextKV(layers, rows, 3), view)
    return out[:, :, view.clean :]


def chunks(
    latents: Tensor,
    layers: tuple,
    velocity: Callable,
    sharding: SequenceParallel | None,
    memory: KVMemory,
    passes: int,
) -> Tensor:
    """A rollout's chunk that recalls, in one pass or in some, each over what the last one left."""
    for step in range(passes):
        view = RolloutView(memory, SETTINGS, ROPE, 3, total=sharding.total if sharding else None)
        out = velocity(latents, torch.full((2, 3), 900.0 - 400 * step), TextKV(layers), view)
        assert (view.recalled() >= 0).all()
        latents = latents - 0.5 * out
    return latents


@torch.no_grad()
def memory_of(sharding: SequenceParallel | None) -> KVMemory:
    """Four chunks in memory, of this rank's heads."""
    net, heads = tiny_net(), TINY.num_heads // (sharding.size if sharding else 1)
    memory = KVMemory(FrameStore(TINY.num_layers, 2, (6, heads, TINY.head_dim), torch.float32, torch.device("cpu")))
    kv = TextKV(project_text(net, torch.cat([text(0), text(1)])))
    for i in range(4):
        view = WritingView(RolloutView(memory, SETTINGS, ROPE, 3, total=sharding.total if sharding else None))

        def run(x: Tensor, view: View) -> Tensor:
            return forward(net, x, torch.zeros(2, 3), kv, view)

        x = noise(10 + i, 3)
        run(x, view) if sharding is None else sharding.forward(run, x, view, (2, 2))
        memory = view.after
    return memory


def rank(number: int, folder: str) -> None:
    """One of the ranks: every case, its results in a file."""
    torch.set_num_threads(1)
    mesh = meet(number, RANKS, f"file://{folder}/meet")
    sharding = SequenceParallel.of(mesh)
    assert sharding is not None
    torch.save({case: gradients(case, sharding) for case in CASES}, f"{folder}/{number}.pt")
    leave_mesh()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    """What each of two ranks found, by case."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(rank, (str(folder),), RANKS)
    return [torch.load(folder / f"{number}.pt") for number in range(RANKS)]


@pytest.mark.parametrize("case", CASES)
def test_a_pass_and_its_gradients_are_those_of_one_rank(ranks, case):
    alone = gradients(case, None)
    for name, expected in alone.items():
        assert expected.abs().max() > 1e-4, f"{name} says nothing"
        for of in ranks:
            assert torch.allclose(of[case][name], expected, atol=1e-5, rtol=1e-5), name
