"""What a launcher says of this process, and what can be refused before anything heavy is imported: no torch here."""

from __future__ import annotations

import contextlib
import os
import time

from ..errors import InputError
from ..weights.built_in import model_path
from ..weights.header import read_header
from ..weights.metadata import ENTRY, read_entry

GRACE = 5.0  # seconds


def launched_ranks() -> int:
    """How many ranks a launcher such as torchrun started, this process among them; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_rank() -> bool:
    """Whether this process is the one that writes and speaks for all: rank 0, or alone."""
    return os.environ.get("RANK", "0") == "0"


def wait_for_first_rank() -> None:
    """Before another rank than the first gives up: the launcher ends it as soon as the first one has, with whatever is wrong with
    all of them. Whoever is still there after this is alone in it."""
    with contextlib.suppress(KeyboardInterrupt):
        time.sleep(GRACE)


def share_heads(ranks: int, heads: int) -> int:
    """How many of a network's attention heads each rank has. Raises InputError where they cannot be shared out evenly."""
    if heads % ranks:
        fitting = [n for n in range(1, heads + 1) if heads % n == 0]
        raise InputError(
            f"{ranks} workers cannot share {heads} attention heads evenly: start {', '.join(map(str, fitting))}"
        )
    return heads // ranks


def check_launch(model: str | os.PathLike[str]) -> None:
    """Whether the ranks that were started can share the heads of a model, `nano` or an all-in-one file, by its header. Raises
    InputError where they cannot, or the file is none."""
    ranks = launched_ranks()
    if ranks == 1:
        return
    path = model_path(model)
    card = read_entry(read_header(path).metadata, ENTRY, f"checkpoint {path}") or {}
    config = card.get("model")
    heads = config.get("num_heads") if isinstance(config, dict) else None
    if isinstance(heads, int):  # else whoever loads it says what is wrong
        share_heads(ranks, heads)
