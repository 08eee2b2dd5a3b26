"""What one update of teacher forcing is measured against, and that its memory is really read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from training.data.samples import Sample
from training.losses.flow import draw_levels
from training.recipe import read
from training.stages import teacher_forcing
from training.stages.teacher_forcing import TeacherForcing, TeacherForcingRecipe

from ..gpu import GPU, pretended_gpu
from .conftest import RECIPE, WORDS, changed

LEVEL = torch.tensor([0.6])


@pytest.fixture
def stage(shards, monkeypatch):
    """`stage(**changes)`: the stage of the tiny recipe, with a head that is not zero and a vocabulary of six words."""
    monkeypatch.setattr(teacher_forcing, "CAPTION_VOCABULARY", WORDS)

    def make(**changes) -> TeacherForcing:
        made = TeacherForcing(read(TeacherForcingRecipe, changed(RECIPE, **changes)), torch.device("cpu"), shards)
        torch.manual_seed(0)
        torch.nn.init.xavier_uniform_(made.model.net.head.head.weight)
        made.average.reset()
        made.teacher = made.model.frozen_copy() if made.teacher else None
        return made

    return make


def sample(chunks: int, seed: int = 0) -> Sample:
    latents = torch.randn(16, 3 * chunks, 4, 4, generator=torch.Generator().manual_seed(seed))
    prompts = ("a red cat",) * chunks
    return Sample(latents, (3,) * chunks, prompts, prompts, (1.0,) * chunks, ({},) * 3 * chunks)


def noise(chunks: int) -> torch.Tensor:
    return torch.randn(1, 16, 3 * chunks, 4, 4, generator=torch.Generator().manual_seed(1))


def chunk_error(stage: TeacherForcing, one: Sample, i: int, **given) -> torch.Tensor:
    """The flow loss of chunk `i` alone."""
    weights = tuple(float(n == i) for n in range(len(one.chunks)))
    return losses(stage, replace(one, weights=weights), **given)["flow"]


def losses(stage: TeacherForcing, *samples: Sample, level=LEVEL, drop=False) -> dict[str, torch.Tensor]:
    count = len(samples[0].chunks)
    noises = noise(count).expand(len(samples), -1, -1, -1, -1)
    dropped = [drop] * len(samples)
    batches = stage.batches("clip", list(samples), noises, level.expand(len(samples)), dropped)
    out: dict[str, torch.Tensor] = {}
    for batch in batches:
        for name, share in stage.losses(batch).items():
            out[name] = out.get(name, 0) + share
    return out


@pytest.mark.parametrize(("top_k", "layers"), [(2, 3), (0, 1)])
def test_what_lies_before_the_window_is_read_only_through_routing(stage, top_k, layers):
    """Replace the clean chunk 0, far outside the window, by noise: the last chunk's loss must move when it is routed.

    Without routing chunk 0 still reaches chunk 3 through the chain of windows, which one layer alone does not have.
    """
    made = stage(top_k=top_k, model={"num_layers": layers})
    first = sample(4)
    latents = first.latents.clone()
    latents[:, :3] = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        before, after = (chunk_error(made, one, 3) for one in (first, replace(first, latents=latents)))
    assert (before != after) == (top_k > 0)


@pytest.mark.parametrize(("routing", "reaches"), [("sink", True), ("fifo", False)])
def test_a_model_is_trained_under_the_routing_of_its_recipe(stage, routing, reaches):
    """Three frames are recalled of six: by place the first ones, which are chunk 0, or those of chunk 1. One layer, so that nothing
    comes by another way."""
    made, first = stage(routing=routing, top_k=3, clip_window=1, model={"num_layers": 1}), sample(4)
    latents = first.latents.clone()
    latents[:, :3] = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        before, after = (chunk_error(made, one, 3) for one in (first, replace(first, latents=latents)))
    assert (before != after) == reaches


def test_the_loss_is_the_flow_matching_error_of_the_noisy_half(stage):
    """A network whose head gives zero predicts velocity 0: the loss is the mean square of noise - clean, chunk by chunk."""
    made = stage()
    torch.nn.init.zeros_(made.model.net.head.head.weight)
    one = sample(3)
    error = (noise(3) - one.latents[None]).square().view(1, 16, 3, 3, 4, 4).mean((1, 3, 4, 5))[0]
    for i in range(3):
        torch.testing.assert_close(chunk_error(made, one, i), error[i])
    weighted = replace(one, weights=(1.0, 0.0, 3.0))
    torch.testing.assert_close(losses(made, weighted)["flow"], (error[0] + 3 * error[2]) / 4)


def test_chunks_before_the_first_weight_are_history_only(stage):
    """Their noisy copies are left out, which changes nothing for the chunks that count."""
    made, one = stage(), sample(4)
    with torch.no_grad():
        alone = chunk_error(made, one, 3)
        last = losses(made, replace(one, weights=(0.0, 1e-12, 0.0, 1.0)))["flow"]
    torch.testing.assert_close(alone, last)


def test_who_is_called_by_name_is_learned_from_the_answer_to_a_description(stage):
    """The teacher's answer under the described prompt is the target of such chunks; the film is that of the others."""
    made, alone = stage(), stage(teacher_every=0)
    told = sample(4)
    named = replace(told, prompts=("a red cat",) * 3 + ("a red [character1]",))
    with torch.no_grad():
        for i in range(3):
            torch.testing.assert_close(chunk_error(made, named, i), chunk_error(alone, named, i))
        assert 0 < chunk_error(made, named, 3) < 0.1 * chunk_error(alone, named, 3)
        dropped = chunk_error(made, named, 3, drop=True)
        torch.testing.assert_close(dropped, chunk_error(alone, told, 3, drop=True))
        knows = stage()
        knows.model.text.tokens.weight[:] = knows.model.text.tokens.weight[0]  # to whom all words are one
        knows.teacher = knows.model.frozen_copy()
        assert chunk_error(knows, named, 3) == 0


