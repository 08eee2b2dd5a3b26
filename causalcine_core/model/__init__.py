"""The causal Wan transformer."""

from ..weights.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from .config import PRESETS, WanConfig
from .kernels import KERNELS
from .load import NetworkFile, load_transformer, read_network
from .transformer import CausalWanTransformer, Compute, TextKV, forward, project_text

__all__ = [
    "KERNELS",
    "PRESETS",
    "CausalWanTransformer",
    "Checkpoint",
    "Compute",
    "NetworkFile",
    "TextKV",
    "WanConfig",
    "forward",
    "load_checkpoint",
    "load_transformer",
    "project_text",
    "read_network",
    "save_checkpoint",
]
