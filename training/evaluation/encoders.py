"""Encoders of real pictures, read from folders on this machine: CLIP, DINO, DINOv2 as transformers loads them, and LAION's head.

Nothing is fetched and no code out of a folder is run. transformers comes with `pip install causalcine[eval]`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from causalcine_core.errors import InputError
from causalcine_core.weights.tensors import read_tensors

INSTALL = "pip install causalcine[eval] (in a source checkout: make install)"
PIECE = 16  # pictures that are computed at once
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation, where a folder says none

Frames = NDArray[np.uint8]


class ImageEncoder:
    """Pictures to features of unit length, by the vision model in a folder: config.json, its weights, and preprocessor_config.json for
    the size, mean and deviation that it reads. Of a CLIP the projected features are taken, of others the class token's."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu"):
        """Raises InputError where the folder, its model or transformers is missing."""
        self.folder, self.device = folder, torch.device(device)
        self.net: Any = _model(folder).to(self.device).eval().requires_grad_(False)
        self.is_clip = hasattr(self.net, "visual_projection")
        told = _json(folder / "preprocessor_config.json")
        vision = getattr(self.net.config, "vision_config", self.net.config)
        self.size = _edge(told.get("crop_size") or told.get("size")) or int(getattr(vision, "image_size", 224))
        mean, deviation = told.get("image_mean", IMAGENET[0]), told.get("image_std", IMAGENET[1])
        self._mean, self._deviation = (torch.tensor(of, device=self.device).view(3, 1, 1) for of in (mean, deviation))

    @torch.no_grad()
    def __call__(self, frames: Frames) -> Tensor:
        """Features `[N, d]` on the CPU, float32, of uint8 `[N, H, W, 3]`: resized by the shorter side, the middle square read."""
        out = []
        for piece in torch.from_numpy(np.ascontiguousarray(frames)).split(PIECE):
            pictures = self._prepared(piece)
            if self.is_clip:
                features = self.net.visual_projection(self.net.vision_model(pixel_values=pictures).pooler_output)
            else:
                features = self.net(pixel_values=pictures).last_hidden_state[:, 0]
            out.append(F.normalize(features.float(), dim=-1).cpu())
        return torch.cat(out)

    def _prepared(self, frames: Tensor) -> Tensor:
        pictures = frames.to(self.device).permute(0, 3, 1, 2).float() / 255
        high, wide = pictures.shape[2:]
        scale = self.size / min(high, wide)
        shape = [max(self.size, round(side * scale)) for side in (high, wide)]
        pictures = F.interpolate(pictures, shape, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((side - self.size) // 2 for side in shape)
        pictures = pictures[:, :, top : top + self.size, left : left + self.size]
        return (pictures - self._mean) / self._deviation

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Features `[N, d]` of texts, of a CLIP alone; what is too long for it is cut off."""
        if not self.is_clip:
            raise InputError(f"{self.folder} reads no texts: it holds no CLIP")
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.folder} holds no tokenizer ({_first_line(error)})") from error
        most = self.net.config.text_config.max_position_embeddings
        tokens = tokenizer(list(prompts), padding=True, truncation=True, max_length=most, return_tensors="pt")
        given = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
        features = self.net.text_projection(self.net.text_model(**given).pooler_output)
        return F.normalize(features.float(), dim=-1).cpu()


class AestheticHead:
    """LAION's aesthetic predictor: linear layers one after the other over CLIP features of unit length (the versions of one layer and
    of five; dropout between them does nothing here, and no other function stands there). Scores are 1 to 10."""

    def __init__(self, file: Path):
        """file: .pth or .safetensors with `weight` and `bias`, or with those of `layers.N`. InputError for any other."""
        tensors = _tensors(file)
        names = sorted(
            {name.rpartition(".")[0] for name in tensors}, key=lambda n: [int(p) for p in n.split(".") if p.isdecimal()]
        )
        self.layers: list[tuple[Tensor, Tensor]] = []
        for name in names:
            weight, bias = (tensors.get(f"{name}.{part}".lstrip(".")) for part in ("weight", "bias"))
            if weight is None or bias is None or weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise InputError(
                    f"{file} is no aesthetic head: {name or 'it'} must hold a linear layer's weight and bias"
                )
            self.layers.append((weight.float(), bias.float()))
        fits = all(a[0].shape[0] == b[0].shape[1] for a, b in zip(self.layers, self.layers[1:], strict=False))
        if not self.layers or not fits or self.layers[-1][0].shape[0] != 1:
            raise InputError(
                f"{file} is no aesthetic head: its linear layers must follow one another and end in one number"
            )

    def __call__(self, features: Tensor) -> Tensor:
        """Scores `[N]` of features `[N, d]`. InputError where they are another CLIP's."""
        wanted = self.layers[0][0].shape[1]
        if features.shape[1] != wanted:
            raise InputError(f"the aesthetic head reads {wanted} features, but the CLIP given has {features.shape[1]}")
        for weight, bias in self.layers:
            features = features @ weight.T + bias
        return features[:, 0]


def _model(folder: Path) -> nn.Module:
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no folder of a model: there is no config.json in it")
    if importlib.util.find_spec("transformers") is None:
        raise InputError(f"transformers is not installed: {INSTALL}")
    from transformers import AutoModel

    try:
        net: nn.Module = AutoModel.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder} holds no model that transformers reads ({_first_line(error)})") from error
    return net


def _tensors(file: Path) -> Mapping[str, Tensor]:
    if not file.is_file():
        raise InputError(f"aesthetic head {file} does not exist")
    if file.suffix == ".safetensors":
        return read_tensors(file, "aesthetic head")[0]
    try:
        read = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a pickle of something else raises
        raise InputError(f"{file} cannot be read as tensors ({_first_line(error)})") from error
    if not isinstance(read, Mapping) or not all(isinstance(t, Tensor) for t in read.values()):
        raise InputError(f"{file} is no aesthetic head: it must hold named tensors alone")
    return read


def _edge(size: Any) -> int | None:
    """The edge of the square that is read, as preprocessor_config.json writes it."""
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    return int(size) if size else None


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
