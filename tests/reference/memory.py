"""What a chunk remembers and recalls: keys and values without rotation, chosen by content, at compact places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .network import Attend, attention, rotated
from .story import Settings, View


@dataclass
class Frame:
    """A remembered frame of one film and branch: unrotated keys and values `[S, H, D]` of every layer, and their descriptors."""

    shot: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    descriptors: dict[int, Tensor] = field(default_factory=dict)
    cold: bool = False

    def cool(self) -> None:
        """Keep it in 8 bits, with one scale for each head."""
        if not self.cold:
            for kept in (self.keys, self.values):
                for layer, x in kept.items():
                    scale = x.abs().amax((0, 2), keepdim=True) / 127
                    kept[layer] = (x / scale).round() * scale
        self.cold = True


def attention_of_chunk(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], gap: int, turns: Sequence[float], columns: int
) -> Tensor:
    """Of a chunk's `q [c, S, H, D]` over the frames it sees, each `[S, H, D]`, in the order of their places; the last c are its own.
    Places are compact, whatever was left out in between. turns: radians in time of each frame, on top of its place."""
    place = torch.arange(len(keys), dtype=q.dtype)
    place[-len(q) :] += gap
    turn = torch.tensor(turns, dtype=q.dtype)
    k = rotated(torch.stack(list(keys)), place, columns, turn)
    q = rotated(q, place[-len(q) :], columns, turn[-len(q) :])
    return attention(q.flatten(0, 1), k.flatten(0, 1), torch.cat(list(values))).unflatten(0, q.shape[:2])


def choose(descriptors: dict[int, Tensor], query: Tensor, top_k: int) -> tuple[list[int], float]:
    """The frames whose descriptors `[H, D]` match the chunk's best, summed over heads, in temporal order; and by how much the last
    of them beat the first that was not chosen."""
    scores = {frame: float((one * query).sum().detach()) for frame, one in descriptors.items()}
    best = sorted(scores, key=lambda frame: -scores[frame])
    margin = scores[best[top_k - 1]] - scores[best[top_k]] if 0 < top_k < len(best) else math.inf
    return sorted(best[:top_k]), margin


def recall(
    routing: str, descriptors: dict[int, Tensor], query: Tensor, newest: Tensor | None, top_k: int
) -> tuple[list[int], float]:
    """What a layer recalls of the frames with these descriptors, in temporal order; and by how much the choice was made.

    newest: descriptor of the newest frame of all, where there is one.
    """
    frames, count = sorted(descriptors), min(top_k, len(descriptors))
    if routing == "sink":
        return frames[:count], math.inf
    if routing == "fifo":
        return frames[len(frames) - count :], math.inf
    if routing == "even":  # the middles of as many equal parts
        return [frames[math.floor((i + 0.5) * len(frames) / count)] for i in range(count)], math.inf
    if routing == "rag" and newest is not None:
        flat = {frame: one.flatten() / one.norm() for frame, one in descriptors.items()}
        return choose(flat, newest.flatten() / newest.norm(), top_k)
    return choose(descriptors, query, top_k)


class Past:
    """What one branch of one film remembers, by number of the frame. margin: the least by which a choice was made."""

    def __init__(self) -> None:
        self.frames: dict[int, Frame] = {}
        self.margin = math.inf

    def look(self, view: View, frames: int, shot: int, settings: Settings, columns: int, keeps: bool = False) -> Look:
        """Self-attention of so many frames under their view. keeps: whether a layer keeps what it chose first."""
        near, far = ([frame for frame in part if frame in self.frames] for part in view[:2])
        recalled: dict[int, list[int]] = {}
        own = [Frame(shot) for _ in range(frames)]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not (keeps and layer in recalled):
                asked = 0 if settings.routing == "rag" else layer
                descriptors = {frame: self.frames[frame].descriptors[asked] for frame in far}
                newest = max((*near, *far), default=None)
                newest = None if newest is None else self.frames[newest].descriptors[asked]
                query = q.mean((0, 1))
                recalled[layer], margin = recall(settings.routing, descriptors, query, newest, settings.top_k)
                self.margin = min(self.margin, margin)
            for i, frame in enumerate(own):
                frame.keys[layer], frame.values[layer], frame.descriptors[layer] = k[i], v[i], k[i].mean(0)
            seen = [*(self.frames[frame] for frame in (*recalled[layer], *near)), *own]
            turns = [settings.shot_angle * (frame.shot - shot) for frame in seen]
            keys, values = [frame.keys[layer] for frame in seen], [frame.values[layer] for frame in seen]
            return attention_of_chunk(q, keys, values, view[2], turns, columns)

        return Look(attend, recalled, own)


@dataclass(frozen=True)
class Look:
    """attend: of a pass. recalled: by each layer in the last pass. own: the frames of that pass, as they would be remembered."""

    attend: Attend
    recalled: dict[int, list[int]]
    own: list[Frame]
