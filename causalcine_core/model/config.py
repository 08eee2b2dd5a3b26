"""Shapes of a Wan text-to-video transformer, with named presets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class WanConfig:
    """Architecture of a Wan transformer (method.md, 1). Names follow Wan2.1's own config."""

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
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        if self.dim % self.num_heads:
            raise InputError(f"model.dim is {self.dim}: it must be a multiple of num_heads ({self.num_heads})")
        if self.head_dim % 2:
            raise InputError(f"model.dim / num_heads is {self.head_dim}: the head dimension must be even")
        if self.patch_size[0] != 1:
            raise InputError(f"model.patch_size is {self.patch_size}: a causal model needs one frame a patch")

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WanConfig:
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise InputError(f"model.{unknown[0]} is not a field of a Wan config; allowed: {', '.join(sorted(known))}")
        return cls(**data)


PRESETS: dict[str, WanConfig] = {
    "nano": WanConfig(dim=256, ffn_dim=768, num_heads=4, num_layers=8, text_dim=256, text_len=56),
    "1.3b": WanConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    "5b": WanConfig(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
    "14b": WanConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
}
