"""ODE initialisation: one update is that of the papers, the student alone learns, and a chain of runs leads to a film in few steps."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from causalcine_core import Pipeline, Story
from causalcine_core.errors import InputError
from causalcine_core.model import PRESETS, load_transformer
from causalcine_core.vae import VAEConfig, WanVAE, save_vae
from training import export
from training.components.checkpoint import read_state
from training.data.samples import Sample
from training.data.shards import save_shard
from training.recipe import plain, read, read_recipe
from training.stages import ode_init, teacher_forcing
from training.stages.ode_init import OdeInit, OdeInitRecipe
from training.trainer import Trainer

from ...gpu import GPU, pretended_gpu
from .. import reference
from ..conftest import RECIPE, SHOTS, changed
from ..test_trainer import SLOW_AT_STEP_5, assert_same, kill_at_step

ROOT = Path(__file__).parents[3]
IDS = {",": 2, "[character1]": 3, "a": 4, "cat": 5, "red": 6}  # of the sorted vocabulary, behind padding and unknown
TINY = changed(
    {name: RECIPE[name] for name in ("model", "text", "run", "ema", "optimizer")},
    model={"text_len": 64},
    student={"steps": 2, "window": 1, "top_k": 2},
    teacher={"guidance": 2.0},
    solver_steps=4,
    mixture={"batch": {"clip": 2}, "curriculum": [{"until": 1.0, "mix": {"clip": 1.0}}], "name_only_weight": 2.0},
)


@pytest.fixture
def films(tmp_path, monkeypatch):
    """A folder of three films of random latents, whose words are the vocabulary."""
    for stage in (ode_init, teacher_forcing):
        monkeypatch.setattr(stage, "CAPTION_VOCABULARY", list(IDS))
    latents = torch.randn(3, 16, 21, 4, 4, generator=torch.Generator().manual_seed(1))
    record = {"chunk": 3, "shots": SHOTS, "cast": [{}] * 21}
    (tmp_path / "data").mkdir()
    save_shard(tmp_path / "data" / "films-0.safetensors", list(latents), [record] * 3)
    return tmp_path / "data"


@pytest.fixture
def stage(films):
    """`stage(**changes)`: of weights none of which is zero or one, other ones in the student than in the teacher."""

    def make(**changes) -> OdeInit:
        made = OdeInit(read(OdeInitRecipe, changed(TINY, **changes)), torch.device("cpu"), films)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for model in (made.model, made.teacher):
                for parameter in model.parameters():
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
                model.text.tokens.weight[0] = 0
        made.average.reset()
        return made

    return make


def doubles(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().double() for name, p in model.named_parameters()}


def ids(texts) -> list[list[int]]:
    return [[IDS[word] for word in text.replace(",", " ,").split()] for text in texts]


# --- one update


@pytest.mark.parametrize("described", [True, False])
def test_a_step_is_that_of_the_reference(stage, films, described):
    """Loss and gradients against the papers in float64: guided Euler steps of the teacher over true history, then the student's
    error at the path's end, from one level for all chunks of a sample."""
    made = stage(teacher={"described": described, "guidance": 2.0})
    recipe = made.recipe
    trainer = Trainer(made, recipe, films.parent, torch.device("cpu"))
    rng = random.Random("0/0")
    rng.getrandbits(63)  # the seed of the noise
    _, samples = made.source.draw(0, rng)
    (batch,) = made.draw(0).batches
    assert torch.equal(batch.path.clean, torch.stack([sample.latents for sample in samples]))
    assert any(sample.prompts != sample.described for sample in samples)

    student = {name: p.requires_grad_(name.startswith("net.")) for name, p in doubles(made.model).items()}
    shape = reference.Shape(heads=2, text_heads=2, chunk=3, window=1, top_k=2)
    sigmas = [3 * s / (1 + 2 * s) for s in (1, 0.75, 0.5, 0.25, 0)]
    total = torch.zeros((), dtype=torch.float64)
    counts = torch.tensor([sample.weights for sample in samples]).double()
    assert set(counts.flatten().tolist()) == {1.0, 2.0}
    for b, sample in enumerate(samples):
        told = ids(sample.described if described else sample.prompts)
        past, x = sample.latents.double(), batch.path.noise[b].double()
        states = []
        for i in range(4):
            states.append(x)
            answers = (
                reference.packed_pass(doubles(made.teacher), shape, past, x, sigmas[i], of) for of in (told, [[]] * 4)
            )
            guided, unguided = answers
            x = x + (sigmas[i + 1] - sigmas[i]) * (unguided + 2 * (guided - unguided))
        (number,) = set(batch.picked[b].tolist())  # one for all chunks
        begun, sigma = states[2 * number], sigmas[2 * number]
        velocity = reference.packed_pass(student, shape, past, begun, sigma, ids(sample.prompts))
        error = (begun - sigma * velocity - x).pow(2).unflatten(1, (4, 3)).mean((0, 2, 3, 4))
        total = total + (counts[b] / counts.sum() * error).sum()
    trained = {name: p for name, p in student.items() if p.requires_grad}
    gradients = dict(zip(trained, torch.autograd.grad(total, list(trained.values())), strict=True))

    made.parts["model"].optimizers.step = lambda *_: None  # only measured here
    made.parts["model"].optimizers.clip = lambda: torch.zeros(())
    losses = trainer.update()
    torch.testing.assert_close(losses["x0"].double(), total.detach(), atol=0, rtol=3e-5)
    for name, p in made.model.named_parameters():
        if name not in trained:
            assert p.grad is None, name
            continue
        scale = max(gradients[name].abs().max().item(), 1e-3)
        torch.testing.assert_close(p.grad.double(), gradients[name], atol=3e-5 * scale, rtol=3e-4, msg=name)


