"""What made a file of weights, in plain words and numbers: the card in its header."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def card(state: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Of a run's state. more: further entries, such as the quality that was measured."""
    return {
        "stage": state["stage"],
        "data": "training.world: procedural films rendered by this repository, no downloads",
        "seed": state["recipe"]["run"]["seed"],
        "hardware": "; ".join(f"{name}: {seconds / 3600:.2f} h" for name, seconds in state["hardware"].items()),
        "torch": torch.__version__,
        "hours": round(state["seconds"] / 3600, 2),
        "steps": state["step"],
        "samples": state["samples"],
        "recipe": state["recipe"],
        **more,
    }
