"""The command line: what it writes, what it prints, and how it refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from causalcine_core import Pipeline, State, cli
from causalcine_core.commands import checkout, making, rescue
from causalcine_core.commands.progress import Watch
from causalcine_core.encoder import EncoderError
from causalcine_core.memory import FrameStore
from causalcine_core.memory.store import GIB, frame_bytes
from causalcine_core.sampling import Chunk
from causalcine_core.video import VideoWriter, read_video
from causalcine_core.weights.tensors import read_tensors

STORY = {"seed": 3, "shots": [{"prompt": "a fox runs", "frames": 21}, {"prompt": "a fox in the snow", "frames": 24}]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "story.json").write_text(json.dumps(STORY))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """`run("generate", ...)`: exit code, lines of stdout, lines of stderr."""

    def call(*args: object) -> tuple[int, list[str], list[str]]:
        code = cli.main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out.splitlines(), [line for line in err.replace("\r", "\n").splitlines() if line.strip()]

    return call


def film(path: Path) -> np.ndarray:
    return np.stack(list(read_video(path)))


# --- what it makes


def test_generate_writes_the_film_the_report_and_the_pictures(folder, run, checkpoint):
    code, out, _ = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint, "--json")
    assert code == 0
    assert sorted(os.listdir()) == ["out.json", "out.memory.png", "out.mp4", "out.png", "story.json"]
    report = json.loads(out[-1])
    assert json.loads(Path("out.json").read_text()) == report
    assert (report["frames"], report["seed"], report["written"]) == (45, 3, [0, 45])
    assert [shot["frames"] for shot in report["shots"]] == [[0, 21], [21, 45]]
    assert [chunk["shot"] for chunk in report["chunks"]] == [0, 0, 1, 1]
    assert film(Path("out.mp4")).shape == (45, 32, 32, 3)
    for name in ("out.png", "out.memory.png"):
        assert Image.open(name).size[0] > 400


def test_one_seed_is_one_film_and_another_is_another(folder, run, checkpoint):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert run("generate", "story.json", "-o", f"{name}.mp4", "--model", checkpoint, "--seed", seed)[0] == 0
    a, b, c = (film(Path(f"{name}.mp4")) for name in "abc")
    assert (a == b).all()
    assert (a != c).any()


def test_options_reach_the_film_and_the_report(folder, run, checkpoint):
    args = ("--window", 2, "--top-k", 1, "--steps", 1, "--width", 48, "--height", 16, "--json")
    code, out, _ = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint, *args)
    report = json.loads(out[-1])
    assert code == 0
    assert report["size"] == [48, 16]
    assert [report["settings"][name] for name in ("window", "top_k", "steps")] == [2, 1, 1]
    assert len(report["chunks"][0]["routing"][0]) == 1


def test_continue_appends_and_equals_one_run(folder, run, checkpoint):
    model = ("--model", checkpoint)
    one = {**STORY, "shots": [*STORY["shots"], {"prompt": "the fox sleeps", "frames": 24}]}
    Path("whole.json").write_text(json.dumps(one))
    Path("more.txt").write_text("Shot 1 (1.5s): the fox sleeps")
    assert run("generate", "whole.json", "-o", "full.mp4", *model)[0] == 0
    assert run("generate", "story.json", "-o", "out.mp4", "--save-state", "film.state", *model)[0] == 0
    code, out, _ = run(
        "continue", "film.state", "more.txt", "-o", "out2.mp4", "--save-state", "film.state", *model, "--json"
    )
    assert code == 0
    report = json.loads(out[-1])
    assert report["frames"] == 69
    assert report["written"] == [45, 69]
    assert report["shots"][2] == {"index": 2, "prompt": "the fox sleeps", "asked": [45, 69], "frames": [45, 69]}
    assert [chunk["frames"] for chunk in report["chunks"]][-2:] == [[45, 57], [57, 69]]
    again = json.loads(Path("full.json").read_text())
    assert [c["routing"] for c in report["chunks"]] == [c["routing"] for c in again["chunks"]]
    assert film(Path("out2.mp4")).shape[0] == 24
    assert np.abs(film(Path("out2.mp4")).astype(int) - film(Path("full.mp4"))[45:]).mean() < 6
    assert json.loads(run("inspect", "film.state", "--json")[1][-1])["chunks"] == 6


def test_progress_names_the_shot_and_the_speed(folder, run, checkpoint):
    _, out, err = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint)
    assert any("shot 2/2" in line and "45/45 frames" in line and "fps" in line for line in err)
    assert out[0].startswith("read 2 shots")
    assert "frames    21 - 45" in out[2]


def test_unknown_words_are_named(folder, run, checkpoint):
    Path("odd.txt").write_text("a fox xylophone")
    _, out, err = run("generate", "odd.txt", "-o", "out.mp4", "--model", checkpoint, "--json")
    assert "xylophone" in json.loads(out[-1])["warnings"][0]
    assert any("xylophone" in line for line in err)
    assert "xylophone" in "\n".join(run("story", "check", "odd.txt", "--model", checkpoint)[1])


def test_story_check_says_what_was_read_and_where_cuts_land(folder, run, checkpoint):
    code, out, err = run("story", "check", "story.json", "--model", checkpoint)
    assert code == 0
    assert err == []
    assert out[0] == 'read 2 shots: JSON, 2 in the list "shots" (form: json)'
    assert "asked 0 - 21" in out[1] or "as asked" in out[1]
    code, out, _ = run("story", "check", "story.json", "--model", checkpoint, "--json")
    assert run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint)[0] == 0
    check, report = json.loads(out[-1]), json.loads(Path("out.json").read_text())
    assert "chunks" not in check
    for name in ("format", "frames", "fps", "size", "seed", "settings", "shots"):
        assert check[name] == report[name]


def test_inspect_tells_kinds_apart(folder, run, checkpoint):
    code, out, _ = run("inspect", checkpoint)
    assert code == 0
    assert any("all-in-one checkpoint" in line for line in out)
    facts = json.loads(run("inspect", checkpoint, "--json")[1][-1])
    assert facts["recipe"]["steps"] == 2
    assert facts["card"]["command"] == "none, random weights"
    names = {f"model.diffusion_model.blocks.{i}.x": np.zeros(2, np.float32) for i in range(3)}
    save_file(
        names | {"model.diffusion_model.patch_embedding.weight": np.zeros((8, 16, 1, 2, 2), np.float16)},
        "wan.safetensors",
    )
    facts = json.loads(run("inspect", "wan.safetensors", "--json")[1][-1])
    assert facts["kind"].startswith("Wan transformer")
    assert facts["network"] == {"dim": 8, "latent channels": 16, "patch": [1, 2, 2], "blocks": 3}


def test_inspect_says_how_many_words_a_model_knows_and_all_of_them_in_json(run):
    _, out, _ = run("inspect", "nano")
    words = json.loads(run("inspect", "nano", "--json")[1][-1])["text"]["vocabulary"]
    assert len(words) > 100
    (line,) = [line for line in out if "vocabulary" in line]
    said, few, more = line.split(maxsplit=1)[1].partition(" words, such as ")
    assert said == f"{len(words)}" and few
    shown, _, more = more.partition(";")
    assert set(shown.split(", ")) < set(words) and len(shown.split(", ")) == 5
    assert more == " all of them with --json"
    assert max(map(len, out)) <= 200


ODD = "a fox \U0001f3ac \u573a\u666f runs in the " + "snow" * 20


@pytest.mark.parametrize("encoding", ["cp1252", "gbk", "ascii", "utf-8"])
def test_any_console_shows_what_it_can(folder, checkpoint, monkeypatch, encoding):
    """Text that its encoding lacks is escaped, and never the end of a command that has done its work."""
    Path("odd.json").write_text(json.dumps({"shots": [{"prompt": ODD, "frames": 9}]}))
    name = os.fsdecode(b"film \xf0\x9f\x8e\xac \xff.mp4")  # the last byte is no text
    model = ["--model", str(checkpoint)]

    def shown(*command: str, code: int = 0) -> str:
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            assert cli.main(command) == code
        assert out.errors == err.errors == "strict"  # as it was
        out.flush()
        return out.buffer.getvalue().decode(encoding)

    film = "\U0001f3ac" if encoding == "utf-8" else "\\U0001f3ac"
    assert film in shown("story", "check", "odd.json", *model)
    assert film in shown("generate", "odd.json", "-o", name, "--save-state", "s", *model)
    report = json.loads(shown("generate", "odd.json", "-o", name, "--json", *model).splitlines()[-1])
    assert report == json.loads(Path(name).with_suffix(".json").read_text("utf-8"))
    assert report["shots"][0]["prompt"] == ODD.strip()
    shown("inspect", "s")
    shown("inspect", name, code=2)


def test_the_c_locale_is_a_console_too(folder, checkpoint):
    Path("odd.json").write_text(json.dumps({"shots": [{"prompt": ODD, "frames": 9}]}))
    plain = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": str(Path(cli.__file__).parents[1]),
    }
    command = [sys.executable, "-m", "causalcine_core", "story", "check", "odd.json", "--model", str(checkpoint)]
    done = subprocess.run(command, env=os.environ | plain, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# --- how it refuses: one sentence that names the field, exit 2, nothing left behind


def bad_checkpoint(kind: str, good: Path) -> Path:
    path, data = Path(f"{kind}.safetensors"), good.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        save_file({"unet.conv.weight": np.zeros((4, 4), np.float32)}, path)
    return path


TEXTS = {
    "broken JSON": ('{"shots": [', "line 1, column"),
    "no shots": ('{"shots": []}', "shots"),
    "empty prompt": ('{"shots": [{"prompt": " "}]}', "shots[0].prompt"),
    "zero length": ('{"shots": [{"prompt": "a", "seconds": 0}]}', "shots[0].seconds"),
    "negative length": ('{"shots": [{"prompt": "a", "frames": -5}]}', "shots[0].frames"),
    "NaN length": ('{"shots": [{"prompt": "a", "seconds": NaN}]}', "shots[0].seconds"),
    "10,000 shots": (json.dumps({"shots": [{"prompt": "a"}] * 10_000}), "9,999"),
    "size off the stride": ('{"width": 40, "height": 32, "shots": [{"prompt": "a"}]}', "32x32 or 48x32"),
    "misspelled field": (
        '{"shots": [{"prompt": "a", "secnods": 3}]}',
        'unknown field "secnods", did you mean "seconds"?',
    ),
    "wrong type": ('{"shots": "a"}', "shots"),
    "not UTF-8": ("\udcff", "UTF-8"),
    "cut of a later version": ('{"shots": [{"prompt": "a", "cut": "smooth"}]}', "shots[0].cut"),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("command", ["generate", "check"])
def test_bad_stories_are_one_sentence_and_exit_2(folder, run, checkpoint, kind, command):
    text, says = TEXTS[kind]
    (folder / "bad.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    before = sorted(os.listdir())
    args = ("generate", "bad.json", "-o", "out.mp4") if command == "generate" else ("story", "check", "bad.json")
    code, out, err = run(*args, "--model", checkpoint)
    assert (code, out, len(err)) == (2, [], 1)
    assert says in err[0]
    assert sorted(os.listdir()) == before


OPTIONS = {
    "missing story": (["no.json"], "no.json: there is no such story file"),
    "story is a folder": (["."], "folder"),
    "no output folder": (["story.json", "-o", "no/out.mp4"], "output folder no does not exist"),
    "folder not writable": (["story.json", "-o", "readonly/out.mp4"], "output folder readonly is not writable"),
    "no such disk": (["story.json", "-o", "/proc/out.mp4"], "/proc"),
    "wrong ending": (["story.json", "-o", "out.gif"], ".mp4"),
    "report over story": (["story.json", "-o", "story.mp4"], "story.json would be overwritten"),
    "state over report": (["story.json", "-o", "out.mp4", "--save-state", "out.json"], "--save-state"),
    "state nowhere": (["story.json", "-o", "out.mp4", "--save-state", "no/x"], "output folder no does not exist"),
    "picture in the way": (["story.json", "-o", "taken.mp4"], "taken.png is a folder"),
    "width": (["story.json", "-o", "out.mp4", "--width", "40", "--height", "32"], "nearest are 32x32 or 48x32"),
    "width alone": (["story.json", "-o", "out.mp4", "--width", "40"], "nearest are 32x32 or 48x32"),
    "width 0": (["story.json", "-o", "out.mp4", "--width", "0"], "width must be a whole number"),
    "width text": (
        ["story.json", "-o", "out.mp4", "--width", "wide"],
        'width must be a whole number from 1 to 9437184, got "wide"',
    ),
    "width fraction": (["story.json", "-o", "out.mp4", "--width", "32.0"], "width must be a whole number"),
    "too large": (["story.json", "-o", "out.mp4", "--width", "16384", "--height", "16384"], "GiB"),
    "seed": (
        ["story.json", "-o", "out.mp4", "--seed", "-1"],
        "seed must be a whole number from 0 to 18446744073709551615",
    ),
    "seed fraction": (["story.json", "-o", "out.mp4", "--seed", "1.5"], "seed must be a whole number"),
    "window": (["story.json", "-o", "out.mp4", "--window", "-1"], "window"),
    "top-k": (["story.json", "-o", "out.mp4", "--top-k", "many"], "top_k"),
    "steps": (["story.json", "-o", "out.mp4", "--steps", "0"], "steps"),
    "guidance": (["story.json", "-o", "out.mp4", "--guidance", "nan"], "guidance"),
    "device": (["story.json", "-o", "out.mp4", "--device", "gpu9"], "device"),
    "dtype": (["story.json", "-o", "out.mp4", "--dtype", "int3"], "--dtype"),
    "misspelled": (["story.json", "-o", "out.mp4", "--sed", "1"], "unknown argument --sed: did you mean --seed?"),
    "abbreviated": (["story.json", "-o", "out.mp4", "--step=4"], "unknown argument --step: did you mean --steps?"),
    "other option": (
        ["story.json", "-o", "out.mp4", "--zzz"],
        "unknown argument --zzz; see causalcine generate --help",
    ),
    "one too many": (["story.json", "more.json", "-o", "out.mp4"], "unknown argument more.json; see"),
    "no output": (["story.json"], "--output"),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_arguments_are_one_sentence_and_exit_2(folder, run, checkpoint, kind):
    Path("readonly").mkdir(mode=0o555)
    Path("taken.png").mkdir()
    before = sorted(folder.rglob("*"))
    args, says = OPTIONS[kind]
    args = args if "-o" in args or kind == "no output" else [*args, "-o", "out.mp4"]
    code, out, err = run("generate", *args, "--model", checkpoint)
    assert (code, out, len(err)) == (2, [], 1), err
    assert says in err[0]
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("kind", ["missing", "truncated", "other architecture", "pickle"])
@pytest.mark.parametrize("command", ["generate", "check", "inspect", "continue"])
def test_bad_files_of_weights_and_states(folder, run, checkpoint, kind, command):
    path = Path("missing.safetensors") if kind == "missing" else bad_checkpoint(kind, checkpoint)
    before = sorted(os.listdir())
    args = {
        "generate": ("generate", "story.json", "-o", "out.mp4", "--model", path),
        "check": ("story", "check", "story.json", "--model", path),
        "inspect": ("inspect", path),
        "continue": ("continue", path, "story.json", "-o", "out.mp4", "--model", checkpoint),
    }[command]
    code, out, err = run(*args)
    if (kind, command) == ("other architecture", "inspect"):
        assert code == 0
        return
    assert (code, out, len(err)) == (2, [], 1), err
    assert str(path) in err[0]
    assert sorted(os.listdir()) == before


def test_a_state_of_another_model_or_size_is_refused(folder, run, checkpoint):
    assert run("generate", "story.json", "-o", "out.mp4", "--save-state", "s", "--model", checkpoint)[0] == 0
    Path("big.json").write_text(json.dumps({**STORY, "width": 64, "height": 64}))
    code, _, err = run("continue", "s", "big.json", "-o", "out2.mp4", "--model", checkpoint)
    assert (code, len(err)) == (2, 1)
    assert "64" in err[0]
    assert "32" in err[0]


def test_commands_need_a_name_and_training_a_stage(run):
    for args, says in {
        (): "COMMAND",
        ("frobnicate",): "frobnicate",
        ("train",): "STAGE",
        ("train", "../x"): "STAGE",
    }.items():
        code, out, err = run(*args)
        assert (code, out, len(err)) == (2, [], 1)
        assert says in err[0]


def test_without_a_source_checkout_training_says_so(run, monkeypatch, tmp_path):
    monkeypatch.setattr(checkout, "SOURCE", tmp_path)
    for args in (("train", "vae", "recipe.yaml"), ("bench",), ("evaluate", "nano")):
        code, _, err = run(*args)
        assert (code, len(err)) == (2, 1)
        assert "source checkout" in err[0]


# --- how it stops


def interruptible() -> None:
    """In a new process: a job in the background of a shell, as these tests may be, inherits that Ctrl-C is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_nothing_half_written(folder, checkpoint, sign):
    """And what was made is kept where a state was asked for."""
    Path("long.json").write_text(json.dumps({"shots": [{"prompt": "a fox", "seconds": 600}]}))
    before = sorted(os.listdir())
    command = [sys.executable, "-m", "causalcine_core", "generate", "long.json", "-o", "out.mp4"]
    root = Path(cli.__file__).parents[1]
    process = subprocess.Popen(
        [*command, "--model", str(checkpoint), "--save-state", "s"],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=interruptible,
    )
    deadline = time.monotonic() + 60
    while sorted(os.listdir()) == before and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sign)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "causalcine: stopped; no file was left half-written"
    assert "Traceback" not in err
    assert sorted(os.listdir()) == sorted([*before, "s"])
    assert State.load("s").chunks >= 1


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_what_is_ignored_stays_ignored(sign):
    """A closed terminal ends a command as Ctrl-C does; but not under nohup."""
    before = signal.signal(sign, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), cli._terminable():
            os.kill(os.getpid(), sign)
        assert signal.getsignal(sign) == signal.SIG_DFL
        signal.signal(sign, signal.SIG_IGN)
        with cli._terminable():
            os.kill(os.getpid(), sign)
    finally:
        signal.signal(sign, before)


