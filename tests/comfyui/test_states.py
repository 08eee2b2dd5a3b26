"""Films on disk: kept, listed, taken up again, by a person and by a script."""

from __future__ import annotations

import base64
import io
import os
import signal
import urllib.parse
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
from PIL import Image

from causalcine_core import State
from causalcine_core.sampling.state_files import read_label

from .conftest import equipped
from .graphs import film, node
from .server import Refused, Run, Server


def keeping(prefix: str, *, seed: int = 7, memory: bool = True, vae: bool = True, **film_of: Any) -> dict[str, Any]:
    """A film of one shot by sampler 3, kept by node 6."""
    graph = film(**{"story": "a red robot walks", "seconds": 1.5, "seed": seed} | film_of)
    del graph["4"], graph["5"]
    given = {"vae": ["1", 2]} if vae else {}
    graph["6"] = node("CausalCineSaveState", state=["3", 1], filename_prefix=prefix, with_memory=memory, **given)
    return graph


def loading(name: Any, *, text: str = "a blue cat jumps", seed: int = 7) -> dict[str, Any]:
    """A film taken up by node 6, one more shot by sampler 3, kept by node 7."""
    graph = film(story=text, seed=seed)
    del graph["4"], graph["5"]
    graph["6"] = node("CausalCineLoadState", state_file=name)
    graph["3"]["inputs"]["state"] = ["6", 0]
    graph["7"] = node("CausalCineSaveState", state=["3", 1], filename_prefix="states/more", with_memory=True)
    return graph


def kept(run: Run, key: str) -> dict[str, Any]:
    assert run.status == "success", run.error
    (file,) = run.history["outputs"][key]["states"]
    return file


def state_of(server: Server, file: dict[str, Any]) -> State:
    return State.load(server.path(file))


def same(a: State, b: State) -> bool:
    return a.chunks == b.chunks and all(x.equal(y) for x, y in zip(a.latents, b.latents, strict=True))


def asked(server: Server, name: str) -> dict[str, Any]:
    return server.get("/causalcine/state?" + urllib.parse.urlencode({"name": name}))


@pytest.mark.parametrize("memory", [True, False])
def test_a_state_is_kept_listed_and_taken_up(server: Server, memory: bool) -> None:
    """And the film that goes on from the file is that of a chain; with its memory, to the bit."""
    file = kept(server.run(keeping(f"states/kept {memory}", memory=memory)), "6")
    path = server.path(file)
    assert file["name"] == f"states/kept {memory}_00001_.state" and file["bytes"] == path.stat().st_size
    assert server.get("/causalcine/states")[0] == file["name"], "newest first"
    told = asked(server, file["name"])
    assert (told["shots"], told["words"]) == (1, "a red robot walks") and bool(told["memory"]) == memory
    assert told["seconds"] == pytest.approx(21 / 16)
    picture = Image.open(io.BytesIO(base64.b64decode(told["picture"].split(",")[1])))
    assert picture.format == "JPEG" and picture.size == (96, 96)
    run = server.run(loading(file["name"]))
    chain = loading(file["name"])
    chain |= {"6": node("CausalCineSampler", **film(seed=7)["3"]["inputs"] | {"shots": ["8", 0]})}
    chain["8"] = node("CausalCineShotList", clip=["1", 1], story="a red robot walks", global_text="", seconds=1.5)
    chain["3"]["inputs"]["state"] = ["6", 1]
    whole = state_of(server, kept(server.run(chain), "7"))
    again = state_of(server, kept(run, "7"))
    assert again.frames == whole.frames > 21
    if memory:
        assert same(again, whole)
    else:
        assert (again.film() - whole.film()).abs().max() < 1e-3


def test_the_text_of_the_node_says_path_and_size(server: Server) -> None:
    run = server.run(keeping("states/said"))
    file = kept(run, "6")
    (text,) = run.history["outputs"]["6"]["text"]
    assert str(server.path(file)) in text and " KB" in text + " KB"
    assert any("takes" in said and "memory" in said for said in run.texts), "sizes first"


