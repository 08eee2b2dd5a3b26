"""Shots land on chunks without adding up errors, in one call or in a chain of calls."""

from __future__ import annotations

import random

import pytest

from causalcine_core.errors import InputError
from causalcine_core.plan import Plan, Timeline, cut_notes, cut_short, plan
from causalcine_core.story import MAX_SHOTS, Shot, Story


@pytest.mark.parametrize(("chunk", "first_chunk"), [(3, 3), (3, 1), (1, 1), (5, 5)])
@pytest.mark.parametrize("start_chunk", [0, 4])
def test_a_plan_tiles_the_film_and_every_cut_is_the_nearest(chunk, first_chunk, start_chunk):
    rng = random.Random(chunk * 10 + first_chunk)
    line = Timeline(chunk, first_chunk)
    for _ in range(20):
        story = Story([Shot("x", seconds=rng.choice([0.1, 0.5, 1.3, 3, 7.77])) for _ in range(rng.randint(1, 12))])
        made = plan(story, chunk=chunk, first_chunk=first_chunk, start_chunk=start_chunk, start_shot=2)
        assert [c.index for c in made.chunks] == list(range(start_chunk, start_chunk + len(made.chunks)))
        assert [s.index for s in made.shots] == list(range(2, 2 + len(story.shots)))
        ends = [line.frames(n) for n in range(1, start_chunk + len(made.chunks) + 3)]
        assert made.shots[0].frames[0] == line.frames(start_chunk)
        for before, after in zip(made.chunks, made.chunks[1:]):
            assert (before.frames[1], before.latents[1]) == (after.frames[0], after.latents[0])
        for before, shot in zip((None, *made.shots), made.shots):
            mine = [c for c in made.chunks if c.shot == shot.index]
            assert (mine[0].frames[0], mine[-1].frames[1]) == shot.frames
            assert before is None or before.frames[1] == shot.frames[0]
            nearest = min(ends, key=lambda end: (abs(end - shot.asked[1]), end))
            assert shot.frames[1] == nearest or (len(mine) == 1 and shot.frames[1] > nearest)


def test_roundings_do_not_add_up():
    story = Story([Shot("x", seconds=0.77)] * 2000, fps=23.976)
    made = plan(story)
    assert made.shots[-1].asked[1] == round(2000 * 0.77 * 23.976)
    assert abs(made.frames - 2000 * 0.77 * 23.976) <= 6.5


def test_shots_shorter_than_a_chunk_get_one_and_it_is_said():
    made = plan(Story([Shot("x", frames=1)] * 5))
    assert [shot.frames for shot in made.shots] == [(0, 9), (9, 21), (21, 33), (33, 45), (45, 57)]
    assert "at least one chunk" in cut_notes(made.shots, 12)[0]


def test_long_films_are_planned_and_endless_ones_are_refused():
    assert len(plan(Story([Shot("x", seconds=36_000)])).chunks) == 48_000
    plan(Story([Shot("x", seconds=6.25)] * MAX_SHOTS))
    with pytest.raises(InputError, match=r"^shot 2 ends at frame .* at most 1,000,000 frames"):
        plan(Story([Shot("x", seconds=36_000)] * 2))
    with pytest.raises(InputError, match=r"^shot 5 ends at frame"):  # of the film, not of the story that is appended
        plan(Story([Shot("x", seconds=36_000)] * 2), start_shot=3, start_chunk=9)


# --- films that are joined


def chained(pieces: list[Story], **timing: int | float) -> Plan:
    """Each story planned after the ones before it, as samplers that follow one another by state do."""
    shots, chunks, made = [], [], None
    for piece in pieces:
        made = plan(
            piece,
            start_chunk=len(chunks),
            start_shot=len(shots),
            asked=made.asked if made else None,
            before=chunks[-1] if chunks else None,
            **timing,
        )
        shots += made.shots
        chunks += made.chunks
    return Plan(tuple(shots), tuple(chunks), made.fps)