FAILURES = {
    "Ctrl-C": (KeyboardInterrupt(), 130, "stopped"),
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
    "the encoder": (EncoderError("ffmpeg stopped"), 1, "ffmpeg"),
    "a full GPU": (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        1,
        "GPU has no memory left",
    ),
    "a full memory": (MemoryError(), 1, "machine has no memory left"),
    "PyTorch's full memory": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        1,
        "machine has no memory left",
    ),
    "a fault of ours": (ZeroDivisionError("a fault"), None, ""),
}


def failing(error: BaseException) -> Callable[[VideoWriter, np.ndarray], None]:
    """A `VideoWriter.write` that fails at the third chunk."""
    written = []

    def write(self: VideoWriter, frames: np.ndarray) -> None:
        written.append(len(frames))
        if len(written) == 3:
            raise error

    return write


@pytest.mark.parametrize("kind", FAILURES)
def test_whatever_fails_the_finished_chunks_are_kept(folder, run, checkpoint, monkeypatch, kind):
    error, expected, says = FAILURES[kind]
    Path("out.mp4").write_bytes(b"an older film")
    monkeypatch.setattr(VideoWriter, "write", failing(error))
    command = ("generate", "story.json", "-o", "out.mp4", "--save-state", "kept state", "--model", checkpoint)
    if expected is None:
        with pytest.raises(type(error)):
            run(*command)
    else:
        code, out, err = run(*command)
        assert (code, out) == (expected, [])
        assert says in err[-1]
        assert "continue 'kept state' -o out.mp4 --whole" in err[-2]
    assert sorted(os.listdir()) == ["kept state", "out.mp4", "story.json"]
    assert Path("out.mp4").read_bytes() == b"an older film"
    assert State.load("kept state").chunks == 3


