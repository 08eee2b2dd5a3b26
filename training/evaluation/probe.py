"""A small reader of the world's pictures: which place, what time of day, who is there and how they look.

It judges a shot by the votes of its frames. Characters are read by place: the only one, or the left and the right one of two.
Its accuracy on ground truth is the ceiling of every figure that it reads off a model's films. `train_probe` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from causalcine_core.errors import InputError
from causalcine_core.vae import WanVAE, frames_to_uint8, uint8_to_frames
from causalcine_core.weights.header import read_header
from causalcine_core.weights.metadata import read_entry
from causalcine_core.weights.tensors import read_tensors, write_tensors
from training.world import COLOURS, KINDS, MARKS, SETTINGS, TIMES, Shot

ASSET = Path(__file__).parent / "assets" / "probe.safetensors"
FORMAT = "causalcine-probe-1"
LABELS: dict[str, tuple[str, ...]] = {
    "setting": tuple(SETTINGS),
    "time": tuple(TIMES),
    "kind": tuple(KINDS),
    "colour": tuple(COLOURS),
    "mark": tuple(MARKS),
}
PLACE, LOOKS = ("setting", "time"), ("kind", "colour", "mark")
ALONE, LEFT, RIGHT = 0, 1, 2  # regions: the only character of a picture, or one of two
SIZE = 96  # edge of the picture that the probe reads
VOTES = 16  # frames of a shot that vote, at most
WIDTH = 96  # channels of a picture's features; pooled by mean and by maximum
FEATURES = 2 * WIDTH
SAMPLES = 4  # frames of a shot whose features stand for it

Frames = NDArray[np.uint8]


@dataclass(frozen=True)
class Look:
    """What a character was read as. odds: how likely each kind, each colour and each mark is, one after the other, as a mean over
    the frames that vote."""

    kind: str
    colour: str
    mark: str
    odds: tuple[float, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Reading:
    """What a shot was read as; characters from left to right."""

    setting: str
    time: str
    looks: tuple[Look, ...]


class Probe(nn.Module):
    """Pictures `[N, 3, 96, 96]` in -1..1 to logits by name: place `[N, labels]`, looks `[N, 3 regions, labels]`."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            _layer(3, 24, 2, 5),
            _layer(24, 40, 2),
            _layer(40, 48),
            _layer(48, 80, 2),
            _layer(80, WIDTH),
            _layer(WIDTH, WIDTH),
            _layer(WIDTH, WIDTH),
        )
        self.place = nn.ModuleDict({name: nn.Linear(FEATURES, len(LABELS[name])) for name in PLACE})
        self.look = nn.ModuleDict({name: nn.Linear(FEATURES + 3, len(LABELS[name])) for name in LOOKS})

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        features = self.trunk(pictures)  # N C 12 12
        half = features.shape[3] // 2
        regions = [_pool(part) for part in (features, features[..., :half], features[..., half:])]
        out = {name: head(regions[0]) for name, head in self.place.items()}
        which = torch.eye(3, device=pictures.device).expand(len(pictures), 3, 3)
        parts = torch.cat([torch.stack(regions, 1), which], 2)
        return out | {name: head(parts) for name, head in self.look.items()}

    def features(self, pictures: Tensor) -> Tensor:
        """What the heads read of whole pictures `[N, 3, 96, 96]`: `[N, 192]`."""
        return _pool(self.trunk(pictures))


def _layer(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def _pool(features: Tensor) -> Tensor:
    return torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)


# --- reading


def load_probe(path: Path = ASSET) -> Probe:
    """A trained probe, ready to read. InputError where there is none."""
    if not path.is_file():
        raise InputError(
            f"probe {path} does not exist: make it with python -m training.evaluation.train_probe train --vae FILE"
        )
    weights, header = read_tensors(path, "probe")
    if header.metadata.get("format") != FORMAT:
        raise InputError(f"{path} is no probe of this version ({FORMAT}): train it again")
    labels = read_entry(header.metadata, "labels", f"probe {path}")
    if labels != {name: list(known) for name, known in LABELS.items()}:
        raise InputError(f"probe {path} was trained on a world with other words: train it again")
    probe = Probe()
    probe.load_state_dict(
        {name: t.float() for name, t in weights.items()}, strict=False
    )  # batch counters are not stored
    return probe.eval().requires_grad_(False)


