"""How one shot follows another: what each mode changes in what a chunk sees, and in which words it reads."""

from __future__ import annotations

import pytest
import torch

from causalcine_core.cut import Cut
from causalcine_core.errors import InputError
from causalcine_core.memory import FrameStore, KVMemory, MemorySettings, ResolvedMemory, RolloutView, WritingView
from causalcine_core.memory.visibility import visibility
from causalcine_core.model.kernels import sdpa
from causalcine_core.model.rope import Rope
from causalcine_core.plan import plan
from causalcine_core.sampling import State, begin, rollout
from causalcine_core.story import Shot, Story

from ..helpers import network, text, tiny_net, tiny_recipe

SIZE = (4, 4)


def film(cut: str, *, blend: int | None = None, **changes):
    """Three chunks, then a shot of four that follows by `cut`."""
    recipe = tiny_recipe(window=2, top_k=2, **changes)
    story = Story([Shot("a", frames=33), Shot("b", frames=48, cut=cut, blend=blend)])
    chunks = plan(story, cut=recipe.cut.mode).chunks
    assert [c.shot for c in chunks] == [0, 0, 0, 1, 1, 1, 1]
    state = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=3)
    return list(rollout(network(tiny_net()), chunks, text, state, size=SIZE, negative=text(5)))


def test_native_sees_the_window_and_may_recall_the_rest():
    seen = visibility([3, 3, 3, 3], 2, window=2)
    assert seen.near == (6, 7, 8, 9, 10, 11)
    assert list(seen.far) == [0, 1, 2, 3, 4, 5]
    assert seen.gap == 0


def test_flush_empties_the_window_but_for_its_last_frames_and_keeps_the_memory():
    seen = visibility([3, 3, 3], 3, window=2, cut=Cut(flush=True, keep=2))
    assert seen.near == (7, 8)
    assert list(seen.far) == list(range(7))
    later = visibility([3, 3, 3, 3], 3, window=2, cut=Cut(flush=True, keep=2))
    assert later.near == (7, 8, 9, 10, 11)
    assert visibility([3, 3, 3], 0, window=2, cut=Cut(flush=True)) == visibility(
        [3, 3, 3], 0, window=2
    )  # no cut before shot 0


def test_rope_jump_sets_only_the_first_chunk_of_a_shot_apart():
    cut = Cut(rope_jump=True, jump=24)
    assert visibility([3, 3, 3], 3, window=1, cut=cut).gap == 24
    assert visibility([3, 3, 3, 3], 3, window=1, cut=cut).gap == 0
    assert visibility([], 0, window=1, cut=cut).gap == 0


def test_pinned_and_sink_stay_in_view_and_are_not_recalled():
    seen = visibility([3] * 6, 2, window=1, sink=1, cut=Cut(pinned=True))
    assert seen.near == (0, 6, 7, 8, 15, 16, 17)
    assert set(seen.far) == set(range(15)) - {0, 6, 7, 8}
    assert visibility([3, 3], 1, window=1, cut=Cut(pinned=True)).near == (3, 4, 5)  # in the window already: not twice


def test_references_are_outside_the_window_for_ever_and_before_the_film():
    """Two pictures, then chunks of three: a film sees what it would see without them, and may recall them besides."""

    def behind(seen, added):
        assert set(added.far) == {0, 1} | {frame + 2 for frame in seen.far}
        assert (added.near, added.gap) == (tuple(frame + 2 for frame in seen.near), seen.gap)

    for chunks in range(6):
        for shot in range(chunks + 1):
            for cut in ("native", "flush", "pinned", "flush+rope_jump+pinned"):
                how = {"window": 2, "sink": 1, "cut": Cut.parse(cut)}
                film = [3] * chunks
                behind(visibility(film, shot, **how), visibility([1, 1, *film], shot + 2, references=2, **how))
    for before in ([], [1]):  # a reference sees itself alone
        seen = visibility(before, 0, window=2, sink=1, references=2)
        assert (seen.near, list(seen.far)) == ((), [])


def test_a_budget_never_evicts_a_reference():
    store = FrameStore(1, 1, (4, 2, 4), torch.float32, torch.device("cpu"))
    memory, rope = KVMemory(store, limit=2), Rope(4, (2, 2), "cpu")
    for length in (1, 1, 1, 1, 1, 1, 1, 1):
        view = RolloutView(memory, ResolvedMemory(1, 1), rope, length, references=2)
        writing = WritingView(view)
        q = torch.randn(1, length, 4, 2, 4)
        writing.attend(0, q, q, q, sdpa)
        memory = writing.after
    assert (memory.place[:2] >= 0).all() and memory.evicted > 0


