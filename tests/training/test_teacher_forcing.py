"""The teacher-forcing trainer: it learns, resumes exactly, and its memory is really read."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from causalcine_core.memory import ResolvedMemory
from causalcine_core.text import TextConfig
from causalcine_core.vae import normalize
from training.data.shards import Reunions, Sample, Shards, clip, film, still, take
from training.losses.pointing import _cover
from training.stages import teacher_forcing
from training.stages.teacher_forcing import Model, Phase, Trainer, TrainRecipe, draw_levels, packed_loss
from training.world.grammar import mentions

from ..helpers import TINY

WORDS = ("a", "red", "cat", ",", "[character1]", "[character2]")


def model() -> Model:
    torch.manual_seed(0)
    made = Model(TINY, TextConfig(WORDS, dim=24, heads=2, layers=1, length=8))
    torch.nn.init.xavier_uniform_(made.net.head.head.weight)
    return made


def flow_loss(*given, **named) -> torch.Tensor:
    return packed_loss(*given, **named)[0]


def sample(chunks: int, seed: int = 0) -> Sample:
    latents = torch.randn(16, 3 * chunks, 4, 4, generator=torch.Generator().manual_seed(seed))
    prompts = ("a red cat",) * chunks
    return Sample(latents, (3,) * chunks, prompts, prompts, (1.0,) * chunks, ({},) * 3 * chunks)


@pytest.fixture
def shards(tmp_path):
    shots = [
        {"prompt": "[character1], a red cat,", "chunks": [0, 2], "names": ["[character1]"], "name_only": False},
        {"prompt": "a cat", "chunks": [2, 5], "names": [], "name_only": False},
        {"prompt": "[character1]", "chunks": [5, 7], "names": ["[character1]"], "name_only": True},
    ]
    latents = torch.arange(21.0).view(1, 1, 21, 1, 1).expand(4, 16, 21, 4, 4).half()
    save_file(
        {"latents": latents.contiguous()},
        str(tmp_path / "films-0.safetensors"),
        metadata={"records": json.dumps([{"shots": shots, "cast": [{}] * 21}] * 4)},
    )
    return tmp_path


@pytest.mark.parametrize(("top_k", "moves"), [(2, True), (0, False)])
def test_what_lies_before_the_window_is_read_only_through_routing(top_k, moves):
    """C65: replace the clean chunk 0, far outside the window, by noise; the last chunk's loss must move when routed."""
    made, settings = model(), ResolvedMemory(1, top_k)
    first = sample(4)
    changed = first.latents.clone()
    changed[:, :3] = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    second = replace(first, latents=changed)
    noise = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        losses = [flow_loss(made, [s], settings, torch.tensor([0.6]), noise, [False])[0, 3] for s in (first, second)]
        # without routing chunk 0 still reaches chunk 3 through the chain of windows: cut the chain to one layer
    if moves:
        assert losses[0] != losses[1]
    else:
        one_layer = Model(TINY.__class__(**{**TINY.to_dict(), "num_layers": 1}), made.text.config)
        torch.nn.init.xavier_uniform_(one_layer.net.head.head.weight)
        with torch.no_grad():
            unrouted = [
                flow_loss(one_layer, [s], settings, torch.tensor([0.6]), noise, [False])[0, 3] for s in (first, second)
            ]
        assert unrouted[0] == unrouted[1]


def test_the_loss_is_the_flow_matching_error_of_the_noisy_half():
    """A network whose head gives zero predicts velocity 0: the loss is the mean square of noise - clean, chunk by chunk."""
    made = model()
    torch.nn.init.zeros_(made.net.head.head.weight)
    torch.nn.init.zeros_(made.net.head.head.bias)
    one = sample(3)
    noise = torch.randn(1, 16, 9, 4, 4)
    loss = flow_loss(made, [one], ResolvedMemory(1, 1), torch.tensor([0.3]), noise, [False])
    expected = (noise - one.latents[None]).square().view(1, 16, 3, 3, 4, 4).mean((1, 3, 4, 5))
    torch.testing.assert_close(loss, expected)


def test_chunks_before_the_first_weight_are_history_only():
    """Their noisy copies are left out, which changes nothing for the chunks that count."""
    made, settings, levels = model(), ResolvedMemory(1, 2), torch.tensor([0.6])
    noise = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        full = flow_loss(made, [sample(4)], settings, levels, noise, [False])
        last = flow_loss(made, [replace(sample(4), weights=(0.0, 0.0, 1.0, 1.0))], settings, levels, noise, [False])
    assert last[0, :2].eq(0).all()
    torch.testing.assert_close(last[0, 2:], full[0, 2:])


