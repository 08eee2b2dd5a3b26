"""How good a checkpoint is on stories that it never saw, beside what the same readers say of the truth itself.

    python -m training.evaluation.quality --model nano|FILE --out DIR [--stories 40] [--long 10] [--seconds-long 60] [--publish]

Every story is a film of the world with a seed beyond all training; the model makes it from the story's text alone. TransNetV2
finds the cuts, the probe reads places and looks, shot by shot. Characters called by name only, after a gap beyond the local
window, are counted apart, with routed memory and without (`top_k` 0: same story, same noise). The ceiling is what the same
readers find on the true film after a round trip through the checkpoint's VAE. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from causalcine_core import Pipeline, Story
from causalcine_core.atomic import write_atomic
from causalcine_core.errors import InputError
from causalcine_core.memory import ROUTINGS, STORAGES, MemorySettings
from causalcine_core.sampling import State
from training.components.metrics import machine
from training.world import Film, make_film

from . import publish
from .cuts import find_cuts
from .figures import Result, figures, quarter
from .luma import flicker
from .probe import ASSET as PROBE
from .probe import PLACE, Probe, judge, load_probe, probe_card, read_shot, round_trip

FIRST_STORY, FIRST_LONG = 50_000_000, 51_000_000  # training knows films below 20,000 and stills below 1,000,000
SHEETS = 12  # stories on the page of contact sheets: the first ones
FORMAT = 1

Frames = NDArray[np.uint8]


# --- one film


def generate(
    pipe: Pipeline, film: Film, seed: int, memory: MemorySettings | None = None
) -> tuple[Frames, State, State | None]:
    """A film from its story's text: frames, the last state, and the state at which routing begins to matter (None: never)."""
    frames, fork, state = [], None, None
    for chunk in pipe.stream(Story.from_dict(film.story()), seed=seed, memory=memory):
        frames.append(chunk.frames)
        state = chunk.state
        if chunk.index == state.settings.window and state.planned:
            fork = state  # the next chunk is the first with a past beyond its window
    assert state is not None
    return np.concatenate(frames), state, fork


def without_memory(pipe: Pipeline, fork: State, frames: Frames, end: int) -> Frames:
    """The same film from `fork` on, up to pixel frame `end`, with `top_k` 0: same text, same noise."""
    out = [frames[: fork.frames]]
    for chunk in pipe.stream(None, state=fork, memory=MemorySettings(top_k=0)):
        out.append(chunk.frames)
        if chunk.state.frames >= end:
            break
    return np.concatenate(out)


def read_film(probe: Probe, film: Film, ranges: Sequence[tuple[int, int]], frames: Frames, window: int) -> list[Result]:
    """Shot by shot what was read as asked. ranges: where each shot lies in `frames`; shots that are not there are left out.

    window: pixel frames of the local window. A character `recalled` is called by its name alone and was last seen before
    that window.
    """
    out: list[Result] = []
    for shot, (first, end) in zip(film.shots, ranges, strict=True):
        if end > len(frames):
            break
        reading = read_shot(probe, frames[first:end], len(shot.cast))
        seen = judge(reading, shot)
        for one, actor in zip(seen["cast"], shot.cast, strict=True):
            one |= {"name": actor.character.name, "by_name": actor.name_only, "gap": actor.gap}
            one["recalled"] = actor.name_only and actor.gap >= window
        looks = [f"{look.colour} {look.kind}" for look in reading.looks]
        out.append(seen | {"frames": [first, end], "read": f"{' and '.join(looks)}, {reading.setting}, {reading.time}"})
    return out


def is_recalled(film: Film, window: int) -> list[int]:
    """The shots in which somebody is called by name only after a gap beyond the window."""
    return [s.index for s in film.shots if any(a.name_only and a.gap >= window for a in s.cast)]


# --- one run