def test_a_state_that_was_deleted_is_written_again_and_nothing_else_is_made(server: Server) -> None:
    graph = keeping("states/deleted", seed=18)
    file = kept(server.run(graph), "6")
    assert {"3", "6"} <= server.run(graph).cached
    server.path(file).unlink()
    again = server.run(graph)
    assert "3" in again.cached and "6" not in again.cached
    assert server.path(kept(again, "6")).is_file()
    assert {"3", "6"} <= server.run(graph).cached


@pytest.mark.parametrize("linked", [False, True])
def test_a_file_that_changed_is_read_again_and_one_that_did_not_is_not(server: Server, linked: bool) -> None:
    """C27: also where it has its old size and time."""
    name = f"states/changed {linked}"
    first = kept(server.run(keeping(name, seed=1)), "6")
    other = server.path(kept(server.run(keeping(name, seed=2)), "6"))
    graph = loading(first["name"])
    if linked:
        graph["6"]["inputs"]["state_file"] = ["9", 0]
        graph["9"] = node("PrimitiveString", value=first["name"])
    before = state_of(server, kept(server.run(graph), "7"))
    assert {"6", "3"} <= server.run(graph).cached
    path = server.path(first)
    was = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert path.stat().st_mtime_ns == was.st_mtime_ns
    run = server.run(graph)
    assert not {"6", "3"} & run.cached and "1" in run.cached
    after = state_of(server, kept(run, "7"))
    assert not same(before, after) and after.latents[0].equal(State.load(other).latents[0])
    assert {"6", "3"} <= server.run(graph).cached


def test_a_name_may_come_by_any_link(server: Server) -> None:
    file = kept(server.run(keeping("states/linked")), "6")
    for kind, value in (("PrimitiveString", file["name"]), ("TestChoice", file["name"] + " [output]")):
        graph = loading(["9", 0])
        graph["9"] = node(kind, value=value)
        assert server.run(graph).status == "success"
    graph["9"]["inputs"]["value"] = "gone.state"
    assert "state_file 'gone.state' is not in" in server.run(graph).error


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gone.state", "state_file 'gone.state' is not in"),
        ("gone.state [temp]", "state_file 'gone.state [temp]' is not in"),
        ("../server.log", "lies outside ComfyUI's output folder"),
        ("/etc/passwd", "lies outside ComfyUI's output folder"),
        ("a\0b", "is not in"),
        ("", "state_file must be the name of a state file"),
        (5, "state_file must be the name of a state file"),
        ("broken.state", "state file"),
        ("none yet: CausalCine Save State makes one", "state_file names no file"),
    ],
)
def test_a_file_that_cannot_be_is_named_before_anything_runs(server: Server, name: object, said: str) -> None:
    (server.base / "output/broken.state").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(Refused) as refused:
        server.run(loading(name))
    (error, *others) = refused.value.answer["node_errors"]["6"]["errors"]
    assert said in error["details"] and not others and len(error["details"]) < 400
    (server.base / "output/broken.state").unlink()


def test_a_film_without_a_picture_shows_a_frame_in_rough_colours(server: Server) -> None:
    """As of a file of the command line; its numbers are not read but for that frame."""
    path = server.path(kept(server.run(keeping("states/plain", vae=False)), "6"))
    State.load(path).save(server.base / "output/states/cli.state", memory=False)
    assert not read_label(server.base / "output/states/cli.state").picture
    for name in ("states/cli.state", f"states/{path.name}"):
        picture = Image.open(io.BytesIO(base64.b64decode(asked(server, name)["picture"].split(",")[1])))
        assert picture.size == (256, 256)
    status, _, body = server.raw("/causalcine/state?name=../x.state")
    assert status == 404 and b"outside" in body


