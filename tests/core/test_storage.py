"""The memory's store: one budget, 8-bit pages, and what goes first."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
import torch

from causalcine_core.errors import InputError
from causalcine_core.memory import ROUTINGS, STORAGES, FrameStore, KVMemory, MemorySettings, ResolvedMemory
from causalcine_core.memory.attention_buffer import AttentionBuffer
from causalcine_core.memory.prefetch import Prefetch
from causalcine_core.memory.rollout_view import RolloutView
from causalcine_core.memory.slab import numbers, quantize
from causalcine_core.memory.store import GIB, frame_bytes
from causalcine_core.sampling import State, begin, rollout
from causalcine_core.sampling.passes import most_held

from ..helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 4)
FRAME = frame_bytes(TINY.num_layers, 1, (4, 2, TINY.head_dim), torch.float32)
SMALL = frame_bytes(TINY.num_layers, 1, (4, 2, TINY.head_dim))


def start(settings: MemorySettings, **changes) -> State:
    return begin(network(tiny_net()), tiny_recipe(**changes), settings, size=SIZE, seed=1)


def run(state: State, count: int, texts=text, rewrite: int | None = None):
    """`count` more chunks, each a shot of its own; before chunk `rewrite` the window is written once more."""
    chunks = planned(state.chunks + count, shots=list(range(state.chunks + count)))[state.chunks :]
    chunks = [replace(chunk, rewrite=chunk.index == rewrite) for chunk in chunks]
    for chunk in rollout(network(tiny_net()), chunks, texts, state, size=SIZE):
        state = chunk.state
    return state


def gib(frames: float) -> float:
    return frames * FRAME / GIB


def test_bytes_are_counted_as_they_are_kept():
    for eight_bit, expected in ((False, FRAME), (True, SMALL)):
        store = FrameStore(
            3, 1, (4, 2, TINY.head_dim), torch.float32, "cpu", settings=ResolvedMemory(0, 0, storage="8bit")
        )
        assert (store.cold if eight_bit else store.hot).bytes_per_frame == expected


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("window", [1, 3, 6])
def test_a_window_that_is_written_again_takes_no_more_than_was_foretold(window, storage, recompute):
    """By a soft change of text, or before every chunk; with a budget and without one."""
    chunks = [replace(chunk, rewrite=chunk.index in (8, 20, 21, 25)) for chunk in planned(26)]
    for budget in (None, gib(60)):
        state = start(MemorySettings(window, 2, storage=storage, budget=budget), recompute=recompute)
        foretold = state.memory.store.bytes_for(most_held(state.recipe, state.settings, chunks))
        for chunk in rollout(network(tiny_net()), chunks, text, state, size=SIZE):
            assert chunk.state.memory.store.held == foretold


@pytest.mark.parametrize("storage", STORAGES)
def test_nothing_is_allocated_before_a_film_begins(storage):
    """So that a program can first make room for what `bytes_for` says; then it is allocated to the byte."""
    for budget in (None, gib(40)):
        store = start(MemorySettings(1, 2, storage=storage, budget=budget)).memory.store
        assert store.nbytes == 0
        foretold = store.bytes_for(30)
        store.reserve(30)
        assert store.held == foretold


@pytest.mark.parametrize("storage", STORAGES)
def test_a_film_that_does_not_fit_is_refused_in_one_sentence(storage):
    store = FrameStore(1, 1, (10**7, 64, 64), torch.float32, "cpu", settings=ResolvedMemory(0, 0, storage=storage))
    with pytest.raises(InputError, match=r"4000 latent frames take .* more than is free: set memory\.budget"):
        store.reserve(4000)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_long_film_stays_within_its_budget(storage):
    """The slabs themselves, not only the frames in them, at every length; and what is kept is as much as fits."""
    budget = gib(40)
    state, sizes = start(MemorySettings(1, 2, budget=budget, storage=storage)), []
    for chunk in rollout(network(tiny_net()), planned(48), text, state, size=SIZE):
        state = chunk.state
        sizes.append(state.memory.store.nbytes)
    assert max(sizes) <= budget * GIB
    assert min(sizes) > 0.8 * budget * GIB
    kept = state.memory.frames - state.memory.evicted
    assert state.memory.evicted > 0
    assert kept > (70 if storage == "8bit" else 25)


def test_what_routing_used_least_goes_first():
    """Of six frames that may be recalled, the two that never were leave; a frame that is always taken stays."""
    store = FrameStore(1, 1, (1, 1, 2), torch.float32, "cpu", settings=ResolvedMemory(1, 1, budget=1), near=1)
    memory = KVMemory(store, limit=3)
    for i in range(7):
        far = list(range(max(0, i - 1)))
        recalled = torch.tensor([[[0 if far else -1]]])
        memory = memory.append(store.hot.allocate(1), far=memory.kept(far), recalled=recalled)
    kept = [f for f, slot in enumerate(memory.slots) if slot is not None]
    assert len(kept) == 5
    assert 0 in kept  # the oldest, but used in every chunk
    assert 1 not in kept
    assert 2 not in kept


def test_an_evicted_frame_is_never_recalled():
    after = run(start(MemorySettings(1, 2, budget=gib(21))), 18)
    gone = [f for f, slot in enumerate(after.memory.slots) if slot is None]
    assert gone
    chunk = run(after, 1)
    assert not set(chunk.records[-1].routing.flatten().tolist()) & set(gone)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_budget_counts_what_older_states_hold(storage):
    """Who holds an older state holds its frames. Where the budget does not pay for both, the film stops before the chunk that would
    go beyond it, in one sentence; once the older state is let go of, it goes on."""
    budget, made = gib(40), []
    older = run(start(MemorySettings(1, 2, budget=budget, storage=storage)), 40)
    with pytest.raises(InputError, match=r"memory\.budget is used up by what earlier states of this film"):
        for chunk in rollout(network(tiny_net()), planned(80)[40:], text, older, size=SIZE):
            made.append(chunk.state.memory.store.nbytes)
            newest = chunk.state
    assert made
    assert max(made) <= budget * GIB
    last = [newest]
    del older, chunk, newest
    gc.collect()  # the error's traceback holds them too
    going = run(last.pop(), 5)  # not inside the assertion, which holds what it is given
    assert going.memory.store.nbytes <= budget * GIB


def test_a_film_under_a_budget_is_the_same_film_when_it_is_made_again():
    settings = MemorySettings(1, 2, budget=gib(20), storage="8bit")
    one, two = run(start(settings), 14), run(start(settings), 14)
    assert one.memory.evicted > 0
    assert torch.equal(one.film(), two.film())


@pytest.mark.parametrize("storage", STORAGES)
def test_a_saved_film_goes_on_bit_for_bit(storage, tmp_path):
    state = run(start(MemorySettings(1, 2, budget=gib(20), storage=storage)), 10)
    state.save(tmp_path / "state.safetensors")
    loaded = State.load(tmp_path / "state.safetensors")
    assert loaded.memory.evicted == state.memory.evicted
    states = [loaded, state]
    del loaded, state  # held, they would hold what the budget pays for
    films = [run(states.pop(), 6).film() for _ in range(2)]
    assert torch.equal(*films)


def test_eight_bits_change_little_and_only_what_is_recalled():
    """Within the window nothing changes; beyond it keys and values are off by less than one part in a hundred."""
    full, small = run(start(MemorySettings(1, 2)), 8), run(start(MemorySettings(1, 2, storage="8bit")), 8)
    for i in range(2):
        assert torch.equal(full.latents[i], small.latents[i])
    assert not torch.equal(full.latents[-1], small.latents[-1])
    x = torch.randn(5, 36, 4, 64)
    kept, scale = quantize(x)
    assert kept.dtype == torch.int8
    assert (kept * scale - x).abs().max() <= scale.max() / 2 * 1.001
    assert (kept * scale - x).norm() / x.norm() < 0.01


@pytest.mark.parametrize(("storage", "host"), [("full", "host"), ("8bit", "host_8bit")])
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("room", [AttentionBuffer.ROOM, 0])
def test_where_frames_are_kept_changes_nothing(storage, host, routing, room, monkeypatch):
    """In the host's memory as on the device; and of spans too large to keep, most of what is recalled was on its way before."""
    monkeypatch.setattr(AttentionBuffer, "ROOM", room)
    films = [run(start(MemorySettings(1, 2, storage=one, routing=routing), steps=6), 9) for one in (storage, host)]
    assert torch.equal(*(state.film() for state in films))
    there, here = (state.memory.store for state in films)
    assert there.recalled == there.held[1] == 0
    device, kept = here.held
    assert kept == here.cold.capacity * here.cold.host_bytes_per_frame > 0.9 * here.nbytes - device
    if routing == "fifo":  # has just left the window, and is moved to the host when the chunk is written
        assert here.recalled == 0
    else:
        assert here.recalled > 0
        assert (0.5 * here.recalled < here.foretold <= here.recalled) == (room == 0)


