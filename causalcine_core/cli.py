"""The `causalcine` command.

Bad input is one plain sentence on stderr and exit code 2, before anything is made; a failure of the machine (a full
disk) is one sentence and 1; Ctrl-C is 130. Files appear under their names only when they are whole. What is heavy
to import is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .atomic import write_atomic
from .errors import InputError, WorkerLostError
from .plan import plan
from .story import Story, check_seed, check_size, pace_notes, parse_size
from .story_formats import SHOT_SYNTAX

if TYPE_CHECKING:
    from PIL import Image

    from .memory import MemorySettings
    from .pipeline import Video
    from .sampling import Chunk, State, StepInfo

STORED = ("float32", "bfloat16", "float16")  # number types, by torch's names: of a file, and of a network that runs
COMPUTED = (*STORED, "float8_e4m3fn")
SOURCE = Path(__file__).resolve().parents[1]  # in a source checkout, what holds training/ and benchmarks/


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    try:
        args, rest = _parser().parse_known_args(argv)
        if rest and args.run not in (_train, _bench):
            raise InputError(f"unknown argument {rest[0]}; see causalcine {args.command} --help")
        args.rest = rest
        with _terminable():
            args.run(args)
        sys.stdout.flush()
        return 0
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("stopped; no file was left half-written", 130)
    except BrokenPipeError:  # the reader of our output went away: not a fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (OSError, WorkerLostError) as error:
        return _fail(error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # PyTorch's; this file does not import it
            raise
        return _fail(
            "the GPU has no memory left: lower width, height, the window or top_k; inspect says what is needed", 1
        )


def _fail(error: object, code: int) -> int:
    if _is_first():
        print("causalcine: " + " ".join(str(error).split()), file=sys.stderr)
    return code


def _is_first() -> bool:
    """Whether this process speaks for all workers of a team (torchrun sets RANK), or is alone."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill ends like Ctrl-C, so that nothing half-written stays."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# --- arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _value(text: str) -> int | float | str:
    """An argument as JSON would read it: the same checks, in the same words, then hold for both."""
    if re.fullmatch(r"[+-]?\d{1,4000}", text):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="causalcine", description="A story in, a multi-shot video out.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str, **kw: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **kw)
        sub.set_defaults(run=run)
        return sub

    generate = command("generate", _generate, "Make a film from a story, with a report and two pictures beside it.")
    _add_story(generate)
    _add_making(generate)
    generate.add_argument("--width", type=_value, metavar="PIXELS", help="default: as the story or the model says")
    generate.add_argument("--height", type=_value, metavar="PIXELS")

    more = command(
        "continue",
        _continue,
        "Append a story to a film kept with --save-state, or finish one that was cut short. The video holds the new part "
        "only; the report and the memory map are of the whole film.",
    )
    more.add_argument("state", metavar="STATE", help="file written by --save-state")
    more.add_argument(
        "story", metavar="STORY", nargs="?", help="what follows; without it, what was planned and not made"
    )
    _add_making(more)

    story = commands.add_parser("story", help="Work on story files.", allow_abbrev=False)
    actions = story.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "Say what was read from a story and where each cut lands. Makes nothing."
    check = actions.add_parser("check", help=text, description=text, allow_abbrev=False)
    check.set_defaults(run=_story_check)
    _add_story(check)
    check.add_argument("--model", default="nano", metavar="nano|FILE", help="whose chunks the cuts land on")
    check.add_argument("--json", action="store_true", help="print the report, without chunks, as the last line")

    inspect = command("inspect", _inspect, "Say what a checkpoint or a state file holds.")
    inspect.add_argument("file", metavar="nano|FILE")
    inspect.add_argument(
        "--size", metavar="WxH", help="what a film of this size and length needs; default: the model's size"
    )
    inspect.add_argument("--seconds", type=_value, metavar="S", help="length of that film; default: 60")
    _add_memory(inspect)
    inspect.add_argument(
        "--dtype",
        choices=COMPUTED,
        help="default: bfloat16 where this machine is fast in it, else float32",
    )
    inspect.add_argument("--json", action="store_true", help="print it as the last line of JSON")

    convert = command(
        "convert",
        _convert,
        "Write a Wan transformer of any known layout as one safetensors file that CausalCine runs. A .pt is read as tensors "
        "only.",
    )
    convert.add_argument("source", metavar="IN", help="a .pt or .safetensors file, a diffusers folder, or nano")
    convert.add_argument("output", metavar="OUT.safetensors", help="replaced if it is there")
    convert.add_argument("--lora", metavar="FILE", help="a LoRA to merge in, as LongLive 1.0 and MemFlow need it")
    convert.add_argument("--alpha", type=_value, metavar="N", help="of a LoRA that names none; default: its rank")
    convert.add_argument(
        "--part", metavar="NAME", help="such as generator; default: averaged weights where there are any"
    )
    convert.add_argument(
        "--family", metavar="NAME", help="whose recipe to write; default: told from the file, or guessed"
    )
    convert.add_argument("--dtype", choices=STORED, help="default: as in the file")

    command("bench", _bench, "Measure the engine (needs a source checkout).", add_help=False)
    train = command("train", _train, "Run a training stage (needs a source checkout).", add_help=False)
    train.add_argument(
        "stage", metavar="STAGE", nargs="?", help="a module of training/stages/, such as vae or teacher_forcing"
    )
    return parser


