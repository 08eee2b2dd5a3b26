"""Noise levels, recipes, and the rollout."""

from ..runner import Runner
from .chunk import StepInfo
from .denoise import ChunkVelocity, denoise
from .families import FAMILIES, Choice, Family, choose_family, find_family
from .label import Label
from .recipe import SAMPLERS, Recipe
from .rollout import Chunk, begin, rollout
from .schedule import add_noise, chunk_generator, predict_clean, reshifted, sampling_levels, shifted, warped
from .state import ChunkRecord, Pending, State

__all__ = [
    "FAMILIES",
    "SAMPLERS",
    "Choice",
    "Chunk",
    "ChunkRecord",
    "ChunkVelocity",
    "Family",
    "Label",
    "Pending",
    "Recipe",
    "Runner",
    "State",
    "StepInfo",
    "add_noise",
    "begin",
    "choose_family",
    "chunk_generator",
    "denoise",
    "find_family",
    "predict_clean",
    "reshifted",
    "rollout",
    "sampling_levels",
    "shifted",
    "warped",
]
