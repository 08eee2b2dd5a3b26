"""Template (c) and stock Wan MODELs, on narrow random weights; a stand-in encodes the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest
import torch
from safetensors.torch import load_file, save_file

from causalcine_core.vae import TinyDecoder

from .checkpoint import lora_into, write_gguf
from .graphs import find, node, without_film
from .server import PACK, Server, inside, install


def test_template_c_runs(server: Server, graph: dict[str, Any]) -> None:
    run = server.run(graph)
    assert run.status == "success", run.error
    save = find(graph, "CausalCineSaveVideo")
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(server.path(run.files(save)[0])))
    assert frames == 21 and len(run.previews) >= 2


def test_a_tiny_decoder_makes_the_preview_where_its_file_is(server: Server, graph: dict[str, Any], weights) -> None:
    """And a broken one costs nothing but a line in the log."""
    del graph[find(graph, "CausalCineSampler")]["inputs"]["vae"]
    (weights / "vae_approx").mkdir(exist_ok=True)
    (weights / "vae_approx/lighttaew2_1_broken.safetensors").write_bytes(b"no weights")
    torch.manual_seed(0)
    save_file(TinyDecoder().state_dict(), weights / "vae_approx/taew2_1.safetensors")
    try:
        before = len(server.log_text())
        run = server.run(graph)
        said = server.log_text()[before:]
    finally:
        for file in (weights / "vae_approx").iterdir():
            file.unlink()
    assert run.status == "success", run.error
    assert len(run.previews) >= 2
    assert "preview by taew2_1.safetensors" in said
    assert "no preview by lighttaew2_1_broken.safetensors" in said


def test_the_tiny_decoder_is_comfyuis(main: Path, tmp_path: Path) -> None:
    """Same weights, same pictures, where this ComfyUI has one."""
    if not (main.parent / "comfy/taesd/taehv.py").is_file():
        pytest.skip("this ComfyUI has no tiny video decoder")
    torch.manual_seed(0)
    for channels, patch in ((16, 1), (48, 2)):
        tiny, latent = TinyDecoder(channels, patch).eval(), torch.randn(1, channels, 4, 4, 6)
        tensors = {f"w.{name}": t for name, t in tiny.state_dict().items()}
        save_file(
            tensors | {"latent": latent, "video": tiny.decode(latent)[0].contiguous()}, tmp_path / "tiny.safetensors"
        )
        code = f"""
import torch
from comfy.taesd.taehv import TAEHV
from safetensors.torch import load_file
t = load_file({str(tmp_path / "tiny.safetensors")!r})
stock = TAEHV(latent_channels={channels})
stock.load_state_dict({{k[2:]: v for k, v in t.items() if k.startswith("w.")}}, strict=False)
with torch.no_grad():
    print("apart by", float((stock.decode(t["latent"]) - t["video"]).abs().max()))
"""
        done = inside(main, code)
        assert float(done.stdout.rpartition("apart by")[2]) < 1e-4, done.stderr[-3000:]


def test_a_stock_wan_model_with_a_recipe_gives_the_same_film(server: Server, graph: dict[str, Any]) -> None:
    """The stock network's modules are adopted: same weights, same film, to rounding."""
    sampler = find(graph, "CausalCineSampler")
    graph["20"] = node("UNETLoader", unet_name="causal_wan_1.3b.safetensors", weight_dtype="default")
    graph["21"] = graph[find(graph, "CausalCineRecipe")] | {
        "inputs": graph[find(graph, "CausalCineRecipe")]["inputs"] | {"model": ["20", 0]}
    }
    graph["22"] = node("CausalCineSampler", **(graph[sampler]["inputs"] | {"model": ["21", 0]}))
    vae = graph[sampler]["inputs"]["vae"]
    graph["23"] = node("CausalCineStreamingDecode", samples=[sampler, 0], vae=vae)
    graph["24"] = node("CausalCineStreamingDecode", samples=["22", 0], vae=vae)
    graph["25"] = node("TestCompareImages", a=["23", 0], b=["24", 0])
    run = server.run(without_film(graph))
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["25"]["text"][0]) < 1 / 255


