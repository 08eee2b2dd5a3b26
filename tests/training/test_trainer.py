"""The loop of every stage: it stops and goes on bit for bit, saves whole or not at all, and does what its recipe says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from causalcine_core.errors import InputError
from training import trainer as trainers
from training.components.checkpoint import StateFile, read_state
from training.recipe import EMA, Optimizer, Run
from training.stage import Part, Stage, Update
from training.stages.teacher_forcing import TeacherForcing, main
from training.trainer import Trainer


def train(recipe: Path, data: Path, work: Path, *options: str) -> dict:
    """A run on one thread, and the state that it leaves."""
    main([str(recipe), "--data", str(data), "--work", str(work), "--threads", "1", *options])
    return read_state(work / "state.pt")


def assert_same(one, other, at="state") -> None:
    """Bit for bit, but for the time that was taken."""
    if isinstance(one, dict):
        assert list(one) == list(other), at
        for name in one:
            if name not in ("seconds", "hardware", "recipe"):
                assert_same(one[name], other[name], f"{at}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), at
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{at}[{i}]")
    elif isinstance(one, Tensor):
        assert torch.equal(one, other), at
    else:
        assert one == other, at


# --- stop and go on

SLOW_AT_STEP_5 = """
import sys, time
from training.stages import teacher_forcing
from training.trainer import Trainer
update = Trainer.update
def slow(self):
    if self.step == 5:
        time.sleep(600)
    return update(self)
