"""A film that is directed while it is made: edits land on the next chunk, the head moves, takes stay, nothing is made twice."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from causalcine_core import LoRA, MemorySettings, Pipeline, Shot, Story
from causalcine_core.errors import InputError
from causalcine_core.film import back_to
from causalcine_core.session import Session
from causalcine_core.styles import MergedStyles

CHUNK = 12 / 16  # seconds


def story(*prompts: str, chunks: int = 2) -> Story:
    return Story([Shot(prompt, seconds=chunks * CHUNK) for prompt in prompts])


def made(session: Session, chunks: int | None = None) -> list[int]:
    return [chunk.index for chunk in session.run(chunks, decode=False)]


def film(pipe: Pipeline, *stories: Story, **asked) -> torch.Tensor:
    state = None
    for one in stories:
        for chunk in pipe.stream(one, state=state, decode=False, **(asked if state is None else {})):
            state = chunk.state
    assert state is not None
    return state.film()


def test_what_is_appended_while_it_runs_follows_what_was_planned(pipe):
    session = pipe.session(story("a fox"), seed=3)
    for chunk in session.run(decode=False):
        if chunk.index == 0:
            session.append(story("the snow"))
    whole = film(pipe, Story([*story("a fox").shots, *story("the snow").shots]), seed=3)
    assert torch.equal(session.state.film(), whole)


def test_a_cut_now_is_under_the_new_words_from_the_very_next_chunk_on(pipe):
    session = pipe.session(story("a fox", chunks=6), seed=3)
    shots = []
    for chunk in session.run(decode=False):
        shots.append(chunk.shot)
        if chunk.index == 1:
            session.cut_now("the snow", 2 * CHUNK)
    assert shots == [0, 0, 1, 1]
    assert [shot.caption for shot in session.state.shots] == ["a fox", "the snow"]
    kept = next(c.state for c in pipe.stream(story("a fox", chunks=6), seed=3, decode=False) if c.index == 1)
    *_, last = pipe.stream(story("the snow"), state=kept, decode=False)
    assert torch.equal(session.state.film(), last.state.film())


def test_text_changes_softly_inside_a_going_shot(pipe):
    session = pipe.session(story("a fox", chunks=6), seed=3)
    for chunk in session.run(decode=False):
        if chunk.index == 1:
            session.change_text("the snow", 4 * CHUNK, over=2)
    plans = [record.plan for record in session.state.records]
    assert [plan.take for plan in plans] == [0] * 6
    assert [len(plan.text) for plan in plans] == [0, 0, 2, 2, 0, 0]


def test_undo_and_redo_move_the_head_and_make_nothing(pipe):
    session = pipe.session(story("a fox"), seed=3)
    made(session)
    whole = session.state
    session.append(story("the snow"))
    assert len(session.state.planned) == 2
    session.undo()
    assert session.state.planned == ()
    session.undo()
    assert session.state.chunks == 1
    session.undo()
    assert session.state.chunks == 0
    session.undo(5)
    session.redo(2)
    assert torch.equal(session.state.film(), whole.film())
    assert session.state.memory.lengths == whole.memory.lengths


def test_a_branch_that_is_left_stays_as_a_take(pipe):
    """Its film is what it was; what is made from before it is what it would be had it never been."""
    session = pipe.session(story("a fox", chunks=4), seed=3)
    made(session)
    first = session.state.film()
    session.back_to(2)
    session.append(story("the snow"))
    assert made(session) == [2, 3]
    assert len(session.takes) == 2
    left, new = session.takes
    assert torch.equal(left.state.film(), first)
    assert (new.parent, new.since) == (left.id, 2)
    fresh = next(c.state for c in pipe.stream(story("a fox", chunks=4), seed=3, decode=False) if c.index == 1)
    *_, last = pipe.stream(story("the snow"), state=fresh, decode=False)
    assert torch.equal(new.state.film(), last.state.film())
    session.choose(left.id)
    assert torch.equal(session.state.film(), first)
    session.drop(new.id)
    assert [take.id for take in session.takes] == [left.id]
    with pytest.raises(InputError, match="the head is on it"):
        session.drop(left.id)


def test_a_session_cancels_after_the_pass_that_is_under_way_and_goes_on_as_if_it_had_not(pipe):
    told = []
    session = pipe.session(story("a fox", chunks=3), seed=3, on_event=told.append)

    def stop(event):
        told.append(event)
        if event.kind == "step" and event.data.chunk.index == 1:
            session.cancel()

    session.on_event = stop
    assert made(session) == [0]
    assert told[-1].kind == "cancelled"
    assert sum(event.kind == "step" and event.data.chunk.index == 1 for event in told) == 1
    session.on_event = told.append
    assert made(session) == [1, 2]
    assert torch.equal(session.state.film(), film(pipe, story("a fox", chunks=3), seed=3))


def test_every_thing_that_happens_is_told(pipe):
    told = []
    session = pipe.session(seed=3, on_event=lambda event: told.append((event.kind, event.chunks)))
    session.append(story("a fox"))
    made(session)
    session.back_to(1)
    session.cut_now("the snow", CHUNK)
    made(session)
    steps = [("step", 0)] * pipe.recipe.schedule.steps
    assert told[: 2 + len(steps)] == [("edited", 0), *steps, ("chunk", 1)]
    kinds = [kind for kind, _ in told if kind != "step"]
    assert kinds == ["edited", "chunk", "chunk", "done", "moved", "edited", "take", "chunk", "done"]


def test_a_retake_is_another_take_that_shares_what_comes_before(pipe):
    """As it was planned, cut modes and soft changes among it; under another seed, which a shot's own gives way to."""
    shots = [Shot("a fox", seconds=1.5), Shot("runs", seconds=1.5, seed=5), Shot("sleeps", seconds=1.5, cut="soft")]
    session = pipe.session(Story(shots), seed=7)
    made(session)
    first, plan = session.state, [record.plan for record in session.state.records]
    session.retake(shot=2)
    assert (session.head.chunks, [*session.head.planned]) == (2, plan[2:])
    made(session)
    assert torch.equal(session.state.film(), first.film()), "the same seed, the same film"
    session.retake(shot=2, seed=8)
    made(session)
    other = session.state
    assert [record.plan for record in other.records] == plan
    assert [record.seed for record in other.records] == [7, 7, 8, 8, 8, 8]
    assert torch.equal(other.film()[:, :, :6], first.film()[:, :, :6])
    assert not any(torch.equal(a, b) for a, b in zip(other.latents[2:], first.latents[2:], strict=True))
    session.retake(chunk=6)
    assert session.head.chunks == 5, "inside a shot, which goes on as it was planned"
    assert len(session.takes) == 3
    with pytest.raises(InputError, match="from_shot must be a whole number from 1 to 3, got 4"):
        session.retake(shot=4)
    with pytest.raises(InputError, match="from_shot and from_chunk say the same in two ways"):
        session.retake()