def test_a_wrong_guess_of_what_is_recalled_costs_time_only():
    """Pages that were foretold, foretold in another place, and not foretold at all are all read right."""
    store = FrameStore(2, 2, (4, 2, 3), torch.float32, "cpu", settings=ResolvedMemory(1, 2, storage="host"))
    place = numbers(store.cold.allocate(6))
    rows = store.cold.rows(place)
    for layer in range(2):
        store.cold.write(layer, store.cold.places(place), *torch.randn(2, 2, 6, 4, 2, 3))
    far = store.rows(place, torch.ones(6, dtype=torch.bool))
    ahead, held = Prefetch(store, far), []
    for choice in ([[0, 1], [2, 3]], [[0, 1], [2, 3]], [[1, 4], [3, 2]], [[5, 0], [5, 0]]):
        for layer in range(2):
            chosen = torch.tensor(choice)
            for ours, theirs in zip(
                ahead.read(layer, chosen.tolist()), store.cold.read(layer, rows.gather(1, chosen)), strict=True
            ):
                assert torch.equal(ours, theirs)
            held.append(list(ahead._pages))
    assert held == [[], [0], *[[1], [0]] * 3]  # of one layer at a time, the next
    assert store.recalled == 4 * 2 * 4
    assert store.foretold == 8 + 6  # of the second pass all, of the third three in each layer


