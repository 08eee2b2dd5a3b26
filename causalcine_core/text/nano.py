"""The built-in model's text encoder: a learned vocabulary of whole words and two small transformer layers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ..plan import PlannedShot
from .fit import Reading
from .words import TextConfig, prompt_notes, reading, tokenize

PAD, UNKNOWN = 0, 1  # ids; the first word of the vocabulary is 2


class NanoTextEncoder(nn.Module):
    """Prompts to `[M, length, dim]`, zero where a prompt has ended (as Wan pads its UMT5 text)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self._ids = {word: i + 2 for i, word in enumerate(config.vocabulary)}
        self.tokens = nn.Embedding(len(config.vocabulary) + 2, config.dim, padding_idx=PAD)
        self.positions = nn.Parameter(torch.empty(config.length, config.dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(_TextBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hex digits that change with the vocabulary or the weights."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, weight in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.flatten()[-64:].float().cpu().numpy().tobytes())
        return digest.hexdigest()[:12]

    @property
    def reading(self) -> Reading:
        """How much of a prompt is read."""
        return reading(self.config)

    def notes(self, shots: Sequence[PlannedShot]) -> list[str]:
        """What of these shots will not be read as written, as `prompt_notes` says it."""
        return prompt_notes(self.config, shots)

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token ids `[M, length]`. What of a prompt lies beyond `length` is not read: `fit_shot` first makes it fit."""
        out = torch.full((len(prompts), self.config.length), PAD)
        for row, prompt in enumerate(prompts):
            ids = [self._ids.get(word, UNKNOWN) for word in tokenize(prompt)][: self.config.length]
            out[row, : len(ids)] = torch.tensor(ids, dtype=out.dtype)
        return out

    def forward(self, ids: Tensor) -> Tensor:
        known = ids != PAD
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        mask = (known | ~known.any(1, keepdim=True))[:, None, None]  # an empty prompt attends to padding: no NaN
        for block in self.blocks:
            x = block(x, mask)
        out: Tensor = self.norm(x) * known[..., None]
        return out

    def encode(self, prompts: Sequence[str]) -> Tensor:
        out: Tensor = self(self.ids(prompts).to(self.positions.device))
        return out


class _TextBlock(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.heads = config.heads
        self.norm1, self.norm2 = nn.LayerNorm(config.dim), nn.LayerNorm(config.dim)
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, 3 * config.dim), nn.GELU(approximate="tanh"), nn.Linear(3 * config.dim, config.dim)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        out: Tensor = x + self.ffn(self.norm2(x))
        return out