def test_a_state_that_does_not_fit_the_model_is_refused_by_name(server: Server) -> None:
    file = kept(server.run(keeping("states/of another model")), "6")
    graph = loading(file["name"])
    graph["1"]["inputs"]["checkpoint"] = "other.safetensors"
    assert "state was made by another model" in server.run(graph).error


def test_the_film_of_a_file_can_be_decoded(server: Server) -> None:
    file = kept(server.run(keeping("states/seen")), "6")
    graph = loading(file["name"])
    del graph["2"], graph["3"], graph["7"]
    graph["8"] = node("CausalCineSaveVideo", samples=["6", 1], vae=["1", 2], fps=0.0, filename_prefix="video/seen")
    run = server.run(graph)
    assert run.status == "success", run.error
    assert b"a red robot walks" in server.path(run.files("8")[0]).read_bytes(), "the film tells its story"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounts a small disk")
def test_a_disk_without_room_is_said_in_a_sentence(server: Server, tmp_path: Path) -> None:
    import subprocess

    small = server.base / "output/small disk"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        error = server.run(keeping("small disk/x", seconds=3)).error
        assert "filename_prefix 'small disk/x': the state takes" in error and "the disk has" in error
        assert not list(small.iterdir())
    finally:
        subprocess.run(["umount", small], check=True)


# --- retakes


def five(seed: int = 7) -> dict[str, Any]:
    """Shots 11 to 15, samplers 21 to 25 in a chain, each kept by 31 to 35."""
    texts = ("a red robot walks", "a blue cat jumps", "the red robot waves", "a red cat sits", "the blue cat walks")
    graph = {"1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors")}
    for i, text in enumerate(texts, 1):
        graph[f"1{i}"] = node("CausalCineShot", clip=["1", 1], prompt=text, seconds=0.75)
        before = {} if i == 1 else {"state": [f"2{i - 1}", 1]}
        size = {"width": 0, "height": 0, "steps": 0}
        graph[f"2{i}"] = node("CausalCineSampler", model=["1", 0], shots=[f"1{i}", 0], seed=seed, **size, **before)
        kept_as = {"filename_prefix": f"five/{seed}", "with_memory": False}
        graph[f"3{i}"] = node("CausalCineSaveState", state=[f"2{i}", 1], **kept_as)
    return graph


def test_a_changed_shot_of_a_chain_makes_only_itself_and_what_follows(server: Server) -> None:
    graph = five()
    first = server.run(graph)
    films = [state_of(server, kept(first, f"3{i}")) for i in range(1, 6)]
    graph["14"]["inputs"]["prompt"] = "a red cat waves at night"
    second = server.run(graph)
    assert {"21", "22", "23"} <= second.cached and not {"24", "25"} & second.cached
    again = [state_of(server, kept(second, f"3{i}")) for i in range(1, 6)]
    assert [same(a, b) for a, b in zip(films, again, strict=True)] == [True, True, True, False, False]
    for old, new in zip(films[4].latents[:3], again[4].latents[:3], strict=True):
        assert old.equal(new)
    assert not films[4].latents[3].equal(again[4].latents[3])


