"""Files: names, places, contents, memory."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
import wave
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from causalcine_core import Pipeline, Story

from .graphs import film, node, saved
from .server import Refused, Server

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()


def pixels(path: Path) -> np.ndarray:
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


@pytest.mark.parametrize(
    ("prefix", "subfolder", "start"),
    [
        ("a/b/c", "a/b", "c_"),
        ("a\\d", "a", "d_"),
        ("%date:yyyy-MM-dd%/x", time.strftime("%Y-%m-%d"), "x_"),
        ("%width%x%height%", "", "96x96_"),
        ("con", "", "con__"),
        ("con/x", "con_", "x_"),
        ("x.", "", "x_"),
        ("y./x", "y", "x_"),
        ("a:b?c*", "", "a_b_c_"),
        ("", "", "CausalCine_"),
        ("folder/", "folder", "CausalCine_"),
        ("./in/../in2/x", "in2", "x_"),
        ("n" * 300, "", "nnn"),
        ("字" * 100, "", "字字"),
        ("场景 1/镜头 é 🎬", "场景 1", "镜头 é 🎬_"),
    ],
)
def test_prefixes_become_files_that_are_served(server: Server, prefix: str, subfolder: str, start: str) -> None:
    """C36, C37."""
    run = server.run(saved(prefix))
    assert run.status == "success", run.error
    (file,) = run.files("3")
    assert file["subfolder"].replace("\\", "/") == subfolder
    assert file["filename"].startswith(start)
    assert len(file["filename"].encode()) < 255
    status, headers, body = server.view(file)
    assert status == 200 and headers["Content-Type"] == "video/mp4"
    assert len(body) == server.path(file).stat().st_size > 0


@pytest.mark.parametrize("prefix", ["../../x", "/etc/x", "a/../../x", "C:\\x", "..\\x", "a/" * 1000 + "x"])
def test_prefixes_that_leave_the_output_folder_are_refused_before_sampling(server: Server, prefix: str) -> None:
    """C36."""
    with pytest.raises(Refused) as refused:
        server.run(saved(prefix))
    assert "filename_prefix" in str(refused.value) and "value_" not in str(refused.value)


def test_nothing_is_ever_overwritten(server: Server) -> None:
    """C36."""
    names = set()
    for frames in (3, 4, 5):
        run = server.run(saved("same", frames=frames))
        names.add(run.files("3")[0]["filename"])
    (server.base / "output/same_00004_.mp4").write_bytes(b"mine")
    (server.base / "output/SAME_00005_.mp4").write_bytes(b"mine")
    run = server.run(saved("same", frames=6))
    names.add(run.files("3")[0]["filename"])
    assert len(names) == 4
    assert (server.base / "output/same_00004_.mp4").read_bytes() == b"mine"


def test_no_leftovers(server: Server) -> None:
    server.run(saved("left/over", frames=7))
    assert len(list((server.base / "output/left").iterdir())) == 1


def test_a_cancelled_save_leaves_nothing_behind(server: Server) -> None:
    with server.client() as client:
        run = client.queue(saved("cancelled/film", frames=5000))
        for kind, data in client.listen(run, timeout=120):
            if kind == "progress" and data["value"] > 20:
                server.post("/interrupt", {})
        assert run.events[-1][0] == "execution_interrupted"
    assert list((server.base / "output/cancelled").iterdir()) == []


def test_the_video_is_one_for_other_nodes(server: Server) -> None:
    graph = film(seed=35)
    graph["6"] = node("GetVideoComponents", video=["4", 0])
    graph["7"] = node("CausalCineStreamingDecode", samples=["3", 0], vae=["1", 2])
    graph["8"] = node("TestCompareImages", a=["6", 0], b=["7", 0])
    run = server.run(graph)
    assert run.status == "success", run.error
    _, mean, _, count = (float(value) for value in run.history["outputs"]["8"]["text"])
    assert count == 33 and mean < 0.1, "random pictures lose most of their colour noise in 4:2:0"


def test_the_file_is_one_that_players_play(server: Server) -> None:
    """C43: H.264, yuv420p, avc1, an exact number of frames, and the workflow inside. `test_page` plays it."""
    run = server.run(film(seed=31), extra_data={"extra_pnginfo": {"workflow": {"nodes": [], "é": "=;#\\\n"}}})
    path = server.path(run.files("4")[0])
    reader = imageio_ffmpeg.read_frames(str(path))
    meta = next(reader)
    reader.close()
    assert meta["codec"] == "h264" and meta["pix_fmt"].startswith("yuv420p") and meta["fps"] == 16
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path))
    assert frames == 33 and seconds == pytest.approx(33 / 16, abs=0.1)
    data = path.read_bytes()
    assert b"avc1" in data and data.index(b"moov") < data.index(b"mdat"), "ready to stream"
    assert b'"CausalCineSampler"' in data and b"workflow" in data


def test_comfyui_reads_the_workflow_back(server: Server, main: Path) -> None:
    from .server import python_of

    run = server.run(film(seed=32), extra_data={"extra_pnginfo": {"workflow": {"text": "é=;#\\\n"}}})
    path = server.path(run.files("4")[0])
    code = "import av, json, sys; print(json.dumps(dict(av.open(sys.argv[1]).metadata)))"
    out = subprocess.run([python_of(main), "-c", code, path], capture_output=True, text=True, check=True).stdout
    fields = json.loads(out)
    assert json.loads(fields["workflow"]) == {"text": "é=;#\\\n"}
    assert json.loads(fields["prompt"])["3"]["class_type"] == "CausalCineSampler"
    story = Story.load(path)
    assert story.to_dict() == json.loads(fields["causalcine_story"])
    told = Story.parse(film(seed=32)["2"]["inputs"]["story"])
    assert ([shot.prompt for shot in story.shots], story.seed) == ([shot.prompt for shot in told.shots], 32)


def test_seconds_asked_are_seconds_got_or_it_is_said(server: Server) -> None:
    """C45."""
    for fps in (12, 23.976):
        story = json.dumps({"fps": fps, "shots": [{"prompt": "a red robot walks", "seconds": 4}]})
        run = server.run(film(story=story, seed=int(fps)))
        path = server.path(run.files("4")[0])
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
        assert frames / fps == pytest.approx(4, abs=0.75)
        assert imageio_ffmpeg.read_frames(str(path)).__next__()["fps"] == pytest.approx(fps, abs=0.01)
    graph = film(seed=33)
    graph["4"]["inputs"]["fps"] = 24
    run = server.run(graph)
    assert any("16 fps" in text and "24" in text for text in run.texts)


def test_levels_are_the_same_everywhere(server: Server, weights: Path) -> None:
    """C46: chunk.frames of the core, IMAGE of a node, and the mp4."""
    graph = film(seed=34)
    graph["6"] = node("CausalCineStreamingDecode", samples=["3", 0], vae=["1", 2])
    graph["7"] = node("PreviewImage", images=["6", 0])
    run = server.run(graph)
    pictures = [np.asarray(Image.open(io.BytesIO(server.view(file)[2])).convert("RGB")) for file in run.files("7")]
    image, movie = np.stack(pictures).astype(float), pixels(server.path(run.files("4")[0])).astype(float)
    pipe = Pipeline.from_pretrained(weights / "checkpoints/random.safetensors")
    shots = [{"prompt": text, "seconds": 0.75} for text in graph["2"]["inputs"]["story"].split("\n\n")]
    core = np.concatenate([chunk.frames for chunk in pipe.stream(Story.from_dict({"shots": shots}), seed=34)]).astype(
        float
    )
    assert core.shape == image.shape == movie.shape
    assert abs(core - image).mean() < 1, "the node makes the film that the core makes"
    for of in (np.mean, np.min, np.max):
        assert of(core) == pytest.approx(of(image), abs=3)
    assert np.mean(movie) == pytest.approx(np.mean(image), abs=2)


def test_memory_is_flat_with_the_length_of_the_film(server: Server) -> None:
    """C47: 10,001 frames; as float32 they would be 1.1 GB."""
    server.run(saved("warm", frames=300))
    before, peak, done = server.memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.05):
            peak = max(peak, server.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run = server.run(saved("long", frames=2501))
    finally:
        done.set()
        watcher.join()
    assert run.status == "success", run.error
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(server.path(run.files("3")[0])))
    assert frames == 10_001
    assert (peak - before) / 1e6 < 150
    assert (server.memory() - before) / 1e6 < 60


def test_a_sound_lies_under_the_film_and_shots_change_in_its_pauses(server: Server) -> None:
    """An AUDIO of ComfyUI's own loader: noise to 1.2 s, a pause to 1.8 s, noise to 3.2 s."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 32000 * 32 // 10)
    noise[32000 * 12 // 10 : 32000 * 18 // 10] = 0
    with wave.open(str(server.base / "input/voice.wav"), "wb") as file:
        file.setparams((1, 2, 32000, 0, "NONE", ""))
        file.writeframes((noise * 32767).astype("<i2").tobytes())
    graph = film(story="a red robot walks\n\na red robot sleeps", seed=36)
    graph["6"] = node("LoadAudio", audio="voice.wav")
    for key in ("2", "4"):
        graph[key]["inputs"]["audio"] = ["6", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    path = server.path(run.files("4")[0])
    assert [shot.seconds for shot in Story.load(path).shots] == pytest.approx([1.5, 1.7], abs=0.03)
    said = subprocess.run([FFMPEG, "-hide_banner", "-i", path], capture_output=True, text=True, check=False).stderr
    assert "Audio: aac" in said and "32000 Hz, mono" in said
    assert any("the sound " in text and "pictures" in text for text in run.texts), run.texts
    assert list((server.base / "temp").glob("causalcine-*")) == []
    graph["2"]["inputs"]["story"] = "one\n\ntwo\n\nthree"
    assert "the sound has 1 pauses of 0.3 s or more, and 3 shots need 2" in server.run(graph).error


def test_a_film_that_grows_plays_meanwhile_and_stays_when_it_is_stopped(server: Server) -> None:
    graph = saved("growing/film", frames=150)
    graph["3"]["inputs"]["grow"] = True
    folder = server.base / "output/growing"
    seen: list[int] = []
    with server.client() as client:
        run = client.queue(graph)
        for kind, data in client.listen(run, timeout=120):
            if kind == "progress" and data["value"] > 150 and not seen:
                (copy := server.base / "copy.mp4").write_bytes((folder / "film_00001_.growing.mp4").read_bytes())
                seen.append(len(pixels(copy)))
        assert run.events[-1][0] == "execution_success"
        assert 597 >= seen[0] >= 110, "a second or two behind"
        assert [path.name for path in folder.iterdir()] == ["film_00001_.mp4"]
        assert len(pixels(folder / "film_00001_.mp4")) == 597
        graph["1"]["inputs"]["frames"] = 5000
        run = client.queue(graph)
        for kind, data in client.listen(run, timeout=120):
            if kind == "progress" and data["value"] > 100:
                server.post("/interrupt", {})
        assert run.events[-1][0] == "execution_interrupted"
    assert sorted(path.name for path in folder.iterdir()) == ["film_00001_.mp4", "film_00002_.growing.mp4"]
    assert len(pixels(folder / "film_00002_.growing.mp4")) >= 80


def test_two_films_side_by_side_are_refused_by_name(server: Server) -> None:
    graph = saved("two")
    graph["1"]["inputs"]["batch"] = 2
    assert "2 films" in server.run(graph).error