@pytest.mark.parametrize("budget", [None, 200])
def test_two_takes_are_made_at_once_from_one_state(pipe, budget):
    """In two threads, as often as one likes: each is the film that it is alone."""
    size = None if budget is None else MemorySettings(budget=budget * 2**-20)
    begun = None
    for chunk in pipe.stream(story("a fox"), seed=3, decode=False, memory=size):
        begun = chunk.state
    alone = [
        [c.latent for c in pipe.stream(story(prompt), state=begun, decode=False)][-1] for prompt in ("the snow", "runs")
    ]
    for _ in range(4):
        takes = [pipe.session(story(prompt), state=begun) for prompt in ("the snow", "runs")]
        threads = [threading.Thread(target=made, args=(take,)) for take in takes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for take, expected in zip(takes, alone, strict=True):
            assert torch.equal(take.state.latents[-1], expected)


def test_a_session_runs_in_one_thread_at_a_time(pipe):
    session = pipe.session(story("a fox"), seed=3)
    running = session.run(decode=False)
    next(running)
    with pytest.raises(InputError, match="running already"):
        made(session)
    running.close()
    assert made(session) == [1]


def test_a_film_cut_back_is_decoded_as_it_was(pipe):
    """Frames after a retake follow on those that stay, bit for bit as in a film that was never longer."""
    *_, last = pipe.stream(story("a fox", chunks=4), seed=3)
    short = next(c.state for c in pipe.stream(story("a fox", chunks=4), seed=3) if c.index == 1)
    retaken = [c.frames for c in pipe.stream(story("the snow"), state=back_to(last.state, 2))]
    expected = [c.frames for c in pipe.stream(story("the snow"), state=short)]
    assert all((one == other).all() for one, other in zip(retaken, expected, strict=True))


@pytest.mark.parametrize("memory", [MemorySettings(), MemorySettings(storage="8bit"), MemorySettings(storage="host")])
def test_a_film_goes_on_from_any_chunk(pipe, memory):
    """Where the store keeps frames as they were their memory comes along; else it is written anew, to rounding."""
    *_, last = pipe.stream(story("a fox", chunks=6), seed=3, decode=False, memory=memory)
    for chunks in (1, 3, 5):
        state = back_to(last.state, chunks)
        fresh = next(
            c.state
            for c in pipe.stream(story("a fox", chunks=6), seed=3, decode=False, memory=memory)
            if c.index == chunks - 1
        )
        *_, one = pipe.stream(story("the snow"), state=state, decode=False)
        *_, other = pipe.stream(story("the snow"), state=replace(fresh, planned=()), decode=False)
        if memory.storage == "full":
            assert torch.equal(one.state.film(), other.state.film())
        torch.testing.assert_close(one.state.film(), other.state.film(), atol=1e-3, rtol=1e-3)
    with pytest.raises(InputError, match="chunk must be a whole number from 0 to 6"):
        back_to(last.state, 7)


def test_a_session_that_is_told_nonsense_while_it_runs_is_not_locked(pipe):
    told = []
    session = pipe.session(story("a fox", chunks=3), seed=1, on_event=told.append)
    running = session.run(decode=False)
    next(running)
    session.back_to(99)
    running.close()
    assert [event.data for event in told if event.kind == "failed"] == [
        "chunk must be a whole number from 0 to 1, got 99"
    ]
    assert made(session) == [1, 2]


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.undo(1.5),
        lambda s: s.undo(-3),
        lambda s: s.redo("a"),
        lambda s: s.back_to(1.0),
        lambda s: s.back_to(True),
        lambda s: s.choose([]),
        lambda s: list(s.run("2")),
        lambda s: list(s.run(-1)),
    ],
)
def test_what_is_no_number_of_steps_chunks_or_take_is_refused_and_nothing_is_lost(pipe, call):
    session = pipe.session(story("a fox"), seed=1)
    made(session, 1)
    with pytest.raises(InputError):
        call(session)
    assert session.state.chunks == 1
    assert made(session) == [1]


