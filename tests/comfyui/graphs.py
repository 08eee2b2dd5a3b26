"""Small graphs in API form."""

from __future__ import annotations

from typing import Any

FILM = ("CausalCineSaveVideo", "CausalCineMemoryMap")
STORY = "a red robot walks through a forest\n\na blue cat sits on a beach at sunset\n\nthe red robot waves"


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def film(
    *, story: str = STORY, seconds: float = 0.75, seed: int = 7, checkpoint: str = "random.safetensors", **sampler: Any
) -> dict[str, Any]:
    """Loader 1, shots 2, sampler 3, save 4, map 5."""
    size = {"width": 0, "height": 0, "steps": 0} | sampler
    return {
        "1": node("CausalCineCheckpointLoader", checkpoint=checkpoint),
        "2": node("CausalCineShotList", clip=["1", 1], story=story, global_text="", seconds=seconds),
        "3": node("CausalCineSampler", model=["1", 0], shots=["2", 0], seed=seed, **size),
        "4": node("CausalCineSaveVideo", samples=["3", 0], vae=["1", 2], fps=0.0, filename_prefix="video/CausalCine"),
        "5": node("CausalCineMemoryMap", state=["3", 1]),
    }


def saved(prefix: str, *, frames: int = 3, fps: float = 0.0) -> dict[str, Any]:
    """Random latents 1, loader 2, save 3: no sampling."""
    return {
        "1": node("TestLatent", frames=frames, size=12, batch=1),
        "2": node("CausalCineCheckpointLoader", checkpoint="random.safetensors"),
        "3": node("CausalCineSaveVideo", samples=["1", 0], vae=["2", 2], fps=fps, filename_prefix=prefix),
    }


def compared(latent: dict[str, Any], loader: dict[str, Any], vae_slot: int, **stock: Any) -> dict[str, Any]:
    """Our streaming decode against one of ComfyUI's decoders."""
    kind = stock.pop("kind", "VAEDecode")
    return {
        "1": latent,
        "2": loader,
        "3": node("CausalCineStreamingDecode", samples=["1", 0], vae=["2", vae_slot]),
        "4": node(kind, samples=["1", 0], vae=["2", vae_slot], **stock),
        "5": node("TestCompareImages", a=["3", 0], b=["4", 0]),
    }


def without_film(graph: dict[str, Any]) -> dict[str, Any]:
    """The same without its mp4 and memory map, which take their time: only what other outputs need is run."""
    return {key: entry for key, entry in graph.items() if entry["class_type"] not in FILM}


def find(graph: dict[str, Any], kind: str) -> str:
    return next(key for key, entry in graph.items() if entry["class_type"] == kind)