@dataclass
class Run:
    """A checkpoint under test, its readers, and the folder of what is known so far: a JSON file for every film.

    compare: make films that recall somebody once more without memory. memory: as in `Pipeline.stream`.
    """

    pipe: Pipeline
    probe: Probe
    probe_file: Path
    out: Path
    ceilings: Path
    compare: bool = True
    memory: MemorySettings | None = None

    @property
    def window(self) -> int:
        """Pixel frames of the local window."""
        recipe = self.pipe.recipe
        return recipe.visibility.window * recipe.timeline.chunk * self.pipe.vae.config.temporal_stride

    def film(self, seed: int, seconds: float) -> Film:
        recipe = self.pipe.recipe
        return make_film(seed, seconds, recipe.timeline.fps, (recipe.picture.width, recipe.picture.height))

    def story(self, seed: int, seconds: float, *, long: bool) -> Result:
        """The result of one story, made now or read from its file."""
        path = self.out / "films" / f"{seed}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        film = self.film(seed, seconds)
        began = time.perf_counter()
        frames, state, fork = generate(self.pipe, film, seed, self.memory)
        made = time.perf_counter() - began
        ranges = [shot.frames for shot in state.shots]
        began = time.perf_counter()
        result = self._read(film, ranges, frames, long)
        recalled = is_recalled(film, self.window)
        reading = time.perf_counter() - began
        extra = 0.0
        if recalled and fork is not None and self.compare and not long:
            began = time.perf_counter()
            plain = without_memory(self.pipe, fork, frames, ranges[recalled[-1]][1])
            extra = time.perf_counter() - began
            result["shots_without_memory"] = read_film(self.probe, film, ranges, plain, self.window)
        result["seconds"] = {"generate": round(made, 2), "without_memory": round(extra, 2), "read": round(reading, 2)}
        if not long and seed - FIRST_STORY < SHEETS:
            self._keep_pictures(film, ranges, frames, seed)
        _write(path, result)
        return result

    def ceiling(self, seed: int, seconds: float, *, long: bool) -> Result:
        """The same readings of the true film after the VAE's round trip."""
        path = self.ceilings / f"{seed}-{seconds:g}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        film = self.film(seed, seconds)
        ranges = [(shot.first, shot.end) for shot in film.shots]
        frames = round_trip(self.pipe.vae, film.render())
        result = self._read(film, ranges, frames, long)
        _write(path, result)
        return result

    def _read(self, film: Film, ranges: Sequence[tuple[int, int]], frames: Frames, long: bool) -> Result:
        cuts = [first for first, _ in ranges[1:]]
        result: Result = {"seed": film.seed, "frames": len(frames), "cuts": {"asked": cuts, "found": find_cuts(frames)}}
        result["shots"] = read_film(self.probe, film, ranges, frames, self.window)
        if long and len(frames) >= 2 * self.window:
            recipe, stride = self.pipe.recipe, self.pipe.vae.config.temporal_stride
            chunk, first = recipe.timeline.chunk * stride, 1 + (recipe.timeline.first_chunk - 1) * stride
            found = flicker(frames, cuts, chunk=chunk, first=first, window=recipe.visibility.window)
            result["flicker"] = {"chunk": found.chunk, "window": found.window}
        return result

    def _keep_pictures(self, film: Film, ranges: Sequence[tuple[int, int]], frames: Frames, seed: int) -> None:
        middles = np.stack([frames[(first + end) // 2] for first, end in ranges])
        path = self.out / "pictures" / f"{seed}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = BytesIO()
        np.save(data, middles)
        write_atomic(path, lambda partial: partial.write_bytes(data.getvalue()))


# --- report


def report(
    run: Run, stories: list[Result], long: list[Result], truth: list[Result], long_truth: list[Result]
) -> Result:
    """The run's report: figures with their intervals and ceilings, and what made them."""

    def table(made: Sequence[Result], true: Sequence[Result]) -> Result:
        ceilings = figures(true)
        return {
            name: estimate.to_dict() | {"ceiling": ceilings[name].to_dict()["mean"] if name in ceilings else None}
            for name, estimate in figures(made).items()
        }

    recipe, seconds = run.pipe.recipe, [r["seconds"] for r in stories + long]
    frames = sum(r["frames"] for r in stories + long)
    making = sum(s["generate"] for s in seconds)
    out: Result = {
        "format": FORMAT,
        "model": {"name": run.pipe.name, "fingerprint": run.pipe.network.fingerprint},
        "recipe": recipe.to_dict(),
        "stories": len(stories),
        "seeds": [FIRST_STORY, FIRST_STORY + len(stories) - 1] if stories else [],
        "figures": table(stories, truth),
        "probe": probe_card(run.probe_file),
        "frames_per_second": round(frames / making, 2) if making else None,
        "seconds": {name: round(sum(s[name] for s in seconds)) for name in ("generate", "without_memory", "read")},
        "hardware": machine(run.pipe.network.device),
    }
    if long:
        parts = {"first_quarter": 0, "last_quarter": 3}
        out["long"] = {
            "films": len(long),
            "seconds": round(long[0]["frames"] / recipe.timeline.fps, 1),
            "seeds": [FIRST_LONG, FIRST_LONG + len(long) - 1],
            **{
                name: table([quarter(r, i) for r in long], [quarter(r, i) for r in long_truth])
                for name, i in parts.items()
            },
            "flicker": {
                name: {
                    "worst": round(max(r["flicker"][name] for r in long), 3),
                    "truth": round(max(r["flicker"][name] for r in long_truth), 3),
                }
                for name in ("chunk", "window")
                if all("flicker" in r for r in [*long, *long_truth])
            },
        }
    return out


# --- command line


def _write(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda partial: partial.write_text(json.dumps(data)))


def readers_print(pipe: Pipeline, probe_file: Path) -> str:
    """Ten hex digits that change with whatever a ceiling depends on: probe, VAE, window, size and rate of the films."""
    recipe = pipe.recipe
    digest = hashlib.sha256(probe_file.read_bytes())
    seen, line, picture = recipe.visibility, recipe.timeline, recipe.picture
    told = (seen.window, line.chunk, line.first_chunk, picture.width, picture.height, line.fps)
    digest.update(str(told).encode())
    for name, tensor in sorted(pipe.vae.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:10]


def open_run(
    pipe: Pipeline,
    probe_file: Path,
    out: Path,
    ceilings: Path | None,
    settings: dict[str, Any],
    memory: MemorySettings | None = None,
) -> Run:
    """A run in its folder. InputError if the folder holds the results of another model or other settings."""
    probe = load_probe(probe_file)
    pipe.recipe = pipe.recipe.changed(**settings)
    readers = readers_print(pipe, probe_file)
    what = {"model": pipe.network.fingerprint, "recipe": pipe.recipe.to_dict(), "readers": readers}
    if memory is not None:
        what["memory"] = asdict(memory)
    path = out / "run.json"
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(what)):
        raise InputError(
            f"{out} holds results of another model or other settings; choose another folder for --out, or delete it"
        )
    _write(path, what)
    return Run(pipe, probe, probe_file, out, (ceilings or out / "ceilings") / readers, memory=memory)


def seeds(first: int, count: int, part: tuple[int, int]) -> Iterator[int]:
    yield from (first + i for i in range(count) if i % part[1] == part[0])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.evaluation.quality", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="nano, or an all-in-one checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; a run that was stopped goes on")
    parser.add_argument("--stories", type=int, default=40, help="films of 15 s")
    parser.add_argument("--long", type=int, help="long films (a quarter of the stories)")
    parser.add_argument("--seconds-long", type=float, default=60.0)
    parser.add_argument("--quick", action="store_true", help="8 stories, no long film")
    parser.add_argument("--steps", type=int, help="otherwise as the checkpoint says")
    parser.add_argument("--guidance", type=float, help="otherwise as the checkpoint says")
    parser.add_argument("--storage", choices=STORAGES, help="how memory is kept; otherwise in full")
    parser.add_argument(
        "--routing", choices=ROUTINGS, help="how often a chunk chooses what it recalls; otherwise every step"
    )
    parser.add_argument("--ceilings", type=Path, help="folder of readings of the truth, to share between runs")
    parser.add_argument("--probe", type=Path, default=PROBE, help="the reader of places and looks")
    parser.add_argument(
        "--part", default="0/1", help="I/N: make only every Nth film, from the Ith on (for more processes)"
    )
    parser.add_argument("--device", help="a torch device, by default the best there is")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--publish", action="store_true", help="fill docs/quality.md and docs/images/quality_sheet.jpg")
    args = parser.parse_args(argv)
    try:
        _main(args)
    except InputError as error:
        print(f"quality: {error}", file=sys.stderr)
        return 2
    return 0


def _main(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    count = min(args.stories, 8) if args.quick else args.stories
    long_count = 0 if args.quick else (args.long if args.long is not None else count // 4)
    try:
        index, parts = (int(n) for n in args.part.split("/"))
    except ValueError:
        raise InputError(f"part must be I/N such as 0/2, got {args.part!r}") from None
    if not (count >= 1 and long_count >= 0 and 0 <= index < parts):
        raise InputError("stories must be at least 1, long at least 0, and part I/N with I below N")
    settings = {name: getattr(args, name) for name in ("steps", "guidance") if getattr(args, name) is not None}
    pipe = Pipeline.from_pretrained(args.model, device=args.device)
    asked = {name: getattr(args, name) for name in ("storage", "routing") if getattr(args, name) is not None}
    memory = MemorySettings(**asked) if asked else None
    run = open_run(pipe, args.probe, args.out, args.ceilings, settings, memory)
    kinds = [(FIRST_STORY, count, 15.0, False), (FIRST_LONG, long_count, args.seconds_long, True)]
    results: list[list[Result]] = []
    for first, films, seconds, long in kinds:
        made, true = [], []
        for n, seed in enumerate(seeds(first, films, (index, parts))):
            made.append(run.story(seed, seconds, long=long))
            true.append(run.ceiling(seed, seconds, long=long))
            _progress(f"{seconds:g} s film {n + 1}/{-(-films // parts)}", made)
        results += [made, true]
    stories, truth, long_films, long_truth = results
    if parts > 1:
        print("this part is done; run once more without --part to put all of them together")
        return
    quality = report(run, stories, long_films, truth, long_truth)
    _write(args.out / "quality.json", quality)
    sheet = publish.quality_sheet(run.out, [run.film(r["seed"], 15.0) for r in stories[:SHEETS]], stories[:SHEETS])
    sheet.save(args.out / "quality_sheet.jpg", quality=88)
    (args.out / "quality.md").write_text(publish.tables(quality))
    print(publish.tables(quality))
    if args.publish:
        publish.publish(quality, sheet)
    print(f"{args.out / 'quality.json'}, {args.out / 'quality_sheet.jpg'}")


def _progress(what: str, made: list[Result]) -> None:
    last, sofar = made[-1]["seconds"], figures(made)
    shown = " ".join(
        f"{name} {sofar[name].mean:.2f}" for name in ("cut_f1", *PLACE, "kind", "colour", "by_name_colour")
    )
    rate = made[-1]["frames"] / last["generate"] if last["generate"] else 0.0
    print(
        f"{what}: made in {last['generate']:.0f} s ({rate:.1f} fps), read in {last['read']:.0f} s; so far {shown}",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
