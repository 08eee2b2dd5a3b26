"""Films beside another program that wants all cores, and alone: by one thread, by all, and by as many as the engine chooses."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from causalcine_core import Pipeline, Story
from causalcine_core.threads import Threads

from .progress import watched

BUSY = "while True: pass"


def beside_a_neighbour(pipe: Pipeline, story: Story, chunks: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Seconds of the first chunks of a story, four steps unguided; none where there is only one core."""
    most = torch.get_num_threads()
    if most == 1:
        return
    for name, neighbours in (("alone", 0), ("beside a busy neighbour", os.cpu_count() or 1)):
        with _neighbours(neighbours):
            seconds = {
                "one_thread": _seconds(pipe, story, chunks, 1, fixed=True),
                "all_threads": _seconds(pipe, story, chunks, most, fixed=True),
                "chosen": _seconds(pipe, story, chunks, most, fixed=False),
            }
        better = min(seconds["one_thread"], seconds["all_threads"])
        yield name, seconds | {"chosen_over_better": round(seconds["chosen"] / better, 2)}


def _seconds(pipe: Pipeline, story: Story, chunks: int, threads: int, *, fixed: bool) -> float:
    before, made_by = torch.get_num_threads(), replace(pipe.network, threads=Threads(fixed=fixed))
    pipe = Pipeline(made_by, pipe.text, pipe.vae, pipe.recipe, pipe.name)
    torch.set_num_threads(threads)
    try:
        began = time.perf_counter()
        stream = pipe.stream(story, steps=4, guidance=1.0)
        for chunk in watched(stream, f"chunks, {'fixed' if fixed else 'chosen'}", chunks):
            if chunk.index + 1 == chunks:
                break
        return round(time.perf_counter() - began, 3)
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _neighbours(count: int) -> Iterator[None]:
    """So many processes that do nothing, as fast as they can."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
