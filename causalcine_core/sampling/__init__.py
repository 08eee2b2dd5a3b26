"""Noise levels, recipes, and the rollout."""

from .recipe import SAMPLERS, Recipe
from .rollout import Chunk, Network, StepInfo, begin, rollout
from .schedule import add_noise, chunk_generator, predict_clean, sampling_levels, shifted
from .state import ChunkRecord, State

__all__ = [
    "SAMPLERS",
    "Chunk",
    "ChunkRecord",
    "Network",
    "Recipe",
    "State",
    "StepInfo",
    "add_noise",
    "begin",
    "chunk_generator",
    "predict_clean",
    "rollout",
    "sampling_levels",
    "shifted",
]
