"""Models that come with CausalCine, by name: every command and loader asks here what a name stands for."""

from __future__ import annotations

import os
from pathlib import Path

ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN = {"nano": ASSETS / "nano.safetensors"}


def model_path(source: str | os.PathLike[str]) -> Path:
    """The file of a model: of a built-in one by its name, else the path itself."""
    return BUILT_IN.get(str(source), Path(source))
