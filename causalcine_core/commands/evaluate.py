"""`causalcine evaluate MODEL`: the measurements of training/evaluation/."""

from __future__ import annotations

import argparse

from .checkout import import_from_checkout


def run(args: argparse.Namespace) -> None:
    import_from_checkout("training.evaluation.evaluate").main(args.rest)
