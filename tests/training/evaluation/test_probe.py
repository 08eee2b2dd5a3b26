"""The probe: what it promises to read, how votes and pairs count, and that the shipped one reads the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from causalcine_core.errors import InputError
from training.evaluation import probe as probes
from training.evaluation import train_probe
from training.evaluation.probe import (
    ASSET,
    LABELS,
    Look,
    Probe,
    Reading,
    judge,
    load_probe,
    read_shot,
    save_probe,
)
from training.evaluation.train_probe import check
from training.world import make_film

FILM = make_film(60_000_009)


@pytest.fixture(scope="module")
def untrained() -> Probe:
    torch.manual_seed(0)
    return Probe().eval().requires_grad_(False)


def truth(shot) -> Reading:
    return Reading(shot.setting, shot.time, tuple(Look(c.kind, c.colour, c.mark) for c in shot.characters))


def two_shot():
    film = next(f for f in map(make_film, range(60_000_000, 60_001_000)) if any(len(s.cast) == 2 for s in f.shots))
    return next(s for s in film.shots if len(s.cast) == 2)


@pytest.mark.parametrize("size", [(96, 96), (64, 128)])
@pytest.mark.parametrize("frames", [1, 5, 40])
def test_a_shot_is_read_in_the_worlds_words(untrained, size, frames):
    pictures = np.random.default_rng(0).integers(0, 256, (frames, *size, 3), np.uint8)
    for characters in (1, 2):
        reading = read_shot(untrained, pictures, characters)
        assert reading.setting in LABELS["setting"]
        assert reading.time in LABELS["time"]
        assert len(reading.looks) == characters
        assert all(getattr(look, name) in LABELS[name] for look in reading.looks for name in ("kind", "colour", "mark"))


def test_what_cannot_be_a_shot_is_refused(untrained):
    with pytest.raises(ValueError, match="one or two characters"):
        read_shot(untrained, np.zeros((1, 96, 96, 3), np.uint8), 3)
    with pytest.raises(ValueError, match="needs a frame"):
        read_shot(untrained, np.zeros((0, 96, 96, 3), np.uint8), 1)


def test_frames_vote():
    class Script(torch.nn.Module):
        """Sees the first kind in bright pictures with little doubt, the second in dark ones with less."""

        def forward(self, pictures):
            bright = pictures.mean((1, 2, 3)) > 0
            n = len(pictures)
            out = {name: torch.zeros(n, len(LABELS[name])) for name in ("setting", "time")}
            out |= {name: torch.zeros(n, 3, len(LABELS[name])) for name in ("kind", "colour", "mark")}
            out["kind"][..., 0] = torch.where(bright, 3.0, 0.0)[:, None]
            out["kind"][..., 1] = torch.where(bright, 0.0, 4.0)[:, None]
            return out

    frames = np.zeros((10, 96, 96, 3), np.uint8)
    assert read_shot(Script(), frames, 1).looks[0].kind == LABELS["kind"][1]
    frames[:6] = 255
    assert read_shot(Script(), frames, 1).looks[0].kind == LABELS["kind"][0]


def test_judging_knows_right_from_wrong():
    shot = FILM.shots[0]
    right = judge(truth(shot), shot)
    assert right["setting"]
    assert right["time"]
    assert all(all(one.values()) for one in right["cast"])
    character = shot.characters[0]
    other = next(k for k in LABELS["kind"] if k != character.kind)
    wrong = Reading("nowhere", shot.time, (Look(other, character.colour, character.mark), *truth(shot).looks[1:]))
    seen = judge(wrong, shot)
    assert not seen["setting"]
    assert seen["cast"][0] == {"kind": False, "colour": True, "mark": True}


def test_two_characters_may_stand_either_way_round_but_not_swap_parts():
    shot = two_shot()
    a, b = truth(shot).looks
    swapped = judge(Reading(shot.setting, shot.time, (b, a)), shot)
    assert all(all(one.values()) for one in swapped["cast"])
    mixed = judge(
        Reading(shot.setting, shot.time, (Look(a.kind, b.colour, a.mark), Look(b.kind, a.colour, b.mark))), shot
    )
    assert sum(one["kind"] and one["colour"] for one in mixed["cast"]) == 0


def test_training_pictures_carry_the_truth_and_a_step_learns():
    pictures = train_probe.training_pictures(train_probe.draw(24, 2), None)
    assert pictures.frames.shape == (34, 96, 96, 3)
    assert pictures.labels["kind"].shape == (34, 2)
    assert set(pictures.count.tolist()) <= {1, 2}
    first = train_probe.train(pictures, steps=1, batch=8)
    later = train_probe.train(pictures, steps=6, batch=8)
    clean = pictures.frames.permute(0, 3, 1, 2).float() / 127.5 - 1

    def value(net: Probe) -> float:
        net.train()  # the running statistics of six steps say little
        with torch.no_grad():
            return train_probe.loss(net, clean, pictures.labels, pictures.count).item()

    assert value(later) < value(first)


def test_augmented_pictures_stay_pictures():
    pictures = torch.rand(6, 3, 96, 96) * 2 - 1
    out = train_probe.augment(pictures, torch.Generator().manual_seed(0))
    assert out.shape == pictures.shape
    assert out.min() >= -1
    assert out.max() <= 1
    assert not torch.equal(out, pictures)


def test_a_probe_is_read_back_as_it_was_written(tmp_path, untrained):
    path = tmp_path / "probe.safetensors"
    save_probe(untrained, path, {"command": "test"})
    frames = FILM.render(0, 4)
    assert read_shot(load_probe(path), frames, 1) == read_shot(untrained, frames, 1)
    assert probes.probe_card(path) == {"command": "test"}


def test_files_that_are_no_probe_are_refused(tmp_path, untrained, monkeypatch):
    with pytest.raises(InputError, match="does not exist: make it with"):
        load_probe(tmp_path / "none.safetensors")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"probe .* looks like a Git LFS pointer"):
        load_probe(bad)
    good = tmp_path / "good.safetensors"
    save_probe(untrained, good, {})
    monkeypatch.setitem(LABELS, "kind", (*LABELS["kind"][:-1], "dragon"))
    with pytest.raises(InputError, match="other words"):
        load_probe(good)


@pytest.mark.skipif(not ASSET.is_file(), reason="no trained probe in this checkout")
def test_the_shipped_probe_reads_the_truth():
    found = check(load_probe(), (make_film(60_000_100 + i) for i in range(3)), None)
    for name in ("setting", "time", "kind", "colour"):
        assert found[name]["accuracy"] >= 0.9, (name, found[name])