def test_routing_of_the_first_step_is_kept_for_the_chunk():
    """One choice a layer for all steps, one for writing: and the film is another than with a choice a pass."""
    from causalcine_core.memory import rollout_view as views

    calls = []
    original = views.choose

    def counted(*args, **kw):
        calls.append(args)
        return original(*args, **kw)

    views.choose = counted
    try:
        state = run(start(MemorySettings(1, 2, routing="first_step")), 4)
    finally:
        views.choose = original
    assert len(calls) == 3 * TINY.num_layers  # chunks 2 and 3 have something to recall, and 3 is not written yet
    assert not torch.equal(state.film(), run(start(MemorySettings(1, 2)), 4).film())


def test_a_span_too_large_to_keep_gives_the_same_film(monkeypatch):
    kept = run(start(MemorySettings(1, 2)), 5).film()
    monkeypatch.setattr(AttentionBuffer, "ROOM", 0)
    assert torch.equal(kept, run(start(MemorySettings(1, 2)), 5).film())


def test_a_budget_that_is_too_small_says_what_is_needed():
    with pytest.raises(InputError, match=r"memory.budget is .* need at least .*GiB.*lower window \(1\) or top_k \(2\)"):
        start(MemorySettings(1, 2, budget=gib(3)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("budget", value) for value in (0, -1.0, float("nan"), "4", True)),
        ("storage", "4bit"),
        ("routing", "sometimes"),
        ("window", -1),
        ("top_k", 1.5),
    ],
)
def test_bad_settings_are_refused_by_name(field, value):
    with pytest.raises(InputError, match=f"memory.{field} must be"):
        replace(MemorySettings(), **{field: value})