@pytest.mark.parametrize("cut", ["fade", "flush+", "native+flush", "soft+flush", "rewrite", "flush+flush", "", 3, None])
def test_unknown_modes_are_refused_by_name(cut):
    with pytest.raises(InputError, match=r"shots\[1\].cut must (be one of|have native alone|be soft or)"):
        Cut.parse(cut, name="shots[1].cut")


@pytest.mark.parametrize("cut", ["flush", "rope_jump", "pinned", "flush+rope_jump+pinned", "soft", "soft+rewrite"])
def test_every_mode_changes_the_shot_that_it_begins_and_nothing_before(cut):
    before, after = film("native"), film(cut)
    for i in range(3):
        assert torch.equal(before[i].latent, after[i].latent)
    assert any(not torch.equal(before[i].latent, after[i].latent) for i in range(3, 7))


def test_phrase_is_put_before_prompts_that_follow_a_cut():
    story = Story([Shot("a"), Shot("b"), Shot("c", cut="native")], global_prompt="all", cut="phrase")
    shots = plan(story, phrase="The scene transitions.").shots
    assert [s.prompt for s in shots] == ["all a", "The scene transitions. all b", "all c"]
    assert [s.caption for s in shots] == ["a", "b", "c"]


def test_a_soft_cut_blends_the_text_and_stays_in_its_take():
    story = Story([Shot("a", frames=33), Shot("b", frames=36, cut="soft", blend=2), Shot("c", frames=36, cut="flush")])
    chunks = plan(story).chunks
    assert [[shot for shot, _ in c.text] for c in chunks[3:6]] == [[0, 1], [0, 1], []]
    weights = [weight for c in chunks[3:5] for _, weight in c.text]
    assert weights == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert [c.take for c in chunks] == [0] * 6 + [6] * 3
    assert [c.cut for c in chunks] == ["native"] * 6 + ["flush"] * 3


def test_blended_text_is_the_weighted_mean_of_both():
    """With a blend over one chunk its text is half and half: as if the shot's own text were that mean."""
    half = film("soft", blend=1)[3].latent
    mean = (text(0) + text(1)) / 2
    recipe = tiny_recipe(window=2, top_k=2)
    state = begin(network(tiny_net()), recipe, MemorySettings(), size=SIZE, seed=3)
    chunks = plan(Story([Shot("a", frames=33), Shot("b", frames=36)])).chunks
    asked = list(rollout(network(tiny_net()), chunks, lambda s: text(0) if s == 0 else mean, state, size=SIZE))
    torch.testing.assert_close(half, asked[3].latent)


def test_rewrite_makes_a_new_window_and_leaves_the_old_state_alone():
    chunks = film("soft+rewrite")
    old, new = chunks[2].state.memory, chunks[3].state.memory
    assert new.slots[:3] == old.slots[:3]  # before the window: shared
    assert old.slots[3:] and not set(old.slots[3:]) & set(new.slots)
    assert new.lengths == (3, 3, 3)
    again = film("native")[2].state.memory
    for name, tensor in old.tensors().items():
        assert torch.equal(tensor, again.tensors()[name])


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_a_state_saved_inside_a_soft_cut_goes_on_as_planned(tmp_path, guidance):
    """The plan, blends and takes included, is part of the state."""
    whole = film("soft+rewrite", blend=3, guidance=guidance)
    whole[3].state.save(tmp_path / "s.safetensors")
    state = State.load(tmp_path / "s.safetensors")
    rest = list(rollout(network(tiny_net()), state.planned, text, state, size=SIZE, negative=text(5)))
    assert [torch.equal(a.latent, b.latent) for a, b in zip(rest, whole[4:], strict=True)] == [True] * 3


def test_a_soft_shot_appended_to_a_film_goes_on_from_its_last_text():
    story = Story([Shot("a", frames=33)], cut="flush")
    first = plan(story).chunks
    more = plan(
        Story([Shot("b", frames=36, cut="soft", blend=1)]), start_chunk=3, start_shot=1, before=first[-1]
    ).chunks
    assert more[0].text == ((0, 0.5), (1, 0.5))
    assert [c.take for c in more] == [0, 0, 0]


@pytest.mark.parametrize(
    ("shot", "words"),
    [
        ({"prompt": "b", "cut": "fade"}, r"shots\[1\].cut"),
        ({"prompt": "b", "cut": 1}, r"shots\[1\].cut"),
        ({"prompt": "b", "blend": 2}, r"shots\[1\].blend belongs to a soft cut"),
        ({"prompt": "b", "cut": "soft", "blend": -1}, r"shots\[1\].blend"),
        ({"prompt": "b", "cut": "soft", "blend": 1.5}, r"shots\[1\].blend"),
    ],
)
def test_bad_cuts_in_a_story_file_are_refused_by_field(shot, words):
    with pytest.raises(InputError, match=words):
        Story.from_dict({"shots": [{"prompt": "a"}, shot]})
