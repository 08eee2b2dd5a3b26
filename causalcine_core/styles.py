"""Networks with the LoRAs of shots in them, one for each set of LoRAs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from .checks import show
from .errors import InputError, about
from .lora import LoRA
from .model import CausalWanTransformer
from .model.float8 import is_float8
from .model.packed import is_packed, pack, unpacked
from .runner import Runner
from .weights.checkpoint import assign
from .weights.layouts import is_lora
from .weights.lora import merge_lora
from .weights.source import open_source


class Styles(Protocol):
    """Who gives a film the networks of its shots' LoRAs."""

    def prepare(self, base: Runner, sets: Mapping[tuple[LoRA, ...], str]) -> list[str]:
        """Make ready the networks of sets of LoRAs over `base`, and no others. sets: each with what names it in sentences, such as
        `shots[2].lora`. Gives warnings. Raises InputError where a file is missing or does not fit."""

    def network(self, base: Runner, loras: tuple[LoRA, ...]) -> Runner:
        """One that was prepared, live: it is what computes until another is asked for. No LoRAs: `base`."""


@dataclass
class MergedStyles:
    """`Styles` over a network of ours: each set has weights of its own where it changes them, and shares all others. folders: where
    files are sought, in this order."""

    folders: Sequence[Path] = (Path(),)
    _made: dict[tuple[LoRA, ...], tuple[Runner, list[str]]] = field(default_factory=dict)

    def prepare(self, base: Runner, sets: Mapping[tuple[LoRA, ...], str]) -> list[str]:
        kept = {loras: made for loras, made in self._made.items() if loras in sets and _same(made[0], base)}
        for loras, name in sets.items():
            if loras and loras not in kept:
                with about(name):
                    kept[loras] = self._merged(base, loras)
        self._made = kept
        return list(dict.fromkeys(f"{sets[loras]}: {note}" for loras, (_, notes) in kept.items() for note in notes))

    def network(self, base: Runner, loras: tuple[LoRA, ...]) -> Runner:
        if loras and loras not in self._made:  # another film was prepared meanwhile
            self._made[loras] = self._merged(base, loras)
        return self._made[loras][0] if loras else base

    def _merged(self, base: Runner, loras: Sequence[LoRA]) -> tuple[Runner, list[str]]:
        net, notes = base.net, list[str]()
        if is_float8(net):
            raise InputError("a LoRA cannot be put into a network in float8_e4m3fn: choose another dtype")
        weights = unpacked(net)
        for lora in loras:
            path = self.find(lora.name)
            source = open_source(path)
            keys = [key for key in source.shapes if is_lora(key)]
            if not keys:
                raise InputError(f"{path} holds no LoRA: its first key is {min(source.shapes, default='missing')}")
            changes = {key: tensor.to(base.device) for key, tensor in source.read(keys).items()}
            merged = merge_lora(weights, changes, strength=lora.strength, source=f"LoRA {path.name}")
            weights = merged.weights
            notes += [f"LoRA {path.name}: {merged}"] if merged.unmatched else []
        made = CausalWanTransformer(net.config, device="meta", dtype=base.dtype)
        assign(made, weights, "the network with LoRAs")
        made.eval().requires_grad_(False)
        if is_packed(net):
            pack(made)
        return replace(base, net=made, loras=tuple(loras)), notes

    def find(self, name: str) -> Path:
        """The file of this name. Raises InputError where there is none."""
        spelled = name.replace("\\", "/")
        try:
            for path in (folder / spelled for folder in self.folders):
                if path.is_file():
                    return path
        except (OSError, ValueError):  # a name too long
            pass
        where = " or ".join(dict.fromkeys(str(folder.resolve()) for folder in self.folders))
        raise InputError(f"{show(name)} names no file, sought in {where}")


def _same(made: Runner, base: Runner) -> bool:
    """Whether a network was made of this one."""
    return made.compute is base.compute and made.fingerprint == base.fingerprint and made.device == base.device