def test_the_teacher_is_the_average_and_follows_now_and_then(stage):
    made = stage()
    for step in range(6):
        for weight in made.average.weights.values():
            weight.fill_(float(step))
        made.updated(step)
        expected = {2: 2.0, 3: 2.0, 4: 2.0, 5: 5.0}.get(step)
        if expected is not None:
            assert made.teacher.net.head.head.weight.eq(expected).all()


def test_pointing_asks_routing_for_the_frames_that_show_who_is_named(stage):
    """Less where the chunk's query is made to fit the frames with that name, none where there is nothing to choose."""
    made = stage()
    prompts = ("[character1], a red cat,", "[character2], a red cat,", "[character1]")
    one = replace(sample(3), prompts=prompts, described=(*prompts[:2], prompts[0]))

    def pointing(s, drop=False):
        return losses(made, s, drop=drop).get("pointing", 0)

    other = replace(one, prompts=(*prompts[:2], "[character2]"), described=(*prompts[:2], prompts[1]))
    chance = losses(made, one, other)["pointing"].item()
    assert chance == pytest.approx(0.693, abs=0.02)  # log 2
    assert pointing(sample(3)) == 0
    assert pointing(one, drop=True) == 0
    assert pointing(replace(one, prompts=(prompts[0],) * 2 + prompts[2:])) == 0  # both frames show who is named
    naming = losses(made, one)["naming"]
    optimizer = torch.optim.Adam(made.model.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        losses(made, one, other)["pointing"].backward()
        optimizer.step()
    assert losses(made, one, other)["pointing"] < 0.05
    assert losses(made, one)["naming"] != naming


def test_binding_lets_each_of_two_in_a_frame_find_itself(stage):
    """Less where the tokens of two characters learn to tell who they are, none where nobody is to be seen."""
    made = stage()
    prompts = ("[character1], a red cat,", "[character2], a red cat,", "[character1] [character2]")
    left, right = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)
    names = ("[character1]", "[character2]")
    cast = ({names[0]: left},) * 3 + ({names[1]: right},) * 3 + (dict(zip(names, (left, right), strict=True)),) * 3
    one = replace(sample(3), prompts=prompts, described=prompts, cast=cast)

    def binding(s, drop=False):
        return losses(made, s, drop=drop).get("binding", 0)

    assert binding(replace(one, cast=({},) * 9)) == binding(one, drop=True) == 0
    assert binding(one).item() > 0.5
    optimizer = torch.optim.Adam(made.model.parameters(), 1e-2)
    for _ in range(50):
        optimizer.zero_grad()
        binding(one).backward()
        optimizer.step()
    assert binding(one).item() < 0.1
    swapped = (*cast[:6], *(dict(zip(names, (right, left), strict=True)),) * 3)
    assert binding(replace(one, cast=swapped)).item() > 1  # it went by where they are


