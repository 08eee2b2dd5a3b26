"""Nodes that only the tests use, loaded by the server under test."""

import gc
import logging
import os
import time
from unittest import mock

import comfy.ldm.wan.vae2_2 as wan22
import comfy.sd
import latent_preview
import psutil
import torch
from aiohttp import web
from comfy_api.latest import ComfyExtension, io
from server import PromptServer


class PickyPreviewer:
    """What packs with animated previews put in the place of ComfyUI's: it does not know a film's latents."""

    def decode_latent_to_preview_image(self, preview_format, x0):
        raise ValueError(f"expected 4 dimensions, got {x0.ndim}")


latent_preview.get_previewer = lambda *args, **kwargs: PickyPreviewer()


class FakeTextEncoder:
    """Stands in for umt5-xxl, whose 5.7 billion weights no test can carry: noise that depends on the text alone."""

    tokenizer = None

    def __init__(self, batch, seconds, before, padding):
        self.batch, self.seconds, self.before, self.padding = batch, seconds, before, padding

    def tokenize(self, text):
        return {"words": [[(word, 1.0) for word in text.split()]]}

    def encode_from_tokens_scheduled(self, tokens):
        time.sleep(self.seconds)
        logging.info("a prompt was encoded")
        words = [word for word, _ in tokens["words"][0]]
        rows = [torch.randn(4096, generator=torch.Generator().manual_seed(sum(map(ord, w)))) for w in words]
        text = torch.zeros(self.batch, 512, 4096)
        if rows:
            text[:, : len(rows)] = torch.stack(rows)[:512]
        before, after = torch.ones(self.batch, self.before, 4096), torch.zeros(self.batch, self.padding, 4096)
        text = torch.cat([before, text, after], 1)
        return [[text, {"pooled_output": None}]]


class TestTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestTextEncoder",
            category="test",
            inputs=[
                io.Int.Input("batch", default=1, min=1, optional=True),
                io.Float.Input("seconds", default=0.0, min=0.0, optional=True),
                io.Int.Input("before", default=0, min=0, optional=True, tooltip="Tokens of its own before each text."),
                io.Int.Input("padding", default=0, min=0, optional=True, tooltip="More of it than 512 tokens need."),
            ],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, batch=1, seconds=0.0, before=0, padding=0):
        return io.NodeOutput(FakeTextEncoder(batch, seconds, before, padding))


class Anything(str):
    """The type of a switch's output, as packs that have one spell it: it fits every input."""

    def __ne__(self, other):
        return False


class TestChoice(io.ComfyNode):
    """What switches and primitive nodes do: the value of a choice by a link."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestChoice",
            category="test",
            inputs=[io.String.Input("value")],
            outputs=[io.Custom(Anything("*")).Output()],
        )

    @classmethod
    def execute(cls, value):
        return io.NodeOutput(value)


async def test_environment(request):
    """Sets variables of the server's environment; an empty one is taken away."""
    for name, value in (await request.json()).items():
        os.environ.pop(name, None)
        if value:
            os.environ[name] = value
    return web.json_response({})


async def test_memory(request):
    """States and their stores that are alive: bytes of all slabs, and slots that are held. collect: once garbage was collected, as
    ComfyUI does when it was asked to free its memory; else without."""
    if request.query.get("collect"):
        gc.collect()
    states, stores = alive("sampling.state", "State"), alive("memory.store", "FrameStore")
    count = {"states": len(states), "stores": len(stores)}
    count |= {"bytes": sum(one.nbytes for one in stores), "slots": sum(one.used for one in stores)}
    return web.json_response(count)


def alive(module, name):
    """All objects of a class of the core's."""
    named = [one for one in gc.get_objects() if type(one).__name__ == name]
    return [one for one in named if type(one).__module__.endswith(f"causalcine_core.{module}")]


