"""A film made out of a clip: nothing is left of it at strength 1, nearly all near 0, its shots give the lengths, faults are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from causalcine_core import InputError, Pipeline, Recipe, Shot, State, Story, cli
from causalcine_core.history import Clip
from causalcine_core.sampling import chunk_generator, sampling_levels
from causalcine_core.sampling.restyle import levels_from
from causalcine_core.video import VideoWriter, read_video

TWO = Story([Shot("a fox runs", frames=21), Shot("the fox sleeps", frames=12)])
SIZE = {"width": 32, "height": 32, "window": 1, "top_k": 2}
OTHER = Clip(torch.zeros(1, 48, 3, 4, 4), name="video")
SAMPLERS = ["euler", "unipc", "renoise"]


def piped(**recipe) -> Pipeline:
    return Pipeline.random(recipe=Recipe.of(**(SIZE | recipe)), vocabulary=("a", "fox", "runs", "sleeps", "the"))


def clip(frames: int = 9, story: Story | None = None) -> Clip:
    latents = torch.randn(1, 16, 12, 4, 4, generator=torch.Generator().manual_seed(3))
    return Clip(latents[:, :, :frames], story, name="video")


def film(pipe: Pipeline, story: Story = TWO, **asked) -> torch.Tensor:
    return list(pipe.stream(story, seed=5, decode=False, **asked))[-1].state.film()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_at_strength_1_it_is_the_film_from_noise(sampler):
    pipe = piped(steps=4, sampler=sampler)
    plain = film(pipe)
    assert torch.equal(film(pipe, video=clip(), strength=1.0), plain)
    assert torch.equal(film(pipe, video=clip()), plain)
    assert not torch.equal(film(pipe, video=clip(), strength=0.99), plain)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_near_strength_0_it_stays_near_the_clip_and_moves_away_with_it(sampler):
    pipe, video = piped(steps=200, shift=1.0, sampler=sampler), clip(3)
    one = Story([Shot("a fox", frames=9)])
    spread = video.latents.std()
    off = [float((film(pipe, one, video=video, strength=s) - video.latents).std() / spread) for s in (0.01, 0.1, 0.5)]
    assert off[0] < 0.05 and off[0] < off[1] < off[2]


def test_a_chunk_begins_at_the_first_level_below_from_the_clip_under_its_own_noise(monkeypatch):
    """Level, number of passes, and the noise of (seed, chunk), against the formula `(1 - s) x + s e`."""
    pipe, seen = piped(steps=4, shift=3.0), []
    from causalcine_core.sampling import chunk as making
    from causalcine_core.vae import normalize

    def spy(velocity, x, levels, *args, **named):
        seen.append((x.clone(), levels))
        return denoise(velocity, x, levels, *args, **named)

    denoise = making.denoise
    monkeypatch.setattr(making, "denoise", spy)
    video = clip(9)
    film(pipe, video=video, strength=0.8)
    levels = sampling_levels(pipe.recipe).tolist()
    assert [round(level, 4) for level in levels] == [1.0, 0.9, 0.75, 0.5, 0.0]
    for index, (x, left) in enumerate(seen):
        assert left == levels[2:]
        noise = torch.randn(x.shape, generator=chunk_generator(5, index))
        part = normalize(video.latents[:, :, 3 * index : 3 * index + 3])
        torch.testing.assert_close(x, 0.25 * part + 0.75 * noise)
    assert len(seen) == 3


def test_beyond_its_end_chunks_are_made_from_noise(monkeypatch):
    pipe, seen = piped(steps=4), []
    assert torch.equal(film(pipe, video=clip(3), strength=0.9), film(pipe, video=clip(5), strength=0.9)), (
        "no part of a chunk"
    )
    stream = pipe.stream(TWO, video=clip(3), strength=0.9, seed=5, on_step=lambda info: seen.append(info.steps))
    assert len(list(stream)) == 3
    assert seen == [2] * 2 + [4] * 8, "levels 1, 0.94, 0.83, 0.63"


def test_its_shots_give_a_story_without_lengths_theirs():
    pipe = piped(steps=1)
    shots = Story([Shot("a", frames=9), Shot("fox", frames=24), Shot("runs", frames=12)])

    def lengths(*prompts: str, **named) -> list[tuple[int, int]]:
        story = Story([Shot(prompt, **named) for prompt in prompts])
        return [shot.frames for shot in pipe.start(story, video=clip(12, shots), strength=1.0).shots]

    assert lengths("a", "fox", "runs") == [(0, 9), (9, 33), (33, 45)]
    assert lengths("a", "fox") == [(0, 9), (9, 45)], "the last has the rest"
    assert lengths("a") == [(0, 45)]
    assert lengths("a", "fox", "runs", "sleeps")[:3] == [(0, 9), (9, 33), (33, 45)]
    assert lengths("a", "fox", frames=12) == [(0, 9), (9, 21)], "its own lengths stay"


def test_a_film_goes_on_from_a_file_alike(tmp_path):
    pipe = piped(steps=4)
    whole = film(pipe, video=clip(12), strength=0.9)
    first = next(iter(pipe.stream(TWO, seed=5, video=clip(12), strength=0.9))).state
    first.save(tmp_path / "a.state")
    loaded = State.load(tmp_path / "a.state")
    assert (loaded.restyle.strength, loaded.restyle.first) == (0.9, 0)
    assert torch.equal(list(pipe.run(loaded))[-1].state.film(), whole)
    more = list(pipe.stream(TWO, state=loaded, video=clip(6), strength=0.9))[-1].state
    assert more.restyle.first == 3 and not torch.equal(more.film()[:, :, 3:9], whole[:, :, 3:9])


def test_a_history_may_come_before_it():
    pipe = piped(steps=4)
    state = pipe.start(TWO, history=Clip(clip(6).latents, TWO), video=clip(9), strength=0.9)
    assert (state.restyle.first, state.history) == (6, 2)


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"strength": 0}, "strength must be a number above 0 and up to 1, got 0"),
        ({"strength": 1.5}, "strength must be a number above 0 and up to 1, got 1.5"),
        ({"strength": float("nan")}, "strength must be a number above 0 and up to 1"),
        ({"strength": "half"}, 'strength must be a number above 0 and up to 1, got "half"'),
        ({"strength": 0.2}, "strength 0.2 leaves no denoising pass: the model's noise levels are 1, 0.938, 0.833, 0.625; ask for at"),
        ({"strength": 0.9, "video": None}, "strength is 0.9, but there is no video that it is of"),
        ({"strength": 0.9, "width": 64}, "video is 32x32 pixels and the film 64x32"),
        ({"strength": 0.9, "video": OTHER}, "video has 48 latent channels and the model 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(asked, why):
    pipe = piped(steps=4)
    with pytest.raises(InputError) as error:
        pipe.start(TWO, **({"video": clip()} | asked))
    assert str(error.value).startswith(why)


def test_not_every_latent_and_no_rolling_sampler():
    with pytest.raises(InputError, match="video must hold finite numbers"):
        Clip(torch.full((1, 16, 3, 4, 4), float("inf")), name="video")
    with pytest.raises(InputError, match="video cannot be given with the sampler rolling"):
        piped(steps=2, sampler="rolling").start(TWO, video=clip(), strength=0.9)
    assert levels_from([1.0, 0.5, 0.0], 0.5) == [0.5, 0.0]


def test_the_command_line_makes_a_film_out_of_a_clip(checkpoint, frames, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("a fox sleeps")
    with VideoWriter(tmp_path / "clip.mp4", 16, (32, 32)) as video:
        video.write(np.repeat(frames(1, 32, 32), 36, 0))
    begin = ["generate", "story.txt", "--model", str(checkpoint), "--steps", "20", "-o", "a.mp4"]
    assert cli.main([*begin, "--video", "clip.mp4", "--strength", "0.5"]) == 0
    said = capsys.readouterr().err
    assert "video: its last 3 of 36 frames fill no chunk and are left out" in said
    assert (
        "video: at strength 0.5 chunks begin at noise level 0.469: the last 3 of 20 passes of each chunk are run"
        in said
    )
    assert len(list(read_video(tmp_path / "a.mp4"))) == 33, "as long as the clip"
    assert json.loads((tmp_path / "a.json").read_text())["shots"][0]["frames"] == [0, 33]
    assert cli.main([*begin, "--strength", "0.5"]) == 2
    assert "--strength is how much of --video is made anew" in capsys.readouterr().err
