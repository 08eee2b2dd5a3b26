"""Text encoders: nano's own, which is trained along, or a frozen UMT5 as Wan reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from causalcine_core.errors import InputError
from causalcine_core.model import WanConfig
from causalcine_core.text import NanoTextEncoder, TextConfig


class TextEncoder(Protocol):
    """Whatever a transformer reads its prompts through. One that is an `nn.Module` is trained and saved with it."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to `[M, L, text_dim]`, zero where a prompt has ended."""


@dataclasses.dataclass(frozen=True)
class Text:
    """encoder: "nano", of so many heads and layers, or "umt5", out of `path`: a folder as transformers saves one, its tokenizer
    in it or in its subfolder `tokenizer`. cached: embeddings of how many prompts a frozen encoder keeps."""

    encoder: Literal["nano", "umt5"] = "nano"
    heads: int = 4
    layers: int = 2
    path: str = ""
    cached: int = 4096


def make_text(recipe: Text, config: WanConfig, vocabulary: Sequence[str], device: torch.device) -> TextEncoder:
    """The encoder of a recipe for a transformer. vocabulary: words that nano's own learns. Raises InputError."""
    if recipe.encoder == "nano":
        shape = {"dim": config.text_dim, "heads": recipe.heads, "layers": recipe.layers, "length": config.text_len}
        return NanoTextEncoder(TextConfig(tuple(sorted(vocabulary)), **shape)).to(device)
    return UMT5(Path(recipe.path), config, device, recipe.cached)


class UMT5:
    """A frozen UMT5 encoder out of a folder of transformers."""

    def __init__(self, path: Path, config: WanConfig, device: torch.device, cached: int):
        """Raises InputError where the folder holds none, or one of another width than the transformer reads."""
        try:
            from transformers import AutoTokenizer, UMT5EncoderModel
        except ImportError:
            raise InputError("text.encoder umt5 needs the package transformers: pip install transformers") from None
        words = path / "tokenizer" if (path / "tokenizer").is_dir() else path
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(str(words), local_files_only=True)
            self.net: Any = UMT5EncoderModel.from_pretrained(str(path), dtype=dtype, local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"text.path {path} holds no UMT5 encoder ({str(error).splitlines()[0]})") from None
        width = self.net.config.d_model
        if width != config.text_dim:
            raise InputError(
                f"text.path {path} is {width} wide, but the model reads text of {config.text_dim} (text_dim)"
            )
        self.net = _frozen(self.net, device)
        self.length, self.device, self.cached = config.text_len, device, cached
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        unknown = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if unknown:
            kept = [prompt for prompt in self._known if prompt not in prompts]
            for prompt in kept[: max(0, len(self._known) + len(unknown) - self.cached)]:
                del self._known[prompt]  # the oldest first
            told = self.tokenizer(
                unknown, padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
            ).to(self.device)
            states = self.net(told.input_ids, told.attention_mask).last_hidden_state.float()
            self._known |= dict(zip(unknown, (states * told.attention_mask[..., None]).cpu(), strict=True))
        return torch.stack([self._known[prompt] for prompt in prompts]).to(self.device)


def _frozen(net: Any, device: torch.device) -> Any:
    return net.to(device).eval().requires_grad_(False)