async def test_shortage(request):
    """Pretends that the computer has so many bytes of memory for what films remember; null: as it is."""
    limit = (await request.json())["bytes"]
    real = getattr(psutil.virtual_memory, "real", psutil.virtual_memory)

    def short():
        return real()._replace(available=max(0, limit - sum(one.nbytes for one in alive("memory.store", "FrameStore"))))

    short.real = real
    psutil.virtual_memory = real if limit is None else short
    return web.json_response({})


if hasattr(PromptServer, "instance"):  # there is none where nodes are loaded without a server
    PromptServer.instance.routes.post("/test_environment")(test_environment)
    PromptServer.instance.routes.get("/test_memory")(test_memory)
    PromptServer.instance.routes.post("/test_shortage")(test_shortage)


class TestWan22VAE(io.ComfyNode):
    """ComfyUI's VAE object around its own Wan 2.2 VAE, narrow: the real one weighs 1.4 GB."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="TestWan22VAE", category="test", outputs=[io.Vae.Output()])

    @classmethod
    def execute(cls):
        torch.manual_seed(0)
        real = wan22.WanVAE
        with mock.patch.object(wan22, "WanVAE", lambda **kind: real(**{**kind, "dim": 16, "dec_dim": 24})):
            shapes = wan22.WanVAE(z_dim=48, temperal_downsample=[False, True, True]).state_dict()
            weights = {
                name: torch.ones_like(t)
                if name.endswith("gamma")
                else torch.randn_like(t) / max(1, t[0].numel()) ** 0.5
                for name, t in shapes.items()
            }
            return io.NodeOutput(comfy.sd.VAE(sd=weights))


class TestLatent(io.ComfyNode):
    """Random latents of a film, in VAE space."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestLatent",
            category="test",
            inputs=[
                io.Int.Input("frames", default=3, min=1, max=100000),
                io.Int.Input("size", default=12, min=1),
                io.Int.Input("batch", default=1, min=1),
                io.Int.Input("channels", default=16, min=1, optional=True),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, frames, size, batch, channels=16):
        noise = torch.randn(batch, channels, frames, size, size, generator=torch.Generator().manual_seed(frames))
        return io.NodeOutput({"samples": noise})


class TestAttentionOverride(io.ComfyNode):
    """What attention nodes do: another function in the place of ComfyUI's attention. Here it times the result by a factor."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestAttentionOverride",
            category="test",
            inputs=[io.Model.Input("model"), io.Float.Input("factor", default=1.0)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, factor):
        model = model.clone()
        options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
        options["optimized_attention_override"] = lambda attention, *given, **named: factor * attention(*given, **named)
        return io.NodeOutput(model)


class TestFailure(io.ComfyNode):
    """A MODEL that fails in its attention, after so many passes."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestFailure",
            category="test",
            inputs=[io.Model.Input("model"), io.Int.Input("after", default=1), io.String.Input("why")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, after, why):
        model = model.clone()
        options = model.model_options["transformer_options"] = model.model_options["transformer_options"].copy()
        calls, layers = [], 2 * 2  # two layers, each with attention to pictures and to text

        def attention(real, *given, **named):
            calls.append(1)
            if len(calls) > after * layers:
                raise {
                    "network": RuntimeError("it broke"),
                    "memory": MemoryError("it broke"),
                    "file": OSError(5, "it broke", "some file"),
                }[why]
            return real(*given, **named)

        options["optimized_attention_override"] = attention
        return io.NodeOutput(model)


class TestCompareImages(io.ComfyNode):
    """Largest and mean difference of two pictures, as text."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="TestCompareImages",
            category="test",
            inputs=[io.Image.Input("a"), io.Image.Input("b")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, a, b):
        if a.shape != b.shape:
            return io.NodeOutput(ui={"text": [f"shapes {list(a.shape)} {list(b.shape)}"]})
        d = (a - b).abs()
        return io.NodeOutput(
            ui={"text": [str(float(d.max())), str(float(d.mean())), str(float(a.mean())), str(len(a))]}
        )


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [
            TestTextEncoder,
            TestChoice,
            TestWan22VAE,
            TestLatent,
            TestAttentionOverride,
            TestFailure,
            TestCompareImages,
        ]


async def comfy_entrypoint():
    return Extension()