@pytest.mark.parametrize("cut", [{"from_shot": 3, "from_chunk": 0}, {"from_shot": 0, "from_chunk": 3}])
def test_a_retake_of_shot_3_of_5(server: Server, cut: dict[str, int]) -> None:
    """Shots 1 and 2 are bit-equal, 3 to 5 new; what was made stays, and is not made again."""
    graph = five(seed=8)
    first = server.run(graph)
    old = state_of(server, kept(first, "35"))
    graph["41"] = node("CausalCineState", state=["25", 1], **cut)
    graph["42"] = node("CausalCineShotList", clip=["1", 1], global_text="", seconds=0.75,
                       story="\n\n".join(["the red robot sits", "a red cat jumps", "the blue cat waves"]))  # fmt: skip
    graph["43"] = node(
        "CausalCineSampler", **graph["21"]["inputs"] | {"shots": ["42", 0], "state": ["41", 0], "seed": 9}
    )
    graph["44"] = node("CausalCineSaveState", state=["43", 1], filename_prefix="five/retake", with_memory=True)
    graph["45"] = node("CausalCineSaveVideo", samples=["41", 1], vae=["1", 2], fps=0.0, filename_prefix="five/kept")
    run = server.run(graph)
    new = state_of(server, kept(run, "44"))
    assert {"21", "25"} <= run.cached
    assert [a.equal(b) for a, b in zip(new.latents, old.latents, strict=True)] == [True, True, False, False, False]
    assert len([data for data in run.of("progress") if data["node"] == "43" and data["value"] == data["max"]]) == 1
    assert max(data["max"] for data in run.of("progress") if data["node"] == "43") == 3 * 4, (
        "three chunks of four steps"
    )
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(server.path(run.files("45")[0])))
    assert frames == 21
    graph["41"]["inputs"]["from_shot"] = 6
    graph["41"]["inputs"]["from_chunk"] = 0
    assert "from_shot must be a whole number from 1 to 5, got 6" in server.run(graph).error


def test_both_places_of_a_retake_are_refused_before_anything_runs(server: Server) -> None:
    graph = five()
    graph["41"] = node("CausalCineState", state=["25", 1], from_shot=2, from_chunk=2)
    graph["42"] = node("CausalCineMemoryMap", state=["41", 0])
    with pytest.raises(Refused) as refused:
        server.run({key: graph[key] for key in graph if not key.startswith("3")})
    assert "leave one of them at 0" in str(refused.value)


# --- what was cut short


def test_a_cancel_keeps_the_chunks_and_the_same_goes_on_from_there(server: Server) -> None:
    """Its film is to the bit that of a run that nobody cancelled."""
    graph = keeping("states/cancelled", seed=71, seconds=3, steps=100)
    with server.client() as client:
        run = client.queue(graph)
        asked_to = False
        for kind, data in client.listen(run, timeout=120):
            if (
                kind == "progress" and data["node"] == "3" and data["value"] > 220 and not asked_to
            ):  # in the third chunk
                server.post("/interrupt", {})
                asked_to = True
        assert run.events[-1][0] == "execution_interrupted"
    (said,) = [data["text"] for kind, data in run.events if kind == "causalcine.kept"]
    assert said in run.texts, "on the node, too"
    name = said.split(" are kept as ")[1].split(":")[0]
    done = int(said.split(" of 4 ")[0])
    assert done in (2, 3) and name.endswith(".state [temp]") and server.get("/causalcine/states")[0] == name
    told = asked(server, name)
    assert (told["chunks"], told["words"]) == (done, "a red robot walks") and told["picture"]
    more = state_of(server, kept(server.run(loading(name)), "7"))
    again = server.run(graph)
    assert f"going on after {done} chunks that were made before" in again.texts
    whole = state_of(server, kept(again, "6"))
    assert all(a.equal(b) for a, b in zip(more.latents[:done], whole.latents[:done], strict=True))
    graph["3"]["inputs"]["shots"] = ["9", 0]  # the same by another way: nothing of it is cached, or goes on
    graph["9"] = node("CausalCineShot", clip=["1", 1], prompt="a red robot walks", seconds=3.0)
    undisturbed = server.run(graph)
    assert not any("going on after" in text for text in undisturbed.texts)
    assert same(state_of(server, kept(undisturbed, "6")), whole) and whole.chunks == 4