def test_wan22_5b_films_are_made_by_both_loaders(server: Server, graph: dict[str, Any]) -> None:
    """48 channels, 32 pixels a token: our loader knows the family; a stock MODEL with that recipe gives the same film."""
    old = graph[find(graph, "CausalCineSampler")]["inputs"]
    ours = node("CausalCineModelLoader", model_name="wan2.2_ti2v_5b.safetensors", dtype="default", attention="auto")
    stock = node("UNETLoader", unet_name="wan2.2_ti2v_5b.safetensors", weight_dtype="default")
    made = {"30": node("TestWan22VAE"), "31": ours, "32": stock}
    shots = find(graph, "CausalCineShotList")
    made |= {key: graph[key] for key in (shots, graph[shots]["inputs"]["clip"][0])}
    recipe = graph[find(graph, "CausalCineRecipe")]["inputs"] | {"family": "LongLive 2.0 (chunks of 8, 4 steps)"}
    for i, source in enumerate(("31", "32")):
        made[f"4{i}"] = node("CausalCineRecipe", **(recipe | {"model": [source, 0]}))
        inputs = old | {"model": [f"4{i}", 0], "vae": ["30", 0], "width": 64, "height": 96}
        made[f"5{i}"] = node("CausalCineSampler", **inputs)
        made[f"6{i}"] = node("CausalCineStreamingDecode", samples=[f"5{i}", 0], vae=["30", 0])
    made["70"] = node("TestCompareImages", a=["60", 0], b=["61", 0])
    made["71"] = node("CausalCineSaveVideo", samples=["50", 0], vae=["30", 0], filename_prefix="five", fps=0.0)
    run = server.run(made)
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["70"]["text"][0]) < 1 / 255
    assert "LongLive 2" in "\n".join(run.texts) and len(run.previews) >= 2
    made["50"]["inputs"]["height"] = 80
    assert "multiples of 32" in server.run(made).error


def test_a_wan_model_without_a_recipe_is_warned_about(server: Server, graph: dict[str, Any]) -> None:
    sampler = find(graph, "CausalCineSampler")
    graph["20"] = node("UNETLoader", unet_name="causal_wan_1.3b.safetensors", weight_dtype="default")
    graph[sampler]["inputs"] |= {"model": ["20", 0], "steps": 1}
    run = server.run(graph)
    assert run.status == "success", run.error
    assert any("CausalCine Recipe" in text for text in run.texts)


def test_a_training_file_is_read_and_the_node_says_what_was_taken(
    server: Server, graph: dict[str, Any], weights: Path
) -> None:
    """Another layout of the same weights is the same film; a family of the table is the same as its recipe."""
    folder = weights / "diffusion_models"
    plain = load_file(folder / "causal_wan_1.3b.safetensors")
    save_file(
        {f"generator_ema.model._fsdp_wrapped_module.{name}": tensor for name, tensor in plain.items()},
        folder / "trained.safetensors",
    )
    sampler, vae = find(graph, "CausalCineSampler"), graph[find(graph, "CausalCineSampler")]["inputs"]["vae"]
    label = "Self-Forcing (chunks of 3, 4 steps)"
    graph["20"] = node(
        "CausalCineModelLoader", model_name="trained.safetensors", dtype="default", attention="auto", family=label
    )
    graph["22"] = node("CausalCineSampler", **(graph[sampler]["inputs"] | {"model": ["20", 0]}))
    graph["23"] = node("CausalCineStreamingDecode", samples=[sampler, 0], vae=vae)
    graph["24"] = node("CausalCineStreamingDecode", samples=["22", 0], vae=vae)
    graph["25"] = node("TestCompareImages", a=["23", 0], b=["24", 0])
    run = server.run(without_film(graph))
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["25"]["text"][0]) < 1 / 255
    said = "\n".join(run.texts)
    assert "69 of 69 weights matched (training layout, generator_ema)" in said
    assert "Self-Forcing: chosen by you" in said


