"""Settings of single shots: a seed and LoRAs of their own, in Python, in files and on the command line."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from causalcine_core import InputError, LoRA, Pipeline, Recipe, Shot, State, Story, cli
from causalcine_core.model.packed import pack, packs, unpacked
from causalcine_core.references import reference
from causalcine_core.sampling import Chunk
from causalcine_core.styles import MergedStyles

A, B, C = "a fox runs", "a fox sleeps", "a fox in the snow"
LAYERS = ("blocks.0.self_attn.q", "blocks.0.cross_attn.k", "blocks.1.ffn.0", "blocks.1.cross_attn.v")


def changes(pipe: Pipeline, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Halves of a LoRA of rank 2 by layer."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {layer: unpacked(pipe.network.net)[f"{layer}.weight"].shape for layer in LAYERS}
    return {
        layer: (torch.randn(2, columns, generator=draw), torch.randn(rows, 2, generator=draw) / 4)
        for layer, (rows, columns) in shapes.items()
    }


def write(path: Path, halves: dict[str, tuple[Tensor, Tensor]]) -> Path:
    tensors = {f"diffusion_model.{layer}.lora_A.weight": a.clone() for layer, (a, _) in halves.items()}
    save_file(tensors | {f"diffusion_model.{layer}.lora_B.weight": b.clone() for layer, (_, b) in halves.items()}, path)
    return path


@pytest.fixture
def styled(pipe: Pipeline, tmp_path: Path) -> Pipeline:
    """The tiny model, that finds `snow.safetensors` and `ink.safetensors`."""
    for i, name in enumerate(("snow", "ink")):
        write(tmp_path / f"{name}.safetensors", changes(pipe, i))
    made = copy.copy(pipe)
    made.styles = MergedStyles([tmp_path])
    return made


def merged(pipe: Pipeline, *parts: tuple[int, float]) -> Pipeline:
    """The same with LoRAs in its weights, added here by plain arithmetic. parts: seed of each, and its strength."""
    net = copy.deepcopy(pipe.network.net)
    for seed, strength in parts:
        for layer, (a, b) in changes(pipe, seed).items():
            weight = net.get_submodule(layer).weight
            weight.data = weight.data + strength * torch.matmul(b, a)
    made = copy.copy(pipe)
    made.network = replace(pipe.network, net=net)
    return made


def latents(pipe: Pipeline, *shots: Shot, **asked: object) -> list[Chunk]:
    return list(pipe.stream(Story(shots), decode=False, **({"seed": 5} | asked)))


def equal(a: Chunk, b: Chunk) -> bool:
    return torch.equal(a.latent, b.latent)


# --- seeds


def test_a_seed_of_a_shot_is_that_of_its_chunks_noise_alone(pipe: Pipeline):
    shots = [Shot(text, frames=24) for text in (A, B, C)]
    plain, own = latents(pipe, *shots), latents(pipe, shots[0], replace(shots[1], seed=2**64 - 1), shots[2])
    seeds = [record.seed for record in own[-1].state.records]
    assert [seed for chunk, seed in zip(own, seeds, strict=True) if chunk.shot == 1] == [2**64 - 1] * seeds.count(
        2**64 - 1
    )
    assert [seed for chunk, seed in zip(own, seeds, strict=True) if chunk.shot != 1] == [5] * (
        len(seeds) - seeds.count(2**64 - 1)
    )
    assert all(equal(a, b) == (a.shot == 0) for a, b in zip(plain, own, strict=True))
    # the noise of a chunk is a function of its seed and place: with the film's own seed written out nothing changes
    again = latents(pipe, shots[0], replace(shots[1], seed=5), shots[2])
    assert all(equal(a, b) for a, b in zip(plain, again, strict=True))


def test_two_takes_of_a_shot_differ_by_its_seed_alone(pipe: Pipeline):
    before = latents(pipe, Shot(A, frames=24), Shot(B, frames=24))[-1].state
    takes = [latents(pipe, Shot(C, frames=24, seed=seed), state=before, seed=None) for seed in (1, 2, 1)]
    assert not equal(takes[0][0], takes[1][0]) and equal(takes[0][0], takes[2][0])
    for take in takes:
        assert torch.equal(take[-1].state.film()[:, :, : before.film().shape[2]], before.film())
    shots = [take[-1].state.shots[2] for take in takes]
    assert replace(shots[0], seed=None) == replace(shots[1], seed=None)


# --- LoRAs


@pytest.mark.parametrize("frames", [12, 24])
def test_a_film_of_loras_is_the_chain_of_films_of_merged_networks(styled, pipe, frames):
    snow, ink = LoRA("snow.safetensors"), LoRA("ink.safetensors", -0.5)
    shots = [
        Shot(A, frames=frames),
        Shot(B, frames=frames, lora=(snow, ink)),
        Shot(C, frames=frames, cut="soft"),
        Shot(A, lora=(ink,)),
    ]
    film = latents(styled, *shots)
    state, chain = None, list[Chunk]()
    for shot, network in zip(
        shots, (pipe, merged(pipe, (0, 1), (1, -0.5)), pipe, merged(pipe, (1, -0.5))), strict=True
    ):
        chain += latents(network, replace(shot, lora=()), state=state)
        state = chain[-1].state
    assert all(equal(a, b) for a, b in zip(film, chain, strict=True))
    plain = latents(pipe, *(replace(shot, lora=()) for shot in shots))
    assert [equal(a, b) for a, b in zip(film, plain, strict=True)] == [chunk.shot == 0 for chunk in film]
    assert all(
        torch.equal(a, b) for a, b in zip(styled.network.net.parameters(), pipe.network.net.parameters(), strict=True)
    )


def test_a_strength_of_zero_changes_nothing(styled):
    shots = [Shot(A, frames=12), Shot(B, frames=12)]
    none = [replace(shot, lora=(LoRA("snow.safetensors", 0),)) for shot in shots]
    assert all(equal(a, b) for a, b in zip(latents(styled, *shots), latents(styled, *none), strict=True))


def test_retakes_and_states_find_their_loras_by_name(styled, tmp_path):
    shots = [Shot(A, frames=24), Shot(B, frames=24, lora=(LoRA("snow.safetensors", 0.7),)), Shot(C, frames=24)]
    film = latents(styled, *shots)
    half = film[2].state
    assert half.planned and half.shots[1].lora == (LoRA("snow.safetensors", 0.7),)
    for memory in (True, False):
        half.save(tmp_path / "film.state", memory=memory)
        loaded = State.load(tmp_path / "film.state")
        assert loaded.shots == half.shots
        rest = list(styled.stream(None, state=loaded, decode=False))
        for a, b in zip(film[3:], rest, strict=True):
            torch.testing.assert_close(a.latent, b.latent, atol=0 if memory else 1e-4, rtol=0)
    told = styled.told(film[-1].state)
    assert [shot.lora for shot in told.shots] == [shot.lora for shot in shots]
    (tmp_path / "snow.safetensors").unlink()
    gone = copy.copy(styled)
    gone.styles = MergedStyles([tmp_path])
    with pytest.raises(InputError, match=r'^the LoRA of shot 2: "snow.safetensors" names no file, sought in'):
        gone.stream(None, state=half, decode=False)


@pytest.mark.skipif(not packs(torch.float32), reason="this processor packs no weights")
def test_weights_that_were_packed_come_back_as_they_were(pipe):
    net = copy.deepcopy(pipe.network.net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pack(net)
    after = unpacked(net)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_packed_network_takes_loras_too(styled, pipe):
    packed = copy.copy(styled)
    net = copy.deepcopy(pipe.network.net)
    pack(net)
    packed.network = replace(pipe.network, net=net)
    shots = [Shot(A, frames=12), Shot(B, frames=12, lora=(LoRA("snow.safetensors"),))]
    for a, b in zip(latents(packed, *shots), latents(styled, *shots), strict=True):
        torch.testing.assert_close(a.latent, b.latent, atol=2e-4, rtol=1e-4)


def test_what_is_not_in_the_model_is_said(styled, pipe, tmp_path):
    halves = changes(pipe, 0)
    write(tmp_path / "odd.safetensors", {LAYERS[0]: halves[LAYERS[0]], "blocks.9.self_attn.q": halves[LAYERS[0]]})
    story = Story([Shot(A), Shot(B, lora=(LoRA("odd.safetensors"),))])
    said = styled.check(story)
    assert "shots[1].lora: LoRA odd.safetensors: 1 of 2 applied; no place for blocks.9.self_attn.q" in said


def odd_files(folder: Path, pipe: Pipeline) -> None:
    a, b = changes(pipe, 0)[LAYERS[0]]
    write(folder / "else.safetensors", {"blocks.9.self_attn.q": (a, b)})
    write(folder / "wide.safetensors", {LAYERS[0]: (torch.ones(2, 7), b)})
    write(folder / "nan.safetensors", {LAYERS[0]: (a * float("nan"), b)})
    save_file({"weight": torch.ones(2)}, folder / "none.safetensors")
    (folder / "text.safetensors").write_text("hello")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no.safetensors", '"no.safetensors" names no file, sought in'),
        ("a" * 5000, "names no file, sought in"),
        (
            "else.safetensors",
            "LoRA else.safetensors: 0 of 1 applied: none of its modules is in the model, such as blocks.9",
        ),
        ("wide.safetensors", "it was trained on another base"),
        ("nan.safetensors", "LoRA nan.safetensors"),
        ("none.safetensors", "holds no LoRA: its first key is weight"),
        ("text.safetensors", "text.safetensors"),
    ],
)
def test_a_lora_that_cannot_be_used_is_one_sentence_before_anything_is_made(styled, pipe, tmp_path, name, says):
    odd_files(tmp_path, pipe)
    story = Story([Shot(A), Shot(B), Shot(C, lora=(LoRA(name),)), Shot(C, lora=(LoRA(name),))])
    with pytest.raises(InputError) as error:
        styled.start(story)
    assert str(error.value).startswith("shots[2].lora: ") and says in str(error.value) and "\n" not in str(error.value)


def test_what_has_one_network_for_all_shots_says_so(styled):
    story = Story([Shot(A), Shot(B, lora=(LoRA("snow.safetensors"),))])
    rolling = copy.copy(styled)
    rolling.recipe = Recipe.of(**styled.recipe.to_dict() | {"sampler": "rolling"})
    with pytest.raises(InputError, match=r"^shots\[1\]\.lora: the rolling sampler makes several shots at once"):
        rolling.start(story)
    hired = Pipeline(
        styled.network, styled.text, styled.vae, styled.recipe, executor=styled.executor, styles=styled.styles
    )
    with pytest.raises(InputError, match=r"^shots\[1\]\.lora: workers have one network for all shots"):
        hired.start(story)
    hired.start(Story([Shot(A)]))


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            7,
            'shots[0].lora must be the name of a LoRA file, {"name": "...", "strength": 0.8}, or a list of those, got 7',
        ),
        ("", "shots[0].lora.name is empty; it needs the name of a file"),
        ({"strength": 1}, "shots[0].lora.name is missing"),
        ({"name": "a", "strenght": 1}, 'shots[0].lora has an unknown field "strenght", did you mean "strength"?'),
        ({"name": "a", "strength": 101}, "shots[0].lora.strength must be a number from -100 to 100, got 101"),
        ({"name": "a", "strength": "1"}, "shots[0].lora.strength must be a number"),
        (["a", None], "shots[0].lora[1] must be the name of a LoRA file"),
        (["a"] * 17, "shots[0].lora may name at most 16 LoRAs, got 17"),
    ],
)
def test_what_a_story_says_of_loras_is_checked(told, says):
    with pytest.raises(InputError) as error:
        Story.from_dict({"shots": [{"prompt": "a", "lora": told}]})
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    "told", ["a.safetensors", {"name": "b/a.safetensors", "strength": 0.8}, ["a", {"name": "b", "strength": -2.0}]]
)
def test_a_story_says_loras_as_it_was_told(told):
    story = Story.from_dict({"shots": [{"prompt": "a", "lora": told}, {"prompt": "b", "lora": None}]})
    assert story.to_dict() == {"shots": [{"prompt": "a", "lora": told}, {"prompt": "b"}]}
    assert Story.from_dict(json.loads(json.dumps(story.to_dict()))) == story


# --- the command line


def test_the_command_finds_loras_beside_the_story_or_where_it_is_told(pipe, tmp_path, checkpoint, capsys, monkeypatch):
    (tmp_path / "stories").mkdir()
    (tmp_path / "styles").mkdir()
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "stories/snow.safetensors", changes(pipe, 0))
    shots = [
        {"prompt": A, "frames": 9},
        {"prompt": B, "frames": 12, "seed": 4, "lora": {"name": "snow.safetensors", "strength": 0.5}},
    ]
    shots[1] |= {"cut": "soft", "blend": 2}
    Path("stories/s.json").write_text(json.dumps({"shots": shots}))

    def run(*args: object) -> tuple[int, str, str]:
        code = cli.main([str(arg) for arg in (*args, "--model", checkpoint)])
        return code, *capsys.readouterr()

    code, out, _ = run("story", "check", "stories/s.json")
    assert code == 0 and "[soft over 2 chunks, seed 4, snow.safetensors x 0.5]" in out and "names no file" not in out
    assert run("generate", "stories/s.json", "-o", "a.mp4", "--save-state", "a.state")[0] == 0
    report = json.loads(Path("a.json").read_text())
    assert (
        report["shots"][1]["lora"] == {"name": "snow.safetensors", "strength": 0.5} and report["shots"][1]["seed"] == 4
    )
    Path("stories/snow.safetensors").rename("styles/snow.safetensors")
    assert 'shots[1].lora: "snow.safetensors" names no file, sought in' in run("story", "check", "stories/s.json")[1]
    code, _, err = run("generate", "stories/s.json", "-o", "b.mp4")
    assert code == 2 and not Path("b.mp4").exists()
    assert next(line for line in err.splitlines() if "no file" in line).startswith("causalcine: shots[1].lora: ")
    assert (
        run("generate", "stories/s.json", "-o", "b.mp4", "--save-state", "b.state", "--lora-folder", "styles")[0] == 0
    )
    assert torch.equal(State.load("a.state").film(), State.load("b.state").film())


def test_pictures_of_a_cast_belong_to_no_shot(styled, pipe, tmp_path):
    """They are written by the network without LoRAs, also where a memory that was left out is written anew in a shot that has some."""
    side = pipe.recipe.picture.height // pipe.vae.config.spatial_stride
    picture = torch.randn(1, 16, 1, side, side, generator=torch.Generator().manual_seed(1))
    cast, snow = (reference("fox", picture, "a fox sleeps"),), (LoRA("snow.safetensors"),)
    film = latents(styled, Shot(A, frames=24), Shot(B, frames=24, lora=snow), cast=cast)
    assert not equal(film[0], latents(styled, Shot(A, frames=24))[0])
    film[1].state.save(tmp_path / "film.state", memory=False)
    rest = list(styled.stream(None, state=State.load(tmp_path / "film.state"), decode=False))
    for a, b in zip(film[2:], rest, strict=True):
        torch.testing.assert_close(a.latent, b.latent, atol=1e-4, rtol=0)
    first, patched = (latents(network, Shot(A, frames=24), cast=cast)[0] for network in (pipe, merged(pipe, (0, 1))))
    assert equal(film[0], first) and not equal(film[0], patched)
