"""Films over the HTTP API and the websocket: made, watched, changed, cancelled, continued."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image

from .graphs import film, node
from .server import Refused, Run, Server, inside


def video(server: Server, run: Run, save: str) -> bytes:
    (file,) = run.files(save)
    status, headers, body = server.view(file)
    assert (status, headers["Content-Type"]) == (200, "video/mp4")
    return body


def frames_of(server: Server, run: Run, save: str) -> int:
    return imageio_ffmpeg.count_frames_and_secs(str(server.path(run.files(save)[0])))[0]


def test_template_a_gives_a_film_with_previews_and_progress(server: Server, api, nano: str) -> None:
    run = server.run(api("five_shots", nano))
    assert run.status == "success", run.error
    assert frames_of(server, run, "4") == 237, "five shots of 3 s land on 20 chunks: 12 * 20 - 3"
    assert len(run.previews) >= 20, "a preview a chunk at least"
    assert all(Image.open(io.BytesIO(preview)).format == "JPEG" for preview in run.previews)
    assert any("chunk 20 of 20" in text for text in run.texts)
    steps = [data for data in run.of("progress") if data["node"] == "3"]
    assert steps[-1]["value"] == steps[-1]["max"]
    assert [data["value"] for data in steps] == sorted(data["value"] for data in steps)
    assert run.files("5"), "the memory map is shown"


def test_template_b_remakes_only_the_changed_shot(server: Server, api) -> None:
    graph = api("shot_by_shot")
    save = next(key for key, value in graph.items() if value["class_type"] == "CausalCineSaveVideo")
    samplers = [key for key, value in graph.items() if value["class_type"] == "CausalCineSampler"]
    first = server.run(graph)
    assert first.status == "success", first.error
    before = video(server, first, save)
    last_shot = graph[samplers[-1]]["inputs"]["shots"][0]
    graph[last_shot]["inputs"]["prompt"] = "a blue cat walks at night"
    second = server.run(graph)
    assert second.status == "success", second.error
    assert set(samplers[:-1]) <= second.cached
    assert samplers[-1] not in second.cached
    assert video(server, second, save) != before


def test_a_chain_of_samplers_is_the_film_of_one(server: Server) -> None:
    texts = ["a red robot walks", "a blue cat jumps", "the red robot waves"]
    graph = film(story="\n\n".join(texts))
    del graph["4"], graph["5"]
    state = None
    for i, text in enumerate(texts):
        graph[f"1{i}"] = node("CausalCineShot", clip=["1", 1], prompt=text, seconds=0.75)
        given = {} if state is None else {"state": [state, 1]}
        sampler = node(
            "CausalCineSampler", model=["1", 0], shots=[f"1{i}", 0], width=0, height=0, seed=7, steps=0, **given
        )
        state = f"2{i}"
        graph[state] = sampler
    graph["30"] = node("VAEDecode", samples=["3", 0], vae=["1", 2])
    graph["31"] = node("VAEDecode", samples=[state, 0], vae=["1", 2])
    graph["32"] = node("TestCompareImages", a=["30", 0], b=["31", 0])
    run = server.run(graph)
    assert run.status == "success", run.error
    assert run.history["outputs"]["32"]["text"][0] == "0.0"


def test_cancel_stops_within_one_step_and_the_next_job_runs(server: Server) -> None:
    with server.client() as client:
        run = client.queue(film(seconds=60, seed=int(time.time())))
        after, asked = 0, False
        for kind, data in client.listen(run, timeout=120):
            if kind == "progress" and data["node"] == "3":
                after += asked
                if data["value"] >= 6 and not asked:
                    server.post("/interrupt", {})
                    asked = True
        assert run.events[-1][0] == "execution_interrupted"
        assert after <= 2, f"{after} steps were reported after the cancel"
        assert not [path for path in (server.base / "output").rglob("*.mp4") if path.name.startswith(".")]
        assert client.finish(client.queue(film(seed=11))).status == "success"


def test_a_recipe_changes_how_a_film_is_made(server: Server) -> None:
    graph = film(story="a red robot walks", seconds=2)
    keep = {
        "family": "as the model",
        "shift": 0.0,
        "sampler": "as the model",
        "guidance": -1.0,
        "window": -1,
        "top_k": -1,
    }
    graph["6"] = node("CausalCineRecipe", model=["1", 0], chunk=1, steps=1, negative="a cat", **keep)
    graph["3"]["inputs"]["model"] = ["6", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    assert run.of("progress") and max(d["max"] for d in run.of("progress") if d["node"] == "3") == 9, "one step a chunk"
    assert frames_of(server, run, "4") == 33
    graph["6"]["inputs"]["sampler"] = "zzz"
    with pytest.raises((Refused, AssertionError)):
        assert server.run(graph).status == "success"


def test_several_chunks_are_made_at_once_and_a_chain_goes_on(server: Server) -> None:
    """The sampler `rolling`: a preview and progress for every chunk; a chained sampler's shots follow."""
    graph = film(story="a red robot walks", seconds=4)
    again = {"guidance": -1.0, "window": -1, "top_k": -1, "negative": "", "shift": 0.0, "chunk": 0}
    graph["6"] = node("CausalCineRecipe", model=["1", 0], family="as the model", steps=3, sampler="rolling", **again)
    graph["3"]["inputs"]["model"] = ["6", 0]
    graph["7"] = node("CausalCineSampler", **(graph["3"]["inputs"] | {"state": ["3", 1]}))
    graph["4"]["inputs"]["samples"] = ["7", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    assert frames_of(server, run, "4") == 129  # two shots of 4 s: 9 + 12 n frames
    assert any("chunk 5 of 5" in text for text in run.texts)
    graph["6"]["inputs"] |= {"first_chunk": 1}
    assert "first_chunk must be 3 with the sampler `rolling`, got 1" in server.run(graph).error


def test_a_seed_changes_the_film_and_brings_it_back(server: Server) -> None:
    """C28."""
    films = []
    for seed in (7, 8, 7):
        graph = film(seed=seed)
        graph["4"]["inputs"]["filename_prefix"] = f"video/C28-{len(films)}"
        run = server.run(graph)
        films.append(server.path(run.files("4")[0]))
    pictures = [b"".join(frame for frame in _raw(path)) for path in films]
    assert pictures[0] == pictures[2] != pictures[1]


def _raw(path) -> list[bytes]:
    reader = imageio_ffmpeg.read_frames(str(path))
    next(reader)
    return list(reader)


@pytest.mark.parametrize("seed", [0, 2**32, 2**53 + 1, 2**63, 2**64 - 1])
def test_the_whole_range_of_seeds_works(server: Server, seed: int) -> None:
    """C55."""
    graph = film(story="a red robot walks", seed=seed)
    run = server.run(graph)
    assert run.status == "success", run.error
    kept = run.history["prompt"][2]["3"]["inputs"]["seed"]
    assert kept == seed


@pytest.mark.parametrize("seed", [-1, 2**64, "seven"])
def test_other_seeds_are_named(server: Server, seed: object) -> None:
    """C55."""
    with pytest.raises(Refused) as refused:
        server.run(film(seed=seed))
    assert "seed" in str(refused.value)


def test_history_is_small_and_names_files_also_when_cached(server: Server) -> None:
    """C38, C39."""
    graph = film(seed=21)
    first, second = server.run(graph), server.run(graph)
    assert {"1", "2", "3", "4", "5"} <= second.cached
    for run in (first, second):
        for key in ("4", "5"):
            for file in run.files(key):
                status, _, body = server.view(file)
                assert status == 200 and body
        shown = json.dumps(run.history["outputs"])
        assert len(shown) < 10_000
        assert "base64" not in shown and "red robot" not in shown


def test_sizes_that_do_not_fit_are_refused_before_anything_runs(server: Server) -> None:
    """C09."""
    with pytest.raises(Refused) as refused:
        server.run(film(width=104, height=96))
    assert "96x96" in str(refused.value) and "112x96" in str(refused.value)


@pytest.mark.parametrize("story", ["", '{"shots": []}', '{"shots": [{"prompt": "a", "second": 3}]}', '{"shots": '])
def test_a_story_that_cannot_be_read_is_refused_in_one_sentence(server: Server, story: str) -> None:
    with pytest.raises(Refused) as refused:
        server.run(film(story=story))
    ((error, *others),) = [entry["errors"] for entry in refused.value.answer["node_errors"].values()]
    assert "Traceback" not in error["details"] and len(error["details"]) < 300
    assert error["extra_info"]["input_name"] == "story" and not others, "the field that is at fault, and no other"


def test_words_that_have_no_room_are_taken_from_the_global_text_and_said(server: Server) -> None:
    graph = film(story="a red cat walks\n\na red cat sleeps", seed=3)
    graph["2"]["inputs"]["global_text"] = " ".join(["snow"] * 64)
    assert any("shots 1 and 2: the global text was cut after 'snow' (" in text for text in server.run(graph).texts)
    graph["2"]["inputs"]["story"] = "a red cat " * 30
    assert "shot 1 of this list: its own text has 90 words" in server.run(graph).error


def test_unknown_words_are_named_and_stay_on_the_sampler(server: Server) -> None:
    run = server.run(film(story="a red zebra walks", seed=3))
    said = "shot 1: the model does not know 'zebra' and draws from the words it knows"
    assert run.texts[-1] == said and run.history["outputs"]["3"]["text"] == [said]


def test_warnings_in_a_chain_count_the_films_shots(server: Server) -> None:
    """Whichever list they came in: of the second sampler, shots 3 and 4."""
    graph = film(story="a red cat walks\n\na red cat waves", seed=3)
    graph["6"] = node("CausalCineShotList", **graph["2"]["inputs"] | {"story": "a red cat walks\n\na red zebra jumps"})
    graph["6"]["inputs"]["global_text"] = " ".join(["yellow"] * 64)
    graph["7"] = node("CausalCineSampler", **graph["3"]["inputs"] | {"shots": ["6", 0], "state": ["3", 1]})
    graph["4"]["inputs"]["samples"] = ["7", 0]
    run = server.run(graph)
    assert run.status == "success", run.error
    unknown, cut = run.history["outputs"]["7"]["text"]
    assert unknown.startswith("shot 4: the model does not know 'zebra'")
    assert cut.startswith("shots 3 and 4: the global text was cut after 'yellow' (")
    assert "3" not in run.history["outputs"]


def test_a_state_of_another_size_or_model_is_refused_by_name(server: Server) -> None:
    graph = film(seed=4)
    graph["6"] = node(
        "CausalCineSampler", model=["1", 0], shots=["2", 0], width=112, height=96, seed=4, steps=0, state=["3", 1]
    )
    graph["7"] = node("CausalCineSaveVideo", samples=["6", 0], vae=["1", 2], fps=0.0, filename_prefix="x")
    assert "width" in server.run(graph).error
    graph["8"] = node("CausalCineCheckpointLoader", checkpoint="other.safetensors")
    graph["6"]["inputs"] |= {"width": 0, "height": 0, "model": ["8", 0]}
    assert "another model" in server.run(graph).error


@pytest.mark.parametrize("storage", ["full", "host_8bit"])
def test_a_film_that_does_not_fit_is_refused_before_a_chunk_is_made(server: Server, storage: str) -> None:
    """Three hours of a very large picture: what it takes, what there is, and what to change; and the next film runs."""
    graph = film(seconds=3600, width=4096, height=2304)
    graph["6"] = node("CausalCineMemory", window=-1, top_k=-1, storage=storage)
    graph["3"]["inputs"]["memory"] = ["6", 0]
    run = server.run(graph)
    assert run.status == "error"
    assert "GiB more" in run.error and "GiB left: set" in run.error and "lower width, height or seconds" in run.error
    assert not run.previews
    assert server.run(film(seed=31)).status == "success"


def test_memory_settings_reach_the_rollout(server: Server) -> None:
    def run(**memory: int) -> bytes:
        graph = film(seconds=3, seed=5)
        graph["6"] = node("CausalCineMemory", **memory)
        graph["3"]["inputs"]["memory"] = ["6", 0]
        done = server.run(graph)
        assert done.status == "success", done.error
        return b"".join(_raw(server.path(done.files("4")[0])))

    assert run(window=-1, top_k=-1) == run(window=1, top_k=2) != run(window=1, top_k=0)


def test_a_lora_on_the_model_changes_the_film(server: Server, weights) -> None:
    import torch
    from safetensors.torch import save_file

    (weights / "loras").mkdir(exist_ok=True)
    torch.manual_seed(0)
    key = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{key}.lora_A.weight": torch.randn(4, 96), f"{key}.lora_B.weight": torch.randn(96, 4)},
        weights / "loras/strong.safetensors",
    )
    graph = film(story="a red robot walks", seed=6)
    plain = server.run(graph)
    graph["6"] = node("LoraLoaderModelOnly", model=["1", 0], lora_name="strong.safetensors", strength_model=1.0)
    graph["3"]["inputs"]["model"] = ["6", 0]
    patched = server.run(graph)
    assert patched.status == "success", patched.error
    graph["3"]["inputs"]["model"] = ["1", 0]
    graph["4"]["inputs"]["filename_prefix"] = "video/again"
    again = server.run(graph)
    pictures = [b"".join(_raw(server.path(run.files("4")[0]))) for run in (plain, patched, again)]
    assert pictures[0] == pictures[2] != pictures[1]
    assert "lora key not loaded" not in server.log_text()