def test_who_is_called_by_name_is_learned_from_the_answer_to_a_description():
    """The teacher's answer under the described prompt is the target of such chunks; the film is that of the others."""
    made, settings, levels = model(), ResolvedMemory(1, 2), torch.tensor([0.6])
    told = sample(4)
    named = replace(told, prompts=("a red cat",) * 3 + ("a red [character1]",))
    noise = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain, by_name = (flow_loss(made, [s], settings, levels, noise, [False]) for s in (told, named))
        itself = flow_loss(made, [named], settings, levels, noise, [False], teacher=made)
        dropped = flow_loss(made, [named], settings, levels, noise, [True], teacher=made)
        empty = flow_loss(made, [told], settings, levels, noise, [True])
        knows = model()
        knows.text.tokens.weight[:] = knows.text.tokens.weight[0]  # to whom all words are one
        agreed = flow_loss(knows, [named], settings, levels, noise, [False], teacher=knows)
    torch.testing.assert_close(itself[0, :3], plain[0, :3])
    assert 0 < itself[0, 3] < 0.1 * by_name[0, 3]
    assert agreed[0, 3] == 0
    torch.testing.assert_close(dropped, empty)


def test_pointing_asks_routing_for_the_frames_that_show_who_is_named():
    """Less where the chunk's query is made to fit the frames with that name, none where there is nothing to choose."""
    made, settings, levels = model(), ResolvedMemory(1, 2), torch.tensor([0.6])
    prompts = ("[character1], a red cat,", "[character2], a red cat,", "[character1]")
    one = replace(sample(3), prompts=prompts, described=(*prompts[:2], prompts[0]))
    noise = torch.randn(1, 16, 9, 4, 4, generator=torch.Generator().manual_seed(1))

    def pointing(s, drop=False):
        return packed_loss(made, [s], settings, levels, noise, [drop])[1].get("pointing", 0)

    other = replace(one, prompts=(*prompts[:2], "[character2]"), described=(*prompts[:2], prompts[1]))
    chance = (pointing(one) + pointing(other)).item()
    assert chance > 1.36
    assert pointing(sample(3)) == 0
    assert pointing(one, drop=True) == 0
    assert pointing(replace(one, prompts=(prompts[0],) * 2 + prompts[2:])) == 0  # both frames show who is named
    naming = packed_loss(made, [one], settings, levels, noise, [False])[1]["naming"]
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        (pointing(one) + pointing(other)).backward()
        optimizer.step()
    assert pointing(one) + pointing(other) < 0.1  # chance is 2 log 2
    assert packed_loss(made, [one], settings, levels, noise, [False])[1]["naming"] != naming


def test_binding_lets_each_of_two_in_a_frame_find_itself():
    """Less where the tokens of two characters learn to tell who they are, none where nobody is to be seen."""
    made, settings, levels = model(), ResolvedMemory(1, 2), torch.tensor([0.6])
    prompts = ("[character1], a red cat,", "[character2], a red cat,", "[character1] [character2]")
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    names = ("[character1]", "[character2]")
    cast = ({names[0]: left},) * 3 + ({names[1]: right},) * 3 + (dict(zip(names, (left, right), strict=True)),) * 3
    one = replace(sample(3), prompts=prompts, described=prompts, cast=cast)
    noise = torch.randn(1, 16, 9, 4, 4, generator=torch.Generator().manual_seed(1))

    def binding(s, drop=False):
        return packed_loss(made, [s], settings, levels, noise, [drop])[1].get("binding", 0)

    assert binding(replace(one, cast=({},) * 9)) == binding(one, drop=True) == 0
    assert binding(one).item() > 0.5
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        binding(one).backward()
        optimizer.step()
    assert binding(one).item() < 0.1
    swapped = (*cast[:6], *(dict(zip(names, (right, left), strict=True)),) * 3)
    assert binding(replace(one, cast=swapped)).item() > 1  # it went by where they are


def test_a_character_is_where_its_box_lies():
    """Shares of the tokens that a box covers, row by row."""
    assert _cover((0.0, 0.5, 1.0, 1.0), (2, 2)) == [0, 0, 0.5, 0.5]
    assert _cover((0.25, 0.0, 0.75, 0.5), (2, 2)) == [0.5, 0.5, 0, 0]
    assert _cover((0.0, 0.0, 0.75, 0.5), (2, 2)) == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert _cover(None, (2, 2)) == _cover((0.0, 1.0, 0.5, 1.0), (2, 2)) == [0, 0, 0, 0]


def test_samples_show_what_they_name(shards):
    """The last chunk of a clip is of the name-only shot and a chunk of the describing shot comes before it."""
    films = Shards(shards, "films")
    seen = 0
    for i in range(30):
        chosen = clip(films, random.Random(i), 4, 2.0)
        assert len(chosen.chunks) == 4
        assert chosen.latents.shape == (16, 12, 4, 4)
        if chosen.prompts[-1] == "[character1]":
            assert "[character1], a red cat," in chosen.prompts
            assert chosen.weights[-1] == 2.0
            assert chosen.described[-1] == "[character1], a red cat,"
            assert set(chosen.described) == set(chosen.prompts) - {"[character1]"}
            seen += 1
    assert seen > 10
    for i in range(10):
        one = take(films, random.Random(i), 2)
        assert one.prompts in (("[character1], a red cat,",) * 2, ("a cat",) * 2)
        assert one.latents[0, :, 0, 0].diff().gt(0).all()  # frames in a row
    with pytest.raises(ValueError, match="no film has a shot of 4 chunks"):
        take(films, random.Random(0), 4)
    whole = film(films, random.Random(0), 2.0)
    assert whole.chunks == (3,) * 7
    assert still(films, random.Random(0)).latents.shape == (16, 1, 4, 4)


