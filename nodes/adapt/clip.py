"""CLIP: the built-in text encoder as a CLIP for stock nodes, and how any CLIP encodes prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.sd
import comfy.supported_models_base
import torch
from torch import Tensor, nn

from ...causalcine_core.model import WanConfig
from ...causalcine_core.plan import PlannedShot
from ...causalcine_core.text import NanoTextEncoder, Reading, vocabulary_notes

KEY = "nano"
LENGTH = WanConfig.text_len  # tokens that a Wan model reads of any encoder's text


class Tokenizer:
    """ComfyUI's tokenizer interface over the encoder's vocabulary. Weights such as (word:1.2) are plain text here."""

    def __init__(self, encoder: NanoTextEncoder, embedding_directory: Any = None, tokenizer_data: Any = None):
        self.encoder = encoder

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> dict[str, list[list[tuple]]]:
        ids = self.encoder.ids([text])[0].tolist()
        return {KEY: [[(i, 1.0, n + 1) if return_word_ids else (i, 1.0) for n, i in enumerate(ids)]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class TextModel(nn.Module):
    """ComfyUI's text model interface."""

    disable_offload = True  # small, and its layers are not ComfyUI's: it is loaded whole or not at all

    def __init__(self, encoder: NanoTextEncoder, device: Any = None, dtype: Any = None, model_options: Any = None):
        super().__init__()
        self.encoder = encoder.to(device)
        self.dtypes = {torch.float32}

    def reset_clip_options(self) -> None:
        pass

    def set_clip_options(self, options: dict[str, Any]) -> None:
        pass

    def encode_token_weights(self, tokens: dict[str, list[list[tuple]]]) -> tuple[Tensor, None]:
        ids = torch.tensor([[token[0] for token in row] for row in tokens[KEY]])
        with torch.no_grad():
            return self.encoder(ids.to(self.encoder.positions.device)).float().cpu(), None

    def load_sd(self, state_dict: dict[str, Tensor]) -> Any:
        return self.encoder.load_state_dict(state_dict, strict=False)


def build(encoder: NanoTextEncoder) -> comfy.sd.CLIP:
    target = comfy.supported_models_base.ClipTarget(partial(Tokenizer, encoder), partial(TextModel, encoder))
    return comfy.sd.CLIP(target, parameters=sum(p.numel() for p in encoder.parameters()))


def encode(clip: Any, text: str) -> Tensor:
    """Text context `[1, T, text_dim]` of one prompt, by any CLIP. A cancel ends it before it begins: between two prompts."""
    mm.throw_exception_if_processing_interrupted()
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]


def fingerprint(clip: Any) -> str:
    """Of the built-in text encoder; "" for any other CLIP."""
    tokenizer = getattr(clip, "tokenizer", None)
    return tokenizer.encoder.fingerprint if isinstance(tokenizer, Tokenizer) else ""


def reading(clip: Any) -> Reading:
    """How much of a prompt a CLIP reads, and any Wan model of it."""
    tokenizer = getattr(clip, "tokenizer", None)
    return tokenizer.encoder.reading if isinstance(tokenizer, Tokenizer) else Reading(partial(_count, clip), LENGTH)


def _count(clip: Any, text: str) -> int:
    """Tokens of a text without its padding, which is a run of equal tokens at the end."""
    longest = 0
    for rows in clip.tokenize(text).values():
        tokens = [token[0] for row in rows for token in row]
        end = len(tokens)
        while end > 1 and isinstance(tokens[end - 2], int) and tokens[end - 2] == tokens[-1]:
            end -= 1
        longest = max(longest, end)
    return longest


def vocabulary(clip: Any, shots: Sequence[PlannedShot]) -> list[str]:
    """Sentences about words that a CLIP does not know, where it can tell."""
    tokenizer = getattr(clip, "tokenizer", None)
    return vocabulary_notes(tokenizer.encoder.config, shots) if isinstance(tokenizer, Tokenizer) else []
