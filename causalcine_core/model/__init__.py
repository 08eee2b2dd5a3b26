"""The causal Wan transformer."""

from .checkpoint import Checkpoint, load_checkpoint, load_transformer, save_checkpoint
from .config import PRESETS, WanConfig
from .transformer import CausalWanTransformer, TextKV, forward, project_text

__all__ = [
    "PRESETS",
    "CausalWanTransformer",
    "Checkpoint",
    "TextKV",
    "WanConfig",
    "forward",
    "load_checkpoint",
    "load_transformer",
    "project_text",
    "save_checkpoint",
]
