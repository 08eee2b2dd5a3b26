"""A film that goes on under other settings: what changes is in force or refused by name, what it was made under stays."""

from __future__ import annotations

import copy
import json
import threading
from dataclasses import replace

import pytest
import torch

from causalcine_core import MemorySettings, Pipeline, Shot, State, Story
from causalcine_core.errors import InputError, NotFiniteError
from causalcine_core.film import before
from causalcine_core.memory.store import GIB
from causalcine_core.sampling import begin, rollout
from causalcine_core.weights.header import read_header
from causalcine_core.weights.tensors import write_tensors
from tests.helpers import TINY, network, planned, text, tiny_net, tiny_recipe

from ..gpu import GPU, pretended_gpu

CHUNK = 12 / 16  # seconds
SIZE = (4, 4)


def story(prompt: str, chunks: int = 2, **fields) -> Story:
    return Story([Shot(prompt, seconds=chunks * CHUNK)], **fields)


def last(pipe: Pipeline, *given, **asked) -> State:
    state = None
    for chunk in pipe.stream(*given, decode=False, **asked):
        state = chunk.state  # one at a time: who holds older states holds what they remember
    return state


def other(pipe: Pipeline, **changes) -> Pipeline:
    return Pipeline(pipe.network, pipe.text, pipe.vae, pipe.recipe.changed(**changes), pipe.name)


# --- what is asked when a film goes on


def test_a_negative_prompt_of_an_appended_story_is_refused_unless_it_is_the_films(pipe):
    guided = other(pipe, guidance=2.0, negative="a fox")
    state = last(guided, story("a fox"), seed=1)
    with pytest.raises(InputError, match=r'negative is "the snow", but the film to continue has "a fox"'):
        guided.start(story("runs", negative="the snow"), state=state)
    assert guided.start(story("runs", negative="a fox"), state=state).planned


def test_a_film_goes_on_under_the_text_encoder_that_it_was_begun_with(pipe, tmp_path):
    """Its words would mean something else to another; a state that does not say, and an encoder that has no name, are taken."""
    state = last(pipe, story("a fox"), seed=1)
    state.save(tmp_path / "s")
    text = copy.deepcopy(pipe.text)
    vars(text).pop("fingerprint", None)
    with torch.no_grad():
        text.tokens.weight[-1] += 1
    there = Pipeline(pipe.network, text, pipe.vae, pipe.recipe, pipe.name)
    for kept in (state, State.load(tmp_path / "s")):
        with pytest.raises(InputError, match=f"another text encoder .{pipe.text.fingerprint}. than that of"):
            there.start(story("runs"), state=kept)
    assert pipe.start(story("runs"), state=State.load(tmp_path / "s")).planned
    assert there.start(story("runs"), state=replace(state, text="")).planned


@pytest.mark.parametrize(("name", "value"), [("chunk", 1), ("first_chunk", 1), ("fps", 24), ("negative", "the snow")])
def test_a_changed_recipe_is_refused_where_a_film_cannot_change(pipe, name, value):
    """As when a second sampler of a chain gets a MODEL with another recipe."""
    state = last(pipe, story("a fox"), seed=1)
    changes = {"chunk": {"chunk": 1, "first_chunk": 1}}.get(name, {name: value})
    with pytest.raises(InputError, match=f"^{name} of the recipe is .* leave it as it was, or start anew"):
        other(pipe, **changes).start(story("runs"), state=state)


@pytest.mark.parametrize(
    "changes", [{"steps": 3}, {"shift": 2.0}, {"sampler": "renoise"}, {"window": 2}, {"top_k": 0}, {"sink": 1}]
)
def test_a_changed_recipe_is_in_force_where_a_film_can_change(pipe, changes):
    state = last(pipe, story("a fox", chunks=4), seed=1)
    changed = other(pipe, **changes).start(story("runs"), state=state)
    in_force = changed.recipe.to_dict() | {"window": changed.settings.window, "top_k": changed.settings.top_k}
    assert {name: in_force[name] for name in changes} == changes
    films = [last(maker, story("runs"), state=state).film() for maker in (pipe, other(pipe, **changes))]
    assert not torch.equal(*films)


def test_what_a_story_said_of_its_film_is_not_taken_for_a_changed_recipe(pipe):
    state = last(pipe, story("a fox", fps=24, negative="the snow"), seed=1)
    assert pipe.start(story("runs"), state=state).recipe.timeline.fps == 24


def test_guidance_and_rolling_cannot_change_inside_a_film(pipe):
    state = last(pipe, story("a fox"), seed=1)
    with pytest.raises(InputError, match="guidance cannot be switched"):
        pipe.start(story("runs"), state=state, guidance=3.0)
    with pytest.raises(InputError, match="sampler cannot become"):
        other(pipe, sampler="rolling").start(story("runs"), state=state)


