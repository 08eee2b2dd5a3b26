"""The loop of every stage: draw, losses, update, average; log, preview, save; resume; stop.

Schedules are measured in updates. Time is only a limit: a run that is stopped, by its limit, by Ctrl-C or by kill -9, and
resumed goes on as if it had never stopped, bit for bit on the same machine.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.runner import pick_device
from causalcine_core.weights.built_in import model_path

from . import HOME
from .components.checkpoint import PATIENCE, StateFile
from .components.metrics import Log, machine, remaining
from .components.previews import save_sheet
from .recipe import completed, differences, plain, read_recipe
from .stage import Stage, Update


class Trainer:
    """A run of a stage in a folder. state.pt: all that it needs to go on. log.jsonl: its curves. preview-*.png: its films."""

    def __init__(self, stage: Stage[Any], recipe: Any, work: Path, device: torch.device):
        self.stage, self.recipe, self.work, self.device = stage, recipe, work, device
        self.run_recipe = recipe.run
        self.step, self.seconds, self.skipped = 0, 0.0, 0
        self.samples: dict[str, int] = {}  # by kind of update
        self.hardware: dict[str, float] = {}  # seconds by machine, over all sittings
        self.file, self.log = StateFile(work / "state.pt"), Log(work / "log.jsonl")
        self.best: float | None = None  # the lowest of the figure that the stage names
        self.best_file = StateFile(work / "best.pt")
        self._bad = 0  # updates in a row that were not finite

    def run(self) -> None:
        """Trains until the recipe's last step, its time, or a signal; saves at the end in any case, and shows what was made."""
        run, where, began = self.run_recipe, machine(self.device), time.monotonic()
        with _signals() as asked_to_stop:
            while self.step < run.steps:
                if self._look():
                    break
                start = time.monotonic()
                self.update()
                took = time.monotonic() - start
                self.seconds += took
                self.hardware[where] = self.hardware.get(where, 0.0) + took
                if self.step % run.log_every == 0 or self.step == run.steps:
                    self._write_log()
                    self.stage.refresh()
                if self.step % run.save_every == 0 and self.step < run.steps:
                    self.save()
                if self.step == run.steps:
                    self._look()
                if asked_to_stop():
                    print(f"stopped by {asked_to_stop()} at step {self.step}", flush=True)
                    break
                if run.max_seconds and time.monotonic() - began >= run.max_seconds:
                    print(f"stopped after {run.max_seconds:g} s (max_seconds) at step {self.step}", flush=True)
                    break
            told = self.file.save(self.state())
            if told:
                raise InputError(told)
            if run.preview_every and self.step < run.steps and not asked_to_stop():
                self.preview()  # its time is over: the last step has been looked at

    def update(self) -> dict[str, Tensor]:
        """One update, and its losses by name. What is drawn depends on the recipe's seed and the step alone."""
        stage, step = self.stage, self.step
        torch.manual_seed(random.Random(f"{self.run_recipe.seed}/{step}/torch").getrandbits(63))
        stage.updating(step)
        update = stage.draw(step)
        parts = [stage.parts[name] for name in update.trains or stage.parts]
        for part in stage.parts.values():
            part.optimizers.zero_grad()
        losses: dict[str, Tensor] = {}
        for batch in update.batches:
            with stage.computing():
                shares = stage.losses(batch)
                torch.stack([stage.weights.get(name, 1.0) * share for name, share in shares.items()]).sum().backward()
            for name, share in shares.items():
                losses[name] = losses[name] + share.detach() if name in losses else share.detach()
        norms = [part.optimizers.clip().to(self.device) for part in parts]
        if torch.stack([*norms, *losses.values()]).isfinite().all():
            self._bad = 0
            for part in parts:
                part.optimizers.step(step, self.run_recipe.steps)
                if part.average is not None:
                    part.average.update(step)
            stage.updated(step)
        else:
            self._skip(update)
        self.step += 1
        self.samples[update.kind] = self.samples.get(update.kind, 0) + update.samples
        self.log.add({f"{update.kind} {name}": value for name, value in losses.items()})
        self.log.add(stage.curves())
        return losses

    def _skip(self, update: Update[Any]) -> None:
        """Leaves out an update that is not finite. Its batch needs no keeping: the step draws it again."""
        self._bad, self.skipped = self._bad + 1, self.skipped + 1
        told = f"step {self.step} ({update.kind}) gave a loss or gradient that is not finite"
        if self._bad == PATIENCE:
            raise InputError(f"{told}: stopped, since {PATIENCE} updates in a row did")
        print(f"{told}: left out", flush=True)

    def _look(self) -> str:
        """What is made and measured by now, where it is due: also at the end of the run. Gives the reason to stop, if any."""
        run = self.run_recipe
        last = self.step == run.steps
        if run.preview_every and (last or self.step % run.preview_every == 0):
            self.preview()
        if not run.measure_every or not (last or self.step % run.measure_every == 0):
            return ""
        figures = dict(self.stage.measure())
        if figures:
            self.log.note(step=self.step, measured=figures)
        self._keep_best(figures)
        reason = self.stage.stop_for(figures)
        if reason:
            print(f"stopped at step {self.step}: {reason}", flush=True)
        return reason

    def _keep_best(self, figures: Mapping[str, float]) -> None:
        """Writes best.pt where the figure that tells is the lowest so far."""
        found = figures.get(self.stage.best)
        if found is None or (self.best is not None and not found < self.best):
            return
        self.best = found
        told = self.best_file.save(self.state())
        if told:
            print(f"best.pt: {told}", flush=True)

    def preview(self) -> None:
        rows = self.stage.preview()
        if not rows:
            return
        try:
            save_sheet(rows, self.work / f"preview-{self.step:07d}.png")
        except OSError as error:
            print(f"the preview of step {self.step} could not be written ({error}): the run goes on", flush=True)

    def _write_log(self) -> None:
        left = (self.run_recipe.steps - self.step) * self.seconds / self.step
        skipped = {"skipped": self.skipped} if self.skipped else {}
        self.log.write(
            step=self.step, seconds=round(self.seconds), left=remaining(left), samples=self.samples, **skipped
        )

    def state(self) -> dict[str, Any]:
        """All that the run needs to go on."""
        return {
            "stage": self.stage.name,
            "recipe": plain(self.recipe),
            "step": self.step,
            "seconds": self.seconds,
            "samples": dict(self.samples),
            "hardware": dict(self.hardware),
            "skipped": self.skipped,
            "best": self.best,
            "parts": {name: part.state_dict() for name, part in self.stage.parts.items()},
            "own": self.stage.state_dict(),
        }

    def save(self) -> None:
        """Writes the state; where that fails, says so and goes on. Raises InputError when it fails three times in a row."""
        told = self.file.save(self.state())
        if told:
            print(f"{told}; the state before it is whole, and the run goes on", flush=True)

    def resume(self) -> None:
        """Goes on from the folder's state. What the recipe says now is in force, and said, or refused by name."""
        state = self.file.load()
        if state["stage"] != self.stage.name:
            raise InputError(
                f"{self.file.path} is of stage {state['stage']}, not {self.stage.name}: give another --work, or begin with its "
                "weights by --start-from"
            )
        print(f"goes on at step {state['step']}, after {remaining(state['seconds'])} of training", flush=True)
        for field, (old, new) in differences(completed(self.recipe, state["recipe"]), plain(self.recipe)).items():
            if any(field == fixed or field.startswith(f"{fixed}.") for fixed in self.stage.fixed):
                raise InputError(
                    f"{field} is {old} in {self.file.path} and cannot be changed to {new} in a run that goes on"
                )
            print(f"{field} was {old} and is {new} from now on", flush=True)
        for name, part in self.stage.parts.items():
            if name not in state["parts"]:
                raise InputError(f"{self.file.path} holds no {name}, which the recipe trains now: begin a new run")
            part.load_state_dict(state["parts"][name])
        self.stage.load_state_dict(state["own"])
        self.step, self.seconds, self.skipped = state["step"], state["seconds"], state["skipped"]
        self.samples, self.hardware, self.best = dict(state["samples"]), dict(state["hardware"]), state.get("best")


