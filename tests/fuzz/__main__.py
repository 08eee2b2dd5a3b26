"""Run many mutations of each kind of file, and say what went wrong. Exit code 1 where anything did."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import torch

from .targets import KINDS, Bench, Fault, limit_memory


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; default: all")
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind; default: 10,000")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first mutation: each is made from its number"
    )
    parser.add_argument("--keep", type=Path, help="a folder for the files that did harm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder) / "bench")
        limit_memory()
        for kind in args.kinds or KINDS:
            found += _run(bench, kind, range(args.first, args.first + args.count), args.keep)
    return 1 if found else 0


def _run(bench: Bench, kind: str, numbers: range, where: Path | None) -> int:
    began, slowest, faults = time.perf_counter(), 0.0, Counter[str]()
    for number in numbers:
        start = time.perf_counter()
        try:
            bench.attack(kind, Random(f"{kind} {number}"))
        except Fault as fault:
            text = str(fault).strip()
            last = text.splitlines()[-1][:200]
            place = next((line.strip() for line in reversed(text.splitlines()) if "causalcine_core" in line), "")
            if f"{last} {place}" not in faults:
                print(f"--- {kind} {number}: {text}\n", flush=True)
            faults[f"{last} {place}"] += 1
            if where is not None:
                bench.keep(where / f"{kind}-{number}")
            bench.reset()
        slowest = max(slowest, time.perf_counter() - start)
    seconds = time.perf_counter() - began
    print(
        f"{kind}: {len(numbers):,} files, {faults.total()} faults of {len(faults)} kinds, {seconds:.0f} s, slowest {slowest:.1f} s"
    )
    for text, count in faults.most_common():
        print(f"  {count:>5}  {text}", flush=True)
    return faults.total()


if __name__ == "__main__":
    raise SystemExit(main())