def test_of_what_was_kept_the_whole_film_is_made(folder, run, checkpoint, monkeypatch):
    model = ("--model", checkpoint)
    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", failing(EncoderError("ffmpeg stopped")))
        assert run("generate", "story.json", "-o", "out.mp4", "--save-state", "s", *model)[0] == 1
    code, out, _ = run("continue", "s", "-o", "out.mp4", "--whole", "--json", *model)
    assert code == 0
    assert json.loads(out[-1])["written"] == [0, 45]
    assert run("generate", "story.json", "-o", "straight.mp4", *model)[0] == 0
    assert (film(Path("out.mp4")) == film(Path("straight.mp4"))).all()


def test_a_film_that_fails_keeps_its_chunks_though_no_state_was_asked_for(folder, run, checkpoint, monkeypatch):
    """Beside the video, over nothing that is there; a film that is finished leaves none."""
    Path("out.state").write_bytes(b"mine")
    with monkeypatch.context() as patch:
        patch.setattr(VideoWriter, "write", failing(EncoderError("ffmpeg stopped")))
        code, _, err = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint)
    assert code == 1
    assert "the 2.1 s made so far are kept in out-2.state (" in err[-2] and " MiB); the whole film" in err[-2]
    assert sorted(os.listdir()) == ["out-2.state", "out.state", "story.json"]
    assert Path("out.state").read_bytes() == b"mine"
    assert run(*shlex.split(err[-2].partition("is made by: causalcine ")[2]))[0] == 0, "the very command that is named"
    assert run("generate", "story.json", "-o", "straight.mp4", "--model", checkpoint)[0] == 0
    assert (film(Path("out.mp4")) == film(Path("straight.mp4"))).all()
    assert sorted(path for path in os.listdir() if "state" in path) == ["out-2.state", "out.state"]