def changed(server: Server, *between: tuple[str, dict]) -> float:
    """How much a film changes, in 0..1 at most a pixel, when each of these nodes stands between loader and sampler."""
    graph = film(story="a red robot walks", seed=6)
    del graph["4"], graph["5"]
    last = "1"
    for i, (kind, inputs) in enumerate(between):
        last = str(20 + i)
        graph[last] = node(kind, model=["1" if i == 0 else str(19 + i), 0], **inputs)
    graph["10"] = graph["3"] | {"inputs": graph["3"]["inputs"] | {"model": [last, 0]}}
    for decode, sampler in (("11", "3"), ("12", "10")):
        graph[decode] = node("CausalCineStreamingDecode", samples=[sampler, 0], vae=["1", 2])
    graph["13"] = node("TestCompareImages", a=["11", 0], b=["12", 0])
    run = server.run(graph)
    assert run.status == "success", run.error
    return float(run.history["outputs"]["13"]["text"][0])


def test_an_attention_node_acts(server: Server) -> None:
    """Of whatever pack: it puts a function of its own in the place of ComfyUI's attention."""
    assert changed(server, ("TestAttentionOverride", {"factor": 1.0})) < 0.02
    assert changed(server, ("TestAttentionOverride", {"factor": 0.0})) > 0.05