def probe_card(path: Path = ASSET) -> dict[str, Any]:
    """What a probe file says of itself."""
    return read_entry(read_header(path, "probe").metadata, "card", f"probe {path}") or {}


@torch.no_grad()
def read_shot(probe: Probe, frames: Frames, characters: int) -> Reading:
    """What the frames of one shot, uint8 `[F, H, W, 3]`, show. characters: one or two, as asked for.

    Up to 16 frames at even distances vote; the sum of their log probabilities decides.
    """
    if characters not in (1, 2):
        raise ValueError(f"a shot holds one or two characters, got {characters}")
    if not len(frames):
        raise ValueError("a shot needs a frame")
    read = {name: F.log_softmax(logits, -1) for name, logits in probe(_pictures(frames, VOTES)).items()}
    votes = {name: logs.sum(0) for name, logs in read.items()}
    odds = torch.cat([read[name].exp().mean(0) for name in LOOKS], 1)  # regions, labels
    looks = []
    for region in (ALONE,) if characters == 1 else (LEFT, RIGHT):
        kind, colour, mark = (LABELS[name][int(votes[name][region].argmax())] for name in LOOKS)
        looks.append(Look(kind, colour, mark, tuple(odds[region].tolist())))
    setting, when = (LABELS[name][int(votes[name].argmax())] for name in PLACE)
    return Reading(setting, when, tuple(looks))


@torch.no_grad()
def features_of(probe: Probe, frames: Frames, ranges: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Features `[n, 192]` of up to four frames of every shot, at even distances. ranges: the shots' frames `[first, end)`."""
    shots = [probe.features(_pictures(frames[first:end], SAMPLES)) for first, end in ranges if end <= len(frames)]
    features: NDArray[np.float32] = torch.cat(shots).numpy()
    return features


def _pictures(frames: Frames, most: int) -> Tensor:
    """At most so many frames of a shot as the probe reads them, `[N, 3, 96, 96]`."""
    which = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    pictures = uint8_to_frames(torch.from_numpy(np.ascontiguousarray(frames[which])))[0].transpose(0, 1)
    if pictures.shape[2:] != (SIZE, SIZE):
        pictures = F.interpolate(pictures, (SIZE, SIZE), mode="bilinear", antialias=True)
    return pictures


def judge(reading: Reading, shot: Shot) -> dict[str, Any]:
    """What of a shot was read as it was asked: `setting`, `time`, and for each of its `cast` kind, colour and mark, and the odds
    where the reading has them.

    Two characters may stand either way round; the way that agrees more counts.
    """
    asked = [Look(c.kind, c.colour, c.mark) for c in shot.characters]
    ways = [
        [
            {name: getattr(look, name) == getattr(want, name) for name in LOOKS}
            | ({"odds": [round(p, 4) for p in look.odds]} if look.odds else {})
            for look, want in zip(way, asked, strict=True)
        ]
        for way in permutations(reading.looks, len(asked))
    ]
    cast = max(ways, key=lambda way: sum(hit["kind"] + hit["colour"] for hit in way))
    return {"setting": reading.setting == shot.setting, "time": reading.time == shot.time, "cast": cast}


def round_trip(vae: WanVAE, frames: Frames) -> Frames:
    """A film's frames uint8 `[F, H, W, 3]` (F = 1 + 4n) as the VAE gives them back, in pieces."""
    out, encoder, decoder = [], None, None
    device = next(vae.parameters()).device
    with torch.no_grad():
        for piece in np.split(frames, range(49, len(frames), 48)):
            latent, encoder = vae.encode(
                uint8_to_frames(torch.from_numpy(np.ascontiguousarray(piece))).to(device), encoder
            )
            video, decoder = vae.decode(latent, decoder)
            out.append(frames_to_uint8(video).cpu().numpy())
    return np.concatenate(out)


def save_probe(probe: Probe, path: Path, card: dict[str, Any]) -> None:
    """Write a probe as half-precision safetensors; it appears under its name only when it is whole."""
    weights = {n: t.half() for n, t in probe.state_dict().items() if not n.endswith("num_batches_tracked")}
    metadata = {"format": FORMAT, "labels": json.dumps(LABELS), "card": json.dumps(card)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, weights, metadata)