@pytest.mark.parametrize("changes", [{}, {"context_noise": 0.1}, {"sink": 1}, {"window": 2}])
def test_a_memory_that_was_left_out_is_written_anew(tmp_path, changes):
    """The film goes on as it would have, to rounding; the file is small."""
    before = run(start(MemorySettings(), **changes), 5, rewrite=3)
    before.save(tmp_path / "full")
    before.save(tmp_path / "small", memory=False)
    assert (tmp_path / "small").stat().st_size < 0.6 * (tmp_path / "full").stat().st_size
    state = State.load(tmp_path / "small")
    assert state.memory is None
    torch.testing.assert_close(run(state, 2).film(), run(before, 2).film(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("storage", ["full", "8bit"])
def test_frames_are_matched_wherever_they_lie(storage):
    """Scores of frames in one tier or both, in any slots, are those of their descriptors."""
    memory = run(start(MemorySettings(1, 2, storage=storage)), 7).memory
    query = torch.randn(memory.store.batch, 1, *memory.store.frame_shape[1:])
    tiers = {False: memory.store.hot, True: memory.store.cold}
    for frames in (torch.arange(18), torch.tensor([1, 2, 16, 17]), torch.tensor([15, 17]), torch.tensor([4])):
        scores = memory.store.match(1, query, memory.rows(frames))
        for n, frame in enumerate(frames.tolist()):
            tier = tiers[bool(memory.cold[frame])]
            kept = tier.tensors(tier.rows(memory.place[frame : frame + 1]))["descriptors.1"][:, 0]
            torch.testing.assert_close(scores[:, 0, n], (kept * query[:, 0]).sum((1, 2)))


@pytest.mark.parametrize("storage", ["full", "host_8bit"])
def test_frames_recalled_again_are_kept_from_one_pass_to_the_next_and_no_longer(storage, monkeypatch):
    """Where a layer's choice stays it keeps what it gathered; where it changes it gathers anew: the film is the same."""

    def film():
        return run(start(MemorySettings(1, 2, storage=storage), steps=6), 9).film()

    read = []
    recalled, choose = RolloutView.read_recalled, RolloutView._choose
    monkeypatch.setattr(RolloutView, "read_recalled", lambda self, layer: read.append(layer) or recalled(self, layer))
    kept, reads = film(), len(read)
    monkeypatch.setattr(RolloutView, "_choose", lambda self, *given: choose(self, *given) or True)
    assert torch.equal(kept, film())
    assert reads < len(read) - reads


@pytest.mark.parametrize("storage", STORAGES)
def test_two_takes_of_one_state_hold_what_is_before_them_once(storage):
    """The second adds its own frames and no more, however long the film is that both go on from; both are foretold."""
    base = run(start(MemorySettings(1, 2, storage=storage)), 10)
    store, takes, sizes = base.memory.store, [], [base.memory.store.nbytes]
    for words in (text, lambda shot: text(shot + 7)):
        foretold = sum(store.bytes_for(3 * (10 + 5), base.memory.lying))
        takes.append(run(base, 5, words))
        sizes.append(store.nbytes)
        assert 0 <= sizes[-1] - foretold <= 9 * FRAME, (
            "those in view that lie apart from what is recalled come when they must"
        )
    one, apart = 5 * 3 * (FRAME if storage in ("full", "host") else SMALL), 9 * FRAME * (storage != "full")
    assert 0 < sizes[1] - sizes[0] <= one + apart
    assert sizes[2] - sizes[1] < 1.3 * one + apart
    assert not torch.equal(takes[0].film(), takes[1].film())


@pytest.mark.parametrize("storage", ["full", "host_8bit"])
def test_what_states_held_that_are_gone_is_given_back(storage):
    """To those that come next, and on request; what is still held goes on as if nothing had happened."""
    base = run(start(MemorySettings(1, 2, storage=storage)), 3)
    store, reference = base.memory.store, run(start(MemorySettings(1, 2, storage=storage)), 4).film()
    take = run(base, 9)
    large = store.nbytes
    store.trim()
    assert store.nbytes == large, "held"
    del take
    other = run(base, 9, lambda shot: text(shot + 7))
    assert store.nbytes == large, "the other one lies where the first one lay"
    del other
    store.trim()
    assert store.nbytes < large / 1.5
    assert torch.equal(run(base, 1).film(), reference)
