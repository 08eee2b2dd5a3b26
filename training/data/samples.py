"""Samples of a training step, out of shards: what is shown of which films, under which words."""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from causalcine_core.vae import normalize

from ..world import FRAMINGS
from ..world.grammar import NAMES, Mention, mentions, with_looks
from .shards import Box, Shards

Looks = tuple[str, str, str]  # colour, kind and mark


@dataclass(frozen=True)
class Sample:
    """Chunks of one film, ready for a packed pass.

    latents: model space `[C, F, h, w]`. chunks: latent frames of each. prompts: text of each chunk. described: the
    same, with the looks of everybody whom a prompt calls by name only. weights: of each chunk in the loss; those before
    the first weight above 0 are history only. cast: of each frame, who is where: boxes by name. references: how many of the first
    chunks are pictures from outside the film.
    """

    latents: Tensor
    chunks: tuple[int, ...]
    prompts: tuple[str, ...]
    described: tuple[str, ...]
    weights: tuple[float, ...]
    cast: tuple[Mapping[str, Box], ...]
    references: int = 0


def still(shards: Shards, rng: random.Random) -> Sample:
    """One frame: a still, or any latent frame of a film, under its prompt."""
    i = rng.randrange(len(shards))
    shot = rng.choice([s for s in shards.records[i]["shots"] if not s["name_only"]])
    first, end = shot["chunks"]
    latents, chunk = _normal(shards.latents[i]), shards.records[i]["chunk"]
    frame = rng.randrange(latents.shape[1]) if latents.shape[1] < chunk else rng.randrange(first * chunk, end * chunk)
    cast = shards.records[i]["cast"][frame]
    return Sample(latents[:, frame : frame + 1], (1,), (shot["prompt"],), (shot["prompt"],), (1.0,), (cast,))


def clip(shards: Shards, rng: random.Random, length: int, name_only_weight: float) -> Sample:
    """`length` chunks out of one film, in order, chosen so that what is named was shown before.

    The last chunk comes, where the film has one, from a shot that calls its characters by name only; the shots that
    described them give a chunk each, the rest are drawn at random.
    """
    i = rng.randrange(len(shards))
    shots = shards.records[i]["shots"]
    by_name = [n for n, shot in enumerate(shots) if shot["name_only"]]
    target = rng.choice(by_name) if by_name and rng.random() < 0.8 else len(shots) - 1
    first, end = shots[target]["chunks"]
    run = min(length - 1, rng.choice((1, 1, 2)), end - first)
    start = rng.choice((first, rng.randrange(first, end - run + 1)))
    chosen = set(range(start, start + run))
    for name in shots[target]["names"]:
        sources = [s for s in shots[:target] if name in s["names"] and not s["name_only"]]
        if sources and len(chosen) < length:
            chosen.add(rng.randrange(*sources[-1]["chunks"]))
    earlier = [n for n in range(start) if n not in chosen]
    chosen |= set(rng.sample(earlier, min(len(earlier), length - len(chosen))))
    return gather(shards, i, sorted(chosen), name_only_weight)