@pytest.mark.parametrize("storage", ["full", "8bit", "host", "host_8bit"])
def test_another_window_under_a_budget_is_shared_out_anew_or_refused(pipe, storage, tmp_path):
    """What goes on can be kept and loaded; what the budget does not pay for is refused before a chunk is made."""
    budget = 200 * 2**-20
    state = last(pipe, story("a fox", chunks=4), seed=1, memory=MemorySettings(budget=budget, storage=storage))
    with pytest.raises(InputError, match=r"need at least|shared its budget"):
        pipe.start(story("runs"), state=state, memory=MemorySettings(window=8))
    if storage == "full":
        begun = pipe.start(story("runs"), state=state, memory=MemorySettings(window=2))
        assert begun.memory.limit < state.memory.limit
        held = [state]
        del state, begun
        after = last(pipe, story("runs", chunks=3), state=held.pop(), memory=MemorySettings(window=2))
        after.save(tmp_path / "state")
        loaded = State.load(tmp_path / "state")
        assert loaded.settings.window == 2
        assert loaded.memory.limit == after.memory.limit


# --- what is remembered


def test_a_chunk_is_written_under_the_seed_that_it_was_made_with(pipe):
    """With context noise, going on under another seed leaves what was made as it was: the memory is that of the same seed."""
    noisy = other(pipe, context_noise=0.3)
    state = last(noisy, story("a fox", chunks=3), seed=1)
    same, changed = (last(noisy, story("runs", chunks=1), state=state, seed=seed) for seed in (1, 2))
    assert not torch.equal(same.latents[-1], changed.latents[-1])
    for name, kept in same.memory.tensors().items():
        assert torch.equal(kept, changed.memory.tensors()[name]), name


def test_the_texts_that_are_read_next_are_those_of_what_is_to_be_written_too(pipe):
    """The newest chunk is written under its own words when the next one begins; a film without its memory, chunk by chunk."""
    state = last(pipe, Story([Shot("a fox", seconds=CHUNK), Shot("runs", seconds=CHUNK)]), seed=1)
    begun = pipe.start(story("sleeps"), state=state)
    assert begun.read_next(begun.planned) == [1, 2]
    assert begun.read_next(begun.planned, elsewhere=True) == [1, 2]
    forgotten = replace(begun, memory=None)
    assert forgotten.read_next(begun.planned) == [0, 1, 2]
    assert forgotten.read_next(begun.planned, elsewhere=True) == [1, 2]


def test_a_budget_is_not_shared_by_films_side_by_side():
    with pytest.raises(InputError, match=r"memory\.budget is 1 GiB for 2 films side by side"):
        begin(network(tiny_net()), tiny_recipe(), MemorySettings(budget=1), size=SIZE, seed=0, batch=2)


def test_films_side_by_side_never_touch_one_another():
    """One film's text and the length of the other's memory change nothing in it."""

    def films(second: int):
        state = begin(network(tiny_net()), tiny_recipe(), MemorySettings(), size=SIZE, seed=0, batch=2)
        texts = lambda shot: torch.cat([text(shot), text(second + shot)])  # noqa: E731
        for chunk in rollout(network(tiny_net()), planned(6, shots=list(range(6))), texts, state, size=SIZE):
            state = chunk.state
        return state.film()

    one, two = films(10), films(20)
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])


@pytest.mark.parametrize("fused", [0, 10**6])
def test_texts_of_different_length_are_padded_with_zeros_or_refused(fused):
    """As Wan pads its own: a film's other texts change nothing, nor does a shorter negative prompt, fused or not."""
    runner = network(tiny_net())
    runner = replace(runner, compute=replace(runner.compute, fused_rows=fused))

    def film(texts, negative):
        state = begin(runner, tiny_recipe(guidance=2.0), MemorySettings(), size=SIZE, seed=0)
        given = planned(4, shots=[0, 1, 2, 3])
        for chunk in rollout(runner, given, lambda shot: texts[shot], state, size=SIZE, negative=negative):
            state = chunk.state
        return state.film()

    def padded(short):
        return torch.nn.functional.pad(short, (0, 0, 0, TINY.text_len - short.shape[1]))

    texts, negative = [text(n, length=8 - 2 * n) for n in range(4)], text(9, length=3)
    assert torch.equal(film(texts, negative), film([padded(t) for t in texts], padded(negative)))
    with pytest.raises(InputError, match="the text of shot 2 is 9 tokens long: the model reads at most 8"):
        film([text(0), text(1, length=9), text(2), text(3)], negative)
    with pytest.raises(InputError, match="the negative prompt is 9 tokens long"):
        film([text(n) for n in range(4)], text(9, length=9))