@pytest.mark.parametrize("loader", ["CausalCineModelLoader", "UNETLoader"])
def test_a_lora_acts_exactly_as_if_merged(server: Server, graph: dict[str, Any], weights: Path, loader: str) -> None:
    """On our loader's MODEL and on a stock one: LoraLoaderModelOnly gives the film of the merged weights, and another one
    than without."""
    folder = weights / "diffusion_models"
    merged = load_file(folder / "causal_wan_1.3b.safetensors")
    save_file(lora_into(merged), (weights / "loras").joinpath("tiny.safetensors"))
    save_file(merged, folder / "merged.safetensors")

    def model(name: str) -> dict[str, Any]:
        if loader == "UNETLoader":
            return node(loader, unet_name=name, weight_dtype="default")
        return node(loader, model_name=name, dtype="default", attention="auto")

    recipe = graph[find(graph, "CausalCineRecipe")]
    sampler = graph[find(graph, "CausalCineSampler")]
    graph["30"], graph["31"] = model("causal_wan_1.3b.safetensors"), model("merged.safetensors")
    graph["32"] = node("LoraLoaderModelOnly", model=["30", 0], lora_name="tiny.safetensors", strength_model=1.0)
    for i, source in enumerate(("30", "31", "32")):
        graph[f"4{i}"] = recipe | {"inputs": recipe["inputs"] | {"model": [source, 0]}}
        graph[f"5{i}"] = node("CausalCineSampler", **(sampler["inputs"] | {"model": [f"4{i}", 0]}))
        graph[f"6{i}"] = node("CausalCineStreamingDecode", samples=[f"5{i}", 0], vae=sampler["inputs"]["vae"])
    graph["70"] = node("TestCompareImages", a=["61", 0], b=["62", 0])
    graph["71"] = node("TestCompareImages", a=["60", 0], b=["62", 0])
    run = server.run(without_film(graph))
    assert run.status == "success", run.error
    assert float(run.history["outputs"]["70"]["text"][0]) < 1 / 255
    assert float(run.history["outputs"]["71"]["text"][0]) > 4 / 255


def test_c54_a_lora_acts_as_if_merged_when_weights_stay_off_the_device(
    main: Path, weights: Path, tmp_path: Path
) -> None:
    """As with --lowvram, which does nothing where there is no GPU: ComfyUI patches such weights in every call."""
    path = weights / "diffusion_models/causal_wan_1.3b.safetensors"
    merged = load_file(path)
    save_file(lora_into(merged), tmp_path / "lora.safetensors")
    save_file(merged, tmp_path / "merged.safetensors")
    code = f"""
import asyncio
from pathlib import Path
import utils.extra_config
import nodes, torch, comfy.sd, comfy.utils, comfy.model_management as mm
asyncio.run(nodes.load_custom_node({str(install(tmp_path))!r}))
pack = next(name for name in sys.modules if name.endswith(".nodes.adapt.model")).removesuffix(".nodes.adapt.model")
part = lambda name: sys.modules[f"{{pack}}.{{name}}"]
core, models = part("causalcine_core.sampling"), part("nodes.adapt.model")
def film(model):
    network = models.network_of(model)
    recipe = core.Recipe.of(steps=2, sampler="renoise")
    state = core.begin(network, recipe, part("causalcine_core.memory").MemorySettings(), size=(6, 8), seed=1)
    story, plan = part("causalcine_core.story"), part("causalcine_core.plan")
    chunks = plan.plan(story.Story([story.Shot("a film", frames=21)])).chunks
    text = torch.randn(1, 512, 4096, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        *_, last = core.rollout(network, chunks, lambda shot: text, state, size=(6, 8))
    return last.state.film()
def loaded(path):
    return part("nodes.loaders").load_network(Path(path), torch.float32)
plain, merged = loaded({str(path)!r}), loaded({str(tmp_path / "merged.safetensors")!r})
lora = comfy.utils.load_torch_file({str(tmp_path / "lora.safetensors")!r})
low, _ = comfy.sd.load_lora_for_models(plain, None, lora, 1.0, 0)
without = film(plain)
mm.load_models_gpu([merged]); wanted = film(merged)
low.load(torch.device("cpu"), lowvram_model_memory=1)
functions = sum(bool(getattr(m, "weight_function", None)) for m in low.model.modules())
ours = film(low)
print("patched in the call", functions, "apart", float((ours - wanted).std() / (wanted - without).std()))
"""
    done = inside(main, code)
    assert "patched in the call" in done.stdout, done.stdout + done.stderr[-3000:]
    words = done.stdout.rpartition("patched in the call")[2].split()
    assert int(words[0]) > 0
    assert float(words[2]) < 0.05


