"""States of runs on disk: everything that a run needs to go on as if it had never stopped."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from causalcine_core.errors import InputError
from causalcine_core.weights.tensors import write_torch

FORMAT = 2
FIELDS = ("format", "stage", "recipe", "step", "seconds", "samples", "hardware", "skipped", "parts", "own")
PATIENCE = 3  # saves that fail in a row until the run is stopped


class StateFile:
    """The state of a run, written anew as it grows."""

    def __init__(self, path: Path):
        self.path, self._failed = path, 0

    def exists(self) -> bool:
        return self.path.exists()

    def save(self, state: Mapping[str, Any]) -> str | None:
        """Writes a state. Where that fails, the former file stays whole and the reason is given back, in one sentence.

        Raises InputError when it has failed three times in a row.
        """
        try:
            write_torch(self.path, {"format": FORMAT, **state})
        except OSError as error:
            self._failed += 1
            told = f"step {state['step']} is not saved: {error}"
            if self._failed == PATIENCE:
                raise InputError(f"{told}; stopped, since {PATIENCE} saves in a row have failed") from None
            return told
        self._failed = 0
        return None

    def load(self) -> dict[str, Any]:
        return read_state(self.path)


def read_state(path: Path) -> dict[str, Any]:
    """A state as it was written, its tensors on the CPU. Raises InputError where there is none or it is of another form."""
    if not path.is_file():
        raise InputError(f"there is no state {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"state {path} cannot be read ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or any(name not in state for name in FIELDS):
        raise InputError(f"state {path} is of no run of this version (format {FORMAT})")
    return state