def test_who_is_told_may_wait_for_another_thread(pipe):
    """Nothing is locked while an event is told."""

    def tell(event):
        if event.kind == "chunk" and event.chunks == 1:
            other = threading.Thread(target=session.append, args=(story("the snow"),))
            other.start()
            other.join(10)
            assert not other.is_alive()

    session = pipe.session(story("a fox"), seed=1, on_event=tell)
    assert made(session) == [0, 1, 2, 3]


def test_a_take_that_is_chosen_goes_on_from_what_was_made_of_it(pipe):
    """What was planned after it is gone, its shots too: the film is that of one cut back there."""
    films = []
    for back in (lambda s: s.choose(s.takes[0].id), lambda s: s.back_to(1)):
        session = pipe.session(Story([*story("a fox").shots, *story("runs").shots]), seed=1)
        made(session, 1)
        back(session)
        session.append(story("the snow"))
        made(session)
        assert [shot.index for shot in session.state.shots] == [0, 1]
        films.append(session.state.film())
    assert torch.equal(*films)


def test_a_take_that_is_dropped_leaves_the_head_where_it_is(pipe):
    session = pipe.session(seed=1)
    for prompt in ("a fox", "runs"):
        session.append(story(prompt))
        made(session, 1)
        session.back_to(0)
    session.append(story("the snow"))
    session.back_to(0)
    session.drop(next(take.id for take in session.takes if take.id != session.head.take))
    session.undo()
    assert session.state.shots[-1].caption == "the snow"