CAPTIONS = (
    "[character1], a red cat with stripes, sleeps by the sea at night, wide shot.",
    "medium shot of [character3], a red cat with dark stripes, waving in the desert.",
    "[character2], a blue bird, jumps and [character1], a green ghost wearing a hat, waves at night in the street, wide shot.",
    "[character1], an orange robot, waves and [character2], a red cat with stripes, jumps in the kitchen by day, wide shot.",
    "wide shot: [character1], a blue bird, hops and [character3], a green ghost in a tall black hat, sits in a meadow at dusk.",
    "[character2], an orange robot, sleeps in a meadow by day, close up.",
)


@pytest.fixture
def stills(tmp_path):
    records = [
        {
            "shots": [{"prompt": caption, "chunks": [0, 1], "names": [], "name_only": False}],
            "cast": [{m.name: (i / 10, 0.0, (i + j + 1) / 10, 1.0) for j, m in enumerate(mentions(caption))}],
        }
        for i, caption in enumerate(CAPTIONS)
    ]
    latents = torch.arange(float(len(CAPTIONS))).view(-1, 1, 1, 1, 1).expand(-1, 16, 1, 4, 4).half()
    save_file(
        {"latents": latents.contiguous()}, str(tmp_path / "stills-0.safetensors"), {"records": json.dumps(records)}
    )
    return Shards(tmp_path, "stills")


def test_a_reunion_calls_by_name_whom_an_earlier_frame_described(stills):
    """Whoever the last caption names without looks was described under that name before, looking as the frame shows."""
    reunions = Reunions(stills)
    reunions.refresh()
    values = [float(latent.flatten()[0]) for latent in map(_first_of, range(len(CAPTIONS)), [stills] * len(CAPTIONS))]
    for i in range(60):
        length = 2 + i % 3
        made = reunions.draw(random.Random(i), length)
        assert made.chunks == (1,) * length
        assert made.weights == (0.0,) * (length - 1) + (1.0,)
        *before, last = made.prompts
        assert not mentions(last)
        assert made.described[:-1] == made.prompts[:-1]
        truth = values.index(float(made.latents[0, -1, 0, 0]))  # of the last frame
        shown = mentions(CAPTIONS[truth])
        boxes = [[truth / 10, 0.0, (truth + j + 1) / 10, 1.0] for j in range(len(shown))]
        assert sorted(made.cast[-1].values()) == boxes
        assert [list(at) for at in made.cast] == [[m.name for m in mentions(prompt)] for prompt in made.described]
        named = [f"[character{n}]" for n in "123" if f"[character{n}]" in last]
        described = {m.name: m.looks for prompt in before for m in mentions(prompt) if m.name in named}
        assert sorted(described.values()) == sorted(m.looks for m in shown)
        assert {m.name: m.looks for m in mentions(made.described[-1])} == described
        for prompt in before:
            assert len({m.name for m in mentions(prompt)}) == len(mentions(prompt))
            assert all(m.looks == described[m.name] for m in mentions(prompt) if m.name in described)


def _first_of(i, shards):
    return normalize(shards.latents[i][None].float())[0, 0]


def test_training_resumes_where_it_stopped(shards, tmp_path, monkeypatch):
    """Two steps in one go, or in two sittings, end in the same weights."""
    monkeypatch.setitem(teacher_forcing.PRESETS, "nano", TINY)
    monkeypatch.setattr(
        teacher_forcing, "TextConfig", lambda words, length: TextConfig(WORDS, dim=24, heads=2, layers=1, length=8)
    )
    recipe = TrainRecipe(
        batch={"still": 2, "clip": 2, "film": 1},
        curriculum=(Phase(1.0, {"still": 1.0, "clip": 1.0, "film": 1.0}),),
        warmup_steps=1,
    )

    def steps(trainer, count):
        return [trainer.train_step() for _ in range(count)]

    once = Trainer(recipe, shards, tmp_path / "a")
    losses = steps(once, 4)
    (tmp_path / "b").mkdir()
    half = Trainer(recipe, shards, tmp_path / "b")
    steps(half, 2)
    half.save()
    resumed = Trainer(recipe, shards, tmp_path / "b")
    assert resumed.step == 2
    assert steps(resumed, 2) == losses[2:]
    for ours, theirs in zip(once.ema.parameters(), resumed.ema.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_levels_lean_towards_noise_and_cover_the_range():
    levels = draw_levels(4000, 3.0, torch.Generator().manual_seed(0))
    assert 0 < levels.min() < 0.1
    assert levels.max() <= 1
    assert levels.median() > 0.6