def test_a_film_without_room_beside_it_is_kept_among_temporary_files(
    folder, run, checkpoint, monkeypatch, tmp_path_factory
):
    spare, save = tmp_path_factory.mktemp("spare"), State.save
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def full(self: State, path: Path, *, memory: bool = True) -> None:
        if spare not in Path(path).parents:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, memory=memory)

    monkeypatch.setattr(State, "save", full)
    monkeypatch.setattr(VideoWriter, "write", failing(OSError(errno.ENOSPC, "No space left on device")))
    for given in ((), ("--save-state", "s")):
        code, _, err = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint, *given)
        monkeypatch.setattr(VideoWriter, "write", failing(OSError(errno.ENOSPC, "No space left on device")))
        (kept,) = spare.glob("causalcine-*.state")
        assert code == 1 and str(kept) in err[-2]
        assert State.load(kept).chunks == 3 and State.load(kept).memory is not None
        kept.unlink()
        assert os.listdir() == ["story.json"]


def test_a_finished_film_whose_state_finds_no_room_keeps_one_elsewhere(
    folder, run, checkpoint, monkeypatch, tmp_path_factory
):
    spare, save = tmp_path_factory.mktemp("spare"), State.save
    monkeypatch.setattr(tempfile, "tempdir", str(spare))

    def full(self: State, path: Path, *, memory: bool = True) -> None:
        if Path(path).name == "s":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, memory=memory)

    monkeypatch.setattr(State, "save", full)
    code, _, err = run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint, "--save-state", "s")
    (kept,) = spare.glob("causalcine-*.state")
    assert code == 1 and str(kept) in err[-2] and "No space left" in err[-1]
    assert State.load(kept).chunks == 4 and Path("out.mp4").exists()