@contextmanager
def _signals() -> Iterator[Callable[[], str | None]]:
    """Ctrl-C and the system's request to end are asked for between updates; a second one ends the process at once."""
    caught: list[str] = []

    def note(number: int, _: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(signal.Signals(number).name)

    heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heard}  # what a background job ignores stays ignored
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_stage(stage: type[Stage[Any]], argv: Sequence[str] | None = None) -> None:
    """`causalcine train STAGE RECIPE`: what a stage's `main` calls."""
    parser = argparse.ArgumentParser(
        prog=f"causalcine train {stage.name}", description=(stage.__doc__ or "").split("\n")[0]
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--work", type=Path, help=f"the run's folder; by default the recipe's name in {HOME}")
    parser.add_argument("--data", type=Path, default=HOME / "data", help="folder of what is trained on")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the folder, where there is one")
    parser.add_argument(
        "--start-from", metavar="FILE", help="begin with the weights of a file, a run's state.pt, or nano"
    )
    parser.add_argument(
        "--finish", action="store_true", help="do not train: write what the run in the folder is for, as it is by now"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="such as run.max_seconds=480")
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) - 1), help="of the CPU")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    recipe: Any = read_recipe(stage.recipe_type, args.recipe, args.set)
    work = args.work or HOME / args.recipe.stem
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--work {work} cannot be made ({error.strerror})") from None
    device = pick_device(None if recipe.run.device == "auto" else recipe.run.device)
    held = StateFile(work / "state.pt").exists()
    if args.finish and not held:
        raise InputError(f"--finish: there is no state in {work}")
    if held and not (args.resume or args.finish):
        raise InputError(f"{work} holds the state of a run: --resume goes on with it, another --work begins a new one")
    if stage.needs_start and not held and args.start_from is None:
        raise InputError(f"{stage.name} begins with a model that was trained before: give its file by --start-from")
    trainer = Trainer(stage(recipe, device, args.data), recipe, work, device)
    if held:
        trainer.resume()
    elif args.start_from is not None:
        trainer.stage.start_from(Path(model_path(args.start_from)))
    else:
        trainer.stage.start()
    if not args.finish:
        trainer.run()
    if args.finish or trainer.step == recipe.run.steps:
        written = list(trainer.stage.finish(work, trainer.state()))
        for path in written:
            print(path, flush=True)
        if args.finish and not written:
            raise InputError(f"--finish: stage {stage.name} writes no file of its own (python -m training.export does)")
