"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Have `write` make a file under a temporary name beside `path`, then rename it; nothing half-written is left."""
    partial = path.with_name(f".causalcine-{secrets.token_hex(6)}{path.suffix}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
