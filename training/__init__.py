"""The scripts that make the built-in model, and measure it."""

from pathlib import Path

HOME = Path.home() / "causalcine-train"  # where runs keep their state, outside the tree: a folder for each recipe
