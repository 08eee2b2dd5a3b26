"""The arguments of the command line. Nothing here imports torch: help and bad arguments answer at once."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import InputError
from ..story_formats import FILE_SYNTAX, SHOT_SYNTAX
from ..story_formats.conversion import WRITTEN

if TYPE_CHECKING:
    from ..memory import MemorySettings

STORED = ("float32", "bfloat16", "float16")  # number types, by torch's names: of a file, and of a network that runs
COMPUTED = (*STORED, "float8_e4m3fn")
STRENGTH = 0.8  # of a clip that is made anew


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would print its usage and exit, and for arguments that it does not know, unless the command
    passes them on. No option may be abbreviated: one that is, or is misspelled, is asked back."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        found, rest = super().parse_known_args(args, namespace)
        if rest and not getattr(found, "passes_on", False):
            name = rest[0].partition("=")[0]
            near = difflib.get_close_matches(name, self._option_string_actions, 1) if name.startswith("--") else []
            meant = f": did you mean {near[0]}?" if near else f"; see {self.prog} --help"
            raise InputError(f"unknown argument {name}{meant}")
        return found, rest


def build_parser() -> Parser:
    """The whole command line. The namespace it makes has `module`, the command's in this package; where it has `passes_on`, that
    module reads the arguments which are unknown here."""
    parser = Parser(prog="causalcine", description="A story in, a multi-shot video out.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, module: str, text: str, **options: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **options)
        sub.set_defaults(module=module, passes_on=False)
        return sub

    generate = command("generate", "generate", "Make a film from a story, with a report and two pictures beside it.")
    _add_story(generate)
    _add_making(generate)
    generate.add_argument("--width", type=_value, metavar="PIXELS", help="default: as the story or the model says")
    generate.add_argument("--height", type=_value, metavar="PIXELS")
    generate.add_argument(
        "--history",
        metavar="CLIP",
        help="a clip (mp4, ...) or picture (png, jpg) that the film begins with: it is scaled and cut to the film's size and "
        "rate, and remembered, and the story goes on from its last frame",
    )
    generate.add_argument(
        "--history-prompt",
        metavar="TEXT",
        help="what is seen in it; default: the story that the file carries, else the story's global text, else its first shot's",
    )
    generate.add_argument(
        "--video",
        metavar="CLIP",
        help="a clip that is made anew under the story's words, chunk by chunk; a story without lengths has those of its shots",
    )
    generate.add_argument(
        "--strength",
        type=_value,
        metavar="S",
        help=f"how much of --video is made anew: above 0 and up to 1, where nothing is left of it; default: {STRENGTH}",
    )
    generate.add_argument("--whole", action="store_true", help="the video begins with what --history gave")
    generate.set_defaults(from_shot=None, from_chunk=None)

    more = command(
        "continue",
        "continue_film",
        "Append a story to a film kept with --save-state, or finish one that was cut short. The video holds the new part "
        "only, or with --whole all of it; the report and the memory map are of the whole film.",
    )
    more.add_argument("state", metavar="STATE", help="file written by --save-state")
    more.add_argument(
        "story", metavar="STORY", nargs="?", help="what follows; without it, what was planned and not made"
    )
    begin = more.add_mutually_exclusive_group()
    begin.add_argument(
        "--from-shot",
        type=_value,
        metavar="N",
        help="a retake: what comes before shot N (the first is 1) is kept bit for bit, what follows is made anew, as it was planned "
        "or as STORY says; without STORY and --seed under the next seed",
    )
    begin.add_argument("--from-chunk", type=_value, metavar="N", help="the same from chunk N on")
    more.add_argument(
        "--whole", action="store_true", help="the video holds the whole film, its old part decoded once more"
    )
    _add_making(more)

    story = commands.add_parser("story", help="Work on story files.", allow_abbrev=False)
    actions = story.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "Say what was read from a story and where each cut lands. Makes nothing."
    check = actions.add_parser("check", help=text, description=text, allow_abbrev=False)
    check.set_defaults(module="story_check", passes_on=False)
    _add_story(check)
    check.add_argument("--model", default="nano", metavar="nano|FILE", help="whose chunks the cuts land on")
    _add_sound(check)
    _add_loras(check)
    check.add_argument("--json", action="store_true", help="print the report, without chunks, as the last line")
    text = "Write a story in another form, whole or not at all, and say what that form cannot hold."
    rewrite = actions.add_parser("convert", help=text, description=text, allow_abbrev=False)
    rewrite.set_defaults(module="story_convert", passes_on=False)
    _add_story(rewrite)
    rewrite.add_argument("output", metavar="OUT", help="replaced if it is there; a folder is not")
    rewrite.add_argument(
        "--to",
        choices=tuple(WRITTEN),
        metavar="FORM",
        help=f"one of {', '.join(WRITTEN)}; default: json, longlive, shotstream-csv or numbers, as OUT ends in .json, .jsonl, .csv or "
        ".txt",
    )

    inspect = command("inspect", "inspect_file", "Say what a checkpoint or a state file holds.")
    inspect.add_argument("file", metavar="FILE")
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
        "convert_file",
        "Write a Wan transformer of any known layout as one safetensors file that CausalCine runs. A .pt is read as tensors "
        "only.",
    )
    convert.add_argument("source", metavar="IN", help="a .pt or .safetensors file, or a diffusers folder")
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

    bench = command("bench", "bench", "Measure the engine (needs a source checkout).", add_help=False)
    evaluate = command(
        "evaluate",
        "evaluate",
        "Measure a model on the story benchmark (needs a source checkout).",
        add_help=False,
    )
    train = command("train", "train", "Run a training stage (needs a source checkout).", add_help=False)
    train.add_argument("stage", metavar="STAGE", nargs="?", help="such as vae or teacher_forcing")
    for passing in (bench, evaluate, train):
        passing.set_defaults(passes_on=True)
    return parser


def memory_settings(args: argparse.Namespace) -> MemorySettings:
    """What was asked of the memory; everything else as usual. `routing` is no question of `inspect`."""
    from ..memory import MemorySettings

    asked = {"window": args.window, "top_k": args.top_k, "routing": getattr(args, "routing", None)}
    asked |= {"budget": args.memory_budget, "storage": args.memory_storage}
    return MemorySettings(**{name: value for name, value in asked.items() if value is not None})


def lora_folders(args: argparse.Namespace) -> list[Path]:
    """Where LoRAs of shots are sought: `--lora-folder`, then beside the story, beside the state, and here."""
    given = [getattr(args, name, None) for name in ("story", "state")]
    beside = [Path(name).parent for name in given if name is not None]
    return [*([Path(args.lora_folder)] if args.lora_folder else []), *beside, Path()]


def _value(text: str) -> int | float | str:
    """An argument as JSON would read it: the same checks, in the same words, then hold for both."""
    if re.fullmatch(r"[+-]?\d{1,4000}", text):
        return int(text)
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _add_story(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("story", metavar="STORY", help=f"story file; forms: {SHOT_SYNTAX}; also {FILE_SYNTAX}")


def _add_sound(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--audio", metavar="FILE", help="sound under the film from its first frame on, of any file that ffmpeg reads")
    add(
        "--cut-times",
        metavar="TIMES",
        help="seconds of the film at which shots change, and maybe at which it ends: 2.5,4,9.1, a text file with them, or sound: the "
        "longest pauses of --audio, and its end; for stories whose shots name no length",
    )


def _add_loras(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora-folder",
        metavar="DIR",
        help="where LoRAs that shots name are sought first; then beside the story, and here",
    )


def _add_memory(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--window", type=_value, metavar="W", help="chunks of local history; default: as the model was trained")
    add("--top-k", type=_value, metavar="K", help="older frames that each layer recalls; default: as trained")
    add("--memory-budget", type=_value, metavar="GIB", help="most that remembered frames may take; default: no limit")
    add("--memory-storage", metavar="HOW", help="frames beyond the window: full (default), 8bit, host or host_8bit")


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
    _add_sound(parser)
    add(
        "--grow",
        action="store_true",
        help="also write OUT.growing.mp4, which plays up to the newest chunk while the film is made, without sound; it goes when "
        "OUT.mp4 is whole, and stays where that fails",
    )
    _add_memory(parser)
    add(
        "--routing",
        metavar="HOW",
        help="what is recalled. By content: every_step (each pass chooses), first_step (keeps its choice), rag (one choice for all "
        "layers). By place: sink (the first frames), fifo (the last before the window), even (at even distances)",
    )
    add(
        "--cut",
        metavar="MODE",
        help="how shots follow one another, where the story does not say; default: as the model",
    )
    _add_loras(parser)
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
    add(
        "--cast",
        action="append",
        default=[],
        metavar="NAME=PICTURE[:CAPTION]",
        help="a picture of somebody whom the shots name, or of a place, which the film may recall at any time; again for more, also "
        "of the same; the caption is the name by default. Or a file of --save-cast",
    )
    add(
        "--save-cast",
        metavar="FILE.safetensors",
        help="also keep the cast, for the --cast of another film of this size",
    )
    add(
        "--save-state",
        metavar="FILE",
        help="also keep the film's state, for causalcine continue; a film that fails or is stopped keeps one in any case",
    )
    add(
        "--small-state",
        action="store_true",
        help="leave out of it what is remembered: that is then written anew, one pass for each chunk made",
    )
    add("--json", action="store_true", help="print the report as the last line")
