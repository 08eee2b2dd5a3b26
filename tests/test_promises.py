"""The product's promises, each on small random models of the real architecture."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from causalcine_core.cut import Cut
from causalcine_core.memory import (
    ROUTINGS,
    FrameStore,
    KVMemory,
    MemorySettings,
    PackedView,
    ResolvedMemory,
    RolloutView,
    WritingView,
    route,
)
from causalcine_core.memory.routing import choose
from causalcine_core.memory.settings import STORAGES
from causalcine_core.model import TextKV, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.sampling import State, begin, rollout
from causalcine_core.vae import VAEConfig, WanVAE, normalize

from .helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 4)
LAYOUTS = [(3, 3), (3, 1), (1, 1)]


def run(state, chunks, texts, **kwargs):
    return list(rollout(network(tiny_net()), chunks, lambda shot: texts[shot], state, size=SIZE, **kwargs))


def fresh(seed=7, **changes):
    recipe = tiny_recipe(**changes)
    return begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=seed)


def train_and_infer(chunk, first, settings, cut="native", sink=0, angle=0.0, references=0):
    """Of every noisy chunk: what the packed pass gives, what the cached rollout gives on the same clean history, and what that
    recalled."""
    cut = Cut.parse(cut)
    net = tiny_net()
    lengths = [1] * references + [first] + [chunk] * 5
    frames = sum(lengths)
    generator = torch.Generator().manual_seed(1)
    clean, noisy = (torch.randn(2, 16, frames, *SIZE, generator=generator) for _ in range(2))
    shot_of = [*range(3, 3 + references), 0, 0, 1, 1, 2, 2]
    prompts = torch.cat([text(i) for i in range(3 + references)])
    rope = Rope(TINY.head_dim, (2, 2), "cpu")
    layers = project_text(net, prompts)

    kept = {"cut": cut, "sink": sink, "references": references}
    view = PackedView(lengths, settings, rope, shots=shot_of, shot_angle=angle, **kept)
    of_frame = [shot_of[i] for i, n in enumerate(lengths) for _ in range(n)]
    rows = torch.tensor(of_frame[: view.clean] + of_frame).expand(2, -1)
    timesteps = torch.zeros(2, view.frames)
    timesteps[:, view.clean :] = 700.0
    packed = net(view.pack(clean, noisy), timesteps, TextKV(layers, rows, 1), view)[:, :, view.clean :]

    memory = KVMemory(FrameStore(TINY.num_layers, 2, (4, 2, TINY.head_dim), torch.float32, torch.device("cpu")))
    start, out = 0, []
    for i, length in enumerate(lengths):
        part = slice(start, start + length)
        angles = angle * (torch.tensor(of_frame[:start]) - shot_of[i]) if angle else None
        take = shot_of.index(shot_of[i])
        cached = RolloutView(memory, settings, rope, length, shot_start=take, angles=angles, **kept)
        text_kv = TextKV(layers, torch.full((2, length), shot_of[i]), length)
        one = net(noisy[:, :, part], torch.full((2, length), 700.0), text_kv, cached)
        out.append((packed[:, :, part], one, cached.recalled()))
        writing, start = WritingView(cached), start + length
        net(clean[:, :, part], torch.zeros(2, length), text_kv, writing)
        memory = writing.after
    return out


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
@pytest.mark.parametrize(
    ("window", "top_k", "cut", "sink", "angle"),
    [
        (1, 2, "native", 0, 0.0),
        (2, 0, "native", 0, 0.0),
        (1, 5, "native", 0, 0.0),
        (0, 3, "native", 0, 0.0),
        (2, 2, "flush", 0, 0.0),
        (1, 2, "rope_jump", 1, 0.0),
        (1, 2, "pinned", 0, 0.0),
        (2, 3, "flush+rope_jump+pinned", 2, 0.0),
        (2, 2, "flush", 1, 1 / 6),
    ],
)
@torch.no_grad()
def test_promise_1_train_equals_infer(chunk, first, window, top_k, cut, sink, angle):
    """The packed pass gives for every noisy chunk what the cached rollout gives on the same clean history."""
    made = train_and_infer(chunk, first, ResolvedMemory(window, top_k), cut, sink, angle)
    for packed, cached, _ in made:
        torch.testing.assert_close(packed, cached, atol=1e-4, rtol=0)
    assert any((recalled >= 0).any() for _, _, recalled in made) == (top_k > 0)


@pytest.mark.parametrize(("window", "top_k", "cut", "sink"), [(1, 3, "native", 0), (2, 2, "flush+rope_jump+pinned", 2)])
@torch.no_grad()
def test_promise_1_train_equals_infer_with_references(window, top_k, cut, sink):
    """Pictures from outside the film stand before it in both."""
    made = train_and_infer(3, 3, ResolvedMemory(window, top_k), cut, sink, references=3)
    for packed, cached, _ in made:
        torch.testing.assert_close(packed, cached, atol=1e-4, rtol=0)
    assert all((recalled < 0).all() for _, _, recalled in made[:3])  # a reference sees itself alone
    first, last = made[3][2], made[-1][2]
    assert ((first >= 0) & (first < 3)).sum() == first.numel() - max(0, top_k - 3) * len(first) * 2
    assert ((last >= 0) & (last < 3)).any()  # at any distance


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
@pytest.mark.parametrize("cut", ["native", "flush+pinned"])
@pytest.mark.parametrize("routing", ROUTINGS)
@torch.no_grad()
def test_promise_1_train_equals_infer_however_it_is_chosen_what_is_recalled(routing, cut, chunk, first):
    made = train_and_infer(chunk, first, ResolvedMemory(1, 2, routing), cut)
    for packed, cached, _ in made:
        torch.testing.assert_close(packed, cached, atol=1e-4, rtol=0)
    assert (made[-1][2] >= 0).all()


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
@torch.no_grad()
def test_promise_1_train_equals_infer_in_mixed_precision(chunk, first, monkeypatch):
    """Under autocast both choose the same frames, and see the same to the rounding of bfloat16."""
    asked = []  # by the packed pass, of every layer: for each of its segments, the noisy ones last

    def noted(scores, k, eligible=None):
        asked.append(choose(scores, k, eligible))
        return asked[-1]

    monkeypatch.setattr("causalcine_core.memory.routing.choose", noted)
    with torch.autocast("cpu", torch.bfloat16):
        made = train_and_infer(chunk, first, ResolvedMemory(1, 2))
    assert len(asked) == TINY.num_layers
    for i, (packed, cached, recalled) in enumerate(made):
        torch.testing.assert_close(packed, cached, atol=0.06, rtol=0.06)
        if i:  # a first chunk of its own length has nothing to choose from
            assert torch.equal(torch.stack([of_layer[:, i - len(made)] for of_layer in asked]), recalled)
    assert (made[-1][2] >= 0).all()


@pytest.mark.parametrize("frames", [1, 6])
def test_promise_2_base_parity(frames):
    """One chunk as long as the video is the bidirectional Wan2.1 transformer, as diffusers has it."""
    from diffusers import WanTransformer3DModel

    net = tiny_net()
    reference = WanTransformer3DModel(
        num_attention_heads=TINY.num_heads,
        attention_head_dim=TINY.head_dim,
        text_dim=TINY.text_dim,
        freq_dim=TINY.freq_dim,
        ffn_dim=TINY.ffn_dim,
        num_layers=TINY.num_layers,
        qk_norm="rms_norm_across_heads",
        cross_attn_norm=True,
        eps=TINY.eps,
    ).eval()
    reference.load_state_dict({_diffusers_name(name): t for name, t in net.state_dict().items()})

    generator = torch.Generator().manual_seed(2)
    latents, prompt = torch.randn(1, 16, frames, 8, 4, generator=generator), text(0)
    memory = KVMemory(FrameStore(TINY.num_layers, 1, (8, 2, TINY.head_dim), torch.float32, torch.device("cpu")))
    view = RolloutView(memory, ResolvedMemory(3, 5), Rope(TINY.head_dim, (4, 2), "cpu"), frames)
    with torch.no_grad():
        kv = TextKV(project_text(net, prompt), torch.zeros(1, frames, dtype=torch.int64), frames)
        ours = net(latents, torch.full((1, frames), 321.0), kv, view)
        theirs = reference(latents, torch.tensor([321.0]), prompt).sample
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_3_no_leak(chunk, first):
    """A later chunk's prompt or seed never changes an earlier output, and does change its own."""
    shots = [0, 0, 1, 1, 2, 2]
    chunks = planned(6, chunk, first, shots)
    before = run(fresh(chunk=chunk, first_chunk=first), chunks, [text(0), text(1), text(2)])
    other_text = run(fresh(chunk=chunk, first_chunk=first), chunks, [text(0), text(1), text(9)])
    other_noise = run(fresh(chunk=chunk, first_chunk=first), chunks, [text(0), text(1), text(2)], shot_seeds={2: 99})
    for changed in (other_text, other_noise):
        for i in range(4):
            assert torch.equal(before[i].latent, changed[i].latent)
        assert not torch.equal(before[4].latent, changed[4].latent)


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_3_no_leak_inside_the_packed_pass(chunk, first):
    """Teacher forcing: what a later chunk holds, clean or noisy, and what its text says, is invisible to earlier chunks."""
    net, lengths, shots = tiny_net(), [first] + [chunk] * 4, [0, 0, 1, 1, 2]
    starts = [sum(lengths[:i]) for i in range(6)]
    rope, settings = Rope(TINY.head_dim, (2, 2), "cpu"), MemorySettings().resolve(1, 2)
    generator = torch.Generator().manual_seed(3)
    clean, noisy = (torch.randn(1, 16, sum(lengths), *SIZE, generator=generator) for _ in range(2))

    def outputs(clean, noisy, texts):
        view = PackedView(lengths, settings, rope, shots=shots)
        of_frame = torch.tensor([shot for shot, n in zip(shots, lengths, strict=True) for _ in range(n)])
        timesteps = torch.zeros(1, view.frames)
        timesteps[:, view.clean :] = 500.0
        rows = torch.cat([of_frame[: view.clean], of_frame])[None]
        with torch.no_grad():
            kv = TextKV(project_text(net, torch.cat(texts)), rows, 1)
            return net(view.pack(clean, noisy), timesteps, kv, view)[:, :, view.clean :]

    texts = [text(0), text(1), text(2)]
    before = outputs(clean, noisy, texts)
    for last in range(5):  # the first chunk that is touched, in three ways
        clean_too, noisy_too = clean.clone(), noisy.clone()
        clean_too[:, :, starts[last] :] += 1
        noisy_too[:, :, starts[last] :] += 1
        other = [text(9) if shot == shots[last] else one for shot, one in enumerate(texts)]
        for after, touched in (
            (outputs(clean_too, noisy, texts), last + 1),  # no chunk sees its own clean copy
            (outputs(clean, noisy_too, texts), last),
            (outputs(clean, noisy, other), shots.index(shots[last])),
        ):
            begin = starts[touched]
            torch.testing.assert_close(before[:, :, :begin], after[:, :, :begin], atol=1e-5, rtol=0)
            assert touched == 5 or (before[:, :, begin:] - after[:, :, begin:]).abs().max() > 1e-3


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_4_bounded(chunk, first):
    """What attention reads and the largest position stop growing once memory and window are full."""
    state = fresh(chunk=chunk, first_chunk=first)
    net = network(tiny_net())
    spans = []
    original = Rope.table

    def recording(self, frames):
        spans.append(frames)
        return original(self, frames)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rope, "table", recording)
        for _ in rollout(net, planned(40, chunk, first), lambda shot: text(0), state, size=SIZE):
            pass
    assert max(spans) == 2 + 1 * chunk + chunk  # k + W * c + c
    assert max(spans[: len(spans) // 2]) == max(spans[len(spans) // 2 :])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_promise_4_every_way_to_recall_sees_as_many_frames(routing):
    """So that they can be compared: what is recalled differs, not how much."""
    recipe, chunks = tiny_recipe(), planned(6)
    state = begin(network(tiny_net()), recipe, MemorySettings(routing=routing), size=SIZE, seed=7)
    made = run(state, chunks, [text(0)])
    for i, done in enumerate(made):
        before = max(0, 3 * (i - recipe.visibility.window))
        for row in done.routing.tolist():
            chosen = [frame for frame in row if frame >= 0]
            assert chosen == sorted(set(chosen)) and set(chosen) <= set(range(before))
            assert len(chosen) == min(recipe.visibility.top_k, before)


def test_frames_right_before_the_window_are_a_longer_window():
    """Recalling three frames by place or one more chunk of window: the same film to rounding, at the same places."""
    chunks, net = planned(6), network(tiny_net())
    asked = MemorySettings(window=1, top_k=3, routing="fifo"), MemorySettings(window=2, top_k=0)
    films = []
    for settings in asked:
        state = begin(net, tiny_recipe(), settings, size=SIZE, seed=7)
        films.append(run(state, chunks, [text(0)])[-1].state.film())
    torch.testing.assert_close(*films, atol=1e-5, rtol=0)


def test_promise_4_the_store_holds_what_states_hold():
    """Slots come back when the last state that holds them is gone."""
    state = fresh()
    store = state.memory.store
    last = run(state, planned(4), [text(0)])[-1].state
    assert store is last.memory.store
    assert store.used == 9  # the newest chunk is written when the next one is made
    del last
    assert store.used == 0


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
@pytest.mark.parametrize("storage", STORAGES)
def test_promise_4_the_store_stays_within_its_budget(chunk, first, storage):
    """Frames are let go of, and nothing grows any more, long before the film ends."""
    recipe, budget = tiny_recipe(chunk=chunk, first_chunk=first, steps=1), 0.0002124  # GiB, of 22 frames
    state = begin(network(tiny_net()), recipe, MemorySettings(budget=budget, storage=storage), size=SIZE, seed=7)
    held, chunks = [], planned(60 // chunk, chunk, first)
    for made in rollout(network(tiny_net()), chunks, lambda shot: text(0), state, size=SIZE):
        state = made.state
        assert state.memory.store.nbytes <= budget * 2**30
        held.append((state.memory.store.nbytes, state.memory.store.used))
    assert state.memory.evicted > 0
    assert len(set(held[-3:])) == 1 and held[-1] == max(held)


@pytest.mark.parametrize("distance", [10, 1000])
@pytest.mark.parametrize("alone", [True, False])
def test_promise_5_recall(distance, alone):
    """The frame whose key matches is found at any distance, and ties with nothing in between; also where others may not compete."""
    generator = torch.Generator().manual_seed(4)
    descriptors = 0.1 * torch.randn(1, distance + 1, 2, 8, generator=generator)
    query = torch.randn(1, 1, 2, 8, generator=generator)
    descriptors[0, 3] = query[0, 0]
    descriptors[0, 5] = 2 * query[0, 0]  # better still, but not everywhere allowed
    eligible = torch.ones(1, distance + 1, dtype=torch.bool)
    eligible[0, 5] = False
    assert route(query, descriptors, 1, None if alone else eligible)[0, 0].tolist() == [5 if alone else 3]


@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_5_the_window_never_competes(chunk, first):
    """Nothing inside the window is recalled; everything before it can be."""
    chunks = planned(8, chunk, first)
    made = run(fresh(chunk=chunk, first_chunk=first, top_k=50, window=2), chunks, [text(0)])
    for i, done in enumerate(made):
        recalled = set(done.routing.flatten().tolist()) - {-1}
        assert recalled == set(range(chunks[max(0, i - 2)].latents[0]))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_6_fork(chunk, first, storage, tmp_path):
    """Two continuations of one state are the same film, change nothing in it, and survive a file bit for bit."""
    half = 4  # so that some frames are cold
    chunks = planned(2 * half, chunk, first, [0] * half + [1] * half)
    texts = [text(0), text(1)]
    recipe = tiny_recipe(chunk=chunk, first_chunk=first)
    start = begin(network(tiny_net()), recipe, MemorySettings(storage=storage), size=SIZE, seed=7)
    middle = run(start, chunks[:half], texts)[-1].state
    kept = {name: t.clone() for name, t in middle.memory.tensors().items()}

    once = run(middle, chunks[half:], texts)
    other = run(middle, chunks[half:], [text(5), text(6)])
    twice = run(middle, chunks[half:], texts)
    middle.save(tmp_path / "state.safetensors")
    loaded = run(State.load(tmp_path / "state.safetensors"), chunks[half:], texts)

    assert torch.equal(once[-1].state.film(), twice[-1].state.film())
    assert torch.equal(once[-1].state.film(), loaded[-1].state.film())
    assert not torch.equal(once[-1].latent, other[-1].latent)
    assert all(torch.equal(t, middle.memory.tensors()[name]) for name, t in kept.items())
    assert [r.plan for r in loaded[-1].state.records] == chunks


@pytest.mark.parametrize("pieces", [[1] * 7, [3, 3, 1], [2, 5], [1, 3, 3]])
def test_promise_7_streaming_decode_equals_whole_decode(pieces):
    torch.manual_seed(0)
    vae = WanVAE(VAEConfig(dim=8, num_res_blocks=1, z_dim=16)).eval()
    latent = torch.randn(1, 16, 7, 3, 2)
    with torch.no_grad():
        whole, _ = vae.decode(latent)
        state, parts = None, []
        for part in latent.split(pieces, 2):
            video, state = vae.decode(part, state)
            parts.append(video)
    torch.testing.assert_close(torch.cat(parts, 2), whole, atol=1e-5, rtol=0)
    assert whole.shape[2] == 4 * 7 - 3


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "unipc", "renoise"])
@pytest.mark.parametrize(("chunk", "first"), LAYOUTS)
def test_promise_8_same_seed_same_video(chunk, first, sampler, guidance):
    """One run, an appended run, and a run cancelled and resumed are equal; another seed is not."""
    changes = {"chunk": chunk, "first_chunk": first, "sampler": sampler, "guidance": guidance}
    kwargs = {"negative": text(50)}
    chunks, texts = planned(5, chunk, first, [0, 0, 1, 1, 1]), [text(0), text(1)]
    whole = run(fresh(**changes), chunks, texts, **kwargs)[-1].state.film()

    half = run(fresh(**changes), chunks[:2], texts, **kwargs)[-1].state
    assert torch.equal(run(half, chunks[2:], texts, **kwargs)[-1].state.film(), whole)

    class Cancelled(Exception):  # noqa: N818
        pass

    def cancel(info):
        if (info.chunk.index, info.step) == (3, 1):
            raise Cancelled

    state = fresh(**changes)
    with pytest.raises(Cancelled):
        for done in rollout(
            network(tiny_net()), chunks, lambda shot: texts[shot], state, size=SIZE, on_step=cancel, **kwargs
        ):
            state = done.state
    assert state.chunks == 3
    assert torch.equal(run(state, state.planned, texts, **kwargs)[-1].state.film(), whole)
    assert not torch.equal(run(replace(fresh(**changes), seed=8), chunks, texts, **kwargs)[-1].state.film(), whole)


def test_latents_leave_the_rollout_in_vae_space():
    state = run(fresh(), planned(1), [text(0)])[-1].state
    assert state.film().shape == (1, 16, 3, *SIZE)
    assert math.isfinite(normalize(state.film()).abs().max().item())


def _diffusers_name(name: str) -> str:
    for ours, theirs in (
        ("text_embedding.0", "condition_embedder.text_embedder.linear_1"),
        ("text_embedding.2", "condition_embedder.text_embedder.linear_2"),
        ("time_embedding.0", "condition_embedder.time_embedder.linear_1"),
        ("time_embedding.2", "condition_embedder.time_embedder.linear_2"),
        ("time_projection.1", "condition_embedder.time_proj"),
        ("self_attn", "attn1"),
        ("cross_attn", "attn2"),
        (".q.", ".to_q."),
        (".k.", ".to_k."),
        (".v.", ".to_v."),
        (".o.", ".to_out.0."),
        ("norm3", "norm2"),
        ("ffn.0", "ffn.net.0.proj"),
        ("ffn.2", "ffn.net.2"),
        ("head.modulation", "scale_shift_table"),
        ("modulation", "scale_shift_table"),
        ("head.head", "proj_out"),
    ):
        name = name.replace(ours, theirs)
    return name
