"""The report of a run: every figure with its interval and its ceiling, and what made it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from causalcine_core.errors import InputError
from training.components.metrics import machine
from training.world import Film

from .figures import differences, drift_of_readings, figures, quarter
from .films import Result
from .frechet import frechet_between
from .intervals import Estimate, mean
from .pictures import drift, ratios
from .probe import FEATURES, probe_card
from .run import FORMAT, Run


@dataclass
class Results:
    """Of the films of one kind, in one order: made: what was found in them; true: in the truth; kinds: of their stories."""

    films: list[Film] = field(default_factory=list)
    made: list[Result] = field(default_factory=list)
    true: list[Result] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)


def report(run: Run, stories: Results, long: Results, memory: str, against: Path | None = None) -> Result:
    """memory: the name of what was seen of the past. against: folder of another run, which films are compared with story by story."""
    seconds = [r["seconds"] for r in stories.made + long.made]
    making, frames = sum(s["generate"] for s in seconds), sum(r["frames"] for r in stories.made + long.made)
    out: Result = {
        "format": FORMAT,
        "model": {"name": run.pipe.name, "fingerprint": run.pipe.network.fingerprint},
        "recipe": run.pipe.recipe.to_dict(),
        "memory": memory,
        "stories": len(stories.made),
        "seeds": _seeds(stories),
        "figures": _table(stories.made, stories.true) | _distance(run, stories),
        "kinds": _kinds(stories),
        "probe": probe_card(run.probe_file),
        "frames_per_second": round(frames / making, 2) if making else None,
        "seconds": {name: round(sum(s[name] for s in seconds)) for name in ("generate", "without_memory", "read")},
        "hardware": machine(run.pipe.network.device),
    }
    if against is not None:
        out["against"] = _against(stories, against)
    if long.made:
        out["long"] = _long(run, long)
    return out


def _table(made: Sequence[Result], true: Sequence[Result]) -> Result:
    """Figures by name, each with what the truth reaches through the checkpoint's VAE."""
    truth = [{"pictures": r["true_pictures"]} for r in true]

    def all_of(results: Sequence[Result]) -> dict[str, Estimate]:
        return figures(results) | ratios(results, truth, lambda one: one["pictures"])

    out = _with_ceilings(all_of(made), all_of(true))
    if true:
        out["psnr"] = mean([r["psnr"] for r in true]).to_dict() | {"ceiling": None}
    return out


def _with_ceilings(found: dict[str, Estimate], ceilings: dict[str, Estimate]) -> Result:
    return {
        name: one.to_dict() | {"ceiling": ceilings[name].to_dict()["mean"] if name in ceilings else None}
        for name, one in found.items()
    }


def _distance(run: Run, stories: Results) -> Result:
    """The Fréchet distance between made and true films, beside that of the true films through the VAE; and of how many samples."""
    made, codec, true = ([run.features(film, name) for film in stories.films] for name in ("", "codec", "true"))
    one = frechet_between(made, true).to_dict() | {"ceiling": frechet_between(codec, true).to_dict()["mean"]}
    return {"frechet": one | {"features": FEATURES, "samples": sum(len(f) for f in made)}}


def _against(stories: Results, folder: Path) -> Result:
    """InputError where the other run has not made all of these stories, or they are no run's."""
    files = [folder / "films" / f"{film.seed}.json" for film in stories.films]
    missing = [file for file in (folder / "run.json", *files) if not file.is_file()]
    if missing:
        raise InputError(f"against must be the folder of a run on as many stories: there is no {missing[0]}")
    others = [json.loads(file.read_text()) for file in files]
    other = json.loads((folder / "run.json").read_text())
    return {
        "run": folder.name,
        "model": other["model"],
        "figures": {name: one.to_dict() for name, one in differences(stories.made, others).items()},
    }


def _kinds(stories: Results) -> Result:
    """The figures of each kind of story."""
    out = {}
    for kind in dict.fromkeys(stories.kinds):
        which = [i for i, own in enumerate(stories.kinds) if own == kind]
        out[kind] = _table([stories.made[i] for i in which], [stories.true[i] for i in which])
    return out


def _long(run: Run, long: Results) -> Result:
    """Films of a minute: their first and last quarter, how far they drift between them, and whether they blink."""
    parts = {"first_quarter": 0, "last_quarter": 3}
    out: Result = {
        "films": len(long.made),
        "seconds": round(long.made[0]["frames"] / run.pipe.recipe.timeline.fps, 1),
        "seeds": _seeds(long),
    }
    for name, i in parts.items():
        made, true = ([quarter(r, i) for r in results] for results in (long.made, long.true))
        truth = [{"pictures": r["true_quarters"][i]} for r in long.true]
        both = (figures(r) | ratios(r, truth, lambda one: one["pictures"]) for r in (made, true))
        out[name] = _with_ceilings(*both)
    truth_quarters = [r["true_quarters"] for r in long.true]
    out["drift"] = _with_ceilings(
        *(
            drift_of_readings(results) | drift([r["quarters"] for r in results], truth_quarters)
            for results in (long.made, long.true)
        )
    )
    out["flicker"] = {
        name: {
            "worst": round(max(r["flicker"][name] for r in long.made), 3),
            "truth": round(max(r["flicker"][name] for r in long.true), 3),
        }
        for name in ("chunk", "window")
        if all("flicker" in r for r in [*long.made, *long.true])
    }
    return out


def _seeds(results: Results) -> list[int]:
    return [results.films[0].seed, results.films[-1].seed] if results.films else []