@pytest.fixture(scope="session")
def compiles(main: Path) -> None:
    """Only where torch compiles anything at all in this installation's environment."""
    tried = inside(main, "import torch; torch.compile(lambda x: x * 2 + 1)(torch.ones(8))")
    if tried.returncode:
        pytest.skip(f"torch.compile does not work in {main.parent}: {tried.stderr.strip().splitlines()[-1]}")


@pytest.mark.usefixtures("compiles")
@pytest.mark.parametrize("backend", ["inductor", "cudagraphs"])
def test_a_compile_node_acts_and_changes_nothing(server: Server, backend: str) -> None:
    before = len(server.log_text())
    assert changed(server, ("TorchCompileModel", {"backend": backend})) < 0.02
    said = server.log_text()[before:]
    assert "the blocks are compiled" in said
    assert ("CUDA graphs cannot be used" in said) == (backend == "cudagraphs")


@pytest.mark.usefixtures("compiles")
def test_a_lora_acts_on_compiled_blocks(server: Server, weights) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    key = "diffusion_model.blocks.0.ffn.0"
    lora = {f"{key}.lora_A.weight": torch.randn(4, 96), f"{key}.lora_B.weight": torch.randn(128, 4)}
    save_file(lora, weights / "loras/compiled.safetensors")
    patch = ("LoraLoaderModelOnly", {"lora_name": "compiled.safetensors", "strength_model": 1.0})
    compiled = ("TorchCompileModel", {"backend": "inductor"})
    plain = changed(server, patch)
    assert plain > 0.05
    assert changed(server, patch, compiled) == pytest.approx(plain, abs=0.02)
    assert changed(server, compiled, patch) == pytest.approx(plain, abs=0.02)


def test_a_stock_sampler_says_which_node_to_use(server: Server) -> None:
    graph = {
        "1": node("CausalCineCheckpointLoader", checkpoint="random.safetensors"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a red robot"),
        "3": node("EmptyHunyuanLatentVideo", width=96, height=96, length=9, batch_size=1),
        "4": node(
            "KSampler", model=["1", 0], positive=["2", 0], negative=["2", 0], latent_image=["3", 0], seed=1, steps=1, cfg=1.0,
            sampler_name="euler", scheduler="simple", denoise=1.0,
        ),
        "5": node("CausalCineSaveVideo", samples=["4", 0], vae=["1", 2], fps=0.0, filename_prefix="x"),
    }  # fmt: skip
    assert "CausalCine Sampler" in server.run(graph).error
