"""How far a benchmark is, on stderr; its figures go to stdout, each as soon as it is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")


def watched(things: Iterable[T], what: str, total: int | None = None) -> Iterator[T]:
    """The same things, with a bar that says what they are."""
    with _bar(what, len(things) if isinstance(things, range) else total) as bar:
        for thing in things:
            yield thing
            bar.update()


@contextmanager
def counted(what: str) -> Iterator[Callable[[object], None]]:
    """Something to call for each thing of a bar whose length is not known."""
    with _bar(what, None) as bar:

        def tick(_: object) -> None:
            bar.update()

        yield tick


def print_rows(rows: Iterable[tuple[str, Any]], as_json: bool) -> None:
    """Figures by name, each printed as it comes; what comes under one name again is added. as_json: one line of JSON once all are
    there, and nothing else."""
    report: dict[str, Any] = {}
    for name, value in rows:
        if not as_json:
            _print_row(name, value, again=name in report)
        report[name] = report.get(name, {}) | value if isinstance(value, dict) else value
    if as_json:
        print(json.dumps(report), flush=True)


def _print_row(name: str, value: Any, again: bool) -> None:
    if not isinstance(value, dict):
        print(f"{name:28} {value}", flush=True)
        return
    if not again:
        print(f"{name}:")
    for key, inner in value.items():
        print(f"    {key:24} {inner}", flush=True)


def _bar(what: str, total: int | None) -> tqdm[Any]:
    """Where stderr is a file, a line every few seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        file=sys.stderr,
        leave=not terminal,
        mininterval=0.1 if terminal else 5.0,
        dynamic_ncols=True,
    )