def test_a_lora_on_a_gguf_model_acts_as_if_merged(
    main: Path, server: Server, graph: dict[str, Any], weights: Path
) -> None:
    """C54: the MODEL of the GGUF pack, weights in 8 bits and dequantised layer by layer, with a LoRA node after it."""
    if not (main.parent / "custom_nodes/ComfyUI-GGUF").is_dir():
        pytest.skip("ComfyUI-GGUF is not installed there")
    folder = weights / "diffusion_models"
    merged = load_file(write_gguf(main, folder / "small.gguf", folder / "causal_wan_1.3b.safetensors"))
    save_file(lora_into(merged), (weights / "loras").joinpath("gguf.safetensors"))
    save_file(merged, folder / "merged_gguf.safetensors")
    recipe, sampler = (graph[find(graph, f"CausalCine{kind}")]["inputs"] for kind in ("Recipe", "Sampler"))
    graph["30"] = node("UnetLoaderGGUF", unet_name="small.gguf")
    graph["31"] = node("UNETLoader", unet_name="merged_gguf.safetensors", weight_dtype="default")
    graph["32"] = node("LoraLoaderModelOnly", model=["30", 0], lora_name="gguf.safetensors", strength_model=1.0)
    for i, source in enumerate(("30", "31", "32")):
        graph[f"4{i}"] = node("CausalCineRecipe", **(recipe | {"model": [source, 0]}))
        graph[f"5{i}"] = node("CausalCineSampler", **(sampler | {"model": [f"4{i}", 0]}))
        graph[f"6{i}"] = node("CausalCineStreamingDecode", samples=[f"5{i}", 0], vae=sampler["vae"])
    graph["70"] = node("TestCompareImages", a=["61", 0], b=["62", 0])
    graph["71"] = node("TestCompareImages", a=["61", 0], b=["60", 0])
    run = server.run(without_film(graph))
    assert run.status == "success", run.error
    apart, effect = (float(run.history["outputs"][key]["text"][1]) for key in ("70", "71"))
    assert apart < 0.05 * effect and effect > 0.5 / 255


def test_text_of_another_model_is_named(server: Server, graph: dict[str, Any]) -> None:
    graph["20"] = node("CausalCineCheckpointLoader", checkpoint="random.safetensors")
    graph[find(graph, "CausalCineShotList")]["inputs"]["clip"] = ["20", 1]
    assert "4096" in server.run(graph).error


def test_text_that_a_clip_makes_longer_than_the_model_reads_is_refused_by_shot(
    server: Server, graph: dict[str, Any]
) -> None:
    """What the encoder puts before the words would push the last ones out; padding behind them is nothing."""
    encoder, shots = find(graph, "TestTextEncoder"), find(graph, "CausalCineShotList")
    graph[shots]["inputs"] |= {"global_text": "", "story": "one\n\n" + " ".join(f"word{i}" for i in range(500))}
    graph[encoder]["inputs"] = {"before": 40}
    error = server.run(graph).error
    assert "shot 2: clip gives 540 tokens for its text and the model reads 512: the last 28" in error
    graph[encoder]["inputs"] = {"padding": 28}
    graph[find(graph, "CausalCineSampler")]["inputs"]["steps"] = 1
    run = server.run(graph)
    assert run.status == "success", run.error


