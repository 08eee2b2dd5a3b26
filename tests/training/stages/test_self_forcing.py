"""Self-forcing: its updates against an independent reference, whom gradients reach, films that live on, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml

from causalcine_core.errors import InputError
from causalcine_core.weights.tensors import write_torch
from training.components.checkpoint import FIELDS, FORMAT, read_state
from training.components.pieces import Films, Pieces
from training.data.shards import save_shard
from training.pack import load, save
from training.recipe import plain, read, read_recipe
from training.stages import self_forcing
from training.stages.self_forcing import SelfForcing, SelfForcingRecipe, main
from training.trainer import Trainer

from ... import reference as engine
from ...gpu import GPU, pretended_gpu
from ..conftest import RECIPE, SHOTS, changed
from ..reference import Shape, chunk_logit, encode_text, packed_pass
from ..test_trainer import assert_same, kill_at_step

IDS = {",": 2, "[character1]": 3, "a": 4, "cat": 5, "red": 6}  # of the sorted vocabulary, behind padding and unknown
STUDENT = {"steps": 3, "window": 1, "top_k": 2, "shift": 2.0}
SHAPE = Shape(heads=2, text_heads=2, chunk=3, window=1, top_k=2)
ADVERSARIAL = {"weight": 0.3, "critic_weight": 0.2, "r1": 2.0, "blocks": [0, 2], "width": 16, "heads": 2}
OPTIMIZER = {"learning_rate": 1e-3, "betas": [0.0, 0.999], "weight_decay": 0.0, "clip": 0}
SMALL = {
    "model": RECIPE["model"],
    "text": RECIPE["text"],
    "run": {"steps": 12, "device": "cpu", "precision": "fp32", "log_every": 1, "save_every": 100},
    "optimizer": OPTIMIZER,
    "fake_optimizer": OPTIMIZER,
    "heads_optimizer": OPTIMIZER,
    "ema": {"decay": 0.9},
    "student": STUDENT,
    "teacher": {"guidance": 2.0},
    "films": {"batch": 2, "lengths": [3], "held_out": 2},
    "ratio": 2,
}


@pytest.fixture
def folder(tmp_path):
    """Six films of random latents, seven chunks each."""
    films = torch.randn(6, 16, 21, 4, 4, generator=torch.Generator().manual_seed(1))
    save_shard(tmp_path / "films-0.safetensors", list(films), [{"chunk": 3, "shots": SHOTS, "cast": [{}] * 21}] * 6)
    return tmp_path


@pytest.fixture
def trainer(folder, monkeypatch):
    """`trainer(**changes)`: student, teacher and fake denoiser differ, and no weight is zero or one, so that each matters."""
    monkeypatch.setattr(self_forcing, "CAPTION_VOCABULARY", list(IDS))

    def make(**changes) -> Trainer:
        recipe = read(SelfForcingRecipe, changed(SMALL, **changes))
        stage = SelfForcing(recipe, torch.device("cpu"), folder)
        generator = torch.Generator().manual_seed(2)
        modules = [stage.student, stage.teacher, stage.fake, *([stage.scores.heads] if stage.scores.heads else [])]
        with torch.no_grad():
            for module in modules:
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
            for model in modules[:3]:
                model.text.tokens.weight[0] = 0
        stage.average.reset()
        stage.check = lambda: None
        return Trainer(stage, recipe, folder, torch.device("cpu"))

    return make


# --- updates against the reference


def ids(text: str) -> list[int]:
    return [IDS[word] for word in text.replace(",", " ,").split()]


def doubled(module, trained: bool = False):
    return {name: p.detach().double().requires_grad_(trained) for name, p in module.named_parameters()}


def rolled_out(weights, batch) -> torch.Tensor:
    """The student's films by the engine's reference, with the gradient of the exit pass."""
    net = {name.removeprefix("net."): p for name, p in weights.items() if name.startswith("net.")}
    lines = zip(*batch.piece.prompts, strict=True)
    texts = [torch.stack([encode_text(weights, 2, ids(text)).detach() for text in of]) for of in lines]
    settings = engine.Settings(chunk=3, first_chunk=3, exit_step=batch.exit_step % 3, sampler="renoise", **STUDENT)
    shots = [engine.Shot(text, 1) for text in texts]
    film = engine.Film(engine.Network(net, 2, 3), shots, settings, (4, 4), batch.piece.seed)
    return torch.cat([made.latent for made in film.make()], 2)


def answers(weights, batch, clean, noisy, texts, seen=None) -> torch.Tensor:
    """A denoiser's velocities of the noisy half. seen: takes each film's features after every block, of all frames."""
    out = []
    for b in range(len(clean)):
        features: dict[int, torch.Tensor] = {}
        said = [ids(text) for text in texts[b]]
        out.append(packed_pass(weights, SHAPE, clean[b], noisy[b], float(batch.levels[b]), said, features))
        if seen is not None:
            seen.append(features)
    return torch.stack(out)


def logits(weights, seen) -> torch.Tensor:
    """Of each film's chunks, by the features of blocks 0 and 2 of their noisy tokens."""
    rows = []
    for features in seen:
        noisy = [features[block][len(features[block]) // 2 :] for block in (0, 2)]  # F S dim
        rows.append([chunk_logit(weights, 2, [f[i : i + 3].flatten(0, 1) for f in noisy]) for i in (0, 3, 6)])
    return torch.stack([torch.stack(row) for row in rows])


def noised(films, batch):
    levels = batch.levels.double()[:, None, None, None, None]
    return (1 - levels) * films + levels * batch.noise.double()


def student_loss(stage, batch, weights):
    """(A scalar with the student's gradient, L_DMD, L_G)."""
    made = rolled_out(weights, batch)
    clean, levels = made.detach(), batch.levels.double()[:, None, None, None, None]
    noisy, seen = noised(made, batch), []
    fake_weights, real_weights = doubled(stage.fake), doubled(stage.teacher)
    velocity = answers(fake_weights, batch, clean, noisy, batch.piece.prompts, seen)
    adversarial = F.softplus(-logits(doubled(stage.scores.heads), seen)).mean()
    with torch.no_grad():
        guided = answers(real_weights, batch, clean, noisy, batch.piece.described)
        unguided = answers(real_weights, batch, clean, noisy, [[""] * 3] * 2)
        real = noisy - levels * (unguided + 2.0 * (guided - unguided))
        gradient = torch.zeros_like(clean)
        for b in range(2):
            for i in (0, 3, 6):
                part = (b, slice(None), slice(i, i + 3))
                distance = (clean[part] - real[part]).abs().mean()
                gradient[part] = (noisy[part] - levels[b] * velocity[part] - real[part]) / distance
    pulled = (made * gradient).sum() / made.numel()
    return pulled + 0.3 * adversarial, gradient.square().mean() / 2, adversarial


def critic_losses(stage, batch, fake_weights, heads_weights):
    with torch.no_grad():
        made = rolled_out(doubled(stage.student), batch)
    true, texts = batch.piece.true.double(), batch.piece.prompts
    seen = [], [], []
    velocity = answers(fake_weights, batch, made, noised(made, batch), texts, seen[0])
    answers(fake_weights, batch, true, noised(true, batch), texts, seen[1])
    answers(fake_weights, batch, true, noised(true + 0.1 * batch.nearby.double(), batch), texts, seen[2])
    of_made, of_true, around = (logits(heads_weights, one) for one in seen)
    return {
        "flow": (velocity - (batch.noise.double() - made)).square().mean(),
        "critic": F.softplus(-of_true).mean() + F.softplus(of_made).mean(),
        "r1": (of_true - around).square().mean(),
    }


def measured(made: Trainer, step: int) -> dict[str, torch.Tensor]:
    """The losses of an update whose gradients are kept, and no weight moved."""
    made.step = step
    for part in made.stage.parts.values():
        part.optimizers.step = lambda *_: None
    return made.update()


def assert_gradients(module, expected) -> None:
    compared = 0
    for name, p in module.named_parameters():
        if name.startswith("text."):
            assert p.grad is None, name  # text encoders are frozen
            continue
        scale = max(expected[name].abs().max().item(), 1e-4)
        torch.testing.assert_close(
            p.grad.double(), expected[name], atol=1e-4 * scale, rtol=1e-3, msg=lambda told, name=name: f"{name}: {told}"
        )
        compared += 1
    assert compared > 5


@pytest.mark.parametrize("step", [2, 5])
def test_a_student_s_update_is_the_reference_s(trainer, step):
    """Loss and gradients: the rollout with its memory and one exit, both denoisers in packed passes, guidance, what only the
    teacher is told, a scale of each chunk, and the way through the heads."""
    made = trainer(adversarial=ADVERSARIAL)
    (batch,) = made.stage.draw(step).batches
    assert batch.kind == "student" and batch.piece.described != batch.piece.prompts
    weights = doubled(made.stage.student, trained=True)
    total, dmd, adversarial = student_loss(made.stage, batch, weights)
    names = [name for name in weights if name.startswith("net.")]
    gradients = dict(zip(names, torch.autograd.grad(total, [weights[name] for name in names]), strict=True))
    losses = measured(made, step)
    torch.testing.assert_close(losses["dmd"].double(), dmd, atol=0, rtol=1e-4)
    torch.testing.assert_close(losses["adversarial"].double(), adversarial.detach(), atol=0, rtol=1e-4)
    assert_gradients(made.stage.student, gradients)


def test_an_update_of_the_fake_denoiser_and_its_heads_is_the_reference_s(trainer):
    made = trainer(adversarial=ADVERSARIAL)
    (batch,) = made.stage.draw(0).batches
    assert batch.kind == "fake"
    fake, heads = doubled(made.stage.fake, trained=True), doubled(made.stage.scores.heads, trained=True)
    expected = critic_losses(made.stage, batch, fake, heads)
    total = expected["flow"] + 0.2 * (expected["critic"] + 2.0 * expected["r1"])
    names = [name for name in fake if name.startswith("net.")]
    leaves = [*(fake[name] for name in names), *heads.values()]
    found = torch.autograd.grad(total, leaves)
    losses = measured(made, 0)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name].double(), value.detach(), atol=0, rtol=1e-4, msg=name)
    assert_gradients(made.stage.fake, dict(zip(names, found, strict=False)))
    assert_gradients(made.stage.scores.heads, dict(zip(heads, found[len(names) :], strict=True)))