@pytest.mark.parametrize("kind", ["still", "reunion", "clip", "film"])
def test_an_update_in_small_batches_is_the_same_update(stage, kind):
    """Losses and gradients of an effective batch do not depend on how much of it is computed at a time."""
    batch = {"still": 5, "reunion": 4, "clip": 3, "film": 2}
    results = []
    for micro in ({}, {kind: 2}):
        curriculum = [{"until": 1.0, "mix": {kind: 1.0}}]
        made = stage(mixture={"batch": batch, "micro_batch": micro, "curriculum": curriculum}, text_dropout=0.3)
        update = made.draw(3)
        assert len(update.batches) == (1 if not micro else -(-update.samples // 2))
        total: dict[str, torch.Tensor] = {}
        for one in update.batches:
            shares = made.losses(one)
            sum(made.weights.get(name, 1) * share for name, share in shares.items()).backward()
            for name, share in shares.items():
                total[name] = total.get(name, 0) + share.detach()
        results.append((total, [p.grad for p in made.model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_activations_that_are_computed_again_give_the_same_gradients(stage):
    """With the auxiliary losses, which look into the blocks, and rounded to bfloat16."""
    results = []
    for checkpointing in (False, True):
        mixture = {"batch": {"clip": 2}, "curriculum": [{"until": 1.0, "mix": {"clip": 1.0}}]}
        made = stage(mixture=mixture, run={"checkpointing": checkpointing, "precision": "bf16"})
        assert made.model.compute.checkpointed == checkpointing
        (batch,) = made.draw(1).batches
        with made.computing():
            losses = made.losses(batch)
            sum(losses.values()).backward()
        results.append((losses, [p.grad for p in made.model.parameters()]))
    assert set(results[0][0]) >= {"flow", "naming", "pointing"}
    for one, other in zip(results[0][0].values(), results[1][0].values(), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(*(gradients for _, gradients in results), strict=True):
        assert torch.equal(one, other)


def test_a_stage_computes_where_its_recipe_says(shards, tmp_path, monkeypatch):
    """On the pretended GPU, which refuses tensors that lie elsewhere: the losses of the CPU, and the host waits for none of the
    auxiliary ones (what is compared with what is known before)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where kernels are chosen
    recipe = read(TeacherForcingRecipe, RECIPE)
    here = TeacherForcing(recipe, torch.device("cpu"), shards)
    with torch.no_grad():
        expected = [here.losses(batch) for step in range(4) for batch in here.draw(step).batches]
    with pretended_gpu() as gpu, torch.no_grad():
        there = TeacherForcing(recipe, GPU, shards)
        assert {t.device for t in (*there.model.parameters(), *there.average.weights.values())} == {GPU}
        for step, losses in enumerate(expected):
            (batch,) = there.draw(step).batches
            gpu.waits.clear()
            found = there.losses(batch)
            assert not any("an index" in what for what in gpu.waits)
            assert {name: value.device for name, value in found.items()} == dict.fromkeys(losses, GPU)
            for name, value in losses.items():
                assert found[name].item() == pytest.approx(value.item(), rel=1e-5)


def test_what_an_update_draws_depends_on_seed_and_step_alone(stage):
    one, other, seed = stage(), stage(), stage(run={"seed": 1})
    for step in (5, 0):
        drawn = [made.draw(step).batches[0] for made in (one, other)]
        assert torch.equal(drawn[0].noise, drawn[1].noise) and torch.equal(drawn[0].levels, drawn[1].levels)
    assert not torch.equal(seed.draw(0).batches[0].levels, drawn[0].levels)


def test_levels_lean_towards_noise_and_cover_the_range():
    levels = draw_levels(4000, 3.0, torch.Generator().manual_seed(0))
    assert 0 < levels.min() < 0.1
    assert levels.max() <= 1
    assert levels.median() > 0.6


def test_pictures_of_a_cast_are_recalled_and_neither_learned_nor_in_the_window(stage):
    """Two pictures, then three chunks of a film: the last chunk's loss moves with a picture when it is routed, without routing it
    does not, at any window; the pictures' own noise and words are in no loss."""
    one = sample(3)
    pictures = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(5))

    def with_pictures(shown):
        return replace(
            one,
            latents=torch.cat([shown, one.latents], 1),
            chunks=(1, 1, 3, 3, 3),
            prompts=("a", "red", *one.prompts),
            described=("a", "red", *one.described),
            weights=(0.0, 0.0, *one.weights),
            cast=({},) * 11,
            references=2,
        )

    def flow(made, shown, seed=1):
        drawn = torch.randn(1, 16, 11, 4, 4, generator=torch.Generator().manual_seed(1))
        drawn[:, :, :2] = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed))
        (batch,) = made.batches("cast", [with_pictures(shown)], drawn, LEVEL, [False])
        return made.losses(batch)["flow"].detach()

    for top_k in (0, 3):
        made = stage(clip_window=5, top_k=top_k, auxiliary={}, teacher_every=0)
        before = flow(made, pictures)
        assert (flow(made, pictures + 1) == before) == (top_k == 0)
        assert flow(made, pictures, seed=2) == before


def test_a_tenth_of_the_levels_is_drawn_evenly():
    """So that those near clean are trained too: of a logit-normal alone not one in ten thousand lies below 0.02."""
    levels = draw_levels(200_000, 1.0, torch.Generator().manual_seed(0))
    assert (levels < 0.02).double().mean().item() == pytest.approx(0.1 * 0.02, rel=0.15)
    assert levels.min().item() == pytest.approx(1e-3)  # of what is drawn below it
    assert levels.median().item() == pytest.approx(0.5, abs=0.01)
