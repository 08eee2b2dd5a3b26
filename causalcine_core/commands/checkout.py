"""The source checkout, whose folders benchmarks/ and training/ are never installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError

SOURCE = Path(__file__).resolve().parents[2]


def import_from_checkout(name: str) -> Any:
    """A module such as `benchmarks.run`. Raises InputError where this is no source checkout."""
    file = f"{name.replace('.', '/')}.py"
    if not (SOURCE / file).is_file():
        raise InputError(f"this needs the source checkout of CausalCine: there is no {file} in {SOURCE}")
    if str(SOURCE) not in sys.path:
        sys.path.insert(0, str(SOURCE))
    return importlib.import_module(name)