# --- whom an update reaches


def test_updates_take_turns_and_each_trains_its_own(trainer):
    """`ratio` of the fake denoiser and its heads, then one of the student; the teacher never moves, nor do text encoders."""
    made = trainer(adversarial=ADVERSARIAL)
    stage = made.stage
    parts = {"model": stage.student, "fake": stage.fake, "heads": stage.scores.heads, "teacher": stage.teacher}
    for step in range(6):
        before = {name: [p.detach().clone() for p in module.parameters()] for name, module in parts.items()}
        made.update()
        moved = {
            name
            for name, module in parts.items()
            if any(not torch.equal(p, old) for p, old in zip(module.parameters(), before[name], strict=True))
        }
        assert moved == ({"model"} if step % 3 == 2 else {"fake", "heads"})
        assert all(p.grad is None for p in stage.teacher.parameters())
    assert made.samples == {"fake": 8, "student": 4}


def test_with_adapters_student_and_fake_denoiser_learn_by_them_alone(trainer):
    slow = {"learning_rate": 1e-3, "muon_learning_rate": 0}
    made = trainer(lora={"rank": 2}, optimizer=slow, fake_optimizer=slow)
    for _ in range(3):
        models = {"fake": made.stage.fake, "model": made.stage.student}
        before = {name: copy.deepcopy(model.state_dict()) for name, model in models.items()}
        made.update()
        moved = {
            (name, "lora_" in weight)
            for name, model in models.items()
            for weight, value in model.state_dict().items()
            if not torch.equal(value, before[name][weight])
        }
        assert moved == ({("model", True)} if made.step == 3 else {("fake", True)})