def test_what_fails_beside_a_finished_film_loses_nothing_either(folder, run, checkpoint, monkeypatch):
    """A report that cannot be written; where the state was kept already there is no second one."""
    command = ("generate", "story.json", "-o", "out.mp4", "--model", checkpoint)
    monkeypatch.setattr(making, "to_json", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(*command)
    assert State.load("out.state").chunks == 4
    os.remove("out.state")
    with pytest.raises(ZeroDivisionError):
        run(*command, "--save-state", "s")
    assert sorted(os.listdir()) == ["out.mp4", "s", "story.json"]


def test_a_film_that_failed_before_anything_was_added_keeps_no_second_state(folder, run, checkpoint, monkeypatch):
    """Its old part, decoded once more, is in the state that it goes on from."""
    model = ("--model", checkpoint)
    assert run("generate", "story.json", "-o", "out.mp4", "--save-state", "s", *model)[0] == 0
    before = sorted(os.listdir())
    monkeypatch.setattr(VideoWriter, "write", failing(EncoderError("ffmpeg stopped")))
    code, _, err = run("continue", "s", "-o", "b.mp4", "--whole", "--from-chunk", "4", *model)
    assert code == 1 and not any("made so far" in line for line in err)
    assert sorted(os.listdir()) == before


def test_a_disk_that_is_nearly_full_is_not_filled(folder, run, checkpoint, monkeypatch, tmp_path_factory):
    """The state goes to the temporary folder, with its memory where that is small enough to be kept unasked."""
    spare, usage = tmp_path_factory.mktemp("spare"), shutil.disk_usage
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    nearly = lambda path: usage(path) if Path(path) == spare else usage(path)._replace(free=1000)  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", nearly)
    for most, remembered in ((2**30, True), (1000, False)):
        monkeypatch.setattr(rescue, "MOST", most)
        monkeypatch.setattr(VideoWriter, "write", failing(MemoryError()))
        assert run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint)[0] == 1
        (kept,) = spare.glob("causalcine-*.state")
        assert os.listdir() == ["story.json"] and (State.load(kept).memory is not None) == remembered
        kept.unlink()