@pytest.mark.parametrize("why", ["network", "memory", "file"])
def test_a_failure_keeps_the_chunks_and_names_them(server: Server, why: str) -> None:
    """Of the network, of memory, of a file: each in the sentence of the error, whose kind stays."""
    graph = keeping("states/failed", seed=72, seconds=3)
    graph["9"] = node("TestFailure", model=["1", 0], after=11, why=why)
    graph["3"]["inputs"]["model"] = ["9", 0]
    run = server.run(graph)
    assert run.status == "error"
    assert "it broke" in run.error and "chunks are kept as CausalCine_" in run.error, run.error
    (failed,) = run.of("execution_error")
    kinds = {"network": "RuntimeError", "memory": "MemoryError", "file": "OSError"}
    assert failed["exception_type"].endswith(kinds[why])
    name = run.error.split(" are kept as ")[1].split(":")[0]
    assert asked(server, name)["chunks"] == int(run.error.split(" of ")[0].split()[-1])


def test_a_film_of_no_chunk_leaves_nothing(server: Server) -> None:
    before = server.get("/causalcine/states")
    graph = keeping("states/failed", seed=73)
    graph["9"] = node("TestFailure", model=["1", 0], after=1, why="network")
    graph["3"]["inputs"]["model"] = ["9", 0]
    run = server.run(graph)
    assert "it broke" in run.error and "kept" not in run.error
    assert server.get("/causalcine/states") == before


def test_a_film_that_could_not_be_written_is_kept(server: Server, tmp_path: Path) -> None:
    """ffmpeg passes its trial and dies with the film: the state that is left is that film."""
    program = tmp_path / "ffmpeg"
    real = imageio_ffmpeg.get_ffmpeg_exe()
    program.write_text(f'#!/bin/sh\ncase "$*" in *trial.mp4) exec {real} "$@";; esac\nexit 3\n')
    program.chmod(0o755)
    graph = keeping("states/written", seed=74)
    graph["4"] = node("CausalCineSaveVideo", samples=["3", 0], vae=["1", 2], fps=0.0, filename_prefix="video/dies")
    server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": str(program)})
    try:
        run = server.run(graph)
    finally:
        server.post("/test_environment", {"IMAGEIO_FFMPEG_EXE": ""})
    assert "the film itself is kept as CausalCine_" in run.error, run.error
    name = run.error.split("is kept as ")[1].split(":")[0].removesuffix(" [temp]")
    made = state_of(server, kept(server.run({key: graph[key] for key in "1236"}), "6"))
    assert same(State.load(server.base / "temp" / name), made)


# --- a server that dies


def test_a_film_goes_on_bit_for_bit_after_the_server_was_killed(main: Path, weights: Path, tmp_path: Path) -> None:
    """Kept after shot 2; killed in the middle of shot 3; taken up by another server. Against the film that nothing disturbed."""
    graph = {key: entry for key, entry in five(seed=11).items() if key in ("1", "11", "12", "13", "21", "22", "23")}
    for i in (1, 2, 3):
        graph[f"2{i}"]["inputs"]["steps"] = 60
    graph["32"] = node("CausalCineSaveState", state=["22", 1], filename_prefix="killed/two", with_memory=True)
    graph["33"] = node("CausalCineSaveState", state=["23", 1], filename_prefix="killed/three", with_memory=True)
    server = Server(main, equipped(tmp_path, main, weights))
    try:
        with server.client() as client:
            run = client.queue(graph)
            for kind, data in client.listen(run, timeout=120):
                if kind == "progress" and data["node"] == "23" and data["value"] > 5:
                    os.killpg(server.process.pid, signal.SIGKILL)
                    break
            server.process.wait(60)
    finally:
        server.close()
    assert not list((tmp_path / "output/killed").glob("three*"))
    server = Server(main, tmp_path)
    try:
        (name,) = server.get("/causalcine/states")
        resumed = {key: graph[key] for key in ("1", "13", "23", "33")}
        resumed["22"] = node("CausalCineLoadState", state_file=name)
        resumed["23"] = node("CausalCineSampler", **graph["23"]["inputs"] | {"state": ["22", 0]})
        again = state_of(server, kept(server.run(resumed), "33"))
        whole = state_of(server, kept(server.run(graph), "33"))
    finally:
        server.close()
    assert name.startswith("killed/two") and same(again, whole) and again.chunks == 3
