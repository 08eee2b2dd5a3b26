"""`causalcine convert`: a Wan transformer of any known layout as one file that CausalCine runs."""

from __future__ import annotations

import argparse

import torch

from ..convert import convert
from ..errors import InputError


def run(args: argparse.Namespace) -> None:
    if args.alpha is not None and not isinstance(args.alpha, int | float):
        raise InputError(f"alpha is {args.alpha!r}: it must be a number above 0")
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