@pytest.mark.parametrize("small", [(), ("--small-state",)])
def test_the_size_of_a_state_is_said_before_and_after(folder, run, checkpoint, small):
    Path("long.txt").write_text("[12s] a fox runs")
    command = ("generate", "long.txt", "-o", "out.mp4", "--model", checkpoint, "--save-state", "s", "--steps", "1")
    code, out, err = run(*command, *small)
    assert code == 0
    said = re.match(r"causalcine: s will take about ([\d.]+) MiB", err[0])
    assert said and float(said[1]) == pytest.approx(Path("s").stat().st_size / 2**20, rel=0.2, abs=0.06)
    assert out[-1] == f"s: state, {Path('s').stat().st_size / 2**20:.1f} MiB"


# --- retakes


def shots(path: str) -> list[np.ndarray]:
    """Frames of each shot of a film with its report."""
    report, frames = json.loads(Path(path).with_suffix(".json").read_text()), film(Path(path))
    return [frames[slice(*shot["frames"])] for shot in report["shots"]]


@pytest.mark.parametrize(("how", "kept"), [(("--from-shot", "2"), 1), (("--from-chunk", "1"), 0)])
def test_a_retake_keeps_what_comes_before_bit_for_bit(folder, run, checkpoint, how, kept):
    """Without a story what follows is made as it was planned, under the next seed."""
    model = ("--model", checkpoint)
    assert run("generate", "story.json", "-o", "a.mp4", "--save-state", "s", "--seed", "7", *model)[0] == 0
    code, out, _ = run("continue", "s", "-o", "b.mp4", "--whole", "--save-state", "t", "--json", *how, *model)
    assert code == 0
    begun, taken = State.load("s"), State.load("t")
    chunks = sum(record.plan.shot < kept for record in begun.records)
    assert torch.equal(begun.film()[:, :, : 3 * chunks], taken.film()[:, :, : 3 * chunks])
    assert [record.plan for record in taken.records] == [record.plan for record in begun.records]
    assert taken.shots == begun.shots and taken.seed == 8
    assert [record.seed for record in taken.records] == [7] * chunks + [8] * (len(begun.records) - chunks)
    for n in range(chunks, len(begun.records)):
        assert not torch.equal(begun.latents[n], taken.latents[n])
    assert json.loads(out[-1])["frames"] == len(film(Path("b.mp4"))) == len(film(Path("a.mp4")))