def test_two_threads_go_on_from_one_state(pipe):
    """Each makes the film that it makes alone, whatever the other does to the store."""
    state = last(pipe, story("a fox", chunks=3), seed=1)
    alone = [last(pipe, story(prompt, chunks=4), state=state).film() for prompt in ("runs", "the snow")]
    for _ in range(5):
        found: dict[int, torch.Tensor] = {}

        def make(n: int, prompt: str, found=found):
            found[n] = last(pipe, story(prompt, chunks=4), state=state).film()

        threads = [threading.Thread(target=make, args=(n, prompt)) for n, prompt in enumerate(("runs", "the snow"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(torch.equal(found[n], alone[n]) for n in range(2))


def test_a_film_that_goes_on_stays_within_its_budget(pipe, tmp_path):
    """Begun, kept, loaded and gone on with: the store is never larger than the budget, in any storage."""
    budget = 200 * 2**-20
    for storage in ("full", "8bit", "host", "host_8bit"):
        settings = MemorySettings(budget=budget, storage=storage)
        last(pipe, story("a fox", chunks=30), seed=1, memory=settings).save(tmp_path / "state")
        sizes = [
            chunk.state.memory.store.nbytes
            for chunk in pipe.stream(story("runs", chunks=20), state=State.load(tmp_path / "state"), decode=False)
        ]
        assert max(sizes) <= budget * GIB


# --- numbers that are none


def spoiled(pipe: Pipeline, value: float, layer: int) -> Pipeline:
    net = tiny_net()
    runner = network(net)
    name = f"blocks.{layer}.ffn.0.weight"
    net.get_parameter(name).data[0, 0] = value
    return runner


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_chunk_that_is_not_finite_stops_the_film_and_says_where(pipe, value):
    runner = spoiled(pipe, value, layer=1)
    state = begin(runner, tiny_recipe(), MemorySettings(), size=SIZE, seed=0)
    with pytest.raises(NotFiniteError, match=r"chunk 0 \(shot 1\) .* from pass 1 of 2 on: half precision"):
        next(rollout(runner, planned(2), text, state, size=SIZE))
    with pytest.raises(NotFiniteError, match="layer 2: half precision"):
        next(rollout(runner, planned(2), text, state, size=SIZE, find_layer=True))


def test_the_chunks_before_one_that_is_not_finite_are_kept(tmp_path):
    """A word of shot 3 that is encoded to NaN: the film so far is a state that goes on."""
    runner, made = network(tiny_net()), []
    state = begin(runner, tiny_recipe(), MemorySettings(), size=SIZE, seed=0)
    texts = lambda shot: text(shot) * (float("nan") if shot == 2 else 1)  # noqa: E731
    with pytest.raises(NotFiniteError, match=r"chunk 2 \(shot 3\)"):
        for chunk in rollout(runner, planned(4, shots=[0, 1, 2, 3]), texts, state, size=SIZE):
            made.append(chunk.state)
    assert [s.chunks for s in made] == [1, 2]
    assert torch.isfinite(made[-1].film()).all()
    *_, chunk = rollout(runner, planned(4, shots=[0, 1, 2, 3])[2:], text, made[-1], size=SIZE)
    assert torch.isfinite(chunk.latent).all()


@pytest.mark.parametrize("where", ["memory", "latents"])
def test_a_state_with_a_number_that_is_none_is_noticed(pipe, where):
    """In what is remembered, and in the newest chunk, which is yet to be written there."""
    state = last(pipe, story("a fox", chunks=3), seed=1)
    if where == "memory":
        state.memory.store.hot._tensors["values"][0][:] = float("nan")
    else:
        state = replace(state, latents=(*state.latents[:2], state.latents[2] * float("nan")))
    with pytest.raises(NotFiniteError, match="chunk 3"):
        last(pipe, story("runs"), state=state)


def test_a_decoder_that_gives_no_numbers_is_noticed(pipe):
    *_, chunk = pipe.stream(story("a fox"), seed=1)
    past = tuple(torch.full_like(t, float("nan")) for t in chunk.state.decoder.past)
    state = replace(chunk.state, decoder=replace(chunk.state.decoder, past=past))
    with pytest.raises(NotFiniteError, match="the decoder"):
        list(pipe.stream(story("runs"), state=state))


# --- on another device


def test_a_state_goes_to_another_device_whole(pipe, tmp_path):
    """Kept on a CPU, gone on with on a GPU: memory and decoder are moved, by `to`, by `load`, and by whoever makes the film."""
    *_, chunk = pipe.stream(story("a fox", chunks=3), seed=1)
    chunk.state.save(tmp_path / "state")
    with pretended_gpu():
        there = Pipeline.random(vocabulary=("a", "fox", "runs", "in", "the", "snow", "sleeps", ".", ","))
        for module in (there.network.net, there.text, there.vae):
            module.to(GPU)
        there = Pipeline(network(there.network.net), there.text, there.vae, there.recipe, "random")
        there.network = replace(there.network, fingerprint=pipe.network.fingerprint)
        loads = (
            lambda: State.load(tmp_path / "state"),
            lambda: State.load(tmp_path / "state", GPU),
            lambda: State.load(tmp_path / "state").to(GPU),
            lambda: chunk.state,
        )
        expected = [c.frames for c in pipe.stream(story("runs"), state=chunk.state)]
        for load in loads:
            frames = [c.frames for c in there.stream(story("runs"), state=load())]
            assert all(abs(a.astype(int) - b.astype(int)).max() <= 1 for a, b in zip(frames, expected, strict=True))
        moved = State.load(tmp_path / "state").to(GPU)
        assert moved.memory.store.device.type == torch.device(GPU).type
        assert all(t.device.type == torch.device(GPU).type for t in moved.decoder.past)


# --- files


def test_a_film_of_thousands_of_chunks_is_a_few_tensors_and_a_small_header(pipe, tmp_path):
    state, many = last(pipe, story("a fox", chunks=3), seed=1), 3000
    plans = [replace(state.records[0].plan, index=n, latents=(3 * n, 3 * n + 3), frames=frames(n)) for n in range(many)]
    whole = replace(
        state,
        memory=None,
        decoder=None,
        records=tuple(replace(state.records[2], plan=plan) for plan in plans),
        latents=(state.latents[0],) * many,
    )
    whole.save(tmp_path / "state")
    header = read_header(tmp_path / "state", "state file")
    assert len(header.tensors) < 5
    assert sum(map(len, header.metadata.values())) < 4000
    loaded = State.load(tmp_path / "state")
    assert loaded.records[-1].plan == plans[-1]
    assert torch.equal(loaded.film(), whole.film())


def frames(chunk: int) -> tuple[int, int]:
    return (max(0, 12 * chunk - 3), 12 * chunk + 9)


def test_a_state_of_an_earlier_version_is_refused_in_one_sentence(tmp_path):
    old = {"recipe": {}, "settings": {}, "seed": 0, "model": "x", "records": [], "shots": [], "planned": []}
    metadata = {"format": "causalcine-state-2", "causalcine_state": json.dumps(old)}
    write_tensors(tmp_path / "state", {"latents.0": torch.zeros(1)}, metadata)
    with pytest.raises(InputError, match=r"state: was written by another version \(format 2, this one reads 3\)"):
        State.load(tmp_path / "state")


# --- retakes


def five() -> Story:
    return Story([Shot(words, seconds=2 * CHUNK) for words in ("a fox", "the snow", "a fox runs", "snow", "a fox")])


@pytest.mark.parametrize("asked", [{"shot": 3}, {"chunk": 5}])
def test_a_retake_keeps_what_comes_before_and_is_the_film_that_never_went_on(pipe, asked):
    """Shot 3 of 5: shots 1 and 2 are bit-equal, 3 to 5 are new, and are those of a film that ended after shot 2."""
    film, first_two = last(pipe, five(), seed=3), last(pipe, Story(five().shots[:2]), seed=3)
    back = before(film, **asked)
    assert back.chunks == 4 and not back.planned and film.chunks == 10
    rest = Story([Shot("the snow", seconds=2 * CHUNK)] * 3)
    retaken, made_anew = last(pipe, rest, state=back, seed=4), last(pipe, rest, state=first_two, seed=4)
    assert retaken.chunks == 10
    for i, (new, old, same) in enumerate(zip(retaken.latents, film.latents, made_anew.latents, strict=True)):
        assert new.equal(same) and new.equal(old) == (i < 4)
    assert [shot.caption for shot in retaken.shots] == ["a fox", "the snow", "the snow", "the snow", "the snow"]


def test_a_retake_may_begin_inside_a_shot_or_at_the_beginning(pipe):
    film = last(pipe, five(), seed=3)
    inside = before(film, chunk=4)
    assert inside.chunks == 3 and [shot.caption for shot in inside.shots] == ["a fox", "the snow"]
    nothing = before(film, shot=1)
    assert nothing.chunks == before(film, chunk=1).chunks == 0 and not nothing.latents and not nothing.shots
    again = last(pipe, five(), state=nothing)
    assert all(new.equal(old) for new, old in zip(again.latents, film.latents, strict=True))


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"shot": 6}, "from_shot must be a whole number from 1 to 5, got 6"),
        ({"shot": 0}, "from_shot must be a whole number from 1 to 5, got 0"),
        ({"chunk": 11}, "from_chunk must be a whole number from 1 to 10, got 11"),
        ({"shot": 1, "chunk": 1}, "give one of them"),
        ({}, "give one of them"),
    ],
)
def test_a_retake_from_where_no_shot_or_chunk_is_is_refused_by_name(pipe, asked, said):
    film = last(pipe, five(), seed=3)
    with pytest.raises(InputError, match=said):
        before(film, **asked)
