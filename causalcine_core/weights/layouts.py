"""The layouts that Wan transformers are kept in, told by keys and shapes alone: which key holds which weight.

Known are Wan's own names, ComfyUI's prefixes, diffusers' names, and the nested dictionaries that training scripts
leave behind: any prefixes, wrappers of FSDP and torch.compile anywhere in a key, averaged and raw weights side by side,
critics beside generators, PEFT LoRAs inside. Nothing here reads a tensor, so a file's header is enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..errors import InputError
from .header import Shape

WRAPPERS = {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module", "base_layer"}
AVERAGED = {"generator_ema", "ema", "ema_model", "model_ema", "student_ema"}
TRAINED = {"generator", "student"}
OTHERS = {"critic", "fake_score", "real_score", "teacher", "discriminator", "fake_model", "real_model"}
STEMS = {"patch_embedding", "text_embedding", "time_embedding", "time_projection", "blocks", "head"}
STEMS |= {"condition_embedder", "proj_out", "scale_shift_table"}  # diffusers
BUFFERS = {"freqs", "freqs_cis", "freqs_cos", "freqs_sin", "inv_freq", "block_mask"}
# what quantised files keep beside a weight; the reader folds these in
COMPANIONS = {"int8_scale", "scale_weight", "weight_scale", "scale_input", "input_scale", "scaled_fp8", "comfy_quant"}
LORA_PART = re.compile(
    r"^(?P<module>.+)\.(?:(?P<kind>lora_A|lora_B|lora_down|lora_up|lora\.down|lora\.up)(?:\.[^.]+)??(?:\.weight)?"
    r"|(?P<other>alpha|diff|diff_b|diff_m|dora_scale|lora_mid|lora_magnitude_vector)(?:\.[^.]+)??(?:\.weight)?)$"
)
_DIFFUSERS = (
    ("condition_embedder.time_embedder.linear_1.", "time_embedding.0."),
    ("condition_embedder.time_embedder.linear_2.", "time_embedding.2."),
    ("condition_embedder.time_proj.", "time_projection.1."),
    ("condition_embedder.text_embedder.linear_1.", "text_embedding.0."),
    ("condition_embedder.text_embedder.linear_2.", "text_embedding.2."),
    ("proj_out.", "head.head."),
    (".attn1.", ".self_attn."),
    (".attn2.", ".cross_attn."),
    (".to_q.", ".q."),
    (".to_k.", ".k."),
    (".to_v.", ".v."),
    (".to_out.0.", ".o."),
    (".norm2.", ".norm3."),
    (".ffn.net.0.proj.", ".ffn.0."),
    (".ffn.net.2.", ".ffn.2."),
    (".scale_shift_table.", ".modulation."),
)


@dataclass(frozen=True)
class Layout:
    """Where a file keeps its transformer.

    name: Wan, ComfyUI, diffusers or training. part: which of several networks was taken, such as `generator_ema`; empty
    where there is one. sources: key in the file by Wan's name. lora: keys of a LoRA that the file holds too.
    notes: what else there is, a sentence each.
    """

    name: str
    part: str
    sources: dict[str, str]
    lora: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def shapes(self, of: Mapping[str, Shape]) -> dict[str, Shape]:
        """Shapes by Wan's names."""
        return {name: of[key] for name, key in self.sources.items()}


