"""Where nano's text encoder, VAE and shapes fit, real ones fit: a UMT5, any Wan VAE, other sizes, and files out of a run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from causalcine_core import Pipeline, Story
from causalcine_core.errors import InputError
from causalcine_core.model import load_checkpoint, load_transformer
from causalcine_core.vae import VAEConfig, WanVAE, save_vae
from training import export
from training.components.checkpoint import read_state
from training.components.text import UMT5
from training.data.shards import Shards
from training.model import averaged
from training.stages.teacher_forcing import main
from training.world import make_film
from training.world.shards import make_shards

from .conftest import RECIPE

WORDS = ["a", "b", "c", "d"]


@pytest.fixture
def umt5(tmp_path):
    """A folder of transformers with a tiny random UMT5 and a tokenizer of four words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

    folder = tmp_path / "umt5"
    torch.manual_seed(0)
    config = UMT5Config(
        vocab_size=16, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu"
    )
    UMT5EncoderModel(config).save_pretrained(str(folder))
    ids = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {word: i + 3 for i, word in enumerate(WORDS)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(str(folder / "tokenizer"))
    return folder


@pytest.fixture
def vae_file(tmp_path):
    torch.manual_seed(0)
    shape = VAEConfig(dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2)
    save_vae(WanVAE(shape).eval(), tmp_path / "vae.safetensors", {"steps": "0"})
    return tmp_path / "vae.safetensors"


def config(**changes):
    from causalcine_core.model import WanConfig

    return WanConfig.from_dict({**RECIPE["model"], **changes})


def test_a_umt5_reads_prompts_as_wan_does(umt5):
    """Padded to the model's length, zero beyond the words, cut where it is longer; the same prompt is read once."""
    from transformers import UMT5EncoderModel

    text = UMT5(umt5, config(), torch.device("cpu"), cached=3)
    read = text.encode(["a b c", "d", "a b c"])
    assert read.shape == (3, 8, 24)
    reference = UMT5EncoderModel.from_pretrained(str(umt5)).eval()
    with torch.no_grad():
        alone = reference(torch.tensor([[3, 4, 5, 1]])).last_hidden_state[0]
    torch.testing.assert_close(read[0, :4], alone, atol=1e-5, rtol=1e-5)
    assert read[0, 4:].eq(0).all() and read[1, 2:].eq(0).all() and torch.equal(read[0], read[2])
    assert text.encode([" ".join("abcd" * 5)]).shape == (1, 8, 24)
    calls = []
    net, text.net = text.net, lambda *given: calls.append(len(given[0])) or net(*given)
    assert torch.equal(text.encode(["d", "a", "b"])[0], read[1])
    assert calls == [2] and len(text._known) == 3


def test_a_umt5_that_does_not_fit_is_refused(umt5, tmp_path):
    with pytest.raises(InputError, match=r"text.path .* is 24 wide, but the model reads text of 32"):
        UMT5(umt5, config(text_dim=32), torch.device("cpu"), cached=3)
    with pytest.raises(InputError, match=r"text.path .*nothing holds no UMT5"):
        UMT5(tmp_path / "nothing", config(), torch.device("cpu"), cached=3)


def test_a_model_with_umt5_is_trained_resumed_and_exported(recipe_file, shards, umt5, vae_file, tmp_path):
    """The frozen encoder is in no state; the file is a network under Wan's names, which every loader here reads."""
    recipe = recipe_file(run={"steps": 2, "save_every": 1}, text={"encoder": "umt5", "path": str(umt5)})
    work = tmp_path / "work"
    given = [str(recipe), "--data", str(shards), "--work", str(work), "--threads", "1"]
    main([*given, "--set", "run.max_seconds=1e-9"])
    main([*given, "--resume"])
    state = read_state(work / "state.pt")
    assert state["step"] == 2 and not any(name.startswith("text.") for name in state["parts"]["model"]["weights"])
    out = tmp_path / "net.safetensors"
    export.main(["--work", str(work), "--vae", str(vae_file), "--out", str(out)])
    net = load_transformer(out)
    for name, weight in net.state_dict().items():
        assert torch.equal(weight, state["parts"]["model"]["average"][f"net.{name}"])


def test_a_run_becomes_a_checkpoint_that_makes_films_and_begins_another_run(recipe_file, shards, vae_file, tmp_path):
    recipe = recipe_file(run={"steps": 2}, model={"text_len": 64})
    work, out = tmp_path / "work", tmp_path / "tiny.safetensors"
    main([str(recipe), "--data", str(shards), "--work", str(work), "--threads", "1"])
    quality = tmp_path / "quality.json"
    quality.write_text(json.dumps({"stories": 3}))
    given = ["--work", str(work), "--vae", str(vae_file), "--out", str(out), "--size", "32x32", "--steps", "1"]
    export.main([*given, "--quality", str(quality)])
    card = load_checkpoint(out).header["card"]
    assert (card["stage"], card["steps"], card["seed"], card["quality"]) == ("teacher_forcing", 2, 0, {"stories": 3})
    assert card["recipe"]["optimizer"]["learning_rate"] == 1e-3 and card["vae"]["steps"] == "0"
    pipe = Pipeline.from_pretrained(out, device="cpu")
    assert pipe.recipe.visibility.window == 1 and pipe.recipe.schedule.shift == 3.0
    frames = [chunk.frames for chunk in pipe.stream(Story.parse("a cat"), seed=1)]
    assert frames[0].shape[1:] == (32, 32, 3)

    begun = recipe_file(
        run={"steps": 1}, model={"text_len": 64}, optimizer={"learning_rate": 0, "muon_learning_rate": 0}
    )
    given = ["--data", str(shards), "--threads", "1", "--start-from", str(out)]
    main([str(begun), "--work", str(tmp_path / "second"), *given])
    weights = read_state(tmp_path / "second" / "state.pt")["parts"]["model"]["weights"]
    for name, weight in pipe.text.state_dict().items():
        torch.testing.assert_close(weights[f"text.{name}"], weight)
    other = recipe_file(run={"steps": 1})
    with pytest.raises(InputError, match="holds a network of another shape than the recipe's model"):
        main([str(other), "--work", str(tmp_path / "third"), *given])


def test_what_trains_no_transformer_is_not_exported(tmp_path):
    with pytest.raises(InputError, match="a run of stage vae trains no transformer"):
        averaged({"stage": "vae", "parts": {"codec": {}}})
    with pytest.raises(InputError, match="there is no state"):
        export.main(["--work", str(tmp_path), "--vae", "v", "--out", "o"])


def test_previews_are_made_from_step_0_on_and_change_nothing(recipe_file, shards, vae_file, tmp_path):
    from PIL import Image

    run = {"steps": 2, "preview_every": 1}
    preview = {"vae": str(vae_file), "seconds": 1.5, "size": [32, 32], "steps": 1}
    states = []
    for name, changes in (("with", {"preview": preview}), ("without", {})):
        recipe = recipe_file(run=run, model={"text_len": 64}, **changes)
        main([str(recipe), "--data", str(shards), "--work", str(tmp_path / name), "--threads", "1"])
        states.append(read_state(tmp_path / name / "state.pt")["parts"]["model"])
    sheets = sorted(path.name for path in (tmp_path / "with").glob("*.png"))
    assert sheets == ["preview-0000000.png", "preview-0000001.png", "preview-0000002.png"]
    assert Image.open(tmp_path / "with" / sheets[0]).size == (640, 128)  # two films, ten frames each, enlarged
    for key in ("weights", "average"):
        assert all(torch.equal(states[0][key][name], weight) for name, weight in states[1][key].items())


def test_films_become_shards_of_any_size_with_their_truth(vae_file, tmp_path):
    from causalcine_core.vae import load_vae

    vae, out = load_vae(vae_file), tmp_path / "shards"
    make_shards("stills", vae, out, count=3, per_shard=2, size=(64, 48))
    make_shards("films", vae, out, count=1, first_seed=7, size=(32, 32))
    assert sorted(path.name for path in out.iterdir()) == [
        "films-00000007.safetensors",
        "stills-00000000.safetensors",
        "stills-00000002.safetensors",
    ]
    stills, films = Shards(out, "stills"), Shards(out, "films")
    assert len(stills) == 3 and stills.latents[0].shape == (16, 1, 6, 8)
    film, record = make_film(7, size=(32, 32)), films.records[0]
    assert films.latents[0].shape[1] == (film.frames + 3) // 4 == len(record["cast"]) == 60
    assert record["chunk"] == 3 and [shot["chunks"][1] * 12 - 3 for shot in record["shots"]] == [
        s.end for s in film.shots
    ]
    assert [shot["name_only"] for shot in record["shots"]] == [s.name_only for s in film.shots]
    for frame in (0, 20, 59):
        (name, box), *_ = record["cast"][frame].items()
        assert name in {c.name for c in film.shot_at(max(0, 4 * frame - 1)).characters}
        assert np.all(np.array(box) >= 0) and np.all(np.array(box) <= 1)
    before = (out / "films-00000007.safetensors").stat().st_mtime_ns
    make_shards("films", vae, out, count=1, first_seed=7, size=(32, 32))
    assert (out / "films-00000007.safetensors").stat().st_mtime_ns == before  # what exists is kept


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_one_sentence(recipe_file, shards, tmp_path, device):
    with pytest.raises(InputError, match=f"device '{device}' is not available here"):
        main([str(recipe_file(run={"device": device})), "--data", str(shards), "--work", str(tmp_path / "w")])