@pytest.mark.parametrize(("count", "seconds", "frames"), [(40, 1.0, 645), (3, 2.0, 93), (6, 1.0, 93)])
def test_a_chain_of_equal_shots_is_as_long_as_one_story_of_them(count, seconds, frames):
    shots = [Shot("x", seconds=seconds)] * count
    assert plan(Story(shots)).frames == frames
    assert chained([Story([shot]) for shot in shots]).frames == frames


def any_shot(rng: random.Random) -> Shot:
    """Seconds, frames or the model's own length; shorter than a frame, than a chunk, half way between two chunk ends, long."""
    kind = rng.randrange(5)
    cut = rng.choice([None, None, "soft", "flush+phrase"])
    if kind == 0:
        return Shot("x", frames=rng.choice([1, 2, 9, 12, 15, 27, 39, rng.randint(1, 200)]), cut=cut)
    if kind == 1:
        return Shot("x", cut=cut)
    return Shot("x", seconds=rng.choice([0.001, 0.05, 0.1, 0.375, 0.77, 0.9375, 1, 1 / 3, 2.5, 7.77]), cut=cut)


@pytest.mark.parametrize(("chunk", "first_chunk"), [(1, 1), (3, 3), (3, 1), (5, 2)])
def test_any_split_of_a_story_is_planned_as_the_whole(chunk, first_chunk):
    rng = random.Random(chunk * 10 + first_chunk)
    for _ in range(150):
        shots = [any_shot(rng) for _ in range(rng.randint(1, 25))]
        timing = {"chunk": chunk, "first_chunk": first_chunk, "fps": rng.choice([16, 24, 23.976, 12.5, 29.97])}
        timing |= {"seconds": rng.choice([3.0, 0.7]), "phrase": "cut to:"}
        splits = sorted(rng.sample(range(1, len(shots)), rng.randint(0, len(shots) - 1)))
        pieces = [Story(shots[a:b], "all") for a, b in zip([0, *splits], [*splits, len(shots)])]
        whole = plan(Story(shots, "all"), **timing)
        assert chained(pieces, **timing) == whole
        assert whole.asked == whole.shots[-1].until
        assert [s.asked[1] for s in whole.shots[:-1]] == [s.asked[0] for s in whole.shots[1:]]
        assert all(s.asked[0] < s.asked[1] for s in whole.shots)


def test_a_film_cut_short_goes_on_from_where_it_was_made():
    """A shot that is broken off at 33 counts as 33 frames; one that is whole counts as all that was asked for."""
    whole = plan(Story([Shot("a", frames=16), Shot("b", frames=48), Shot("c", frames=48)]))
    assert [shot.frames for shot in whole.shots] == [(0, 21), (21, 69), (69, 117)]
    assert cut_short(whole.shots, 0) == ()
    assert cut_short(whole.shots, 117) == whole.shots
    first, broken = cut_short(whole.shots, 33)
    assert first == whole.shots[0]
    assert (broken.asked, broken.frames, broken.until) == ((16, 33), (21, 33), 33)
    # 33 + 20 frames lie nearest to the chunk end at 57, 16 + 20 to that at 33
    assert plan(Story([Shot("d", frames=20)]), start_chunk=3, start_shot=2, asked=broken.until).shots[0].asked == (
        33,
        53,
    )
    kept = cut_short(whole.shots, 21)
    after = plan(Story([Shot("d", frames=20)]), start_chunk=2, start_shot=1, asked=kept[-1].until)
    assert after.shots[0].asked == (16, 36)


def test_what_follows_a_film_cut_at_a_shots_end_is_as_in_one_story():
    rng = random.Random(3)
    for _ in range(100):
        shots = [any_shot(rng) for _ in range(rng.randint(2, 12))]
        whole, n = plan(Story(shots), fps=23.976), rng.randint(1, len(shots) - 1)
        kept = cut_short(whole.shots, whole.shots[n].frames[0])
        before = [chunk for chunk in whole.chunks if chunk.shot < n]
        asked = kept[-1].until
        rest = plan(Story(shots[n:]), fps=23.976, start_chunk=len(before), start_shot=n, asked=asked, before=before[-1])
        assert (*kept, *rest.shots) == whole.shots
        assert (*before, *rest.chunks) == whole.chunks