class Reunions:
    """Samples of recall out of stills: somebody is described in one frame and called by name only in another.

    Any two stills whose characters look alike can be such a pair once the names in their captions are made to agree,
    so 40,000 stills give more meetings than a run can see, and none can be learned by heart.
    """

    def __init__(self, stills: Shards):
        self.stills = stills
        self._alike: dict[Hashable, list[int]] = {}  # by looks; by looks and framing, those who are alone there
        self._alone: list[int] = []
        self._read = 0
        self.refresh()

    def refresh(self) -> None:
        for i in range(self._read, len(self.stills)):
            cast = mentions(self._prompt(i))
            for mention in cast:
                self._alike.setdefault(mention.looks, []).append(i)
            if len(cast) == 1:
                self._alone.append(i)
                self._alike.setdefault((cast[0].looks, None), []).append(i)
                self._alike.setdefault((cast[0].looks, _framing(self._prompt(i))), []).append(i)
        self._read = len(self.stills)

    def draw(self, rng: random.Random, length: int) -> Sample:
        """`length` chunks of one frame. The last calls everybody by name; each of them was described in one of the
        others, its history, which come in any order and are filled up with strangers. The easy cases: up to three chunks
        everybody is alone in the frame; with two there is no stranger, and the scale is the same."""
        everyone = range(self._read) if length > 3 else self._alone
        target = rng.choice(everyone)
        cast = mentions(self._prompt(target))
        called = {m.looks: name for m, name in zip(cast, rng.sample(NAMES, len(cast)), strict=True)}
        kind = {2: _framing(self._prompt(target)), 3: None}
        before = [rng.choice(self._alike[(looks, kind[length]) if length in kind else looks]) for looks in called]
        while len(before) < length - 1:
            stranger = rng.choice(everyone)
            if len({m.looks for m in mentions(self._prompt(stranger))} - set(called)) <= len(NAMES) - len(called):
                before.append(stranger)
        rng.shuffle(before)
        renamed = [self.renamed(i, called, rng) for i in (*before, target)]
        *history, described = (prompt for prompt, _ in renamed)
        last = described
        for mention in mentions(described):
            last = last.replace(mention.text, "", 1)
        return Sample(
            _normal(torch.cat([self.stills.latents[i] for i in (*before, target)], 1)),
            (1,) * length,
            (*history, last),
            (*history, described),
            (0.0,) * (length - 1) + (1.0,),
            tuple(cast for _, cast in renamed),
        )

    def _prompt(self, i: int) -> str:
        return str(self.stills.records[i]["shots"][0]["prompt"])

    def alone(self, looks: Looks) -> Sequence[int]:
        """The stills that show somebody of these looks and nobody else."""
        return self._alike.get((looks, None), ())

    def stranger(self, name: str, known: Collection[Looks], rng: random.Random) -> Mention | None:
        """Somebody who is alone in a still, under this name, and looks like none of those who are known; None: none is found."""
        for i in rng.choices(self._alone, k=20):
            (found,) = mentions(self._prompt(i))
            if found.looks not in known:
                return Mention(name, found.looks, found.text)
        return None

    def latents(self, i: int) -> Tensor:
        """Model space `[C, 1, h, w]` of a still."""
        return _normal(self.stills.latents[i])

    def renamed(self, i: int, called: dict[Looks, str], rng: random.Random) -> tuple[str, dict[str, Box]]:
        """A caption and its cast with the names that belong to these looks; everybody else takes one of the names that
        are left."""
        prompt = self._prompt(i)
        free = [name for name in NAMES if name not in called.values()]
        cast = {}
        for mention in mentions(prompt):
            name = called.get(mention.looks) or free.pop(rng.randrange(len(free)))
            prompt = prompt.replace(mention.name + mention.text, name.upper() + mention.text, 1)
            cast[name] = self.stills.records[i]["cast"][0][mention.name]
        return prompt.replace("[CHARACTER", "[character"), cast


def _framing(caption: str) -> str:
    return next(framing for framing in FRAMINGS if f"{framing} " in caption)


def take(shards: Shards, rng: random.Random, length: int) -> Sample:
    """`length` chunks in a row of a shot that describes everybody: all that a model which never saw a cut is shown."""
    for i in rng.sample(range(len(shards)), len(shards)):
        shots = [shot["chunks"] for shot in shards.records[i]["shots"] if not shot["name_only"]]
        starts = [start for first, end in shots for start in range(first, end - length + 1)]
        if starts:
            start = rng.choice(starts)
            return gather(shards, i, range(start, start + length), 1.0)
    raise ValueError(f"no film has a shot of {length} chunks that describes everybody")


def film(shards: Shards, rng: random.Random, name_only_weight: float) -> Sample:
    """A whole film."""
    i = rng.randrange(len(shards))
    return gather(shards, i, range(shards.records[i]["shots"][-1]["chunks"][1]), name_only_weight)


def story(shards: Shards, i: int, chosen: Sequence[int]) -> Sample:
    """Chunks of these numbers, in this order, of one film; beyond its end its story begins anew."""
    total = story_length(shards, i)
    return gather(shards, i, [n % total for n in chosen], 1.0)


def story_length(shards: Shards, i: int) -> int:
    """Chunks of a film."""
    return int(shards.records[i]["shots"][-1]["chunks"][1])


def spread_out(total: int, count: int, phase: float) -> list[int]:
    """`count` of the numbers from 0 to `total` - 1, at even distances, so that every stretch of a story keeps its share. phase: in
    0..1, where in its distance each lies."""
    return [min(total - 1, int((i + phase) * total / count)) for i in range(count)]


def gather(shards: Shards, i: int, chosen: Sequence[int], name_only_weight: float) -> Sample:
    """These chunks of film `i`."""
    shots, chunk = shards.records[i]["shots"], shards.records[i]["chunk"]
    of = [next(s for s in shots if s["chunks"][0] <= n < s["chunks"][1]) for n in chosen]
    texts = {m.name: m.text for s in reversed(shots) for m in mentions(s["prompt"])}
    frames = [frame for n in chosen for frame in range(n * chunk, (n + 1) * chunk)]
    return Sample(
        _normal(shards.latents[i][:, frames]),
        (chunk,) * len(of),
        tuple(s["prompt"] for s in of),
        tuple(with_looks(s["prompt"], texts) for s in of),
        tuple(name_only_weight if s["name_only"] else 1.0 for s in of),
        tuple(shards.records[i]["cast"][frame] for frame in frames),
    )


def _normal(latents: Tensor) -> Tensor:
    return normalize(latents[None].float())[0]
