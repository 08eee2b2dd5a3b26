"""Several GPUs for one film."""

from __future__ import annotations

from typing import Any, ClassVar

from comfy_api.latest import io

from .adapt.form import Form
from .adapt.workers import Crews


class CausalCineWorkers(Form):
    crews: ClassVar[Crews] = Crews()

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineWorkers",
            display_name="CausalCine Workers",
            category="CausalCine",
            description="Lets several GPUs make each chunk of a film together: each has the whole model, and its share of the "
            "attention heads and of the memory. Needs Ray (pip install ray).",
            inputs=[
                io.Model.Input("model", tooltip="LoRA nodes may come before or after."),
                io.Int.Input(
                    "workers",
                    default=0,
                    min=0,
                    max=64,
                    tooltip="How many; the model's attention heads must divide by it (Wan 1.3B has 12, 5B 24, 14B 40). 0: one "
                    "for each GPU.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL", tooltip="For CausalCine Sampler.")],
        )

    @classmethod
    def execute(cls, model: Any, workers: int = 0) -> io.NodeOutput:
        return io.NodeOutput(cls.crews.attached(model, workers))
