"""Curves of a run: a line of JSON every so often, to the screen and to a file, with the means since the last one."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Log:
    """Running means of whatever is measured, by name."""

    def __init__(self, path: Path):
        self.path, self._values = path, dict[str, list[Tensor]]()
        self._told = False

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Scalars of one update; they stay where they are until they are written."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach())

    def write(self, **facts: Any) -> None:
        """A line of facts and of the means since the last line."""
        means = {name: round(torch.stack(some).float().mean().item(), 5) for name, some in sorted(self._values.items())}
        self._values = {}
        self.note(**facts, mean=means)

    def note(self, **facts: Any) -> None:
        """A line of facts alone."""
        line = json.dumps(facts)
        print(line, flush=True)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            if not self._told:  # a full disk is no reason to stop, and said once
                print(f"{self.path} cannot be written ({error.strerror}): the run goes on without it", flush=True)
            self._told = True


def machine(device: torch.device) -> str:
    """What a run is computed on, for its card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores"


def remaining(seconds: float) -> str:
    """A duration as people read it: `2 h 05 min`, `12 min`, `40 s`."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"