@pytest.mark.parametrize("kernel", ["flash", "efficient", "cudnn", "math"])
def test_every_attention_kernel_gives_the_film(server: Server, graph: dict[str, Any], kernel: str) -> None:
    graph[find(graph, "CausalCineModelLoader")]["inputs"]["attention"] = kernel
    graph[find(graph, "CausalCineSampler")]["inputs"]["steps"] = 1
    run = server.run(graph)
    assert run.status == "success", run.error


@pytest.mark.parametrize("dtype", ["bf16", "fp16", "fp8_e4m3fn"])
def test_weights_of_every_kind_run_on_a_cpu(server: Server, graph: dict[str, Any], dtype: str) -> None:
    graph[find(graph, "CausalCineModelLoader")]["inputs"]["dtype"] = dtype
    graph[find(graph, "CausalCineSampler")]["inputs"]["steps"] = 1
    run = server.run(graph)
    assert run.status == "success", run.error


def test_a_stock_network_in_bf16_is_adopted(main: Path) -> None:
    """As on a GPU: no cast on the fly, and one layer in float32."""
    code = f"""
import torch, comfy.ops
from comfy.ldm.wan.model import WanModel
sys.path.insert(0, {str(PACK)!r})
from causalcine_core.memory import MemorySettings
from causalcine_core.sampling import Runner, Recipe, begin, rollout
from causalcine_core.plan import plan
from causalcine_core.story import Story
kind = dict(dtype=torch.bfloat16, device="cpu", operations=comfy.ops.disable_weight_init)
net = WanModel(dim=256, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64, **kind)
for parameter in net.parameters():
    torch.nn.init.normal_(parameter, std=0.02)
network = Runner(net, 2, 2, 128, 16, torch.device("cpu"), torch.bfloat16)
state = begin(network, Recipe.of(steps=2), MemorySettings(), size=(4, 4), seed=1)
with torch.inference_mode():
    chunks = plan(Story.parse("a film")).chunks
    chunk = next(rollout(network, chunks, lambda shot: torch.zeros(1, 8, 64), state, size=(4, 4)))
print("finite", bool(chunk.latent.isfinite().all()))
"""
    done = inside(main, code)
    assert "finite True" in done.stdout, done.stderr[-3000:]