def test_only_the_student_is_changed_and_what_it_was_taught_is_no_part_of_its_gradient(stage, films):
    made = stage()
    trainer = Trainer(made, made.recipe, films.parent, torch.device("cpu"))
    teacher = {name: p.detach().clone() for name, p in made.teacher.state_dict().items()}
    student = {name: p.detach().clone() for name, p in made.model.state_dict().items()}
    (batch,) = made.draw(0).batches
    assert not batch.path.states.requires_grad
    trainer.update()
    assert all(p.grad is None for p in made.teacher.parameters())
    assert all(torch.equal(p, teacher[name]) for name, p in made.teacher.state_dict().items())
    moved = {name for name, p in made.model.state_dict().items() if not torch.equal(p, student[name])}
    assert moved == {name for name in student if name.startswith("net.")}


def test_levels_are_the_students_and_one_for_all_chunks_of_a_sample(stage):
    made = stage(student={"steps": 4, "shift": 5.0}, solver_steps=48)
    assert [1000 * level for level in made.kept] == pytest.approx([1000, 937.5, 833.3333, 625], abs=1e-3)
    drawn = torch.cat([made.pick(2, 4, 0, torch.Generator().manual_seed(seed)) for seed in range(50)])
    assert torch.equal(drawn, drawn[..., :1].expand(-1, -1, 4))
    assert set(drawn.flatten().tolist()) == {0, 1, 2, 3}
    assert (drawn[:, 0, 0] != drawn[:, 1, 0]).any()


def test_a_path_may_be_learned_from_at_several_levels_and_is_solved_once(stage, monkeypatch):
    made, asked = stage(draws=2), []
    solve = ode_init.Trajectory.states.func
    monkeypatch.setattr(ode_init.Trajectory.states, "func", lambda path: asked.append(path) or solve(path))
    batches = made.draw(0).batches
    picked = torch.stack([batch.picked[:, 0] for batch in batches])
    assert picked.sort(0).values.tolist() == [[0, 0], [1, 1]]  # without repetition
    assert float(sum(batch.weights.sum() for batch in batches)) == pytest.approx(1)
    for batch in batches:
        made.losses(batch)
    assert len(asked) == 1


def test_a_first_chunk_of_more_steps_is_learned_at_its_own_levels(stage):
    made = stage(student={"steps": 1, "first_levels": [1000, 900, 750, 500], "shift": 3.0}, solver_steps=4)
    assert [1000 * level for level in made.kept] == pytest.approx([1000, 900, 750, 500])
    drawn = torch.cat([made.pick(1, 3, 0, torch.Generator().manual_seed(seed)) for seed in range(30)])
    assert set(drawn[..., 0].flatten().tolist()) == {0, 1, 2, 3} and drawn[..., 1:].eq(0).all()
    behind = torch.cat([made.pick(1, 3, 1, torch.Generator().manual_seed(seed)) for seed in range(30)])
    assert set(behind[..., 1].flatten().tolist()) == {0, 1, 2, 3}  # a reference stands before the film
    assert behind[..., [0, 2]].eq(0).all()
    (batch,) = made.draw(0).batches
    states = batch.path.states
    frames = batch.path.layout.each(batch.picked)
    noisy = ode_init.at_levels(states[:-1], frames)
    for b in range(2):
        for i in range(4):
            number = int(batch.picked[b, i])
            assert torch.equal(noisy[b, :, 3 * i : 3 * i + 3], states[number, b, :, 3 * i : 3 * i + 3])
    assert made.losses(batch)["x0"].isfinite()


def clip_of(weights) -> Sample:
    latents = torch.randn(16, 3 * len(weights), 4, 4, generator=torch.Generator().manual_seed(3))
    prompts = ("a red cat", "a cat", "red", "a")[: len(weights)]
    return Sample(latents, (3,) * len(weights), prompts, prompts, tuple(weights), ({},) * 3 * len(weights))


