"""What the engine costs: seconds per chunk early and late, memory, frames per second, and where the time goes.

    make bench            causalcine bench [--json] [--model nano|FILE] [--quick]
    causalcine bench --random-weights --model 1.3b|5b|14b       real shapes without a file, see shapes.py

Early and late chunks are timed in turns, each from a kept state, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import argparse
import copy
import platform
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from causalcine_core import MemorySettings, Pipeline, State, Story
from causalcine_core.commands.arguments import COMPUTED
from causalcine_core.errors import InputError
from causalcine_core.memory import STORAGES
from causalcine_core.model import KERNELS, PRESETS
from causalcine_core.model.kernels import AUTO
from causalcine_core.sampling import Chunk
from causalcine_core.story import parse_size

from .against import against_reference, in_turns
from .neighbour import beside_a_neighbour
from .progress import counted, print_rows, watched
from .shapes import DECODERS, measure_shape

MARKS = (10, 100, 400)
STORY = Path(__file__).parents[1] / "stories" / "five_shots.json"
GROUPS: dict[str, tuple[str, ...]] = {
    "matmul": (
        "mkldnn::_linear_pointwise",
        "aten::addmm",
        "aten::mm",
        "aten::bmm",
        "aten::mkldnn_convolution",
        "aten::slow_conv3d_forward",
    ),
    "attention": (),  # whatever runs inside it
    "routing and gather": (
        "aten::index_select",
        "aten::index_copy_",
        "aten::topk",
        "aten::sort",
        "aten::gather",
        "aten::mean",
    ),
}


def long_story(chunks: int) -> Story:
    """One static shot of so many chunks."""
    story = Story.load(STORY)
    return Story.from_dict({"shots": [{"prompt": story.prompt(0), "frames": 12 * chunks - 3}]})


def late_and_early(pipe: Pipeline, marks: Sequence[int], steps: int, repeats: int) -> dict[str, Any]:
    """Median seconds of the second chunk after each mark, in turns."""
    states: dict[int, State] = {}
    stream = pipe.stream(long_story(max(marks) + 2), steps=steps, decode=False)
    for chunk in watched(stream, "a long film", max(marks)):
        if chunk.index + 1 in marks:
            states[chunk.index + 1] = chunk.state
        if chunk.index + 1 == max(marks):
            break
    seconds = in_turns(
        lambda state: pipe.stream(None, state=state, steps=steps, decode=False), [states[m] for m in marks], repeats
    )
    medians = dict(zip(marks, seconds, strict=True))
    memory = states[max(marks)].local_memory
    assert memory is not None
    return {
        "steps": steps,
        "seconds_per_chunk": {str(mark): round(value, 4) for mark, value in medians.items()},
        "late_over_early": round(medians[max(marks)] / medians[min(marks)], 3),
        "latent_frames": memory.frames,
        "store_mib": round(memory.frames * memory.store.hot.bytes_per_frame / 2**20, 1),
    }


def frames_per_second(pipe: Pipeline, story: Story, **settings: Any) -> dict[str, Any]:
    """A story to an mp4, and the engine alone (no decode, no file)."""
    with tempfile.TemporaryDirectory() as folder, counted("chunks of a film") as tick:
        began = time.perf_counter()
        video = pipe.generate(story, output=Path(folder) / "film.mp4", on_chunk=tick, **settings)
        whole = time.perf_counter() - began
    frames = video.state.frames
    engine = sum(record.seconds for record in video.state.records)
    return {
        "steps": video.state.recipe.schedule.steps,
        "guidance": video.state.recipe.guidance.scale,
        "story_to_mp4_fps": round(frames / whole, 2),
        "engine_fps": round(frames / engine, 2),
        "decode_and_write_share": round(1 - engine / whole, 3),
    }


def shares(pipe: Pipeline, story: Story) -> dict[str, float]:
    """Share of time by kind of work over one chunk with full memory, as the profiler attributes it."""
    state: State | None = None
    for chunk in pipe.stream(story, steps=1):
        state = chunk.state
        if chunk.index == 8:
            break
    pipe = _with_named_attention(pipe)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        began = time.perf_counter()
        done: Chunk = next(iter(pipe.stream(None, state=state, steps=pipe.recipe.schedule.steps)))
        whole = time.perf_counter() - began
    out = {"decode": (whole - done.seconds) / whole} | dict.fromkeys(GROUPS, 0.0)
    engine, total = done.seconds / whole, sum(event.self_cpu_time_total for event in trace.events())
    for event in trace.events():
        named = next((name for name, names in GROUPS.items() if event.name in names), None)
        group = "attention" if _within_attention(event) else named
        if group is not None:
            out[group] += engine * event.self_cpu_time_total / total
    out["other"] = 1 - sum(out.values())
    return {name: round(value, 3) for name, value in out.items()}


def _with_named_attention(pipe: Pipeline) -> Pipeline:
    """The pipeline with attention under that name in a profile: its products are matmuls like others."""
    kernel = pipe.network.compute.kernel

    def named(*given: Any) -> torch.Tensor:
        with record_function("attention"):
            return kernel(*given)

    named_pipe = copy.copy(pipe)
    named_pipe.network = replace(pipe.network, compute=replace(pipe.network.compute, kernel=named))
    return named_pipe


def _within_attention(event: Any) -> bool:
    while event is not None:
        if event.name == "attention":
            return True
        event = event.cpu_parent
    return False


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="causalcine bench", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--json", action="store_true", help="print one line of JSON on stdout and nothing else")
    parser.add_argument("--quick", action="store_true", help="short rollouts: marks 4, 8, 12")
    shape = parser.add_argument_group("real shapes", "only with --random-weights")
    shape.add_argument("--random-weights", action="store_true", help="--model is one of " + ", ".join(PRESETS))
    shape.add_argument("--device", metavar="DEVICE", help="default: a GPU where there is one")
    shape.add_argument("--dtype", choices=COMPUTED, help="default: by device")
    shape.add_argument("--attention", choices=KERNELS, default=AUTO, help="default: on a GPU the fastest")
    shape.add_argument("--compile", action="store_true", help="the blocks, with torch.compile")
    shape.add_argument("--decoder", choices=DECODERS, default="vae", help="Wan's VAE, or the tiny decoder of previews")
    shape.add_argument("--size", default="832x480", metavar="WxH")
    shape.add_argument("--chunks", type=int, default=60, metavar="N")
    shape.add_argument("--layers", type=int, metavar="N", help="fewer blocks than the model has")
    shape.add_argument("--memory-budget", type=float, metavar="GIB")
    shape.add_argument("--memory-storage", choices=STORAGES, default="full")
    args = parser.parse_args(argv)
    if args.random_weights:
        print_rows(_shape(args).items(), args.json)
        return
    print_rows(_measured(args), args.json)


def _measured(args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """All figures of a model that there is a file of, by name, one after another."""
    pipe = Pipeline.from_pretrained(args.model)
    story = Story.load(STORY)
    marks = (4, 8, 12) if args.quick else MARKS
    yield "model", pipe.name
    yield "device", str(pipe.network.device)
    yield "cpu", platform.processor() or platform.machine()
    yield "threads", torch.get_num_threads()
    yield "torch", torch.__version__
    yield "as_shipped", frames_per_second(pipe, story)
    yield "four_steps_unguided", frames_per_second(pipe, story, steps=4, guidance=1.0)
    yield "time_shares", shares(pipe, story)
    for name, figures in beside_a_neighbour(pipe, story, 6 if args.quick else 18):
        yield "threads", {name: figures}
    yield "rollout", late_and_early(pipe, marks, 2, 3 if args.quick else 15)
    for name, figures in against_reference(*((8, 7, True) if args.quick else (12, 7))):
        yield "against_reference", {name: figures}
    yield "peak_rss_mib", round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def _shape(args: argparse.Namespace) -> dict[str, Any]:
    if args.model not in PRESETS:
        raise InputError(f"model is {args.model!r}: with --random-weights it must be one of {', '.join(PRESETS)}")
    if args.chunks < 20:
        raise InputError(
            f"chunks is {args.chunks}: it must be at least 20, so that early and late ones can be told apart"
        )
    return measure_shape(
        args.model,
        device=args.device,
        dtype=getattr(torch, args.dtype) if args.dtype else None,
        attention=args.attention,
        compile=args.compile,
        decoder=args.decoder,
        size=parse_size(args.size),
        chunks=args.chunks,
        layers=args.layers,
        memory=MemorySettings(budget=args.memory_budget, storage=args.memory_storage),
    )


if __name__ == "__main__":
    main()