def test_no_gradient_of_a_chunk_reaches_an_earlier_one_or_a_denoiser(trainer, monkeypatch):
    made, seen = trainer(adversarial=ADVERSARIAL), []
    rolled = self_forcing.Rollouts.make.__globals__["unroll"]

    def watched(*given, **others):
        for one in rolled(*given, **others):
            seen.append(one.clean)
            yield one

    monkeypatch.setitem(self_forcing.Rollouts.make.__globals__, "unroll", watched)
    (batch,) = made.stage.draw(2).batches
    losses = made.stage.losses(batch)
    earlier, last = seen[0], seen[-1]
    assert torch.autograd.grad(last.sum(), earlier, allow_unused=True, retain_graph=True) == (None,)
    sum(losses.values()).backward()
    assert all(
        p.grad is None for m in (made.stage.teacher, made.stage.fake, made.stage.scores.heads) for p in m.parameters()
    )


def test_a_step_at_2e_6_changes_weights(trainer):
    """The published rate: weights are float32 whatever the network computes in."""
    made = trainer(optimizer={"learning_rate": 2e-6}, ratio=1, run={"precision": "bf16"})
    made.step = 1
    begun = {name: p.detach().clone() for name, p in made.stage.student.net.named_parameters()}
    made.update()
    moved = [(p != begun[name]).float().mean().item() for name, p in made.stage.student.net.named_parameters()]
    assert min(moved) > 0.2 and sum(moved) / len(moved) > 0.9


