"""A cast: pictures from outside the film at the head of its memory, in every way in which a film is made and goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from causalcine_core import InputError, MemorySettings, Pipeline, Shot, State, Story, retake
from causalcine_core.cut import Cut
from causalcine_core.film import back_to
from causalcine_core.history import Clip
from causalcine_core.memory import PackedView, ResolvedMemory
from causalcine_core.memory.settings import STORAGES
from causalcine_core.model import TextKV, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.references import MOST, Reference, load_cast, reference, save_cast
from causalcine_core.sampling import begin, rollout
from causalcine_core.sampling.passes import Passes
from causalcine_core.vae import denormalize, normalize
from causalcine_core.weights.tensors import read_tensors, write_tensors
from tests.helpers import TINY, network, planned, text, tiny_net, tiny_recipe

SIZE = (4, 4)
CHUNK = 12 / 16  # seconds


def picture(seed: int, size: tuple[int, int] = SIZE, channels: int = 16) -> torch.Tensor:
    noise = torch.randn(1, channels, 1, *size, generator=torch.Generator().manual_seed(500 + seed))
    return denormalize(noise)


def cast(count: int, size: tuple[int, int] = SIZE) -> tuple[Reference, ...]:
    names = ("fox", "snow", "a fox")
    return tuple(reference(names[i], picture(i, size), f"{names[i]} sleeps") for i in range(count))


def story(prompt: str, chunks: int = 2, **fields) -> Story:
    return Story([Shot(prompt, seconds=chunks * CHUNK)], **fields)


def last(pipe: Pipeline, *given, **asked) -> State:
    state = None
    for chunk in pipe.stream(*given, decode=False, **asked):
        state = chunk.state
    return state


def pictures(pipe: Pipeline, count: int) -> tuple[Reference, ...]:
    side = pipe.recipe.picture.height // pipe.vae.config.spatial_stride
    return cast(count, (side, side))


# --- train = infer


@pytest.mark.parametrize("films", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize(
    ("window", "top_k", "cut", "sink", "count"),
    [(1, 3, "native", 0, 2), (1, 2, "flush+rope_jump", 1, 3), (2, 2, "pinned", 0, 1)],
)
@torch.no_grad()
def test_a_rollout_with_a_cast_is_the_packed_pass(window, top_k, cut, sink, count, scale, films):
    """A model of one step: a chunk is its noise less its velocity, which the packed pass of training gives for the same history."""
    net, shots = tiny_net(), [0, 0, 1, 1, 2]
    recipe = tiny_recipe(steps=1, window=window, top_k=top_k, sink=sink, guidance=scale)
    runner, references = network(net), cast(count)
    state = begin(runner, recipe, MemorySettings(), size=SIZE, seed=3, batch=films, references=references)
    takes = [shots.index(shot) for shot in shots]
    chunks = [
        replace(one, take=take, cut=cut if take else "native")
        for one, take in zip(planned(5, shots=shots), takes, strict=True)
    ]
    texts = {shot: text(10 + shot) for shot in (*range(3), *(-2 - i for i in range(count)))}
    negative = text(99) if scale != 1 else None

    def said(number: int) -> torch.Tensor:
        return texts[number].expand(films, -1, -1)

    made = list(rollout(runner, chunks, said, state, size=SIZE, negative=negative))
    final = made[-1].state

    film = normalize(final.film())
    pictured = torch.cat([normalize(one.latent) for one in references], 2).expand(films, -1, -1, -1, -1)
    clean = torch.cat([pictured, film], 2)
    passes = Passes.of(runner, recipe, ResolvedMemory(window, top_k), SIZE, films)
    noise = torch.cat([passes.noise(3, chunk)() for chunk in chunks], 2)
    lengths = [1] * count + [3] * 5
    of_chunk = [-2 - i for i in range(count)] + shots
    view_shots = [100 + i for i in range(count)] + shots
    rope = Rope(TINY.head_dim, (2, 2), "cpu")

    def answer(of: list[torch.Tensor]) -> torch.Tensor:
        view = PackedView(
            lengths,
            ResolvedMemory(window, top_k),
            rope,
            first=count,
            shots=view_shots,
            cut=Cut.parse(cut, keep=recipe.cut.keep, jump=recipe.cut.jump),
            sink=sink,
            references=count,
        )
        layers = project_text(net, torch.cat(of))
        frames = [i for i, length in enumerate(lengths) for _ in range(length)]
        rows = torch.tensor(frames[: view.clean] + frames[count:]).expand(films, -1)
        timesteps = torch.zeros(films, view.frames)
        timesteps[:, view.clean :] = 1000.0
        packed = view.pack(clean, torch.cat([pictured, noise], 2))
        return net(packed, timesteps, TextKV(layers, rows, 1), view)[:, :, view.clean :]

    velocity = answer([texts[number] for number in of_chunk])
    if negative is not None:
        unguided = answer([negative] * len(of_chunk))
        velocity = unguided + scale * (velocity - unguided)
    torch.testing.assert_close(noise - film, velocity, atol=3e-5, rtol=0)
    recalled = torch.stack([record.recalled[..., :top_k] for record in final.records])
    assert (recalled <= -2).any() and (recalled >= -1 - count).all()
    alone = list(rollout(runner, chunks, said, replace(state, references=()), size=SIZE, negative=negative))
    assert not torch.allclose(alone[0].latent, made[0].latent, atol=1e-3)  # so it matters


# --- how films go on


@pytest.mark.parametrize(
    "changes", [{}, {"guidance": 2.0}, {"context_noise": 0.2}, {"sampler": "rolling"}, {"recompute": True}]
)
def test_a_film_with_a_cast_goes_on_bit_for_bit_however_it_was_kept(pipe, changes, tmp_path):
    maker = Pipeline(pipe.network, pipe.text, pipe.vae, pipe.recipe.changed(top_k=3, **changes), pipe.name)
    asked = {"seed": 1, "cast": pictures(maker, 2)}
    begun = maker.start(story("a fox", 6), **asked)
    whole = list(maker.run(begun, decode=False))
    middle = whole[2].state
    middle.save(tmp_path / "full")
    middle.save(tmp_path / "small", memory=False)
    for state in (middle, State.load(tmp_path / "full"), State.load(tmp_path / "small"), replace(middle, memory=None)):
        assert [one.to_dict() for one in state.references] == [one.to_dict() for one in asked["cast"]]
        rest = list(maker.run(state, decode=False))
        for ours, right in zip(rest, whole[3:], strict=True):
            assert torch.equal(ours.latent, right.latent)
            assert torch.equal(ours.state.records[-1].recalled, right.state.records[-1].recalled)
    forked = [last(maker, story("runs"), state=middle) for _ in range(2)]
    assert torch.equal(forked[0].film(), forked[1].film())


def test_a_film_that_is_cut_back_keeps_its_cast(pipe):
    state = last(pipe, story("a fox", 5), seed=1, cast=pictures(pipe, 2))
    cut = back_to(state, 2)
    assert (cut.memory.references, cut.memory.chunks) == (2, 1)
    again = last(pipe, story("runs", 3), state=cut)
    anew = last(pipe, story("runs", 3), state=replace(cut, memory=None))
    assert torch.equal(again.film(), anew.film())
    none = back_to(state, 0)
    assert torch.equal(last(pipe, story("a fox", 5), state=none).film(), state.film())


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("budget", [None, 164 * 2**-20])
def test_a_reference_is_kept_for_ever_and_recalled_at_any_distance(pipe, storage, budget):
    references = pictures(pipe, 2)
    memory = MemorySettings(budget=budget, storage=storage, top_k=4)
    state = last(pipe, story("a fox", 14), seed=1, cast=references, memory=memory)
    assert (state.memory.place[:2] >= 0).all() and not state.memory.cold[:2].any()
    assert (state.memory.evicted > 0) == (budget is not None)
    numbers = torch.stack([record.recalled for record in state.records if record.plan.index > 8])
    assert ((numbers <= -2) & (numbers >= -3)).any()


@pytest.mark.parametrize("memory", [True, False])
def test_a_cast_a_history_and_a_retake_go_together(pipe, tmp_path, memory):
    """The clip's own frames may recall a picture too: they are written into memory behind the cast. A retake keeps all before it."""
    known = pictures(pipe, 2)
    clip = last(pipe, story("a fox", 2), seed=5).film()
    state = last(pipe, story("runs", 3), history=Clip(clip, story("a fox", 2)), cast=known, seed=5)
    assert (state.history, state.chunks, len(state.references)) == (2, 5, 2)
    assert torch.equal(state.film()[:, :, :6], clip)
    assert (torch.cat([record.recalled.flatten() for record in state.records[2:]]) <= -2).any()
    without = last(pipe, story("runs", 3), history=Clip(clip, story("a fox", 2)), seed=5)
    assert not torch.equal(without.film(), state.film())
    state.save(tmp_path / "s", memory=memory)
    kept = State.load(tmp_path / "s")
    again = last(pipe, None, state=retake(kept, shot=2))
    torch.testing.assert_close(again.film(), state.film(), rtol=0, atol=0 if memory else 1e-5)
    other = last(pipe, None, state=retake(kept, chunk=4, seed=6))
    assert torch.equal(other.film()[:, :, :9], state.film()[:, :, :9])
    assert not torch.equal(other.latents[3], state.latents[3])
    assert other.history == 2 and all(a.same(b) for a, b in zip(other.references, known, strict=True))