def find_layout(shapes: Mapping[str, Shape], part: str | None = None) -> Layout | None:
    """The Wan transformer in a file of these keys, or None where there is none.

    part: the network to take where there are several, such as `generator`; by default the averaged weights.
    """
    lora = tuple(key for key in shapes if is_lora(key))
    cleaned = {key: unwrapped(key) for key in shapes if not is_lora(key)}
    prefixes = _prefixes(cleaned, shapes)
    if not prefixes:
        return None
    prefix = _choose(prefixes, part)
    sources: dict[str, str] = {}
    dropped = []
    for key, name in cleaned.items():
        if not name.startswith(prefix) or any(name.startswith(p) for p in prefixes if len(p) > len(prefix)):
            continue
        wan = name.removeprefix(prefix)
        if wan.split(".")[-1] in BUFFERS or wan.startswith("rope."):
            dropped.append(wan)
            continue
        wan = wan_name(wan)
        if wan in sources:
            raise InputError(f"the keys {sources[wan]!r} and {key!r} are the same weight, {wan}: keep one of them")
        sources[wan] = key
    notes = [_others(prefix, prefixes)] if len(prefixes) > 1 else []
    if dropped:
        notes.append(f"{len(dropped)} buffers left out, such as {dropped[0]}")
    wrapped = any(cleaned[key] != key for key in sources.values())
    return Layout(_name(cleaned, prefix, wrapped), _part(prefix), sources, lora, tuple(notes))


def unwrapped(key: str) -> str:
    """A key without what FSDP, torch.compile and PEFT put into it."""
    return ".".join(segment for segment in key.split(".") if segment not in WRAPPERS)


def wan_name(name: str) -> str:
    """A diffusers name under Wan's own; Wan's own come through unchanged. Works for modules too."""
    if name == "scale_shift_table":
        return "head.modulation"
    if ".self_attn." in name or ".cross_attn." in name:
        return name
    text = name + "."
    for theirs, ours in _DIFFUSERS:
        text = text.replace(theirs, ours)
    return text[:-1]


def is_lora(key: str) -> bool:
    return LORA_PART.match(unwrapped(key)) is not None


def rank(prefix: str) -> int:
    """How willingly a network under this prefix is taken: averaged 2, trained 1, unnamed 0, critics -1."""
    parts = {segment.removesuffix("_lora") for segment in prefix.split(".")}
    if parts & OTHERS:
        return -1
    return 2 if parts & AVERAGED else 1 if parts & TRAINED else 0


def _prefixes(cleaned: Mapping[str, str], shapes: Mapping[str, Shape]) -> list[str]:
    """What stands before every Wan transformer in a file: told by its first layer, else by its blocks."""
    ends = "patch_embedding.weight"
    found = {n[: -len(ends)] for k, n in cleaned.items() if _ends(n, ends) and len(shapes[k]) == 5}
    if not found:
        block = re.compile(r"^((?:[^.]+\.)*?)blocks\.\d+\.(?:self_attn\.(?:q|k|v|o)|attn1\.to_[qkv])\.weight$")
        found = {match[1] for match in map(block.match, cleaned.values()) if match}
    return sorted(found)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


def _choose(prefixes: list[str], part: str | None) -> str:
    if part is not None:
        named = [prefix for prefix in prefixes if part in prefix.split(".")]
        if not named:
            parts = ", ".join(_part(prefix) or "the only one, without a name" for prefix in prefixes)
            raise InputError(f"part is {part!r}: the file holds {parts}")
        return named[0]
    return max(prefixes, key=lambda prefix: (rank(prefix), -prefix.count(".")))


def _part(prefix: str) -> str:
    """The segment of a prefix that says which network it is."""
    telling = AVERAGED | TRAINED | OTHERS
    segments = prefix.split(".")[:-1]
    return next((s for s in segments if s in telling), "")


def _others(prefix: str, prefixes: Iterable[str]) -> str:
    taken = _part(prefix) or prefix.rstrip(".") or "the first network"
    rest = ", ".join(_part(p) or p.rstrip(".") or "one without a name" for p in prefixes if p != prefix)
    return f"took {taken}; the file also holds {rest}"


def _name(cleaned: Mapping[str, str], prefix: str, wrapped: bool) -> str:
    if any(name.startswith((prefix + "condition_embedder.", prefix + "proj_out.")) for name in cleaned.values()):
        return "diffusers"
    if prefix in ("model.diffusion_model.", "diffusion_model."):
        return "ComfyUI"
    return "training" if prefix or wrapped else "Wan"