def test_chunks_before_the_first_weight_are_history_only(stage):
    """They are neither solved nor learned, which changes nothing for the chunks that count."""
    made = stage()
    noise = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(4))
    picked = torch.ones(1, 1, 4, dtype=torch.int64)
    with torch.no_grad():
        (alone,) = made.batches("clip", [clip_of((0, 0, 0, 1.0))], noise, picked)
        (all_of_it,) = made.batches("clip", [clip_of((1e-12, 0, 0, 1.0))], noise, picked)
        assert alone.path.states.shape[3] == 3 and all_of_it.path.states.shape[3] == 12
        torch.testing.assert_close(made.losses(alone)["x0"], made.losses(all_of_it)["x0"], atol=0, rtol=1e-5)


def test_an_update_in_small_batches_is_the_same_update(stage):
    results = []
    for micro in ({}, {"clip": 1}):
        made = stage(mixture={"micro_batch": micro}, draws=2)
        batches = made.draw(1).batches
        assert len(batches) == (4 if micro else 2)
        total = sum(made.losses(batch)["x0"] for batch in batches)
        total.backward()
        results.append((total.detach(), [p.grad for p in made.model.net.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_a_student_that_has_seen_a_path_ends_where_it_ends(stage, films):
    """Two clips over and over: the error falls to a small part of what it was."""
    made = stage(optimizer={"learning_rate": 3e-3, "muon_learning_rate": 0, "warmup": 0, "cooldown": 0}, draws=2)
    with torch.no_grad():
        made.model.load_state_dict(made.teacher.state_dict())
    made.draw = lambda step, draw=made.draw: draw(0)
    trainer = Trainer(made, made.recipe, films.parent, torch.device("cpu"))
    course = [float(trainer.update()["x0"]) for _ in range(25)]
    assert course[-1] < 0.35 * course[0]


def test_it_computes_where_its_recipe_says(films, tmp_path, monkeypatch):
    """On the pretended GPU, which refuses tensors that lie elsewhere: paths and losses of the CPU, a first chunk of levels of its
    own among them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # where kernels are chosen
    levels = {"levels": [1000, 500], "first_levels": [1000, 750, 500], "shift": 1.0}
    recipe = read(OdeInitRecipe, changed(TINY, student=levels, draws=2))
    here = OdeInit(recipe, torch.device("cpu"), films)
    torch.nn.init.xavier_uniform_(here.model.net.head.head.weight)
    here.teacher.load_state_dict(here.model.state_dict())
    with torch.no_grad():
        expected = [here.losses(batch)["x0"].item() for batch in here.draw(0).batches]
    with pretended_gpu(), torch.no_grad():
        there = OdeInit(recipe, GPU, films)
        there.model.load_state_dict(here.model.state_dict())
        there.teacher.load_state_dict(here.model.state_dict())
        assert {p.device for p in (*there.model.parameters(), *there.teacher.parameters())} == {GPU}
        found = [there.losses(batch)["x0"] for batch in there.draw(0).batches]
        assert {loss.device for loss in found} == {GPU}
        assert [loss.item() for loss in found] == pytest.approx(expected, rel=1e-5)
    assert min(expected) > 0


# --- runs


@pytest.fixture
def run(films, tmp_path):
    """`run(work, *options, begin=..., **changes)`: of the stage on one thread; the state that it leaves."""

    def go(work: str, *options: str, **changes) -> dict:
        path = tmp_path / f"{work}.yaml"
        path.write_text(yaml.safe_dump(changed(TINY, **changes)))
        ode_init.main([str(path), "--data", str(films), "--work", str(tmp_path / work), "--threads", "1", *options])
        return read_state(tmp_path / work / "state.pt")

    return go


@pytest.fixture
def base(films, tmp_path):
    """The state of a short run of teacher forcing."""
    recipe = {name: value for name, value in RECIPE.items() if name not in ("auxiliary", "teacher_every")}
    clips = {"batch": {"clip": 2}, "curriculum": [{"until": 1.0, "mix": {"clip": 1.0}}]}
    path = tmp_path / "base.yaml"
    path.write_text(yaml.safe_dump(changed({**recipe, "mixture": clips}, run={"steps": 2}, model={"text_len": 64})))
    teacher_forcing.main([str(path), "--data", str(films), "--work", str(tmp_path / "base"), "--threads", "1"])
    return tmp_path / "base" / "state.pt"


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(films, base, run, tmp_path):
    """kill -9 after the first save; then --resume: weights, averages, moments, teacher, data place and counters bit for bit."""
    settings = {"run": {"steps": 7, "save_every": 3, "log_every": 1}}
    whole = run("whole", "--start-from", str(base), **settings)
    command = SLOW_AT_STEP_5.replace("teacher_forcing", "ode_init").replace(
        "ode_init.main", f"ode_init.CAPTION_VOCABULARY = {list(IDS)}\node_init.main"
    )
    options = [str(tmp_path / "whole.yaml"), "--data", str(films), "--work", str(tmp_path / "killed"), "--threads", "1"]
    # one update beyond the save at 3
    kill_at_step(4, [sys.executable, "-c", command, *options, "--start-from", str(base)])
    assert read_state(tmp_path / "killed" / "state.pt")["step"] == 3
    base.unlink()  # the teacher is in the state
    assert_same(run("killed", "--resume", **settings), whole)


def test_a_chain_of_runs_leads_to_a_film_in_few_steps(base, run, tmp_path):
    """Teacher forcing, then this stage from its state, its file with recipe and card, a film by it, and a next run from it."""
    torch.manual_seed(0)
    shape = VAEConfig(dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2)
    save_vae(WanVAE(shape).eval(), tmp_path / "vae.safetensors", {"steps": "0"})
    preview = {"vae": str(tmp_path / "vae.safetensors"), "seconds": 1.5, "size": [32, 32], "seeds": [5]}
    state = run("student", "--start-from", str(base), run={"steps": 2, "preview_every": 2}, preview=preview)
    assert (tmp_path / "student" / "preview-0000000.png").exists()
    begun = read_state(base)["parts"]["model"]
    given = {**begun["weights"], **begun["average"]}
    assert all(torch.equal(weight, given[name]) for name, weight in state["own"]["teacher"].items())

    out = tmp_path / "student.safetensors"
    export.main(["--work", str(tmp_path / "student"), "--vae", preview["vae"], "--out", str(out), "--size", "32x32"])
    pipe = Pipeline.from_pretrained(out, device="cpu")
    schedule = pipe.recipe.schedule
    assert (schedule.steps, schedule.sampler, schedule.shift, pipe.recipe.guidance.scale) == (2, "renoise", 3.0, 1.0)
    assert (pipe.recipe.visibility.window, pipe.recipe.visibility.top_k) == (1, 2)
    story = Story.from_dict({"global": "", "shots": [{"prompt": "a red cat", "seconds": 1.5}]})
    assert sum(len(chunk.frames) for chunk in pipe.stream(story, seed=1)) > 12
    net = load_transformer(out).state_dict()
    for name, weight in state["parts"]["model"]["average"].items():
        torch.testing.assert_close(net[name.removeprefix("net.")], weight, atol=1e-2, rtol=0)  # it holds bytes

    other = {"teacher": {"file": str(base)}, "run": {"steps": 1}}
    after = run("after", "--start-from", str(tmp_path / "student" / "state.pt"), **other)
    assert_same(after["own"]["teacher"], state["own"]["teacher"])


def test_it_begins_with_a_file_and_keeps_its_teacher(base, run, films):
    with pytest.raises(InputError, match=r"ode_init begins with a model that was trained before: .*--start-from"):
        run("nothing")
    run("a", "--start-from", str(base), run={"steps": 1})
    with pytest.raises(InputError, match=r"teacher\.file is  in .* cannot be changed to nano"):
        run("a", "--resume", run={"steps": 2}, teacher={"file": "nano"})


# --- recipes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"solver_steps": 5}, "solver_steps 5 at shift 3 pass no timestep 750"),
        ({"solver_steps": 0}, "solver_steps must be a whole number from 1 to 1000, got 0"),
        ({"student": {"levels": [1000, 701]}}, "solver_steps 4 at shift 3 pass no timestep 701"),
        ({"draws": 3}, "draws must be a whole number from 1 to 2, got 3"),
        ({"student": {"steps": 0}}, "student.steps must be a whole number"),
        ({"teacher": {"guidance": "much"}}, "teacher.guidance must be a number"),
        ({"shift": 3.0}, 'unknown field "shift"'),
        ({"preview": {"steps": 3}}, 'preview has an unknown field "steps"'),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, changes, says):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(changed(TINY, **changes)))
    with pytest.raises(InputError) as error:
        read_recipe(OdeInitRecipe, tmp_path / "r.yaml")
    assert says in str(error.value)
    assert str(error.value).startswith("recipe ") and "\n" not in str(error.value)


def test_the_recipe_of_the_repository_is_read():
    recipe = read_recipe(OdeInitRecipe, ROOT / "training" / "recipes" / "ode_init.yaml")
    assert recipe.model == PRESETS["nano"]
    assert read(OdeInitRecipe, plain(recipe)) == recipe  # as a state keeps it
    assert replace(recipe, draws=1) != recipe