def test_takes_under_a_budget_take_no_more_than_one_film(pipe):
    """However many there are and whichever goes on: only where the head is something is remembered."""
    budget, sizes = 200 * 2**-20, []
    session = pipe.session(story("a fox", chunks=8), seed=1, memory=MemorySettings(budget=budget))
    made(session)
    for _ in range(3):
        session.back_to(4)
        session.cut_now("the snow", 4 * CHUNK)
        made(session)
    for take in session.takes:
        session.choose(take.id)
        session.append(story("runs"))
        made(session)
        kept = {id(t.state.memory.store): t.state.memory.store.nbytes for t in session.takes if t.state.memory}
        sizes.append(sum(kept.values()))
    assert max(sizes) <= budget * 2**30


def test_a_film_of_which_nothing_was_made_keeps_what_was_asked_of_it(pipe):
    state = pipe.session(story("a fox"), seed=5, memory=MemorySettings(window=2)).state
    begun = pipe.start(None, state=state)
    assert (begun.seed, begun.settings.window) == (5, 2)
    *_, last = pipe.run(begun, decode=False)
    assert torch.equal(last.state.film(), film(pipe, story("a fox"), seed=5, memory=MemorySettings(window=2)))


def test_new_words_begin_rolling_chunks_anew(pipe):
    rolling = Pipeline(pipe.network, pipe.text, pipe.vae, pipe.recipe.changed(sampler="rolling", steps=3), "rolling")
    session = rolling.session(Story([Shot("a", seconds=CHUNK), Shot("a fox", seconds=4 * CHUNK)]), seed=1)
    made(session, 1)
    assert session.state.pending
    session.cut_now("runs", 4 * CHUNK)
    assert session.state.pending == ()


# --- cases of design/cases.md


def test_c10_what_changes_without_a_text_goes_on_under_the_newest_one(pipe):
    """A window, steps or a seed that are changed, and a film that is cut back or forked, bring no earlier text back."""
    session = pipe.session(story("bubbles", chunks=4), seed=3)
    made(session, 2)
    session.change_text("flames", 4 * CHUNK)
    made(session, 1)
    state = session.state
    assert [shot.caption for shot in state.shots] == ["bubbles", "flames"]
    asked: list[str] = []

    def encode(prompt: str) -> torch.Tensor:
        asked.append(prompt)
        return Pipeline.encode(pipe, prompt)

    watched = copy.copy(pipe)
    watched.encode = encode
    for changed in ({"memory": MemorySettings(window=2)}, {"steps": 1}, {"seed": 9}, {}):
        asked.clear()
        *_, last = watched.stream(None, state=state, decode=False, **changed)
        assert {record.plan.shot for record in last.state.records[3:]} == {1}
        assert asked[-1] == "flames" and last.state.shots == state.shots
    fork = session.fork()
    made(fork)
    session.back_to(3)
    session.append(story("flames"))
    for state in (fork.state, session.state):
        assert state.shots[-1].caption == "flames"


def test_c17_twenty_calls_are_one_film_whatever_shots_have_of_their_own(pipe, tmp_path):
    """To the bit, so that no join adds anything; a seed, a soft change or a LoRA of one shot is found wherever the chain is cut."""
    weight = pipe.network.net.get_submodule("blocks.0.self_attn.q").weight
    draw = torch.Generator().manual_seed(0)
    halves = {
        "A": torch.randn(1, weight.shape[1], generator=draw),
        "B": torch.randn(weight.shape[0], 1, generator=draw),
    }
    save_file(
        {f"blocks.0.self_attn.q.lora_{half}.weight": tensor for half, tensor in halves.items()},
        tmp_path / "ink.safetensors",
    )
    styled = copy.copy(pipe)
    styled.styles = MergedStyles([tmp_path])
    own = [{"seed": 8}, {"cut": "soft", "blend": 2}, {"lora": (LoRA("ink.safetensors", 0.5),)}, {}]
    shots = [Shot(f"a fox {i % 3}", seconds=CHUNK, **own[i % 4]) for i in range(20)]
    whole = film(styled, Story(shots), seed=3)
    assert torch.equal(film(styled, *(Story([shot]) for shot in shots), seed=3), whole)
    plain = [replace(shot, lora=()) for shot in shots]
    assert not torch.equal(film(styled, Story(plain), seed=3), whole)
