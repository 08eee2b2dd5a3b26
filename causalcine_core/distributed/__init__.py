"""One film on several devices."""

from .sequence_parallel import SequenceParallel

__all__ = ["SequenceParallel"]
