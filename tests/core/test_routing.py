"""Content-Aware Memory Routing by itself: scores, choices, ties, and who may compete."""

from __future__ import annotations

import itertools

import pytest
import torch

from causalcine_core.memory import describe, describe_query, route
from causalcine_core.memory.routing import ROUTINGS, choose, likeness, match


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_descriptors_are_means_over_space_and_for_a_chunk_over_its_frames_too(dtype):
    """In float32 whatever they are given in, so that nobody's choice hangs on the precision of a mean."""
    keys, queries = drawn(2, 5, 6, 3, 4, dtype=dtype), drawn(2, 3, 6, 3, 4, dtype=dtype)
    expected = sum(keys[:, :, token].double() for token in range(6)) / 6
    torch.testing.assert_close(describe(keys), expected.float())
    expected = sum(queries[:, frame, token].double() for frame in range(3) for token in range(6)) / 18
    torch.testing.assert_close(describe_query(queries), expected.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("films", "chunks"), list(itertools.product((1, 2, 3), (1, 2, 3))))
def test_a_score_is_the_sum_over_heads_of_dot_products_in_float32(films, chunks, dtype):
    """However many chunks and films are asked about at once, and under autocast."""
    query, descriptors = drawn(films, chunks, 4, 8, dtype=dtype), drawn(films, 7, 4, 8, seed=1, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        scores = match(query, descriptors)
    assert scores.dtype == torch.float32
    expected = torch.einsum("brhd,bthd->brt", query.double(), descriptors.double())
    torch.testing.assert_close(scores.double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("k", [0, 1, 3, 6, 7, 9])
@pytest.mark.parametrize("limited", [False, True])
def test_the_best_are_taken_in_temporal_order_and_minus_one_stands_for_none(k, limited):
    """Each chunk of each film for itself; only who may compete is taken, however good the others are."""
    scores = drawn(2, 3, 7)
    eligible = torch.zeros(3, 7, dtype=torch.bool)
    eligible[1, 2:5] = eligible[2, :6] = True
    if not limited:
        eligible[:] = True
    chosen = choose(scores, k, eligible if limited else None)
    assert chosen.shape == (2, 3, k) and chosen.dtype == torch.int64
    for film, chunk in itertools.product(range(2), range(3)):
        allowed = [frame for frame in range(7) if eligible[chunk, frame]]
        best = sorted(sorted(allowed, key=lambda frame: -scores[film, chunk, frame].item())[:k])
        assert chosen[film, chunk].tolist() == best + [-1] * (k - len(best))


def test_of_equal_frames_any_is_taken_and_none_twice():
    query, descriptors = torch.ones(1, 1, 2, 4), torch.ones(1, 6, 2, 4)
    descriptors[0, 4] = 2
    chosen = route(query, descriptors, 3)[0, 0].tolist()
    assert 4 in chosen and chosen == sorted(set(chosen)) and len(chosen) == 3


@pytest.mark.parametrize(
    ("routing", "expected"),
    [
        ("sink", [[], [0], [0, 1, 2], [0, 1, 2], [0, 1, 2]]),
        ("fifo", [[], [0], [0, 1, 2], [1, 2, 3], [7, 8, 9]]),
        ("even", [[], [0], [0, 1, 2], [0, 2, 3], [1, 5, 8]]),
    ],
)
def test_a_choice_by_place_is_of_the_first_the_last_or_some_at_even_distances(routing, expected):
    place = ROUTINGS[routing].place
    assert place is not None
    assert [list(place(frames, 3)) for frames in (0, 1, 3, 4, 10)] == expected


@pytest.mark.parametrize("frames", range(1, 30))
def test_frames_at_even_distances_are_as_many_as_asked_and_reach_over_all_of_the_past(frames):
    place = ROUTINGS["even"].place
    assert place is not None
    for k in range(1, 12):
        chosen = list(place(frames, k))
        assert len(set(chosen)) == min(k, frames)
        steps = [b - a for a, b in itertools.pairwise([-1, *chosen, frames])]
        assert max(steps) <= frames / min(k, frames) + 1  # nowhere a hole


def test_likeness_is_a_cosine_up_to_a_factor_of_the_query_whoever_has_the_heads():
    """Long descriptors do not win for their length; two ranks that have half of the heads each find the same."""
    newest, descriptors = drawn(2, 3, 4, 8), drawn(2, 7, 4, 8, seed=1) * torch.arange(1, 8)[:, None, None]
    scores = likeness(newest, descriptors)
    cosine = torch.nn.functional.cosine_similarity(
        newest.flatten(2)[:, :, None], descriptors.flatten(2)[:, None], dim=-1
    )
    torch.testing.assert_close(scores / newest.flatten(2).norm(dim=-1)[..., None], cosine)

    asked = []  # what a rank gives to be summed; the other one answers with its own
    likeness(newest[:, :, 2:], descriptors[:, :, 2:], lambda own: asked.append(own) or own)
    shared = likeness(newest[:, :, :2], descriptors[:, :, :2], lambda own: own + asked.pop(0))
    torch.testing.assert_close(shared, scores)