# --- what is drawn


def test_levels_are_clamped_and_the_exit_is_one_for_all_films(trainer):
    made = trainer(films={"batch": 4, "micro_batch": 2})
    levels, exits, kinds = [], set(), []
    for step in range(60):
        update = made.stage.draw(step)
        assert len({batch.exit_step for batch in update.batches}) == 1
        levels += [level for batch in update.batches for level in batch.levels.tolist()]
        exits.add(update.batches[0].exit_step)
        kinds.append(update.kind)
    assert 0.02 - 1e-6 <= min(levels) < 0.2 and 0.9 < max(levels) <= 0.98 + 1e-6
    assert sum(level > 0.5 for level in levels) / len(levels) > 0.6  # shifted by 2: two thirds
    assert exits == {0, 1, 2} and kinds == ["fake", "fake", "student"] * 20
    assert {trainer(exit="last").stage.draw(step).batches[0].exit_step for step in range(6)} == {-1}


def test_films_that_are_held_out_are_never_drawn(trainer):
    stage = trainer().stage
    drawn = {film for step in range(40) for film in stage.draw(step).batches[0].piece.stories}
    assert drawn == {2, 3, 4, 5}
    assert [film for piece in stage.pieces.held_out() for film in piece.stories] == [0, 1]


# --- memory


@pytest.mark.parametrize(("top_k", "reads"), [(2, True), (0, False)])
def test_scores_read_what_lies_before_the_window_through_routing_alone(trainer, top_k, reads):
    """Replace the clean chunk 0, outside the window of 1, by noise (one layer, so that nothing comes by another way)."""
    made = trainer(
        student={"top_k": top_k},
        model={"num_layers": 1},
        films={"lengths": [4]},
        adversarial={**ADVERSARIAL, "blocks": [0]},
    )
    (batch,) = made.stage.draw(0).batches
    clean = batch.piece.true
    other = torch.cat([torch.randn(2, 16, 3, 4, 4), clean[:, :, 3:]], 2)
    told = []
    for film in (clean, other):
        shown = made.stage.shown(batch, film)
        noisy = shown.noised(clean)
        with torch.no_grad():
            velocity, judged = made.stage.scores._judge(shown, film, noisy)
        told.append((made.stage.scores.real(shown, noisy)[:, :, -3:], velocity[:, :, -3:], judged[:, -1]))
    assert all(torch.equal(a, b) != reads for a, b in zip(*told, strict=True))


def test_films_that_live_on_are_those_made_in_one_go(trainer):
    """Two pieces of two chunks, handed on through the stage's own state, against four chunks at once: bit for bit."""
    made = trainer(films={"lengths": [2], "longest": 6, "history": 1})
    stage, pieces = made.stage, []
    for step in range(3):
        stage.updating(1)
        (batch,) = stage.draw(step).batches
        with torch.no_grad():
            x, before = stage.pieces.make(stage.rollouts, batch.piece, -1)
        pieces.append((batch.piece, x, before))
        stage.updated(step)
        if step == 0:
            stage.load_state_dict(stage.state_dict())
    assert [piece.start for piece, _, _ in pieces] == [0, 2, 4]
    assert [piece.history for piece, _, _ in pieces] == [0, 1, 1]
    assert {(piece.stories, piece.seed) for piece, _, _ in pieces} == {(pieces[0][0].stories, pieces[0][0].seed)}
    lines = [[text for piece, _, _ in pieces for text in piece.lines[b]] for b in range(2)]
    with torch.no_grad():
        whole, _ = stage.rollouts.make(lines, pieces[0][0].seed, exit_step=-1)
    assert torch.equal(torch.cat([x for _, x, _ in pieces], 2), whole)
    assert torch.equal(pieces[2][2], whole[:, :, 9:12])
    (batch,) = stage.draw(9).batches  # six chunks were all
    assert batch.piece.start == 0 and not stage.pieces.living