def test_a_retake_under_the_same_seed_is_the_same_film_and_one_of_a_story_another(folder, run, checkpoint):
    model = ("--model", checkpoint)
    assert run("generate", "story.json", "-o", "a.mp4", "--save-state", "s", "--seed", "7", *model)[0] == 0
    assert run("continue", "s", "-o", "b.mp4", "--whole", "--from-shot", "2", "--seed", "7", *model)[0] == 0
    assert (film(Path("a.mp4")) == film(Path("b.mp4"))).all()
    Path("more.txt").write_text("a fox sleeps\n\na fox runs")
    assert run("continue", "s", "more.txt", "-o", "c.mp4", "--whole", "--from-shot", "2", *model)[0] == 0
    report = json.loads(Path("c.json").read_text())
    assert [shot["prompt"].split()[-1] for shot in report["shots"]][1:] == ["sleeps", "runs"]
    assert (shots("a.mp4")[0] == shots("c.mp4")[0]).all()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--from-shot", "3"), "from_shot must be a whole number from 1 to 2, got 3"),
        (("--from-shot", "0"), "from_shot must be a whole number from 1 to 2, got 0"),
        (("--from-chunk", "5"), "from_chunk must be a whole number from 1 to 4, got 5"),
        (("--from-chunk", "two"), 'from_chunk must be a whole number from 1 to 4, got "two"'),
        (("--from-shot", "1", "--from-chunk", "1"), "not allowed with argument"),
    ],
)
def test_a_retake_of_what_is_not_there_is_refused(folder, run, checkpoint, given, says):
    model = ("--model", checkpoint)
    assert run("generate", "story.json", "-o", "a.mp4", "--save-state", "s", *model)[0] == 0
    before = sorted(os.listdir())
    code, _, err = run("continue", "s", "-o", "b.mp4", *given, *model)
    assert (code, len(err)) == (2, 1) and says in err[0], err
    assert sorted(os.listdir()) == before


def test_inspect_says_what_film_a_state_holds_and_how_it_goes_on(folder, run, checkpoint):
    model = ("--model", checkpoint)
    assert run("generate", "story.json", "-o", "a.mp4", "--save-state", "my state", *model)[0] == 0
    facts = json.loads(run("inspect", "my state", "--json")[1][-1])
    assert (facts["shots"], facts["chunks"], facts["last words"]) == (2, 4, STORY["shots"][-1]["prompt"])
    assert facts["length"] == "2.8 s (45 frames)" and facts["remembered"].endswith("MiB")
    for name in ("go on", "retake"):
        Path("MORE.txt").write_text("a fox")
        assert run(*shlex.split(facts[name])[1:], *model)[0] == 0


def test_a_state_that_finds_no_room_is_kept_small(folder, run, checkpoint, monkeypatch):
    save, room = State.save, [False]

    def full(self: State, path: Path, *, memory: bool = True) -> None:
        if memory or not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, path, memory=False)

    monkeypatch.setattr(State, "save", full)
    command = ("generate", "story.json", "-o", "out.mp4", "--save-state", "s", "--model", checkpoint)
    monkeypatch.setattr(VideoWriter, "write", failing(OSError(errno.ENOSPC, "No space left on device")))
    code, _, err = run(*command)
    assert code == 1
    assert "made so far are lost: " in err[-2]
    room[0] = True
    monkeypatch.setattr(VideoWriter, "write", failing(OSError(errno.ENOSPC, "No space left on device")))
    assert run(*command)[0] == 1
    assert (State.load("s").memory, State.load("s").chunks) == (None, 3)


def test_the_whole_of_a_film_that_goes_on(folder, run, checkpoint):
    model = ("--model", checkpoint)
    Path("more.txt").write_text("Shot 1 (1.5s): the fox sleeps")
    assert run("generate", "story.json", "-o", "out.mp4", "--save-state", "s", *model)[0] == 0
    assert run("continue", "s", "-o", "again.mp4", "--whole", *model)[0] == 0
    assert (film(Path("again.mp4")) == film(Path("out.mp4"))).all()
    assert run("continue", "s", "more.txt", "-o", "part.mp4", *model)[0] == 0
    code, out, err = run("continue", "s", "more.txt", "-o", "all.mp4", "--whole", *model)
    assert code == 0
    assert any("shot 3/3" in line and "69/69 frames" in line for line in err)
    assert [len(film(Path(f"{name}.mp4"))) for name in ("part", "all")] == [24, 69]
    assert sum("frames" in line for line in out) == 4  # a line for each of three shots, and the sum


