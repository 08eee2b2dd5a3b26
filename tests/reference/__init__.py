"""The method written down once more, to test the engine against: plain, slow, and independent of it.

What a film is, from weights, texts and settings, in float64: the Wan2.1 transformer (`network`), cuts (`story`), Content-Aware Memory
Routing and Block-Relative RoPE (`memory`; CausalCine, arXiv, May 2026, Sec. 3.3), guidance, context noise and the budget (`film`),
samplers, and the packed pass of teacher forcing. One film, one branch and one chunk at a time; nothing is kept but what the method
remembers. Only the rule of randomness is the engine's own.
"""

from .film import Film, Made
from .network import Network
from .story import Settings, Shot
from .teacher_forcing import teacher_forcing

__all__ = ["Film", "Made", "Network", "Settings", "Shot", "teacher_forcing"]