def test_the_teacher_s_own_films_may_be_the_true_ones(trainer):
    """Made by the teacher in many guided steps under the described texts, as the engine's reference makes them."""
    made = trainer(adversarial={**ADVERSARIAL, "teacher_steps": 2}, films={"batch": 1, "lengths": [2]}, ratio=1)
    (batch,) = made.stage.draw(0).batches
    seen = []
    judge = made.stage.scores._judge
    made.stage.scores._judge = lambda shown, clean, noisy: seen.append(clean) or judge(shown, clean, noisy)
    made.stage.losses(batch)
    weights = doubled(made.stage.teacher)
    net = {name.removeprefix("net."): p for name, p in weights.items() if name.startswith("net.")}
    texts = [encode_text(weights, 2, ids(text))[None] for text in batch.piece.described[0]]
    fields = {**STUDENT, "steps": 2, "sampler": "unipc", "guidance": 2.0}
    settings = engine.Settings(chunk=3, first_chunk=3, **fields)
    shots = [engine.Shot(text, 1) for text in texts]
    film = engine.Film(
        engine.Network(net, 2, 3), shots, settings, (4, 4), batch.piece.seed, encode_text(weights, 2, [])[None]
    )
    expected = torch.cat([one.latent for one in film.make()], 2)
    torch.testing.assert_close(seen[1].double(), expected, atol=1e-3, rtol=1e-3)
    assert torch.equal(seen[1], seen[2]) and not torch.equal(seen[0], seen[1])


def test_beyond_its_end_a_story_begins_anew(folder):
    pieces = Pieces(folder, Films(batch=1, lengths=(7,), longest=14, history=2, held_out=1), 3)
    first = pieces.draw(0, 7, random.Random(0))
    pieces.living[0] = self_forcing_living(first)
    second = pieces.draw(0, 7, random.Random(1))
    assert second.start == 7 and second.stories == first.stories
    assert second.prompts[0] == (*first.prompts[0][5:], *first.prompts[0])
    assert torch.equal(second.true[:, :, 6:], first.true)


def self_forcing_living(piece):
    from training.components.rollouts import Living

    return Living(piece.stories, piece.seed, 7, torch.zeros(1, 16, 6, 4, 4), None)


def test_what_was_made_in_an_update_that_is_left_out_does_not_live_on(trainer):
    made = trainer(films={"lengths": [2], "longest": 6})
    losses = made.stage.losses
    made.stage.losses = lambda batch: {name: loss * float("nan") for name, loss in losses(batch).items()}
    made.update()
    assert made.skipped == 1 and not made.stage.pieces.living
    made.stage.losses = losses
    made.update()
    assert made.stage.pieces.living[0].chunks == 2