def test_an_encoder_that_is_missing_is_said_before_a_model_is_loaded(folder, run, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "nope")
    monkeypatch.setattr(Pipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    code, out, err = run("generate", "story.json", "-o", "out.mp4")
    assert (code, out, len(err)) == (1, [], 1)
    assert "ffmpeg, which writes the video, cannot be started (nope" in err[0]
    assert "pip install" in err[0]


def test_a_reader_that_goes_away_is_no_error(folder, checkpoint):
    root = Path(cli.__file__).parents[1]
    script = f"{sys.executable} -m causalcine_core story check story.json --model {checkpoint} | true"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=False,
    )
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--memory-budget", "0"], "memory.budget must be a number of GiB above 0, got 0"),
        (["--memory-budget", "0.000001"], "need at least"),
        (["--memory-storage", "4bit"], 'memory.storage must be one of full, 8bit, host, host_8bit, got "4bit"'),
        (
            ["--routing", "never"],
            'memory.routing must be one of every_step, first_step, rag, sink, fifo, even, got "never"',
        ),
        (["--cut", "fade"], "cut must be one of native, flush, "),
    ],
)
def test_bad_memory_and_cut_flags_are_refused_by_name(flags, says, tmp_path, capsys):
    story = tmp_path / "s.txt"
    story.write_text("a red cat")
    assert cli.main(["generate", str(story), "-o", str(tmp_path / "o.mp4"), *flags]) == 2
    assert says in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s.txt"]


def test_memory_and_cut_flags_reach_the_film(tmp_path, capsys):
    story = tmp_path / "s.txt"
    story.write_text("a red cat\n\na blue bird\n\na green bear")
    flags = ["--memory-budget", "0.04", "--memory-storage", "8bit", "--routing", "first_step", "--cut", "flush"]
    assert cli.main(["generate", str(story), "-o", str(tmp_path / "o.mp4"), "--steps", "1", "--json", *flags]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    told = {name: report["settings"][name] for name in ("budget", "storage", "routing")}
    assert told == {"budget": 0.04, "storage": "8bit", "routing": "first_step"}
    assert [shot["cut"] for shot in report["shots"]] == ["flush"] * 3
    assert not any("forgotten" in w for w in report["warnings"])  # it fits


def test_a_gpu_without_memory_left_is_said_in_one_sentence(folder, run, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr(Pipeline, "filming", full)
    code, _, err = run("generate", "story.json", "-o", "film.mp4")
    assert code == 1
    assert "causalcine: the GPU has no memory left: lower width" in err[-1]


@pytest.mark.parametrize("storage", ["full", "8bit", "host"])
def test_a_film_that_goes_on_takes_no_more_than_its_budget(folder, run, checkpoint, monkeypatch, storage):
    """All that is remembered in this process, after every chunk: of the state that was read there is no second copy."""
    budget, taken = 30 * frame_bytes(2, 1, (4, 2, 48), torch.float32), []
    told = Watch.chunk
    stores: weakref.WeakSet[FrameStore] = weakref.WeakSet()
    opened = FrameStore.__init__
    monkeypatch.setattr(FrameStore, "__init__", lambda self, *a, **k: stores.add(self) or opened(self, *a, **k))

    def chunk(self: Watch, made: Chunk) -> None:
        taken.append(sum(store.nbytes for store in stores))
        told(self, made)

    monkeypatch.setattr(Watch, "chunk", chunk)
    Path("long.txt").write_text("[8s] a fox runs")
    how = ("--model", checkpoint, "--save-state", "s", "--json")
    asked = ("--memory-budget", f"{budget / GIB:.12f}", "--memory-storage", storage)
    assert run("generate", "long.txt", "-o", "a.mp4", *how, *asked)[0] == 0
    code, out, err = run("continue", "s", "long.txt", "-o", "b.mp4", *how)
    assert code == 0, err
    assert json.loads(out[-1])["memory"]["forgotten"] > 0
    assert len(taken) == 22 and max(taken) <= budget


@pytest.mark.parametrize("where", ["checkpoint", "state"])
def test_a_number_that_is_none_ends_the_command_in_one_sentence(folder, run, checkpoint, where):
    """And leaves no film, black or other."""
    assert run("generate", "story.json", "-o", "out.mp4", "--model", checkpoint, "--save-state", "s")[0] == 0
    name = "model.diffusion_model.blocks.1.ffn.0.weight" if where == "checkpoint" else "memory.hot.values.0"
    tensors, header = read_tensors(checkpoint if where == "checkpoint" else "s")
    tensors[name][0] = torch.nan
    save_tensors(tensors, "bad.safetensors", metadata=header.metadata)
    before = sorted(os.listdir())
    if where == "checkpoint":
        code, out, err = run("generate", "story.json", "-o", "new.mp4", "--model", "bad.safetensors")
    else:
        code, out, err = run("continue", "bad.safetensors", "story.json", "-o", "new.mp4", "--model", checkpoint)
    assert (code, out) == (1, [])
    chunk = "chunk 0 (shot 1)" if where == "checkpoint" else "chunk 4 (shot 3)"
    assert f"{chunk} holds numbers that are none (NaN or infinity) from pass 1 of 2 on" in err[-1]
    assert sorted(os.listdir()) == before