def _add_story(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("story", metavar="STORY", help=f"story file; forms: {SHOT_SYNTAX}")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--window", type=_value, metavar="W", help="chunks of local history; default: as the model was trained")
    add("--top-k", type=_value, metavar="K", help="older frames that each layer recalls; default: as trained")
    add("--memory-budget", type=_value, metavar="GIB", help="most that remembered frames may take; default: no limit")
    add("--memory-storage", metavar="HOW", help="frames beyond the window: full (default), 8bit, host or host_8bit")


def _memory_settings(args: argparse.Namespace) -> MemorySettings:
    """What was asked of the memory; everything else as usual. `routing` is no question of `inspect`."""
    from .memory import MemorySettings

    asked = {"window": args.window, "top_k": args.top_k, "routing": getattr(args, "routing", None)}
    asked |= {"budget": args.memory_budget, "storage": args.memory_storage}
    return MemorySettings(**{name: value for name, value in asked.items() if value is not None})


def _add_making(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-o",
        "--output",
        required=True,
        metavar="OUT.mp4",
        help="replaced if it is there; OUT.json, OUT.png, OUT.memory.png too",
    )
    add("--model", default="nano", metavar="nano|FILE", help="the built-in model or an all-in-one safetensors file")
    add(
        "--seed", type=_value, metavar="N", help="0 to 2^64 - 1; default: the story's, else 0 (in continue: the film's)"
    )
    _add_memory(parser)
    add("--routing", metavar="WHEN", help="every_step: each pass chooses what it recalls; first_step: keep its choice")
    add(
        "--cut",
        metavar="MODE",
        help="how shots follow one another, where the story does not say; default: as the model",
    )
    add("--steps", type=_value, metavar="N", help="denoising passes a chunk; default: as the model wants")
    add("--guidance", type=_value, metavar="G", help="1 is none; default: as the model wants")
    add("--device", metavar="DEVICE", help="such as cpu or cuda:0; default: a GPU where there is one")
    add(
        "--dtype",
        choices=COMPUTED,
        help="of the transformer; default: by device; float8_e4m3fn needs torchao",
    )
    add(
        "--attention",
        default="auto",
        metavar="KERNEL",
        help="a kernel by name; default: on a GPU the fastest, measured once",
    )
    add("--compile", action="store_true", help="compile the network with torch.compile: slow to begin, then faster")
    add("--save-state", metavar="FILE", help="also keep the film's state, for causalcine continue")
    add(
        "--small-state",
        action="store_true",
        help="leave out of it what is remembered: that is then written anew, one pass for each chunk made",
    )
    add("--json", action="store_true", help="print the report as the last line")


# --- making


def _generate(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    given = {name: getattr(args, name) for name in ("width", "height") if getattr(args, name) is not None}
    if given:
        story = dataclasses.replace(story, **given)
    _make(args, story, None)


def _continue(args: argparse.Namespace) -> None:
    story = Story.load(args.story) if args.story is not None else None
    from .sampling import State

    _make(args, story, State.load(args.state))


def _make(args: argparse.Namespace, story: Story | None, state: State | None) -> None:
    files = _outputs(args) if _is_first() else {}
    if args.seed is not None:
        check_seed(args.seed)
    if story is not None and story.width is not None and story.height is not None:
        check_size(story.width, story.height)

    import torch

    from .distributed import SequenceParallel
    from .pipeline import Pipeline
    from .report import memory_map, to_json

    if args.cut is not None and story is not None and story.cut is None:
        story = dataclasses.replace(story, cut=args.cut)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    asked: dict[str, Any] = {"state": state, "memory": _memory_settings(args)}
    asked |= {"seed": args.seed, "steps": args.steps, "guidance": args.guidance}
    team = SequenceParallel.join(args.device)
    if team is not None:  # a launcher asks its workers to stop when one of them is gone
        signal.signal(signal.SIGTERM, lambda *_: team.stop())
    how = {"device": args.device, "dtype": dtype, "attention": args.attention, "compile": args.compile}
    pipe = Pipeline.from_pretrained(args.model, team=team, **how)
    if not _is_first():
        for _ in pipe.stream(story, decode=False, **asked):
            pass
        if team is not None:
            team.leave()
        return
    notes = story.notes if story else ()
    hints = [*notes[1:], *pipe.check(story)]
    made = state.frames if state else 0
    shots = len(story.shots) if story else len({chunk.shot for chunk in state.planned}) if state else 0
    with _Watch(shots, made) as watch:
        try:
            video = pipe.generate(story, output=files["video"], on_step=watch.step, on_chunk=watch.chunk, **asked)
        except WorkerLostError as lost:
            raise OSError(_kept(lost, files, made)) from lost
    report = video.report
    report["warnings"] = list(dict.fromkeys([*hints, *report["warnings"]]))
    report["settings"]["global"] = story.global_prompt if story else ""
    report["written"] = [made, report["frames"]]
    if args.save_state:
        video.state.save(files["state"], memory=team is None and not args.small_state)
    write_atomic(files["report"], lambda path: path.write_text(to_json(report), encoding="utf-8"))
    write_atomic(files["sheet"], watch.contact_sheet(report, Path(args.output).stem).save)
    write_atomic(files["map"], memory_map(report, watch.pictures).save)
    _tell(video, report, notes[:1], files, args.json)
    if team is not None:
        team.leave()


def _kept(lost: WorkerLostError, files: Mapping[str, Path], made: int) -> str:
    """Keeps the state of a film whose team fell apart, and says where everything is."""
    if lost.state is None:
        return f"{lost} before the first chunk was whole: nothing was written"
    seconds = (lost.state.frames - made) / lost.state.recipe.fps
    kept = f"{lost}: the {seconds:.1f} s made so far are in {files['video']}"
    if "state" not in files:
        return f"{kept}; with --save-state the film could be finished from there"
    lost.state.save(files["state"], memory=False)
    return f"{kept}; finish it with: causalcine continue {files['state']} -o REST.mp4"


def _outputs(args: argparse.Namespace) -> dict[str, Path]:
    """Every file to be written, once it is known that each can be and none is an input."""
    from .video import check_output

    video = check_output(args.output, ".mp4")
    beside = {"report": ".json", "sheet": ".png", "map": ".memory.png"}
    files = {"video": video} | {name: video.with_name(video.stem + end) for name, end in beside.items()}
    if args.save_state:
        files["state"] = Path(args.save_state)
    story = Path(args.story).resolve() if args.story is not None else None
    for name, path in files.items():
        check_output(path, path.suffix.lower())
        if path.resolve() == story:
            raise InputError(
                f"{path} would be overwritten by the {name}, but it is the story; choose another name for {video}"
            )
    if args.save_state and files["state"].resolve() in {
        path.resolve() for name, path in files.items() if name != "state"
    }:
        raise InputError(f"--save-state {args.save_state} is also the name of another output; choose another")
    return files


class _Watch:
    """Watches a film being made: the progress bar, and the first frame of each shot for the pictures."""

    def __init__(self, shots: int, made: int):
        from .video import sheet_shots

        self._shots, self._made = shots, made
        self._bar: Any = None
        self._wanted = set(sheet_shots(shots))
        self._first_shot: int | None = None
        self._began = time.perf_counter()
        self.pictures: dict[int, Any] = {}

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, info: StepInfo) -> None:
        """After every denoising pass."""
        self._show(info.chunk.shot, f"pass {info.step}/{info.steps}")

    def chunk(self, chunk: Chunk) -> None:
        """After every chunk, once it is in the file."""
        self._show(chunk.shot, "")
        end = chunk.state.planned[-1].frames[1] if chunk.state.planned else chunk.state.frames
        done = chunk.state.frames - self._made
        if self._bar is not None:
            speed = done / (time.perf_counter() - self._began)
            left = (end - chunk.state.frames) / speed
            self._bar.total = end - self._made
            self._bar.set_postfix_str(f"{speed:.1f} fps, {math.ceil(left)} s left", refresh=False)
            self._bar.update(done - self._bar.n)
        if chunk.shot not in self.pictures and chunk.shot - (self._first_shot or 0) in self._wanted:
            self.pictures[chunk.shot] = _thumbnail(chunk.frames[0])

    def contact_sheet(self, report: Mapping[str, Any], name: str) -> Image.Image:
        """First frames of the shots that were made, with their captions and times."""
        from .video import contact_sheet

        fps, shots = report["fps"], {shot["index"]: shot for shot in report["shots"]}
        labels = [
            f"Shot {i + 1}   {shots[i]['frames'][0] / fps:.1f} - {shots[i]['frames'][1] / fps:.1f} s"
            for i in self.pictures
        ]
        width, height = report["size"]
        begin, end = report["written"]
        facts = (
            f"{self._shots} shots, {end - begin} frames, {(end - begin) / fps:.1f} s at {fps:g} fps, "
            f"{width}x{height}, seed {report['seed']}, {report['model'].get('name', 'unnamed')}"
        )
        captions = [shots[i]["prompt"] for i in self.pictures]
        return contact_sheet(list(self.pictures.values()), captions, labels=labels, title=name, subtitle=facts)

    def _show(self, shot: int, what: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._first_shot = shot
            form = "{desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} frames{postfix}"
            self._bar = tqdm(total=None, bar_format=form, file=sys.stderr, dynamic_ncols=True)
        number = shot - (self._first_shot or 0) + 1
        self._bar.set_description_str(
            f"shot {number}/{self._shots} {what:<11}", refresh=bool(what) and sys.stderr.isatty()
        )


def _thumbnail(frame: Any) -> Any:
    """A frame of at most 640 pixels either way: what the pictures need of it."""
    import numpy as np
    from PIL import Image

    small = Image.fromarray(np.asarray(frame))
    small.thumbnail((640, 640))
    return np.asarray(small)


def _tell(video: Video, report: dict[str, Any], notes: Sequence[str], files: Mapping[str, Path], as_json: bool) -> None:
    """The result for the reader: stdout is the table, or with --json the report alone; warnings go to stderr."""
    for warning in report["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if as_json:
        print(json.dumps(report))
        return
    begin, end = report["written"]
    seconds = sum(chunk["seconds"] for chunk in report["chunks"] if chunk["frames"][0] >= begin)
    shots = [shot for shot in report["shots"] if shot["frames"][1] > begin]
    print("; ".join(notes) or f"{len(shots)} shots")
    print(_table(shots, report["fps"]))
    print(f"{video.path}: {end - begin} frames, {(end - begin) / report['fps']:.1f} s, sampled in {seconds:.1f} s")
    for name in ("report", "sheet", "map", "state"):
        if name in files:
            print(f"{files[name]}: {name}")


def _table(shots: Sequence[Mapping[str, Any]], fps: float) -> str:
    """One line a shot: where it lands, what was asked, what it says."""
    rows = []
    for shot in shots:
        (a, b), (c, d) = shot["frames"], shot["asked"]
        times = f"{a / fps:7.2f} - {b / fps:6.2f} s"
        asked = "as asked" if (a, b) == (c, d) else f"asked {c} - {d}"
        prompt = " ".join(shot["prompt"].split())
        prompt = prompt if len(prompt) <= 60 else prompt[:59] + "\u2026"
        rows.append(f"  shot {shot['index'] + 1:<3} {times}  frames {a:>5} - {b:<5} {asked:<20} {prompt}")
    return "\n".join(rows)


# --- looking


def _story_check(args: argparse.Namespace) -> None:
    story = Story.load(args.story)
    from .memory import MemorySettings
    from .report import check_report
    from .sampling import Recipe
    from .weights.built_in import model_path
    from .weights.checkpoint import read_card

    header = read_card(model_path(args.model))
    recipe = Recipe.from_dict(header["recipe"])
    pace = pace_notes(story.fps, recipe.fps)
    changes = {name: getattr(story, name) for name in ("fps", "width", "height", "negative")}
    recipe = dataclasses.replace(recipe, **{name: value for name, value in changes.items() if value is not None})
    check_size(recipe.width, recipe.height)
    timing = {name: getattr(recipe, name) for name in ("chunk", "first_chunk", "fps", "seconds")}
    planned = plan(story, **timing)
    report = check_report(
        planned,
        recipe=recipe,
        settings=MemorySettings().resolve(recipe.window, recipe.top_k),
        size=(recipe.width, recipe.height),
        seed=story.seed or 0,
        model={"name": args.model, **header.get("model", {})},
        warnings=[*story.notes[1:], *pace, *_vocabulary_notes(story, header)],
    )
    report["settings"]["global"] = story.global_prompt
    if args.json:
        print(json.dumps(report | {"notes": list(story.notes)}))
        return
    for note in [*story.notes, *report["warnings"][len(story.notes) - 1 :]]:
        print(note)
    width, height = report["size"]
    print(_table(report["shots"], report["fps"]))
    length = report["frames"] / report["fps"]
    rate, chunks = report["fps"], len(planned.chunks)
    print(f"{report['frames']} frames, {length:.2f} s at {rate:g} fps, {width}x{height}, {chunks} chunks")


def _vocabulary_notes(story: Story, header: Mapping[str, Any]) -> list[str]:
    """What the model's own text encoder cannot read; its weights are not needed for that."""
    if "text" not in header:
        return []
    from .text import TextConfig, prompt_warnings

    prompts = [story.prompt(i) for i in range(len(story.shots))]
    return prompt_warnings(TextConfig.from_dict(header["text"]), prompts)


def _convert(args: argparse.Namespace) -> None:
    import torch

    from .convert import convert

    if args.alpha is not None and not isinstance(args.alpha, int | float):
        raise InputError(f"alpha is {args.alpha!r}: it must be a number above 0")
    made = convert(
        args.source,
        args.output,
        lora=args.lora,
        alpha=args.alpha,
        part=args.part,
        family=args.family,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
    )
    print(made.network)
    print(made.family)
    print(f"{made.path}: {made.bytes / 1e9:.2f} GB")


def _inspect(args: argparse.Namespace) -> None:
    from .inspect import describe_file, describe_film
    from .weights.built_in import model_path

    path = model_path(args.file)
    facts = describe_file(path)
    film = ("size", "seconds", "memory_budget", "memory_storage", "window", "top_k", "dtype")
    if any(getattr(args, name) is not None for name in film):
        size = parse_size(args.size) if args.size is not None else None
        facts["film"] = describe_film(path, _memory_settings(args), size=size, seconds=args.seconds, dtype=args.dtype)
    if args.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
                print(f"  {key:<18} {text if len(text) <= 160 else text[:159] + chr(0x2026)}")
        else:
            print(f"{name:<20} {value:,}" if isinstance(value, int) else f"{name:<20} {value}")


# --- the source checkout


def _bench(args: argparse.Namespace) -> None:
    _source_module("benchmarks", "run").main(args.rest)


def _train(args: argparse.Namespace) -> None:
    folder = SOURCE / "training" / "stages"
    stages = sorted(p.stem for p in folder.glob("*.py") if "\ndef main(" in p.read_text(encoding="utf-8"))
    if stages and args.stage not in stages:
        raise InputError(f"STAGE must be one of {', '.join(stages)}, got {args.stage or 'none'}")
    _source_module("training", f"stages.{args.stage}").main(args.rest)


def _source_module(folder: str, name: str) -> Any:
    """A module of a folder that is never installed."""
    if not (SOURCE / folder / f"{name.replace('.', '/')}.py").is_file():
        raise InputError(
            f"this needs the source checkout of CausalCine: there is no {folder}/{name.replace('.', '/')}.py in {SOURCE}"
        )
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    return importlib.import_module(f"{folder}.{name}")


if __name__ == "__main__":
    raise SystemExit(main())
