"""The pipeline, as a script uses it: streaming, appending, resuming, refusing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from causalcine_core import InputError, MemorySettings, Pipeline, Recipe, Shot, State, Story
from causalcine_core.errors import WorkerLostError

STORY = Story(shots=[Shot(f"shot {i}", frames=frames) for i, frames in enumerate((9, 24, 12, 36, 12, 20))])


@pytest.fixture(scope="module")
def pipe():
    return Pipeline.random(vocabulary=("shot", "bubbles", "flames", "cat", *map(str, range(10))))


def film(chunks):
    return chunks[-1].state.film()


def test_chunks_are_what_the_contract_says(pipe):
    chunks = list(pipe.stream(Story(shots=[Shot("cat", frames=33)]), seed=1))
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [chunk.frames.shape for chunk in chunks] == [(9, 32, 32, 3), (12, 32, 32, 3), (12, 32, 32, 3)]
    assert chunks[0].frames.dtype == np.uint8
    assert chunks[1].latent.shape == (1, 16, 3, 4, 4)
    assert chunks[2].routing.shape == (2, 2)
    assert chunks[2].routing.dtype == torch.int64


def test_c11_text_is_never_reused_by_index(pipe, tmp_path):
    """Appends differ by their text only: in this process, from a file, and back to an earlier text."""
    first = list(pipe.stream(Story(shots=[Shot("cat"), Shot("bubbles")]), seed=5))[-1].state
    first.save(tmp_path / "state")

    def append(text, state):
        return next(iter(pipe.stream(Story(shots=[Shot(text)]), state=state))).latent

    flames, cat = append("flames", first), append("cat", first)
    fresh = Pipeline.random(vocabulary=("shot", "bubbles", "flames", "cat", *map(str, range(10))))
    loaded = State.load(tmp_path / "state")
    again = next(iter(fresh.stream(Story(shots=[Shot("flames")]), state=loaded))).latent
    assert torch.equal(flames, again)
    assert not torch.equal(flames, cat)


def test_an_appended_film_is_the_film_made_at_once(pipe):
    """Chain = single run bit for bit, pictures included; so a join adds nothing."""
    whole = list(pipe.stream(STORY, seed=2))
    half = list(pipe.stream(Story(shots=STORY.shots[:3]), seed=2))
    rest = list(pipe.stream(Story(shots=STORY.shots[3:]), state=half[-1].state))
    assert torch.equal(film(whole), film(rest))
    frames = np.concatenate([chunk.frames for chunk in (*half, *rest)])
    np.testing.assert_array_equal(frames, np.concatenate([chunk.frames for chunk in whole]))
    assert [s.prompt for s in rest[-1].state.shots] == [s.prompt for s in whole[-1].state.shots]
    assert [s.frames for s in rest[-1].state.shots] == [s.frames for s in whole[-1].state.shots]


@pytest.mark.parametrize("length", [{"seconds": 1.0}, {"frames": 15}, {"seconds": 0.1}])
def test_joined_films_are_as_long_as_the_film_made_at_once(pipe, tmp_path, length):
    """Time asked for adds up over the joins, in a state that is handed on as in one that was saved."""
    shots = [Shot(f"shot {i}", **length) for i in range(4)]
    whole = list(pipe.stream(Story(shots=shots), seed=2, decode=False))[-1].state
    state = None
    for shot in shots:
        state = list(pipe.stream(Story(shots=[shot]), state=state, seed=2, decode=False))[-1].state
        state.save(tmp_path / "state")
        assert State.load(tmp_path / "state").asked == state.asked
        state = State.load(tmp_path / "state")
    assert state.shots == whole.shots
    assert torch.equal(state.film(), whole.film())


def test_time_that_was_not_made_was_not_asked_for(pipe):
    stopped = next(pipe.stream(Story(shots=[Shot("cat", frames=100)]), decode=False)).state
    *_, after = pipe.stream(Story(shots=[Shot("flames", frames=20)]), state=stopped, decode=False)
    assert [(s.asked, s.frames) for s in after.state.shots] == [((0, 9), (0, 9)), ((9, 29), (9, 33))]


def test_a_stopped_film_goes_on_as_planned_or_as_newly_directed(pipe):
    stream = pipe.stream(STORY, seed=2)
    stopped = [next(stream) for _ in range(4)][-1].state
    resumed = list(pipe.stream(None, state=stopped))
    assert torch.equal(film(resumed), film(list(pipe.stream(STORY, seed=2))))

    directed = list(pipe.stream(Story(shots=[Shot("flames", frames=12)]), state=stopped))[-1].state
    assert directed.chunks == 5
    assert [s.prompt for s in directed.shots] == ["shot 0", "shot 1", "shot 2", "flames"]
    assert directed.shots[2].frames[1] == directed.shots[3].frames[0]


def test_a_story_is_decoded_while_it_is_made(pipe):
    """Nothing is held back: the first chunk is there before the second is begun."""
    begun = []
    stream = pipe.stream(STORY, on_step=lambda info: begun.append(info.chunk.index))
    next(stream)
    assert set(begun) == {0}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"steps": 0}, "steps"),
        ({"steps": True}, "steps"),
        ({"guidance": float("nan")}, "guidance"),
        ({"guidance": -1.0}, "guidance"),
        ({"width": 33}, "width"),
        ({"width": 0}, "width"),
        ({"height": -16}, "height"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_made(pipe, settings, named):
    with pytest.raises(InputError, match=named):
        pipe.stream(STORY, **settings)


@pytest.mark.parametrize(
    "recipe",
    [
        {"first_chunk": 2},
        {"sampler": "ddim"},
        {"levels": (500, 900)},
        {"levels": (1200,)},
        {"shift": 0},
        {"context_noise": 1.0},
    ],
)
def test_bad_recipes_are_refused(recipe):
    with pytest.raises(InputError, match=next(iter(recipe))):
        Recipe.of(**recipe)


@pytest.mark.parametrize("field", ["window", "top_k"])
@pytest.mark.parametrize("value", [-1, 1.5, True, "3", 5000])
def test_bad_memory_settings_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        MemorySettings(**{field: value})


def test_a_state_is_continued_only_by_what_made_it(pipe):
    state = next(iter(pipe.stream(STORY))).state
    with pytest.raises(InputError, match="width is 48, but the film to continue has 32"):
        pipe.stream(STORY, state=state, width=48)
    with pytest.raises(InputError, match="another model"):
        Pipeline.random(seed=1).stream(STORY, state=state)
    with pytest.raises(InputError, match="guidance"):
        pipe.stream(STORY, state=state, guidance=3.0)
    with pytest.raises(InputError, match="story is missing"):
        pipe.stream(None)


def test_guidance_of_one_is_the_plain_model_and_more_is_not():
    recipe = {"steps": 2, "width": 32, "height": 32, "window": 1, "top_k": 2, "seconds": 1.5}
    story = Story(shots=[Shot("cat", frames=33)])
    plain, guided, other = (
        film(list(Pipeline.random(recipe=Recipe.of(**recipe, guidance=g, negative=n)).stream(story, decode=False)))
        for g, n in ((1.0, ""), (3.0, ""), (3.0, "cat"))
    )
    assert not torch.equal(plain, guided)
    torch.testing.assert_close(plain, other, atol=1e-3, rtol=1e-3)  # led away from itself: nowhere


def test_decoding_beside_the_next_chunk_changes_nothing(pipe):
    """The same chunks with the same frames and states, each a chunk later; what was made before a worker is lost still comes."""
    story = Story([Shot("cat", frames=45)])
    plain, beside = (list(pipe.stream(story, seed=1, overlap=overlap)) for overlap in (False, True))
    assert [chunk.index for chunk in beside] == [chunk.index for chunk in plain]
    for a, b in zip(plain, beside, strict=True):
        assert np.array_equal(a.frames, b.frames)
        assert torch.equal(a.state.film(), b.state.film())
        theirs, ours = (chunk.state.decoder.tensors() for chunk in (a, b))
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)

    def lost(info):
        if info.chunk.index == 2:
            raise WorkerLostError("another worker went away")

    got = []
    with pytest.raises(WorkerLostError):
        for chunk in pipe.stream(story, seed=1, overlap=True, on_step=lost):
            got.append(chunk.index)
    assert got == [0, 1]


def test_linears_in_8_bit_floats_make_nearly_the_same_film():
    """Half the bytes of bfloat16 in the blocks' linears; nothing else changes its type."""
    story = Story([Shot("a red robot walks", seconds=2.2)])

    def film(pipe):
        return torch.cat([chunk.latent for chunk in pipe.stream(story, steps=4, decode=False, seed=1)], 2)

    exact = film(Pipeline.from_pretrained("nano", dtype=torch.float32))
    eight = Pipeline.from_pretrained("nano", dtype=torch.float8_e4m3fn)
    block = eight.network.net.blocks[0]
    assert block.self_attn.q.weight.qdata.dtype == block.ffn[0].weight.qdata.dtype == torch.float8_e4m3fn
    assert block.norm3.weight.dtype == eight.network.net.head.head.weight.dtype == torch.float32
    assert 0 < float((film(eight) - exact).std() / exact.std()) < 0.15


def test_without_torchao_8_bit_floats_are_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(InputError, match="dtype is float8_e4m3fn, but torchao is not usable here"):
        Pipeline.from_pretrained("nano", dtype=torch.float8_e4m3fn)
