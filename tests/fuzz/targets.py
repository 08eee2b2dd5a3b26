"""Every way by which a file gets into the program, and what may come of it: a result, or one sentence."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import save_file

from causalcine_core import Pipeline, cli
from causalcine_core.errors import InputError
from causalcine_core.inspect import describe_film
from causalcine_core.memory import MemorySettings
from causalcine_core.model import load_transformer, save_checkpoint
from causalcine_core.sampling import State
from causalcine_core.story import Shot, Story
from causalcine_core.vae import load_vae
from causalcine_core.vae.load import save_vae
from causalcine_core.vae.tiny import TinyDecoder
from causalcine_core.weights.checkpoint import save_weights
from causalcine_core.weights.tensors import read_tensors

from .mutate import damaged, mutated, mutated_json, mutated_table

SECONDS = 5  # of computing, that one call may take
STORY = {
    "global": "a fox",
    "fps": 16,
    "width": 32,
    "height": 32,
    "seed": 7,
    "negative": "snow",
    "shots": [
        {"prompt": "a fox runs", "frames": 9},
        {"prompt": "it sleeps", "seconds": 0.75, "cut": "soft", "blend": 1, "lora": {"name": "a", "strength": 0.5}},
    ],
}
TEXTS = (
    "a fox runs\n\nit sleeps",
    "[global caption] a fox [per shot caption] it runs [shot cut] it sleeps",
    "a fox runs | it sleeps",
    "1. a fox\n2. it sleeps",
    '{"0": "a fox", "9": "it sleeps"}',
    "[1] a fox runs [2] it sleeps",
    "[0-2.5s] a fox runs [2.5-4s] it sleeps",
    "a fox runs[5s] | it sleeps[2.5s#] ; running | sleeping",
    "- a fox runs\n- it sleeps",
    '{"prompts": ["a fox runs", "it sleeps"], "switch_frame_indices": "40"}\n{"prompts": ["a fox runs"]}',
    json.dumps({"prompt": "[global caption] a [per shot caption] b [shot cut] c", "shot_cut_frames": [9]}),
)
JSONS: tuple[Any, ...] = (  # of other tools
    {"prompt": "[global caption] a [per shot caption] b [shot cut] c", "shot_cut_frames": [9], "num_frames": 20},
    {"global_caption": "snow", "shot_captions": ["a fox runs", "it sleeps"], "shot_cut_frames": [37], "num_frames": 81},
    {"global_caption": "snow", "shot1": "a fox runs", "shot2": "it sleeps"},
    {"scenes": [{"scene_num": 1, "video_prompts": ["a fox runs", "it sleeps"], "cut": [True, False]}]},
    {
        "prompts": [
            {"startTime": 0, "endTime": 2.5, "prompts": [{"text": "a fox", "weight": 1}]},
            {"startTime": 2.5, "endTime": 4, "text": "b"},
        ]
    },
    {
        "global_prompt": "snow",
        "segments": [{"start": 0, "length": 61, "prompt": "a fox"}, {"start": 61, "length": 36, "prompt": "b"}],
    },
    {"inner_t": [[7, 11], [3]], "cap_list": [["a fox runs", "it sleeps"], ["c"]]},
    {"title": "t", "scenes": [{"description": "a fox runs", "duration": "2.5s"}, "it sleeps"]},
    ["a fox runs", {"prompt": "it sleeps", "seconds": 2}],
    {"0": "a fox runs", "24": "it sleeps"},
)
TABLES = (
    b'shot_num_from_caption,json_path,frame_number\n2,a.json,"[[0, 81], [81, 162]]"\n1,b.json,\n',
    b"id,prompt_index,prompt\n0,0,a fox runs\n0,1,it sleeps\n1,0,snow\n",
)


class Fault(Exception):  # noqa: N818 (what the program did, not what this file does)
    """What should not have happened."""


class TooSlow(BaseException):
    pass


class Bench:
    """Small valid files in a folder, and a folder that outputs go to."""

    def __init__(self, folder: Path):
        self.folder, self.files, self.out = folder, folder / "files", folder / "out"
        self.files.mkdir(parents=True)
        self.out.mkdir()
        (folder / "good").mkdir()
        self.pipe = Pipeline.random(vocabulary=("a", "fox", "runs", "sleeps"))
        self.good = {kind: make(self, folder / "good") for kind, make in MAKERS.items()}
        self._before = self._listing()

    def attack(self, kind: str, rng: Random) -> None:
        """Mutate a file of this kind and send it in everywhere. Raises Fault, with the mutated file in `files`."""
        path = MUTATE[kind](self, rng)
        for way in WAYS[kind]:
            self._guard(way, path)
            stray = self._listing() - self._before - {path}
            if stray:
                raise Fault(f"{way.__name__} left {sorted(map(str, stray))}")
            self._empty(self.out)
        self.reset()

    def reset(self) -> None:
        """Forget the last attack."""
        self._empty(self.files)
        self._empty(self.out)
        self._before = self._listing()

    def keep(self, where: Path) -> None:
        """Copy the mutated file of the last attack, for a person to look at."""
        shutil.rmtree(where, ignore_errors=True)
        shutil.copytree(self.files, where)

    @staticmethod
    def _empty(folder: Path) -> None:
        shutil.rmtree(folder)
        folder.mkdir()

    def _listing(self) -> set[Path]:
        mutated = (self.out, self.files)
        return {path for path in self.folder.rglob("*") if not any(folder in path.parents for folder in mutated)}

    def _guard(self, way: Callable[[Bench, Path], None], path: Path) -> None:
        try:
            with _time_limit(), contextlib.chdir(self.out):
                way(self, path)
        except InputError as error:
            _check_sentence(str(error))
        except TooSlow:
            raise Fault(f"{way.__name__} took over {SECONDS} s\n{traceback.format_exc()}") from None
        except Fault as fault:
            raise Fault(f"{way.__name__}: {fault}") from None
        except Exception:
            raise Fault(f"{way.__name__}\n{traceback.format_exc()}") from None


def limit_memory(gigabytes: float = 3) -> None:
    """More than this beyond what the process has is refused by the system, as an error that is a fault."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (int(held + gigabytes * 2**30), resource.RLIM_INFINITY))


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _check_sentence(text: str) -> None:
    if len(text) > 1500:
        raise Fault(f"a sentence of {len(text)} characters: {text[:300]}")
    text.encode()


