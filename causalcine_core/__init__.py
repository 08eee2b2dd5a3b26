"""CausalCine's engine: multi-shot video, streamed chunk by chunk by a causal Wan transformer with routed memory."""

from .errors import InputError
from .memory import MemorySettings
from .pipeline import Pipeline, Video
from .sampling import Chunk, Recipe, State
from .story import Shot, Story

__version__ = "0.1.0"

__all__ = ["Chunk", "InputError", "MemorySettings", "Pipeline", "Recipe", "Shot", "State", "Story", "Video", "__version__"]
