"""The paper's figures: their arithmetic on known features, and encoders of random weights read from folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from causalcine_core.errors import InputError
from causalcine_core.video import VideoWriter
from training.evaluation import paper
from training.evaluation.encoders import AestheticHead, ImageEncoder
from training.evaluation.paper import Readers, between_shots, main, measure, within_shot
from training.evaluation.stories import open_story

EDGE, WIDE = 16, 24
VISION = {"hidden_size": WIDE, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
MEAN, DEVIATION = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
WORDS = ("<|startoftext|>", "<|endoftext|>", "w", "i", "d", "e</w>", "s", "h", "o", "t</w>")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A CLIP, a DINO and a DINOv2 of random weights, each in a folder as a download would be."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("encoders")
    patches = {"image_size": EDGE, "patch_size": 8}
    text = {**VISION, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 1, "bos_token_id": 0}
    models = {
        "clip": transformers.CLIPModel(
            transformers.CLIPConfig(vision_config={**VISION, **patches}, text_config=text, projection_dim=20)
        ),
        "dino": transformers.ViTModel(transformers.ViTConfig(**VISION, **patches), add_pooling_layer=False),
        "dinov2": transformers.Dinov2Model(transformers.Dinov2Config(**VISION, **patches)),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        told = {"image_mean": MEAN, "image_std": DEVIATION, "crop_size": {"height": EDGE, "width": EDGE}}
        (root / name / "preprocessor_config.json").write_text(json.dumps(told))
    (root / "clip" / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (root / "clip" / "merges.txt").write_text("#version: 0.2\n")
    (root / "clip" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    return root


def pictures(n: int = 5, size: tuple[int, int] = (EDGE, EDGE)) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, *size, 3)).astype(np.uint8)


def as_read(frames: np.ndarray) -> torch.Tensor:
    values = (frames / 255.0 - np.array(MEAN)) / np.array(DEVIATION)
    return torch.from_numpy(values).permute(0, 3, 1, 2).float()


@pytest.mark.parametrize("name", ["clip", "dino", "dinov2"])
def test_an_encoder_gives_the_models_own_features_of_unit_length(folders, name):
    frames = pictures(20)  # more than are computed at once
    net = transformers.AutoModel.from_pretrained(folders / name).eval()
    with torch.no_grad():
        if name == "clip":
            expected = net(input_ids=torch.tensor([[0, 2, 1]]), pixel_values=as_read(frames)).image_embeds
        else:
            expected = net(pixel_values=as_read(frames)).last_hidden_state[:, 0]
    found = ImageEncoder(folders / name)(frames)
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=1e-5)


def test_pictures_of_any_size_are_read_by_their_middle_square(folders):
    encoder = ImageEncoder(folders / "dino")
    small = pictures(2)
    wide = np.concatenate([np.zeros_like(small), small, np.full_like(small, 9)], 2)
    torch.testing.assert_close(encoder(wide), encoder(small))
    assert encoder(pictures(1, (50, 31))).shape == (1, WIDE)


def test_texts_are_read_by_clip_alone(folders):
    encoder = ImageEncoder(folders / "clip")
    texts = encoder.texts(["wide shot", "shot", "wide " * 30])
    assert texts.shape == (3, 20)
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))
    alone = encoder.texts(["shot"])
    torch.testing.assert_close(texts[1], alone[0], atol=1e-5, rtol=1e-5)  # padding changes nothing
    assert (texts[0] - texts[1]).abs().max() > 1e-3
    with pytest.raises(InputError, match="holds no CLIP"):
        ImageEncoder(folders / "dino").texts(["shot"])


def test_what_is_no_model_is_said(tmp_path, folders):
    with pytest.raises(InputError, match=r"no config\.json"):
        ImageEncoder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no model that transformers reads"):
        ImageEncoder(tmp_path)


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_an_aesthetic_head_is_its_linear_layers_one_after_the_other(tmp_path, form):
    generator = torch.Generator().manual_seed(0)
    shapes = {"layers.0": (6, 20), "layers.2": (3, 6), "layers.10": (1, 3)}  # by number, not by letter
    layers = {name: (torch.randn(shape, generator=generator), torch.randn(shape[0])) for name, shape in shapes.items()}
    tensors = {
        f"{name}.{part}": t for name, pair in layers.items() for part, t in zip(("weight", "bias"), pair, strict=True)
    }
    file = tmp_path / f"head.{form}"
    if form == "pth":
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    features = torch.randn(4, 20, generator=generator)
    expected = features
    for weight, bias in layers.values():
        expected = expected @ weight.T + bias
    torch.testing.assert_close(AestheticHead(file)(features), expected[:, 0])
    with pytest.raises(InputError, match="reads 20 features"):
        AestheticHead(file)(features[:, :5])


def test_a_head_of_one_layer_and_what_is_none(tmp_path):
    torch.save({"weight": torch.ones(1, 4), "bias": torch.tensor([5.0])}, tmp_path / "one.pth")
    assert AestheticHead(tmp_path / "one.pth")(torch.full((2, 4), 0.5)).tolist() == [7.0, 7.0]
    torch.save({"weight": torch.ones(3, 4), "bias": torch.ones(3)}, tmp_path / "three.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    for name, says in {
        "three": "end in one number",
        "list": "named tensors",
        "text": "cannot be read",
        "no": "not exist",
    }.items():
        with pytest.raises(InputError, match=says):
            AestheticHead(tmp_path / f"{name}.pth")


def test_frames_of_a_shot_are_compared_with_the_first_and_the_one_before():
    a, b = torch.eye(2)
    assert within_shot(torch.stack([a, a, a])) == 1 == within_shot(a[None])
    assert within_shot(torch.stack([a, b])) == 0
    assert within_shot(torch.stack([a, b, b])) == pytest.approx(
        0.25
    )  # 0 and 0; then 0 to the first, 1 to the one before


def test_shots_that_share_a_character_are_compared():
    a, b = torch.eye(2)
    shots = [torch.stack([a, a]), torch.stack([b, b]), torch.stack([a, b])]
    cast = [("x",), ("y",), ("x", "z")]
    assert between_shots(shots, cast) == pytest.approx(0.5**0.5)
    assert between_shots(shots[:2], cast[:2]) is None
    assert between_shots([shots[0], shots[0], shots[1]], [("x",)] * 3) == pytest.approx(1 / 3)


def test_what_is_not_given_is_not_measured(folders, tmp_path):
    shots, prompts, cast = [pictures(3), pictures(4)], ["wide shot", "shot"], [("x",), ("x",)]
    assert measure(Readers(), shots, prompts, cast) == {}
    assert set(measure(Readers(dino=ImageEncoder(folders / "dino")), shots, prompts, cast)) == {"subject"}
    torch.save({"weight": torch.zeros(1, 20), "bias": torch.tensor([6.5])}, tmp_path / "head.pth")
    clip = ImageEncoder(folders / "clip")
    found = measure(Readers(clip=clip, aesthetic=AestheticHead(tmp_path / "head.pth")), shots, prompts, cast)
    assert set(found) == {"text", "background", "aesthetic"} and found["aesthetic"] == pytest.approx(0.65)
    frame, text = clip(shots[0])[:1], clip.texts(["shot"])
    assert measure(Readers(clip=clip), [shots[0][:1]], ["shot"], [("x",)])["text"] == pytest.approx(
        float(frame @ text.T), abs=1e-5
    )


class Maker:
    """A stand-in for a pipeline: films of five shots of four frames."""

    def __init__(self):
        self.made = 0

    def generate(self, story, *, output, seed):
        self.made += 1
        ranges = [[4 * i, 4 * i + 4] for i in range(len(story.shots))]
        with VideoWriter(output, 16, (32, 32)) as writer:
            writer.write(pictures(20, (32, 32)))
        self.report = {"shots": [{"frames": span} for span in ranges]}
        return self


def test_films_are_made_where_they_are_missing_and_measured_once(folders, tmp_path, monkeypatch, capsys):
    maker = Maker()
    monkeypatch.setattr(paper.Pipeline, "from_pretrained", lambda _: maker)
    monkeypatch.setattr(paper, "find_cuts", lambda frames: [4, 8, 12, 16])
    films = tmp_path / "films"
    arguments = [str(films), "--stories", "6", "--dinov2", str(folders / "dinov2"), "--json"]
    assert main(arguments) == 2
    assert "holds no film of a story" in capsys.readouterr().err
    assert main([*arguments, "--model", "any"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["figures"]["cut_f1"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 6}
    assert report["figures"]["inter_shot"]["n"] == 6 and 0 < report["figures"]["inter_shot"]["mean"] <= 1
    assert report["kinds"]["reappearance"]["inter_shot"]["n"] == 2
    assert maker.made == 6

    monkeypatch.setattr(paper, "read_video", None)
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == report
    (films / f"{open_story(0).name}.json").unlink()
    assert main([str(films), "--stories", "6"]) == 2  # other readers: read anew
    assert "the report that causalcine generate writes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bad", "says"),
    [(["--stories", "0"], "from 1 to 100"), (["--aesthetic", "x"], "needs clip"), (["--clip", "x"], "config.json")],
)
def test_bad_arguments_are_one_sentence(tmp_path, bad, says, capsys):
    assert main([str(tmp_path), *bad]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err