def run(*args: object) -> None:
    """The command line, whose output must be what a terminal can show: exit code 0, or 2 and one line."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(arg) for arg in args])
    err.flush()
    said = err.buffer.getvalue().decode()  # type: ignore[attr-defined]
    if code not in (0, 2) or (code == 2 and (len(said.splitlines()) != 1 or not said.startswith("causalcine: "))):
        raise Fault(f"exit code {code}, stderr {said[:2000]!r}")
    if code == 2:
        _check_sentence(said)


# --- the ways in


def inspect(bench: Bench, path: Path) -> None:
    run("inspect", path)
    run("inspect", path, "--json")


def needs(bench: Bench, path: Path) -> None:
    describe_film(path, MemorySettings(), seconds=2)


def convert(bench: Bench, path: Path) -> None:
    run("convert", path, bench.out / "network.safetensors")


def convert_half(bench: Bench, path: Path) -> None:
    run("convert", path, bench.out / "network.safetensors", "--dtype", "float16")


def convert_lora(bench: Bench, path: Path) -> None:
    run("convert", bench.good["network"], bench.out / "network.safetensors", "--lora", path)


def check_with(bench: Bench, path: Path) -> None:
    run("story", "check", bench.good["story"], "--model", path)


def network(bench: Bench, path: Path) -> None:
    load_transformer(path)


def generate(bench: Bench, path: Path) -> None:
    pipe = Pipeline.from_pretrained(path)
    picture, schedule = pipe.recipe.picture, pipe.recipe.schedule
    if schedule.steps > 4 or len(schedule.first_timesteps or ()) > 4 or picture.width * picture.height > 64**2:
        return  # right, but long
    if pipe.recipe.timeline.chunk > 4 or pipe.network.net.config.num_layers > 4:
        return
    _film(lambda: next(pipe.stream(Story([Shot("a fox", frames=5)]))))


def vae(bench: Bench, path: Path) -> None:
    made = load_vae(path)
    if sum(parameter.numel() for parameter in made.parameters()) < 1_000_000:
        made.decode(torch.zeros(1, made.config.z_dim, 1, 2, 2))


def tiny(bench: Bench, path: Path) -> None:
    decoder = TinyDecoder.from_weights(read_tensors(path, "tiny decoder")[0], f"tiny decoder {path}")
    decoder.decode(torch.zeros(1, decoder.decoder[1].weight.shape[1], 1, 2, 2))


def load_state(bench: Bench, path: Path) -> None:
    State.load(path)


def go_on(bench: Bench, path: Path) -> None:
    state = State.load(path)
    if state.recipe.schedule.steps > 4 or len(state.recipe.schedule.first_timesteps or ()) > 4:
        return
    for story in (None, Story([Shot("a fox", frames=5)])):
        if story is not None or state.planned:
            _film(lambda story=story: next(bench.pipe.stream(story, state=state)).state.save(bench.out / "state"))


def go_on_by_command(bench: Bench, path: Path) -> None:
    run(
        "continue", path, bench.good["story"], "-o", bench.out / "film.gif"
    )  # a wrong name: only what comes before is run


def check(bench: Bench, path: Path) -> None:
    run("story", "check", path)
    run("story", "check", path, "--json")
    run("story", "convert", path, bench.out / "story.json")


def _film(make: Callable[[], object]) -> None:
    """A film that stops for not-a-number is told so in a sentence, which is right."""
    try:
        make()
    except RuntimeError as error:
        if type(error).__name__ != "NotFiniteError":
            raise


# --- files


def _checkpoint(bench: Bench, folder: Path) -> Path:
    path, pipe = folder / "checkpoint.safetensors", bench.pipe
    header = {"model": pipe.network.net.config.to_dict(), "text": pipe.text.config.to_dict()}
    header |= {"recipe": pipe.recipe.to_dict(), "card": {"command": "none"}, "vae": {"steps": 3}}
    parts = {"model": pipe.network.net, "text": pipe.text, "vae": pipe.vae}
    save_checkpoint(path, header, **{name: part.state_dict() for name, part in parts.items()})
    return path


def _network(bench: Bench, folder: Path) -> Path:
    path, net = folder / "network.safetensors", bench.pipe.network.net
    header = {"format": 1, "kind": "network", "model": net.config.to_dict(), "recipe": bench.pipe.recipe.to_dict()}
    save_weights(path, net.state_dict(), header | {"family": "self-forcing", "family_reason": "a test"})
    return path


def _lora(bench: Bench, folder: Path) -> Path:
    path, tensors = folder / "lora.safetensors", {}
    for layer in ("blocks.0.self_attn.q", "blocks.1.ffn.0"):
        rows, columns = bench.pipe.network.net.get_submodule(layer).weight.shape
        tensors |= {f"{layer}.lora_A.weight": torch.randn(2, columns), f"{layer}.lora_B.weight": torch.randn(rows, 2)}
        tensors |= {f"{layer}.alpha": torch.tensor(2.0), f"{layer}.diff_b": torch.randn(rows)}
    save_file(tensors, path)
    return path


def _state(bench: Bench, folder: Path) -> Path:
    path = folder / "film.state"
    story = Story([Shot("a fox", frames=21), Shot("sleeps", frames=24, cut="soft")])
    film = bench.pipe.stream(story)
    next(film)
    next(film).state.save(path)
    return path


def _vae(bench: Bench, folder: Path) -> Path:
    save_vae(bench.pipe.vae, folder / "vae.safetensors", {"steps": 3})
    return folder / "vae.safetensors"


def _tiny(bench: Bench, folder: Path) -> Path:
    path = folder / "taew.safetensors"
    save_file(TinyDecoder(16).state_dict(), path)
    return path


def _story(bench: Bench, folder: Path) -> Path:
    path = folder / "story.json"
    path.write_text(json.dumps(STORY))
    return path


def _pickle(bench: Bench, folder: Path) -> Path:
    path = folder / "network.pt"
    torch.save({"generator": bench.pipe.network.net.state_dict(), "step": 3}, path)
    return path


def _change(name: str, change: Callable[[bytes, Random], bytes]) -> Callable[[Bench, Random], Path]:
    def make(bench: Bench, rng: Random) -> Path:
        good = bench.good[name]
        path = bench.files / good.name
        path.write_bytes(change(good.read_bytes(), rng))
        return path

    return make


def _change_story(bench: Bench, rng: Random) -> Path:
    if rng.random() < 0.4:
        return _change("story", mutated_json)(bench, rng)
    return rng.choice((_change_text, _change_others, _change_table, _change_folder))(bench, rng)


def _change_text(bench: Bench, rng: Random) -> Path:
    path = bench.files / f"story.{rng.choice(('txt', 'txt', 'jsonl'))}"
    path.write_bytes(damaged(rng.choice(TEXTS).encode(), rng))
    return path


def _change_others(bench: Bench, rng: Random) -> Path:
    path = bench.files / "story.json"
    path.write_bytes(mutated_json(json.dumps(rng.choice(JSONS)).encode(), rng))
    return path.with_name(path.name + rng.choice(("", "", "#1", "#2")))


def _change_table(bench: Bench, rng: Random) -> Path:
    """A table, and the captions that its rows name, of which one is changed."""
    path, captions = bench.files / "story.csv", {"shot1": "a fox runs", "shot2": "it sleeps"}
    in_table = rng.random() < 0.7
    data = rng.choice(TABLES)
    path.write_bytes(mutated_table(data, rng) if in_table else data)
    text = json.dumps(captions).encode()
    (bench.files / "a.json").write_bytes(text if in_table else mutated_json(text, rng))
    return path.with_name(path.name + rng.choice(("#1", "#2", "")))


def _change_folder(bench: Bench, rng: Random) -> Path:
    """A folder of LongLive 2.0, of either kind, of which one file is changed or missing."""
    folder = Path(tempfile.mkdtemp(dir=bench.files))
    files = {
        "0.json": b'{"caption": "a fox runs"}',
        "1.json": b'{"caption": "it sleeps"}',
        "shot_durations.txt": b"2 3",
    }
    if rng.random() < 0.4:
        files = {"prompts/a.txt": b"a fox runs\nit sleeps\n", "images/a.png": b""}
    changed = rng.choice(list(files))
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        change = mutated_json if name.endswith(".json") else damaged
        if name != changed or rng.random() < 0.8:
            (folder / name).write_bytes(change(data, rng) if name == changed else data)
    return folder


def _change_index(bench: Bench, rng: Random) -> Path:
    """A folder of one part and its index and config, of which one is changed."""
    net = bench.pipe.network.net
    save_file(net.state_dict(), bench.files / "a-1.safetensors")
    files = {
        "a.safetensors.index.json": {"weight_map": dict.fromkeys(net.state_dict(), "a-1.safetensors"), "metadata": {}}
    }
    files["config.json"] = {"num_heads": 2, "eps": 1e-6, "dim": 96}
    changed = rng.choice(list(files))
    for name, value in files.items():
        data = json.dumps(value).encode()
        (bench.files / name).write_bytes(mutated_json(data, rng) if name == changed else data)
    return bench.files


MAKERS = {
    "checkpoint": _checkpoint,
    "network": _network,
    "lora": _lora,
    "state": _state,
    "vae": _vae,
    "tiny": _tiny,
    "story": _story,
    "pickle": _pickle,
}
MUTATE = {name: _change(name, mutated) for name in ("checkpoint", "network", "lora", "state", "vae", "tiny")}
MUTATE |= {"story": _change_story, "pickle": _change("pickle", damaged), "index": _change_index}
WAYS: dict[str, tuple[Callable[[Bench, Path], None], ...]] = {
    "checkpoint": (inspect, needs, check_with, generate, convert),
    "network": (inspect, needs, network, convert_half),
    "lora": (inspect, convert_lora),
    "state": (inspect, load_state, go_on, go_on_by_command),
    "vae": (inspect, vae),
    "tiny": (inspect, tiny),
    "story": (check,),
    "pickle": (inspect, convert),
    "index": (inspect, needs, network),
}
KINDS = tuple(WAYS)


if sys.version_info < (3, 11):  # contextlib.chdir

    @contextlib.contextmanager
    def _chdir(path: Path) -> Iterator[None]:
        before = os.getcwd()
        os.chdir(path)
        try:
            yield
        finally:
            os.chdir(before)

    contextlib.chdir = _chdir  # type: ignore[attr-defined]