def test_somebody_new_comes_behind_those_who_are_known(pipe):
    """What was made stays, and is remembered as it was; the film goes on as one whose memory is written anew."""
    references = pictures(pipe, 3)
    state = last(pipe, story("a fox", 4), seed=1, cast=references[:1])
    more = last(pipe, story("runs", 3), state=state, cast=references)
    assert len(more.references) == more.memory.references == 3
    assert torch.equal(more.film()[:, :, :12], state.film())
    without = last(pipe, story("runs", 3), state=state)
    assert not torch.equal(more.film(), without.film())
    for layer in range(2):  # the newcomer lies where it is looked for
        begun = last(pipe, story("runs", 2), seed=1, cast=references)
        k, v = (read[:, 2] for read in more.memory.store.read(layer, more.memory.rows(torch.arange(3))))
        right_k, right_v = (read[:, 2] for read in begun.memory.store.read(layer, begun.memory.rows(torch.arange(3))))
        assert torch.equal(k, right_k) and torch.equal(v, right_v)
    first = last(pipe, story("a fox", 4), seed=1)
    assert len(last(pipe, story("runs"), state=first, cast=references[:1]).references) == 1


def test_who_is_known_cannot_be_taken_away(pipe):
    references = pictures(pipe, 3)
    state = last(pipe, story("a fox"), seed=1, cast=references[:2])
    for other in (references[:1], references[1:], (references[0], references[2]), ()):
        with pytest.raises(InputError, match="the film to continue was made with fox, snow"):
            pipe.start(story("runs"), state=state, cast=other)
    held = last(pipe, story("a fox"), seed=1, cast=references[:1], memory=MemorySettings(budget=0.4))
    with pytest.raises(InputError, match=r"memory.budget of 0.4 GiB was shared out when the film began"):
        pipe.start(story("runs"), state=held, cast=references)


