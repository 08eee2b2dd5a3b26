"""Retakes: what comes before is kept bit for bit, what follows is made anew, and no more passes than that are made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from causalcine_core import MemorySettings, Pipeline, Shot, State, Story, cli, retake
from causalcine_core.runner import Runner

CHUNK = 12 / 16  # seconds
WORDS = ("a fox", "the snow", "a fox runs", "the fox sleeps", "snow")


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every pass over the network that is made, as its latent frames."""
    made: list[int] = []
    velocity = Runner.velocity

    def counted(self, latents, *args, **kwargs):
        made.append(latents.shape[2])
        return velocity(self, latents, *args, **kwargs)

    monkeypatch.setattr(Runner, "velocity", counted)
    return made


def five(chunks: int = 2, **fields) -> Story:
    return Story([Shot(words, seconds=chunks * CHUNK) for words in WORDS], **fields)


def last(pipe: Pipeline, *given, **asked) -> State:
    state = None
    for chunk in pipe.stream(*given, decode=False, **asked):
        state = chunk.state
    assert state is not None
    return state


def same(film: State, other: State) -> list[bool]:
    """Of each chunk, whether it is the same to the bit in both."""
    return [torch.equal(a, b) for a, b in zip(film.latents, other.latents, strict=True)]


@pytest.mark.parametrize("where", [{"shot": 3}, {"chunk": 5}])
def test_shots_1_and_2_of_5_are_kept_and_only_3_to_5_are_made(pipe, passes, where):
    film = last(pipe, five(), seed=3)
    whole = sum(passes)
    passes.clear()
    again = last(pipe, None, state=retake(film, seed=8, **where))
    assert same(film, again) == [True] * 4 + [False] * 6
    assert 0 < sum(passes) <= whole * 6 / 10 + 3  # the newest chunk that is kept is written into memory
    assert [record.plan for record in again.records] == [record.plan for record in film.records]
    assert [shot.caption for shot in again.shots] == list(WORDS)


def test_a_retake_under_the_same_seed_is_the_same_film(pipe):
    """Memory, recall and noise are as they were: also inside a shot, and of a film that went on under another seed."""
    film = last(pipe, Story([*five(1).shots[:2], Shot("a fox", seconds=2 * CHUNK, seed=11)]), seed=3)
    film = last(pipe, Story(five(1).shots[3:]), state=film, seed=4)
    assert [record.seed for record in film.records] == [3, 3, 11, 11, 4, 4]
    for chunk in range(1, 7):
        assert all(same(film, last(pipe, None, state=retake(film, chunk=chunk)))), chunk


@pytest.mark.parametrize("storage", ["full", "8bit", "host"])
@pytest.mark.parametrize("memory", [True, False])
def test_a_retake_from_a_file_is_that_of_the_film_in_memory(pipe, tmp_path, storage, memory):
    film = last(pipe, five(), seed=3, memory=MemorySettings(storage=storage))
    film.save(tmp_path / "state", memory=memory)
    here = last(pipe, None, state=retake(film, shot=3, seed=8))
    assert all(same(here, last(pipe, None, state=retake(State.load(tmp_path / "state"), shot=3, seed=8))))


def test_what_was_planned_and_not_made_is_made_too(pipe):
    *_, chunk = (chunk for chunk, _ in zip(pipe.stream(five(1), seed=3, decode=False), range(3), strict=False))
    again = retake(chunk.state, shot=2)
    assert again.chunks == 1 and [plan.index for plan in again.planned] == [1, 2, 3, 4]
    assert all(same(last(pipe, None, state=again), last(pipe, five(1), seed=3)))


# --- the command


@pytest.fixture
def film(tmp_path, monkeypatch, checkpoint, capsys) -> tuple[str, ...]:
    """A film of five shots under `s`; the arguments that go on from it."""
    monkeypatch.chdir(tmp_path)
    Path("five.json").write_text(json.dumps({"seed": 3, "shots": [{"prompt": w, "seconds": CHUNK} for w in WORDS]}))
    model = ("--model", str(checkpoint))
    assert cli.main(["generate", "five.json", "-o", "a.mp4", "--save-state", "s", *model]) == 0
    capsys.readouterr()
    return ("continue", "s", *model)


def test_the_command_makes_a_retake(film, passes, capsys):
    asked = ("-o", "b.mp4", "--from-shot", "3", "--seed", "8", "--save-state", "t", "--json")
    assert cli.main([*film, *asked, "--whole"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["written"] == [0, 57]
    assert same(State.load("s"), State.load("t")) == [True, True, False, False, False]
    assert sum(passes) < 3 * 5 * 2  # two passes a chunk, and what is written, of the whole film
    made, again = (json.loads(Path(f"{name}.json").read_text()) for name in "ab")
    assert [shot["frames"] for shot in made["shots"]] == [shot["frames"] for shot in again["shots"]]
    assert cli.main([*film, *asked]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["written"] == [21, 57]
