"""Shapes of a Wan text-to-video transformer, with named presets."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from .. import checks
from ..errors import InputError

_MOST = {  # of each whole number
    "dim": 32_768,
    "ffn_dim": 262_144,
    "num_heads": 1024,
    "num_layers": 256,
    "in_dim": 4096,
    "out_dim": 4096,
    "freq_dim": 32_768,
    "text_dim": 32_768,
    "text_len": 65_536,
}


@dataclass(frozen=True)
class WanConfig:
    """Architecture of a Wan transformer (Wan2.1, arXiv 2503.20314), under the
    names of Wan2.1's own config. Raises InputError that names the field."""

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    in_dim: int = 16
    out_dim: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    eps: float = 1e-6
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            checks.whole(getattr(self, name), f"model.{name}", 1, most)
        object.__setattr__(
            self, "patch_size", checks.wholes(self.patch_size, "model.patch_size", 1, 64, least=3, most=3)
        )
        checks.number(self.eps, "model.eps", 0, 1)
        checks.number(self.rope_theta, "model.rope_theta", 1, 1e9)
        if self.dim % self.num_heads or self.head_dim % 2:
            raise InputError(f"model.dim must be an even multiple of num_heads ({self.num_heads}), got {self.dim}")
        if self.freq_dim % 2:
            raise InputError(f"model.freq_dim must be even, got {self.freq_dim}")
        if self.patch_size[0] != 1:
            raise InputError(f"model.patch_size[0] must be 1, as a causal model has it, got {self.patch_size[0]}")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> WanConfig:
        """A config out of a header. Raises InputError that names the field, such as model.dim."""
        needed = [field.name for field in fields(cls) if field.default is MISSING]
        return cls(**checks.fields(data, "model", [field.name for field in fields(cls)], needed=needed))


PRESETS: dict[str, WanConfig] = {
    "nano": WanConfig(dim=256, ffn_dim=768, num_heads=4, num_layers=8, text_dim=256, text_len=56),
    "1.3b": WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    "5b": WanConfig(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
    "14b": WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
}
