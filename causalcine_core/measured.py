"""What was measured once on this machine, kept in a file of the user's cache."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .atomic import write_atomic


def measured_file(name: str) -> Path:
    """The file of one kind of measurement."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "causalcine" / f"{name}.json"


def read_measured(file: Path | None) -> dict[str, Any]:
    """What is kept there; nothing where there is no file, or one that is damaged."""
    try:
        table = json.loads(file.read_text()) if file else {}
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def keep_measured(file: Path | None, values: dict[str, Any]) -> None:
    """Add to what is kept. Where the file cannot be written, the next process measures again."""
    if file is None:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = json.dumps(read_measured(file) | values, indent=1)
        write_atomic(file, lambda path: path.write_text(table))
    except OSError:
        pass
