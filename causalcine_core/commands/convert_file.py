"""`causalcine convert`: a Wan transformer of any known layout as one file that CausalCine runs."""

from __future__ import annotations

import argparse

import torch

from ..convert import convert


def run(args: argparse.Namespace) -> None:
    made = convert(
        args.source,
        args.output,
        lora=args.lora,
        alpha=args.alpha,
        part=args.part,
        family=args.family,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
    )
    print(made.network)
    print(made.family)
    print(f"{made.path}: {made.bytes / 1e9:.2f} GB")
