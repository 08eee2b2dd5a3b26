"""Making a film for `generate` and `continue`: the video, and the report, pictures and state beside it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..atomic import check_output, write_atomic
from ..distributed.launch import is_first_rank
from ..distributed.mesh import join_mesh, leave_mesh
from ..distributed.sequence_parallel import SequenceParallel
from ..encoder import check_encoder
from ..errors import InputError, WorkerLostError
from ..film import retake
from ..filming import Video
from ..needs import state_bytes
from ..pipeline import Pipeline
from ..references import save_cast
from ..report import memory_map, to_json
from ..sampling import State
from ..sampling.restyle import check_restyle
from ..story import MAX_SEED, Story, check_seed, check_size
from ..styles import MergedStyles
from .arguments import STRENGTH, lora_folders, memory_settings
from .casting import named_cast
from .console import mib, say, shot_table
from .progress import Watch
from .rescue import after_loss, rescue
from .timing import read_sound, timed

if TYPE_CHECKING:
    from ..sound import Sound


def make_film(args: argparse.Namespace, story: Story | None, continued: str | None) -> None:
    """continued: a state file to go on from. It is read here: whoever called would hold what it remembers until the film is made."""
    files = output_files(args) if is_first_rank() else {}
    sound = read_sound(args)
    if args.seed is not None:
        check_seed(args.seed)
    asked: dict[str, Any] = {"state": _begun(args, story, continued)}
    story = timed(args, story, sound, asked["state"])
    if story is not None and story.width is not None and story.height is not None:
        check_size(story.width, story.height)
    if args.cut is not None and story is not None and story.cut is None:
        story = dataclasses.replace(story, cut=args.cut)
    if is_first_rank():
        check_encoder()  # before a model is loaded
    sharding = SequenceParallel.of(join_mesh(device=args.device))
    if sharding is not None:  # a launcher asks its workers to stop when one of them is gone
        signal.signal(signal.SIGTERM, lambda *_: sharding.stop())
    dtype = getattr(torch, args.dtype) if args.dtype else None
    how = {"device": args.device, "dtype": dtype, "attention": args.attention, "compile": args.compile}
    pipe = Pipeline.from_pretrained(args.model, sharding=sharding, **how)
    pipe.styles = MergedStyles(lora_folders(args))
    asked |= {"memory": memory_settings(args), "seed": args.seed, "steps": args.steps, "guidance": args.guidance}
    if args.cast:
        asked["cast"] = named_cast(args.cast, pipe, pipe.start(story, **asked))
    if args.save_cast is not None and is_first_rank():
        save_cast(pipe.start(story, **asked).references, args.save_cast)
    asked |= _footage(args, pipe, story)
    if is_first_rank():
        _write_film(args, pipe, story, asked, files, sound, keep=sharding is None and not args.small_state)
    else:
        stream = pipe.stream(story, decode=False, **asked)
        del asked["state"]
        for _ in stream:
            pass
    leave_mesh()


def _begun(args: argparse.Namespace, story: Story | None, continued: str | None) -> State | None:
    """The film to go on from, cut back where it is a retake: one of the same words under the same seed would be the same film."""
    if continued is None:
        return None
    state = State.load(continued)
    if args.from_shot is None and args.from_chunk is None:
        return state
    again = (state.seed + 1) % (MAX_SEED + 1) if story is None else None
    return retake(state, shot=args.from_shot, chunk=args.from_chunk, seed=again if args.seed is None else args.seed)


def _footage(args: argparse.Namespace, pipe: Pipeline, story: Story | None) -> dict[str, Any]:
    """The clips that a new film begins with, or is made of."""
    given: dict[str, Any] = {}
    if getattr(args, "history", None) is not None:
        given["history"] = pipe.footage(args.history, story, prompt=args.history_prompt)
    if getattr(args, "video", None) is not None:
        given["video"] = pipe.footage(args.video, story, name="video")
        given["strength"] = STRENGTH if args.strength is None else args.strength
    return given


def _write_film(
    args: argparse.Namespace,
    pipe: Pipeline,
    story: Story | None,
    asked: dict[str, Any],
    files: Mapping[str, Path],
    sound: Sound | None,
    keep: bool,
) -> None:
    """Makes the film and every file of it; after any failure, the state of the chunks that were made. keep: in a state, what is
    remembered."""
    state = asked["state"]
    notes = story.notes if story else ()
    hints = list(notes[1:])
    for clip in ("history", "video"):
        hints += asked[clip].notes if clip in asked else ()
    if "history" in asked or "video" in asked:
        begun = pipe.start(story, **asked)
        state = begun if begun.chunks else None  # a film of what was given, so far
        if begun.restyle is not None:
            hints.append(check_restyle(begun.recipe, begun.restyle.strength))
    hints += pipe.check(story, state)
    made = state.frames if state and not args.whole else 0
    watch = Watch(_shots(story, state, args.whole), made)
    if "state" in files:
        _say_size(files["state"], keep, *state_bytes(pipe.network, pipe.vae, pipe.start(story, **asked)))
    how = {
        "output": files["video"],
        "whole": args.whole,
        "on_step": watch.step,
        "on_chunk": watch.chunk,
        "sound": sound,
        "grow": files.get("growing"),
    }
    make = pipe.filming(story, **how, **asked)
    kept = state.chunks if state else 0
    del state, asked["state"]  # what it remembers is freed as the film goes on
    if "growing" in files:
        say(f"{files['growing']} can be played while the film is made, up to its newest chunk")
    saved = False
    try:
        with watch:
            video = make()
        if "state" in files:
            video.state.save(files["state"], memory=keep)
            saved = True
        report = video.report
        report["warnings"] = list(dict.fromkeys([*hints, *report["warnings"]]))
        report["settings"]["global"] = story.global_prompt if story else ""
        report["written"] = [made, report["frames"]]
        write_atomic(files["report"], lambda path: path.write_text(to_json(report), encoding="utf-8"))
        write_atomic(files["sheet"], watch.contact_sheet(report, Path(args.output).stem).save)
        write_atomic(files["map"], memory_map(report, watch.pictures | pipe.cast_pictures(video.state)).save)
    except WorkerLostError as lost:
        raise OSError(after_loss(lost, made, args, files)) from lost
    except BaseException:
        if not saved and watch.newest is not None and watch.newest.chunks > kept:
            rescue(watch.newest, args, files, memory=keep)
        raise
    _tell(video, report, notes[:1], files, args.json)


def _say_size(file: Path, keep: bool, whole: int, small: int) -> None:
    """How large a state will be, before it is made."""
    less = f"; with --small-state {mib(small)}" if keep else ", without what is remembered"
    say(f"{file} will take about {mib(whole if keep else small)}{less}")


def _shots(story: Story | None, state: State | None, whole: bool) -> int:
    """How many shots the video will show."""
    begun = {record.plan.shot for record in state.records} if state and whole else set()
    if story is not None:
        return len(begun) + len(story.shots)
    return len(begun | {chunk.shot for chunk in state.planned}) if state else 0


def output_files(args: argparse.Namespace) -> dict[str, Path]:
    """Every file to be written, once it is known that each can be and none is an input."""
    video = check_output(args.output, ".mp4")
    beside = {"report": ".json", "sheet": ".png", "map": ".memory.png"}
    files = {"video": video} | {name: video.with_name(video.stem + end) for name, end in beside.items()}
    if args.grow:
        files["growing"] = video.with_name(video.stem + ".growing.mp4")
    if args.save_state:
        files["state"] = Path(args.save_state)
    given = {"story": args.story, "history": getattr(args, "history", None), "video": getattr(args, "video", None)}
    inputs = {Path(path).resolve(): what for what, path in given.items() if path is not None}
    for name, path in files.items():
        check_output(path, path.suffix.lower())
        if path.resolve() in inputs:
            what = inputs[path.resolve()]
            raise InputError(
                f"{path} would be overwritten by the {name}, but it is the {what}; choose another name for {video}"
            )
    if args.save_cast is not None:
        cast = check_output(args.save_cast, ".safetensors").resolve()
        if cast in {path.resolve() for path in files.values()}:
            raise InputError(f"--save-cast {args.save_cast} is also the name of another output; choose another")
    if args.save_state and files["state"].resolve() in {
        path.resolve() for name, path in files.items() if name != "state"
    }:
        raise InputError(f"--save-state {args.save_state} is also the name of another output; choose another")
    return files


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
    print(shot_table(shots, report["fps"]))
    print(f"{video.path}: {end - begin} frames, {(end - begin) / report['fps']:.1f} s, sampled in {seconds:.1f} s")
    for name in ("report", "sheet", "map"):
        print(f"{files[name]}: {name}")
    if "state" in files:
        print(f"{files['state']}: state, {mib(files['state'].stat().st_size)}")
