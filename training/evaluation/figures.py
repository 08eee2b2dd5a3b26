"""Figures of a set of films, from what the readers found in each: means and shares with their intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .cuts import cut_scores
from .intervals import Estimate, difference, mean, proportion
from .probe import LOOKS, PLACE

Result = dict[str, Any]


def figures(results: Sequence[Result]) -> dict[str, Estimate]:
    """Every figure of a set of films, by name."""
    out = cut_figures([(r["cuts"]["found"], r["cuts"]["asked"]) for r in results])
    shots = [r["shots"] for r in results]
    for name in PLACE:
        out[name] = proportion([[shot[name] for shot in film] for film in shots])
    out |= look_figures(shots)
    out["consistency"] = consistency(shots)
    recalled = look_hits(shots, lambda one: one["recalled"])
    out |= {f"by_name_{name}": proportion(hits) for name, hits in recalled.items()}
    compared = [r for r in results if "shots_without_memory" in r]
    if compared:
        without = look_hits([r["shots_without_memory"] for r in compared], lambda one: one["recalled"])
        routed = look_hits([r["shots"] for r in compared], lambda one: one["recalled"])
        out |= {f"by_name_{name}_top_k_0": proportion(hits) for name, hits in without.items()}
        out |= {f"by_name_{name}_gain": difference(routed[name], hits) for name, hits in without.items()}
    return out


def cut_figures(films: Sequence[tuple[Sequence[int], Sequence[int]]]) -> dict[str, Estimate]:
    """Mean F1, precision and recall of (found, asked) cuts by film, and the mean offset of what matched."""
    scores = [cut_scores(found, asked) for found, asked in films]
    return {
        "cut_f1": mean([s.f1 for s in scores]),
        "cut_precision": mean([s.precision for s in scores]),
        "cut_recall": mean([s.recall for s in scores]),
        "cut_offset": mean([s.offset for s in scores if s.offset is not None]),
    }


def look_figures(shots: Sequence[list[Result]]) -> dict[str, Estimate]:
    """Kind, colour and mark of the characters that their shot describes: of all, and apart by how many are there."""
    out = {name: proportion(hits) for name, hits in look_hits(shots, lambda one: not one["by_name"]).items()}
    for count, label in ((1, "alone"), (2, "of_two")):
        some = [[shot for shot in film if len(shot["cast"]) == count] for film in shots]
        hits = look_hits(some, lambda one: not one["by_name"])
        out |= {f"{name}_{label}": proportion(hits[name]) for name in ("kind", "colour")}
    return out


def look_hits(shots: Sequence[list[Result]], wanted: Callable[[Result], bool]) -> dict[str, list[list[bool]]]:
    """For every look the hits of each film's `wanted` characters."""
    casts = [[one for shot in film for one in shot["cast"] if wanted(one)] for film in shots]
    return {name: [[one[name] for one in cast] for cast in casts] for name in LOOKS}


def differences(results: Sequence[Result], others: Sequence[Result]) -> dict[str, Estimate]:
    """What the films of one run have more than those of another, of the same stories in the same order: shares are paired character
    by character and shot by shot."""
    pairs = list(zip(results, others, strict=True))
    f1 = [[cut_scores(r["cuts"]["found"], r["cuts"]["asked"]).f1 for r in pair] for pair in pairs]
    out = {"cut_f1": mean([a - b for a, b in f1])}
    shots = [[r["shots"] for r in run] for run in (results, others)]
    for name in PLACE:
        out[name] = difference(*([[shot[name] for shot in film] for film in films] for films in shots))
    for label, wanted in (("", lambda one: not one["by_name"]), ("by_name_", lambda one: one["recalled"])):
        ours, theirs = (look_hits(films, wanted) for films in shots)
        out |= {f"{label}{name}": difference(ours[name], theirs[name]) for name in LOOKS}
    return out


def consistency(shots: Sequence[list[Result]]) -> Estimate:
    """How alike a character is read in different shots of a film, whatever was asked: the mean over pairs of shots of the cosine of
    the probe's odds of kind, colour and mark; a mean over films of that. 1: surely the same, 0: surely another."""
    of_films = []
    for film in shots:
        seen: dict[str, list[list[float]]] = {}
        for one in (one for shot in film for one in shot["cast"] if "odds" in one):
            seen.setdefault(one["name"], []).append(one["odds"])
        pairs = [pair for odds in seen.values() for pair in combinations(np.array(odds), 2)]
        if pairs:
            of_films.append(float(np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in pairs])))
    return mean(of_films)


def drift_of_readings(results: Sequence[Result]) -> dict[str, Estimate]:
    """How much the share of what is read as asked moves from the first quarter of a film to its last, as a mean of the films'
    differences; 0: nothing."""
    out = {}
    for name in ("setting", "kind", "colour"):
        moved = []
        for result in results:
            first, last = (_share(quarter(result, i), name) for i in (0, 3))
            if first is not None and last is not None:
                moved.append(last - first)
        out[name] = mean(moved)
    return out


def _share(result: Result, name: str) -> float | None:
    """Of the shots of a film or quarter, or of their characters; None without any."""
    shots = result["shots"]
    hits = [shot[name] for shot in shots] if name in PLACE else [one[name] for shot in shots for one in shot["cast"]]
    return sum(hits) / len(hits) if hits else None


def quarter(result: Result, index: int) -> Result:
    """The part of a film's result that lies in one of its quarters: shots by their middle, cuts by their frame."""
    low, high = (result["frames"] * index / 4, result["frames"] * (index + 1) / 4)
    shots = [shot for shot in result["shots"] if low <= sum(shot["frames"]) / 2 < high]
    cuts = {name: [cut for cut in result["cuts"][name] if low <= cut < high] for name in ("asked", "found")}
    return {**result, "shots": shots, "cuts": cuts}