@pytest.mark.parametrize("block", [1, 3])
def test_comfyuis_own_causal_sampler_makes_the_same_film(main: Path, block: int) -> None:
    """Where the version has one: its class of network, its sampler and its cache of rotated keys, from the same noise."""
    if not (main.parent / "comfy/ldm/wan/ar_model.py").exists():
        pytest.skip("this ComfyUI has no causal sampler of its own")
    code = f"""
from types import SimpleNamespace
from unittest import mock
import torch, comfy.supported_models
from comfy.k_diffusion.sampling import sample_ar_video
sys.path.insert(0, {str(PACK)!r})
from causalcine_core.memory import MemorySettings
from causalcine_core.sampling import Runner, Recipe, begin, chunk_generator, rollout
from causalcine_core.plan import PlannedChunk
from causalcine_core.vae import normalize
block, blocks, seed = {block}, 4, 3
shape = dict(dim=256, ffn_dim=512, num_heads=2, num_layers=2, text_dim=64)
support = comfy.supported_models.WAN21_CausalAR_T2V(
    dict(image_model="wan2.1", model_type="t2v", causal_ar=True, **shape))
support.set_inference_dtype(torch.float32, None)
base = support.get_model({{}}, "", device="cpu")
torch.manual_seed(0)
for parameter in base.parameters():
    torch.nn.init.normal_(parameter, std=0.05)
text = torch.randn(1, 512, 64)
sigmas = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0])
drawn = []
for index in range(blocks):
    generator = chunk_generator(seed, index)
    drawn.append([torch.randn(1, 16, block, 8, 8, generator=generator) for _ in range(4)])
again = iter([noise for of in drawn for noise in of[1:]])
options = {{}}

def model(x, sigma, **_):
    return base.apply_model(x, sigma, c_crossattn=text, transformer_options=options)

model.inner_model = SimpleNamespace(inner_model=base)
with torch.no_grad(), mock.patch("torch.randn_like", lambda like: next(again)):
    start = torch.cat([of[0] for of in drawn], 2)
    extra = {{"model_options": {{"transformer_options": options}}, "seed": seed}}
    theirs = sample_ar_video(model, start, sigmas, extra, disable=True, num_frame_per_block=block)
network = Runner(base.diffusion_model, 2, 2, 128, 16, torch.device("cpu"), torch.float32)
recipe = Recipe.of(chunk=block, first_chunk=block, sampler="renoise", levels=tuple((1000 * sigmas[:-1]).tolist()), guidance=1.0)
state = begin(network, recipe, MemorySettings(window=blocks, top_k=0), size=(8, 8), seed=seed)
chunks = [PlannedChunk(i, 0, (i * block, i * block + block), (0, 1)) for i in range(blocks)]
with torch.no_grad():
    ours = normalize(torch.cat([c.latent for c in rollout(network, chunks, lambda shot: text, state, size=(8, 8))], 2))
print("scale", float(theirs.std()), "difference", float((ours - theirs).abs().max()))
"""
    done = inside(main, code)
    words = done.stdout.split()
    assert "difference" in words, done.stderr[-3000:]
    assert float(words[-1]) < 1e-3 < 0.1 < float(words[words.index("scale") + 1])


def test_a_film_that_cannot_be_remembered_is_named_before_it_is_begun(server: Server, graph: dict[str, Any]) -> None:
    sampler = find(graph, "CausalCineSampler")
    graph[find(graph, "CausalCineShotList")]["inputs"]["seconds"] = 3600.0
    graph[sampler]["inputs"] |= {"width": 1280, "height": 720}
    run = server.run(graph)
    assert (
        "set a budget or another storage (host, 8bit) in CausalCine Memory, or lower width, height or seconds"
        in run.error
    )
    assert not run.previews


def test_every_field_of_a_recipe_can_be_overridden(main: Path, tmp_path: Path) -> None:
    """But size and length, which the sampler and the shot list ask for."""
    given = {
        "chunk": 2, "steps": 0, "shift": 4.0, "sampler": "renoise", "guidance": 2.0, "window": 1, "top_k": 2, "negative": "no",
        "first_chunk": 1, "levels": "900, 400", "first_levels": "900", "sink": 1, "context_noise": 0.1, "cut": "flush",
        "recompute": "yes", "cut_keep": 5, "cut_jump": 6, "cut_phrase": "Cut.", "shot_angle": 0.2, "fps": 12.0,
    }  # fmt: skip
    code = f"""
import asyncio, sys
import utils.extra_config, nodes
asyncio.run(nodes.load_custom_node({str(install(tmp_path))!r}))
form = next(module for name, module in sys.modules.items() if name.endswith(".nodes.recipe"))
inputs = {{i.id for i in form.CausalCineRecipe.define_schema().inputs}} - {{"model", "family"}}
assert inputs == set({given!r}), inputs
plain = form.Recipe()
changed = form.override(plain, **{given!r})
same = [name for name, value in changed.to_dict().items() if value == plain.to_dict()[name]]
print("SAME", sorted(same))
defaults = {{i.id: i.default for i in form.CausalCineRecipe.define_schema().inputs if i.id in inputs}}
assert form.override(plain, **defaults) == plain
"""
    ran = inside(main, code)
    assert "SAME ['height', 'seconds', 'width']" in ran.stdout, ran.stderr[-2000:] + ran.stdout[-200:]