def test_losses_are_computed_where_the_recipe_says(folder, tmp_path, monkeypatch):
    """On the pretended GPU, which refuses tensors that lie elsewhere: the losses of the CPU."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where kernels are chosen
    recipe = read(SelfForcingRecipe, changed(SMALL, adversarial=ADVERSARIAL, films={"lengths": [2], "longest": 4}))
    here = SelfForcing(recipe, torch.device("cpu"), folder)
    expected = []
    for step in range(2):  # of films that begin, and that go on
        expected.append({name: value.item() for name, value in here.losses(here.draw(step).batches[0]).items()})
        here.updated(step)
    with pretended_gpu(), torch.no_grad():
        there = SelfForcing(recipe, GPU, folder)
        for step, losses in enumerate(expected):
            found = there.losses(there.draw(step).batches[0])
            there.updated(step)
            assert {value.device for value in found.values()} == {GPU}
            assert {name: value.item() for name, value in found.items()} == pytest.approx(losses, rel=1e-4)


# --- before the first update


def test_networks_that_do_not_belong_together_are_refused(trainer):
    stage = trainer().stage
    for model in (stage.student, stage.fake):
        model.load_state_dict(stage.teacher.state_dict())
    check = SelfForcing.check
    check(stage)
    with torch.no_grad():
        stage.fake.net.head.head.bias[3] += 1e-4
    with pytest.raises(InputError, match="the fake denoiser is no copy of the teacher"):
        check(stage)
    stage.fake.load_state_dict(stage.teacher.state_dict())
    with torch.no_grad():
        stage.student.net.head.head.weight.mul_(-1)
    with pytest.raises(
        InputError, match=r"student and teacher disagree on true films: at level 0\.5 .* of at most 0\.8"
    ):
        check(stage)


# --- runs


@pytest.fixture
def base(folder, monkeypatch):
    """The state of a run of teacher forcing, as `--start-from` takes it."""
    recipe = read(SelfForcingRecipe, SMALL)
    model = SelfForcing(recipe, torch.device("cpu"), folder).student
    torch.manual_seed(3)
    torch.nn.init.normal_(model.net.head.head.weight, std=0.05)
    state = dict.fromkeys(FIELDS) | {"format": 2, "stage": "teacher_forcing", "step": 1, "recipe": {}}
    state["parts"] = {"model": {"weights": model.state_dict(), "average": None}}
    torch.save(state, folder / "base.pt")
    return folder / "base.pt"


@pytest.fixture
def recipe_file(tmp_path):
    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(changed(SMALL, **changes)))
        return path

    return write


def options(recipe, folder, work, *others):
    return [str(recipe), "--data", str(folder), "--work", str(work), "--threads", "1", *map(str, others)]


SLOW_AT_STEP_6 = """
import sys, time
from training.stages import self_forcing
from training.trainer import Trainer
update = Trainer.update
def slow(self):
    if self.step == 6:
        time.sleep(600)
    return update(self)