# --- what a cast may be


def test_a_cast_file_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "cast.safetensors"
    save_cast(cast(3), path)
    assert all(a.same(b) for a, b in zip(load_cast(path), cast(3), strict=True))
    assert reference("Ben", picture(0)).caption == reference("Ben", picture(0), " ").caption == "Ben"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: reference(" ", picture(0)), "cast: name is empty"),
        (lambda: reference("x" * 101, picture(0)), "cast: name must have up to 100 letters"),
        (lambda: reference("Ben", picture(0) * float("nan")), "the picture of Ben holds numbers that are none"),
        (lambda: reference("Ben", picture(0)[0]), "the picture of Ben must be one latent frame"),
        (lambda: reference("Ben", picture(0, channels=16)[:, :4]), "the picture of Ben must be one latent frame"),
    ],
)
def test_what_is_no_picture_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()


def test_a_cast_that_does_not_fit_is_refused_by_name(pipe):
    ben, other = reference("Ben", picture(0)), reference("Ben", picture(1), "a man")
    for wrong, said in [
        ((ben, other), 'Ben has the captions "Ben" and "a man"'),
        ((ben,) * (MOST + 1), f"up to {MOST} pictures"),
        ((ben, reference("Cat", picture(1, (2, 2)))), "that of Ben one of"),
        ((reference("Ben", picture(0, (6, 4))),), "the picture of Ben is 6 x 4 latents high and wide, the film"),
    ]:
        with pytest.raises(InputError, match=said):
            pipe.start(story("a fox"), cast=wrong)
    long = (reference("Ben", pictures(pipe, 1)[0].latent, "a fox runs in the snow . " * 9),)
    with pytest.raises(InputError, match="picture 1 of the cast: its own text has"):
        next(pipe.stream(story("a fox"), cast=long))


def damaged(path, change):
    tensors, header = read_tensors(path)
    metadata = dict(header.metadata)
    change(tensors, metadata)
    write_tensors(path, tensors, metadata)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t, m: m.pop("causalcine_cast"), "holds no cast of CausalCine"),
        (lambda t, m: m.update(causalcine_cast='{"format": 9, "cast": []}'), "written by another version"),
        (lambda t, m: m.update(causalcine_cast='{"format": 1, "cast": []}'), "cast must be a list of 1 to"),
        (
            lambda t, m: m.update(causalcine_cast='{"format": 1, "cast": [{"name": "a"}]}'),
            "must be pictures|caption is missing",
        ),
        (lambda t, m: t.update(cast=t["cast"][:, :, :1]), "must be pictures"),
        (lambda t, m: t.update(cast=t["cast"] * float("inf")), "numbers that are none"),
    ],
)
def test_a_damaged_cast_file_is_refused(tmp_path, change, said):
    path = tmp_path / "cast.safetensors"
    save_cast(cast(2), path)
    damaged(path, change)
    with pytest.raises(InputError, match=said):
        load_cast(path)


@pytest.mark.parametrize("name", ["cast", "memory.references"])
@pytest.mark.parametrize(
    "change", [lambda t: t[:0], lambda t: t + 9 if not t.is_floating_point() else t[..., :-1].contiguous()]
)
def test_a_states_cast_that_is_not_what_it_must_be_is_refused(pipe, tmp_path, name, change):
    path = tmp_path / "bad.state"
    last(pipe, story("a fox", 3), seed=1, cast=pictures(pipe, 2)).save(path)
    damaged(path, lambda tensors, _: tensors.update({name: change(tensors[name])}))
    with pytest.raises(InputError, match=r"^state file .*bad\.state"):
        State.load(path)