Trainer.update = slow
teacher_forcing.main(sys.argv[1:])
"""


def kill_at_step(step: int, command: list[str]) -> None:
    """Run a training that logs each update, and kill it (-9) when it has made so many."""
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{") and json.loads(line)["step"] == step:
                break
    finally:
        process.kill()
        process.wait()


def test_a_run_that_is_killed_and_resumed_ends_as_one_that_was_not(recipe_file, shards, tmp_path):
    """kill -9 after the first save, in a process of its own; then --resume: weights, averages, moments, teacher, data place and
    counters equal those of a run in one go, bit for bit."""
    recipe = recipe_file(run={"steps": 8, "save_every": 3})
    whole = train(recipe, shards, tmp_path / "whole")
    work = tmp_path / "killed"
    options = map(str, (recipe, "--data", shards, "--work", work, "--threads", 1))
    command = [sys.executable, "-c", SLOW_AT_STEP_5, *options]
    kill_at_step(4, command)  # one update beyond the save at 3
    assert read_state(work / "state.pt")["step"] == 3
    assert_same(train(recipe, shards, work, "--resume"), whole)


def test_a_limit_of_time_stops_and_does_not_change_the_run(recipe_file, shards, tmp_path, capsys):
    """Sittings of one update each, that their time ends, make the run of one sitting: schedules are measured in updates."""
    recipe = recipe_file(run={"steps": 4})
    whole = train(recipe, shards, tmp_path / "whole")
    options: tuple[str, ...] = ()
    for step in range(1, 5):
        state = train(recipe, shards, tmp_path / "parts", "--set", "run.max_seconds=1e-9", *options)
        assert state["step"] == step
        options = ("--resume",)
    assert_same(state, whole)
    assert "stopped after 1e-09 s (max_seconds) at step 1" in capsys.readouterr().out


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_between_updates(recipe_file, shards, tmp_path, sign, monkeypatch, capsys):
    update = Trainer.update

    def pressed(self):
        if self.step == 2:
            os.kill(os.getpid(), sign)
        return update(self)

    monkeypatch.setattr(Trainer, "update", pressed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests are a job in the background
    state = train(recipe_file(run={"steps": 8, "save_every": 100}), shards, tmp_path / "w")
    assert state["step"] == 3
    assert f"stopped by {sign.name} at step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resume_and_start_from_are_two_options(recipe_file, shards, tmp_path, capsys):
    recipe = recipe_file(run={"steps": 2}, ema={"decay": 0.5})
    first = train(recipe, shards, tmp_path / "a")
    with pytest.raises(InputError, match="holds the state of a run: --resume goes on with it"):
        train(recipe, shards, tmp_path / "a")
    with pytest.raises(InputError, match="holds the state of a run"):
        train(recipe, shards, tmp_path / "a", "--start-from", str(tmp_path / "a" / "state.pt"))
    again = train(recipe, shards, tmp_path / "a", "--resume")  # it is finished
    assert_same(again, first)
    fresh = TeacherForcing.start_from
    begun = {}

    def start_from(self, path):
        fresh(self, path)
        begun.update({name: p.detach().clone() for name, p in self.model.named_parameters()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherForcing, "start_from", start_from)
        new = train(recipe, shards, tmp_path / "b", "--resume", "--start-from", str(tmp_path / "a" / "state.pt"))
    assert new["step"] == 2  # it counts from its own beginning
    for name, weight in first["parts"]["model"]["average"].items():
        assert torch.equal(begun[name], weight)


def test_a_state_names_its_stage_and_its_recipe(recipe_file, shards, tmp_path, monkeypatch):
    recipe = recipe_file(run={"steps": 2})
    state = train(recipe, shards, tmp_path / "a")
    assert (state["stage"], state["recipe"]["run"]["steps"]) == ("teacher_forcing", 2)
    monkeypatch.setattr(TeacherForcing, "name", "other_stage")
    with pytest.raises(InputError, match="is of stage teacher_forcing, not other_stage"):
        train(recipe, shards, tmp_path / "a", "--resume")


def test_what_a_recipe_says_now_is_in_force_and_said(recipe_file, shards, tmp_path, capsys):
    """Also rates, betas and weight decay, which optimizers keep in their own state."""
    train(recipe_file(run={"steps": 4}), shards, tmp_path / "a", "--set", "run.max_seconds=1e-9")
    changes = {"learning_rate": 2e-5, "weight_decay": 0.5, "betas": [0.5, 0.6], "warmup": 0, "cooldown": 0}
    capsys.readouterr()
    state = train(recipe_file(run={"steps": 4}, optimizer=changes), shards, tmp_path / "a", "--resume")
    out = capsys.readouterr().out
    assert "optimizer.learning_rate was 0.001 and is 2e-05 from now on" in out
    assert "optimizer.betas was [0.9, 0.98] and is [0.5, 0.6] from now on" in out
    group = state["parts"]["model"]["optimizers"][0]["param_groups"][0]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-5, 0.5, (0.5, 0.6))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"num_layers": 2}}, "model.num_layers is 3 in .* and cannot be changed to 2"),
        ({"text": {"heads": 4}}, "text.heads is 2 in .* and cannot be changed to 4"),
        ({"optimizer": {"muon_learning_rate": 0}}, "muon_learning_rate cannot become 0"),
    ],
)
def test_what_cannot_be_changed_is_refused_by_name(recipe_file, shards, tmp_path, changes, says):
    train(recipe_file(run={"steps": 1}), shards, tmp_path / "a")
    with pytest.raises(InputError, match=says):
        train(recipe_file(run={"steps": 1}, **changes), shards, tmp_path / "a", "--resume")


def test_shards_that_appeared_since_are_read_where_they_would_have_been(recipe_file, shards, tmp_path):
    """A run that is resumed draws from the shards that it had, until it looks for new ones as it always does."""
    from training.data.shards import Shards, save_shard

    held = Shards(shards, "films")
    names = held.state()
    save_shard(shards / "films--.safetensors", held.latents[:1], held.records[:1])  # which sorts first
    held.refresh()
    assert held.state() == [*names, "films--.safetensors"] and len(held) == 5
    again = Shards(shards, "films")
    assert sorted(again.state()) == again.state() != held.state()
    again.restore(held.state())
    assert [float(t.flatten()[20]) for t in again.latents] == [float(t.flatten()[20]) for t in held.latents]
    (shards / "films-0.safetensors").unlink()
    with pytest.raises(InputError, match=r"films-0\.safetensors"):
        again.restore(held.state())


# --- figures


def test_the_state_of_the_lowest_figure_is_kept_and_a_run_may_stop_for_a_reason(line, tmp_path, capsys):
    """best.pt is a whole state; a run that is resumed knows what was the best."""
    figures = {0: 5.0, 2: 3.0, 4: 4.0, 6: 2.0, 8: 9.0}
    trainer = line(steps=20, measure_every=2)
    trainer.stage.best = "far"
    trainer.stage.measure = lambda: {"far": figures[trainer.step], "other": 1.0}
    trainer.stage.stop_for = lambda of: "too far" if of["far"] > 8 else ""
    kept = []
    save = trainer.best_file.save
    trainer.best_file.save = lambda state: kept.append(state["step"]) or save(state)
    trainer.run()
    assert kept == [0, 2, 6] and "stopped at step 8: too far" in capsys.readouterr().out
    assert read_state(tmp_path / "best.pt")["step"] == 6 and read_state(tmp_path / "state.pt")["step"] == 8
    noted = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in noted if "measured" in one] == [0, 2, 4, 6, 8]
    again = line(steps=20)
    again.resume()
    assert again.best == 2.0


def test_curves_of_a_stage_are_logged_beside_its_losses(line, tmp_path):
    trainer = line(steps=2, log_every=2)
    trainer.stage.curves = lambda: {"slope": torch.tensor(float(trainer.step))}
    trainer.run()
    assert json.loads((tmp_path / "log.jsonl").read_text())["mean"]["slope"] == 1.5


# --- saving


class Line(Stage[Tensor]):
    """The smallest stage there is: one weight that is drawn to 3."""

    name, recipe_type = "line", Run

    def __init__(self, recipe, device, data):
        self.run = recipe.run
        self.module = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.module.weight)
        self.parts = {"line": Part(self.module, Optimizer(0.1, weight_decay=0), EMA(0.5))}
        self.aims: list[float] = []

    def draw(self, step):
        aim = self.aims[step] if step < len(self.aims) else 3.0
        return Update("aim", [torch.tensor([aim])], 1)

    def losses(self, batch):
        return {"square": (self.module(batch[None]) / batch - batch).square().mean()}


@pytest.fixture
def line(tmp_path):
    """`line(**run)`: a trainer of that stage."""
    from dataclasses import make_dataclass

    def make(**run) -> Trainer:
        recipe = make_dataclass("R", ["run"], frozen=True)(Run(**{"steps": 6, "save_every": 1, "log_every": 1, **run}))
        return Trainer(Line(recipe, torch.device("cpu"), tmp_path), recipe, tmp_path, torch.device("cpu"))

    return make


def test_a_save_that_fails_is_said_and_the_former_state_stays_whole(line, tmp_path, monkeypatch, capsys):
    """The disk is full at two saves in the middle: training goes on, and nothing half-written is left."""
    trainer = line()
    real, calls = os.replace, []

    def full(source, target):
        if str(target).endswith("state.pt"):
            calls.append(read_state(tmp_path / "state.pt")["step"] if calls else 0)
            if len(calls) in (3, 4):
                raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", full)
    trainer.run()
    out = [line for line in capsys.readouterr().out.splitlines() if "not saved" in line]
    assert [line.split(" is not saved")[0] for line in out] == ["step 3", "step 4"]
    assert all("No space left on device" in line and "the run goes on" in line for line in out)
    assert calls[2:5] == [2, 2, 2]  # the state of step 2 was there while the saves of 3 and 4 failed
    assert read_state(tmp_path / "state.pt")["step"] == 6
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "state.pt"]


def test_the_third_save_in_a_row_that_fails_ends_the_run(line, tmp_path, monkeypatch):
    trainer = line(steps=50)
    trainer.update()
    trainer.save()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match=r"step 4 is not saved: .*No space left on device; stopped, since 3 saves"):
        trainer.run()
    assert read_state(tmp_path / "state.pt")["step"] == 1


def test_a_full_disk_inside_the_archive_is_one_sentence_too(line, tmp_path):
    """torch tells it as a RuntimeError of its archive writer."""
    trainer = line()
    trainer.save()
    before = (tmp_path / "state.pt").read_bytes()
    full = StateFile(Path("/dev/full"))
    if not full.path.exists():
        pytest.skip("no /dev/full here")
    assert full.save({"step": 7}) is not None
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\x80\x02nothing", b"PK\x03\x04 cut", None])
def test_a_broken_state_is_one_sentence(tmp_path, content):
    path = tmp_path / "state.pt"
    if content is None:
        torch.save({"model": {}, "step": 3}, path)  # of another program
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"state .*state\.pt") as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_a_log_that_cannot_be_written_is_said_once(line, tmp_path, capsys):
    trainer = line()
    (tmp_path / "log.jsonl").mkdir()
    trainer.run()
    assert capsys.readouterr().out.count("the run goes on without it") == 1


# --- updates


def test_an_update_that_is_not_finite_is_left_out(line, capsys):
    trainer = line(steps=4)
    trainer.stage.aims = [3.0, float("nan"), float("inf"), 3.0]
    weights = []
    for _ in range(4):
        trainer.update()
        weights.append(trainer.stage.module.weight.item())
    assert weights[0] == weights[1] == weights[2] != weights[3]
    assert (trainer.skipped, trainer.step) == (2, 4)
    assert capsys.readouterr().out.count("is not finite: left out") == 2


def test_three_in_a_row_end_the_run(line):
    trainer = line(steps=9)
    trainer.stage.aims = [float("nan")] * 9
    with pytest.raises(InputError, match=r"step 2 \(aim\) .* stopped, since 3 updates in a row"):
        trainer.run()


def test_an_update_that_trains_one_part_leaves_the_others(line):
    """As in self-forcing, where the fake denoiser learns five times as often."""
    trainer = line()
    other = nn.Linear(1, 1)
    trainer.stage.parts["other"] = Part(other, Optimizer(0.1), EMA(0.5))
    before = other.weight.detach().clone()
    draw = trainer.stage.draw
    trainer.stage.draw = lambda step: Update("aim", draw(step).batches, 1, trains=("line",))
    trainer.stage.losses = lambda batch: {"both": (trainer.stage.module(batch[None]) + other(batch[None])).mean()}
    trainer.update()
    assert torch.equal(other.weight, before) and torch.equal(
        trainer.stage.parts["other"].average.weights["weight"], before
    )
    assert trainer.stage.module.weight != 0


def test_the_average_follows_the_weights(line):
    """(1 + n) / (10 + n) of it is kept at update n, and never more than the recipe's share."""
    trainer, expected = line(steps=40), 0.0
    trainer.stage.parts["line"].average.recipe = EMA(0.3, start=2)
    for step in range(12):
        trainer.update()
        weight = trainer.stage.module.weight.item()
        keep = 0.0 if step < 2 else min(0.3, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * weight
        assert trainer.stage.parts["line"].average.weights["weight"].item() == pytest.approx(expected)
    with trainer.stage.parts["line"].average.applied():
        assert trainer.stage.module.weight.item() == pytest.approx(expected)
    assert trainer.stage.module.weight.item() == weight


def test_time_left_and_curves_are_in_the_log(recipe_file, shards, tmp_path):
    train(recipe_file(run={"steps": 4, "log_every": 2}), shards, tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4]
    assert any(name.endswith(" flow") for line in lines for name in line["mean"])
    assert lines[-1]["left"] == "0 s"
    assert [trainers.remaining(s) for s in (20, 90, 7500)] == ["20 s", "2 min", "2 h 05 min"]


def test_a_folder_without_the_films_that_are_asked_for_is_refused(recipe_file, shards, tmp_path):
    (shards / "films-0.safetensors").unlink()
    with pytest.raises(InputError, match=r"holds no films-\*\.safetensors, but the curriculum mixes in clip"):
        train(recipe_file(), shards, tmp_path / "a")


def test_time_is_measured_over_all_sittings(line):
    trainer = line(steps=3)
    update = trainer.update
    trainer.update = lambda: (time.sleep(0.02), update())
    trainer.run()
    assert trainer.seconds >= 0.06 and sum(trainer.hardware.values()) == pytest.approx(trainer.seconds)
