"""`causalcine bench`: the measurements of benchmarks/."""

from __future__ import annotations

import argparse

from .checkout import import_from_checkout


def run(args: argparse.Namespace) -> None:
    import_from_checkout("benchmarks.run").main(args.rest)
