"""`causalcine inspect`: what a file holds, and what a film with it would need."""

from __future__ import annotations

import argparse
import json

from ..inspect import describe_file, describe_film
from ..story import parse_size
from ..weights.built_in import model_path
from .arguments import memory_settings
from .console import cut_off

FILM = (
    "size",
    "seconds",
    "memory_budget",
    "memory_storage",
    "window",
    "top_k",
    "dtype",
)  # arguments that ask for needs


def run(args: argparse.Namespace) -> None:
    path = model_path(args.file)
    facts = describe_file(path)
    if any(getattr(args, name) is not None for name in FILM):
        size = parse_size(args.size) if args.size is not None else None
        facts["film"] = describe_film(path, memory_settings(args), size=size, seconds=args.seconds, dtype=args.dtype)
    if args.json:
        print(json.dumps(facts))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for key, item in value.items():
                text = item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
                print(f"  {key:<18} {cut_off(text, 160)}")
        else:
            print(f"{name:<20} {value:,}" if isinstance(value, int) else f"{name:<20} {value}")
