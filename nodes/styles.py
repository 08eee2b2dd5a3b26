"""LoRAs of single shots in ComfyUI: clones of a MODEL with ComfyUI's own patches, of which one at a time is live."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import comfy.model_management as mm
import comfy.sd
import comfy.utils

from ..causalcine_core.errors import InputError, about
from ..causalcine_core.lora import LoRA
from ..causalcine_core.model import CausalWanTransformer
from ..causalcine_core.runner import Runner
from ..causalcine_core.story import Story
from ..causalcine_core.weights.source import open_source
from ..causalcine_core.weights.tensors import check_numbers
from .adapt import model as models
from .loaders import find

PREFIX = "diffusion_model."  # of a network's weights in a MODEL


@dataclass
class PatchedStyles:
    """`Styles` over a MODEL. All its clones share one network, so whoever computes is loaded first, patches and all, by ComfyUI.

    beside: other models that are to stay on their device. room: bytes that computing needs.
    """

    model: Any
    beside: Sequence[Any] = ()
    room: float = 0
    live: Any = None
    _made: dict[tuple[LoRA, ...], Any] = field(default_factory=dict)

    def prepare(self, base: Runner, sets: Mapping[tuple[LoRA, ...], str]) -> list[str]:
        for loras, name in sets.items():
            if loras and loras not in self._made:
                with about(name):
                    self._made[loras] = _patched(self.model, loras)
        return []  # ComfyUI's log names what it finds no place for

    def network(self, base: Runner, loras: tuple[LoRA, ...]) -> Runner:
        model = self._made[loras] if loras else self.model
        if model is not self.live:
            self.cleanup()
            mm.load_models_gpu([model, *model.get_nested_additional_models(), *self.beside], memory_required=self.room)
            self.use(model)
        return replace(base, loras=loras)

    def use(self, model: Any) -> None:
        """This one, which is on its device, computes from now on."""
        model.pre_run()
        self.live = model

    def cleanup(self) -> None:
        """Nobody computes any more."""
        if self.live is not None:
            self.live.cleanup()
        self.live = None


def check_loras(story: Story) -> None:
    """Raise InputError where a shot names a LoRA that is not in ComfyUI's folder of them."""
    for i, shot in enumerate(story.shots):
        for lora in shot.lora:
            find("loras", lora.name, f"shots[{i}].lora")


def _patched(model: Any, loras: Sequence[LoRA]) -> Any:
    for lora in loras:
        path = find("loras", lora.name, "LoRA")
        open_source(path)  # names what is wrong with a file
        tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
        check_numbers(tensors, f"LoRA {path.name}")
        patched, _ = comfy.sd.load_lora_for_models(model, None, tensors, lora.strength, 0)
        _check(model, patched, path.name)
        model = patched
    return model


def _check(before: Any, after: Any, name: str) -> None:
    """Raise InputError where ComfyUI found no place for any of a LoRA's changes, or one of another shape, which it would leave out
    when it computes."""
    new = {key: patches[len(before.patches.get(key, ())) :] for key, patches in after.patches.items()}
    if not any(new.values()):
        raise InputError(f"LoRA {name}: none of its modules is in the model: it was trained on another base")
    weights = CausalWanTransformer(models.config_of(after), device="meta").state_dict()
    for key, patches in new.items():
        weight = weights.get(key.removeprefix(PREFIX))
        for _, change, _, offset, _ in patches:
            if weight is None or offset is not None or getattr(change, "name", "") != "lora":
                continue
            up, down = change.weights[:2]
            if (up.shape[0], math.prod(down.shape[1:])) != (weight.shape[0], math.prod(weight.shape[1:])):
                raise InputError(
                    f"LoRA {name} changes {key.removeprefix(PREFIX)} by {[up.shape[0], math.prod(down.shape[1:])]}, but it is "
                    f"{list(weight.shape)}: it was trained on another base"
                )
