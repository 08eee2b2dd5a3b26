"""Samples of a cast: who somebody is comes from pictures that are no part of the film, and the film calls everybody by name.

The pictures are stills whose characters look like a film's; their captions take the film's names. What a director brings is not
always described, so some captions say it all, some leave out the looks and some are the name alone.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

import torch

from causalcine_core.errors import InputError

from ..world.grammar import NAMES, Mention, mentions
from .samples import Reunions, Sample, gather
from .shards import Box, Shards

TRIES = 1000  # films that are looked at for somebody whom a still shows
Caption = Literal["all", "no looks", "name"]


@dataclass(frozen=True)
class _Picture:
    """A still, by number, and its caption and cast under the film's names. described: the caption with all looks."""

    still: int
    prompt: str
    described: str
    cast: dict[str, Box]


def cast(
    films: Shards, reunions: Reunions, rng: random.Random, length: int, references: int, name_only_weight: float
) -> Sample:
    """`references` chunks of one frame, each a still of somebody alone, then `length` chunks of a film that calls by name only
    whoever is among them.

    First everybody whom these chunks name has a picture, as far as there are stills who look the same and places for them; what
    is left shows one of them again, or a stranger under a name that the film does not use. Somebody without a picture is described
    wherever they are named.
    """
    sample, named = _film(films, reunions, rng, length)
    pictured = [m for m in named if reunions.alone(m.looks)]
    rng.shuffle(pictured)
    pictured = pictured[:references]
    shown = list(pictured)
    strangers = [name for name in NAMES if name not in {m.name for m in named}]
    while len(shown) < references:
        other = rng.random() < 0.5 and strangers
        stranger = reunions.stranger(other.pop(), {m.looks for m in (*named, *shown)}, rng) if other else None
        shown.append(stranger or rng.choice(pictured))
    rng.shuffle(shown)
    pictures = [_picture(reunions, mention, rng) for mention in shown]
    names = {m.name for m in pictured}
    prompts = tuple(_by_name(prompt, names) for prompt in sample.described)
    by_name = [a != b for a, b in zip(prompts, sample.described, strict=True)]
    return replace(
        sample,
        latents=torch.cat([*(reunions.latents(p.still) for p in pictures), sample.latents], 1),
        chunks=(1,) * references + sample.chunks,
        prompts=(*(p.prompt for p in pictures), *prompts),
        described=(*(p.described for p in pictures), *sample.described),
        weights=(0.0,) * references + tuple(name_only_weight if by else 1.0 for by in by_name),
        cast=(*(p.cast for p in pictures), *sample.cast),
        references=references,
    )


def _film(films: Shards, reunions: Reunions, rng: random.Random, length: int) -> tuple[Sample, list[Mention]]:
    """`length` chunks of a film and whom they name, one of whom at least a still shows alone."""
    for _ in range(TRIES):
        i = rng.randrange(len(films))
        sample = gather(films, i, _chosen(rng, films.records[i]["shots"][-1]["chunks"][1], length), 1.0)
        looks = {m.name: m for prompt in sample.described for m in mentions(prompt)}
        named = [m for name, m in looks.items() if any(name in prompt for prompt in sample.prompts)]
        if any(reunions.alone(m.looks) for m in named):
            return sample, named
    raise InputError("no still shows anybody of the films alone: more stills are needed to train with a cast")


def _chosen(rng: random.Random, total: int, length: int) -> list[int]:
    """`length` chunks of a film of `total`, in order: one or two in a row, the rest from before them, or after where that is all."""
    run = min(length, rng.choice((1, 1, 2)), total)
    start = rng.randrange(total - run + 1)
    chosen = set(range(start, start + run))
    for others in (range(start), range(start + run, total)):
        chosen |= set(rng.sample(others, min(len(others), length - len(chosen))))
    return sorted(chosen)


def _picture(reunions: Reunions, who: Mention, rng: random.Random) -> _Picture:
    """A still of somebody who looks like this, alone and under this name."""
    still = rng.choice(reunions.alone(who.looks))
    described, boxes = reunions.renamed(still, {who.looks: who.name}, rng)
    caption: Caption = rng.choice(("all", "no looks", "name"))
    prompt = {"all": described, "no looks": _by_name(described, {who.name}), "name": who.name}[caption]
    return _Picture(still, prompt, described, boxes)


def _by_name(prompt: str, names: Collection[str]) -> str:
    """A caption that says nothing of the looks of these characters."""
    for mention in mentions(prompt):
        if mention.name in names:
            prompt = prompt.replace(mention.name + mention.text, mention.name, 1)
    return prompt
