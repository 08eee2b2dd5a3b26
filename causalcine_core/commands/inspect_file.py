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

MOST_WORDS = 8  # of a list that is printed whole


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
                print(f"  {key:<18} {cut_off(_said(item), 160)}")
        else:
            print(f"{name:<20} {value:,}" if isinstance(value, int) else f"{name:<20} {value}")


def _said(item: object) -> str:
    """A value on one line; of a long list of words, such as a vocabulary, how many there are and a few of them."""
    if isinstance(item, list | tuple) and len(item) > MOST_WORDS and all(isinstance(word, str) for word in item):
        words = [word for word in item if word.isalpha()] or item
        few = ", ".join(words[:: max(1, len(words) // 5)][:5])
        return f"{len(item):,} words, such as {few}; all of them with --json"
    return item if isinstance(item, str) else json.dumps(item, ensure_ascii=False)