Trainer.update = slow
self_forcing.main(sys.argv[1:])
"""


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(recipe_file, folder, base, tmp_path):
    """kill -9 between two saves, in the middle of a cycle (of 3) and of films that live on; then --resume: everything in the
    state equals that of a run in one go, bit for bit."""
    films = {"batch": 2, "micro_batch": 1, "lengths": [2, 3], "longest": 40, "history": 3}
    recipe = recipe_file(run={"steps": 9, "save_every": 4}, films=films, adversarial=ADVERSARIAL)
    main(options(recipe, folder, tmp_path / "whole", "--start-from", base))
    work = tmp_path / "killed"
    command = [sys.executable, "-c", SLOW_AT_STEP_6, *options(recipe, folder, work, "--start-from", base)]
    kill_at_step(5, command)  # one update beyond the save at 4
    held = read_state(work / "state.pt")
    assert held["step"] == 4 and len(held["own"]["living"]) == 2
    main(options(recipe, folder, work, "--resume"))
    whole = read_state(tmp_path / "whole" / "state.pt")
    assert all(living["chunks"] >= 18 for living in whole["own"]["living"].values())
    assert_same(read_state(work / "state.pt"), whole)


def test_a_run_is_carried_to_another_machine(recipe_file, folder, base, tmp_path):
    """In pieces, to other films: those that lived on have lost their stories, and new ones are begun."""
    films = {"lengths": [2], "longest": 40}
    recipe, work = recipe_file(run={"steps": 3}, films=films, adversarial=ADVERSARIAL), tmp_path / "w"
    main(options(recipe, folder, work, "--start-from", base, "--set", "run.max_seconds=1e-9"))
    assert read_state(work / "state.pt")["own"]["living"]
    save(read_state(work / "state.pt"), tmp_path / "pieces")
    write_torch(work / "state.pt", load(tmp_path / "pieces") | {"format": FORMAT})
    (folder / "films-0.safetensors").rename(folder / "films-1.safetensors")
    main(options(recipe, folder, work, "--resume"))
    assert read_state(work / "state.pt")["step"] == 3


def test_a_run_logs_its_curves_and_keeps_its_best_state(recipe_file, folder, base, tmp_path):
    recipe = recipe_file(
        run={"steps": 6, "measure_every": 3}, adversarial=ADVERSARIAL, limits={"motion": [0, 1e9], "variance": [0, 1e9]}
    )
    main(options(recipe, folder, tmp_path / "w", "--start-from", base))
    lines = [json.loads(line) for line in (tmp_path / "w" / "log.jsonl").read_text().splitlines()]
    curves = {name for line in lines for name in line.get("mean", {})}
    assert curves >= {f"student {name}" for name in ("dmd", "adversarial", "lag", "motion", "variance", "saturation")}
    assert curves >= {f"fake {name}" for name in ("flow", "critic", "r1", "motion", "variance", "saturation")}
    assert any(name.startswith("fake flow 0.") for name in curves)
    measured = {line["step"]: line["measured"] for line in lines if "measured" in line}
    assert list(measured) == [0, 3, 6]
    assert all(set(of) >= {"motion", "variance", "saturation", "distance"} for of in measured.values())
    kept = read_state(tmp_path / "w" / "best.pt")
    assert kept["stage"] == "self_forcing" and kept["recipe"]["ratio"] == 2
    assert measured[kept["step"]]["distance"] == min(of["distance"] for of in measured.values())


def test_a_run_whose_films_leave_the_range_of_true_ones_stops_and_says_why(recipe_file, folder, base, tmp_path, capsys):
    recipe = recipe_file(run={"steps": 6, "measure_every": 2}, limits={"motion": [0, 1e-3]})
    main(options(recipe, folder, tmp_path / "w", "--start-from", base))
    assert "motion of the student's films is" in (said := capsys.readouterr().out)
    assert "(limits.motion)" in said and read_state(tmp_path / "w" / "state.pt")["step"] < 6


def test_what_cannot_begin_is_refused_in_one_sentence(recipe_file, folder, base, tmp_path):
    """From nothing, from a codec, from a student as its own teacher, without films, on films of other chunks."""
    recipe = recipe_file()
    with pytest.raises(InputError, match="self_forcing begins with a model that was trained before"):
        main(options(recipe, folder, tmp_path / "a"))
    state = torch.load(base, weights_only=True)
    codec = dict(state, stage="vae", parts={"vae": {}})
    torch.save(codec, tmp_path / "codec.pt")
    with pytest.raises(InputError, match=r"--start-from .*codec\.pt is the state of a run that trains no transformer"):
        main(options(recipe, folder, tmp_path / "a", "--start-from", tmp_path / "codec.pt"))
    torch.save(dict(state, recipe={"student": STUDENT}), tmp_path / "student.pt")
    with pytest.raises(
        InputError, match=r"--start-from .*student\.pt holds a student of few steps, which can be no teacher"
    ):
        main(options(recipe, folder, tmp_path / "a", "--start-from", tmp_path / "student.pt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds 0 films in films-\*\.safetensors, of which 2 are held out"):
        main(options(recipe, tmp_path / "empty", tmp_path / "a", "--start-from", base))
    films, record = torch.randn(3, 16, 4, 4, 4), {"chunk": 1, "shots": SHOTS, "cast": [{}] * 4}
    save_shard(tmp_path / "empty" / "films-0.safetensors", list(films), [record] * 3)
    with pytest.raises(InputError, match="holds films in chunks of 1 latent frames: the student makes 3"):
        main(options(recipe, tmp_path / "empty", tmp_path / "a", "--start-from", base))
    assert not (tmp_path / "a" / "state.pt").exists()


def test_the_recipe_of_the_repository_is_read():
    recipe = read_recipe(SelfForcingRecipe, Path(__file__).parents[3] / "training" / "recipes" / "self_forcing.yaml")
    assert recipe.optimizer.betas == (0.0, 0.999) and recipe.films.longest > 20
    assert read(SelfForcingRecipe, plain(recipe)) == recipe  # as a state keeps it


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"films": {"batch": 3, "micro_batch": 2}}, r"films\.batch must be a multiple of micro_batch \(2\), got 3"),
        ({"films": {"lengths": []}}, r"films\.lengths must not be empty"),
        ({"films": {"lengths": [5], "longest": 4}}, r"films\.longest must be 0, or at least 5"),
        ({"limits": {"colour": [0, 1]}}, "limits must be one of"),
        ({"adversarial": {"weight": 1, "blocks": [3]}}, r"adversarial\.blocks must be .* 2"),
        ({"adversarial": {"width": 10, "heads": 4}}, r"width must be a multiple of heads \(4\), got 10"),
        ({"exit": "first"}, "exit must be one of"),
    ],
)
def test_a_recipe_that_cannot_be_is_one_sentence(changes, says):
    with pytest.raises(InputError, match=says):
        read(SelfForcingRecipe, changed(SMALL, **changes))
