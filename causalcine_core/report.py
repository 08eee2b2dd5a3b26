"""The report of a film, as JSON and as a picture of what was remembered.

The keys of the report are a contract (docs/design.md): frame ranges are `[first, end)` in pixel frames of the whole
film; `routing` names latent frames, as `chunk.routing` does, one row a layer, -1 for none and -2 - i for picture i of `cast`.
"""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from .lora import loras_to_json
from .numbering import is_picture, mirrored
from .pictures import CARD, DIM, GROUND, INK, SHOT_COLOURS, fit_text, font
from .plan import Plan, PlannedShot, Timeline, cut_notes

if TYPE_CHECKING:
    from .memory import KVMemory, ResolvedMemory
    from .sampling import Recipe, State

FORMAT = 1


def build_report(
    state: State,
    *,
    model: Mapping[str, Any],
    warnings: Iterable[str] = (),
    spatial_stride: int = 8,
    temporal_stride: int = 4,
) -> dict[str, Any]:
    """The report of the film that a state holds. The strides are the VAE's."""
    height, width = (spatial_stride * int(side) for side in state.latents[0].shape[-2:])
    size = (width, height)
    made = state.frames
    shots = [shot for shot in state.shots if shot.frames[0] < made]
    head = _head(state.recipe, state.settings, shots, made, size, state.seed, model, warnings, temporal_stride)
    chunks = [
        {
            "index": record.plan.index,
            "shot": record.plan.shot,
            "frames": list(record.plan.frames),
            "seconds": round(record.seconds, 4),
            "routing": record.routing.tolist(),
        }
        for record in state.records
    ]
    memory = state.local_memory
    if memory is not None and memory.evicted:
        head["warnings"].append(
            f"{memory.evicted} of {state.records[-1].plan.latents[1]} latent frames were forgotten, those that were "
            f"recalled least: the memory budget is {state.settings.budget:g} GiB"
        )
    if state.references:
        head["cast"] = [one.to_dict() for one in state.references]
    if state.history:
        head["history"] = {"chunks": state.history, "frames": state.records[state.history - 1].plan.frames[1]}
    return head | {"chunks": chunks, "memory": _memory(memory)}


def _memory(memory: KVMemory | None) -> dict[str, int] | None:
    """What is remembered and where; of pages on the host how many were recalled, and how many of them in time."""
    if memory is None:
        return None
    device, host = memory.store.held
    return {
        "frames": memory.frames - memory.evicted,
        "forgotten": memory.evicted,
        "device_bytes": device,
        "host_bytes": host,
        "host_pages_recalled": memory.store.recalled,
        "host_pages_foretold": memory.store.foretold,
    }


def check_report(
    plan: Plan,
    *,
    recipe: Recipe,
    settings: ResolvedMemory,
    size: tuple[int, int],
    seed: int,
    model: Mapping[str, Any],
    warnings: Iterable[str] = (),
    temporal_stride: int = 4,
) -> dict[str, Any]:
    """The report that a story would have, as far as it is known before anything is made: no `chunks`."""
    return _head(recipe, settings, plan.shots, plan.frames, size, seed, model, warnings, temporal_stride)


def _head(
    recipe: Recipe,
    settings: ResolvedMemory,
    shots: Sequence[PlannedShot],
    frames: int,
    size: tuple[int, int],
    seed: int,
    model: Mapping[str, Any],
    warnings: Iterable[str],
    temporal_stride: int,
) -> dict[str, Any]:
    values, fps = recipe.to_dict(), recipe.timeline.fps
    for name in ("fps", "width", "height"):  # they stand above
        del values[name]
    notes = cut_notes(shots, recipe.timeline.chunk * temporal_stride)
    return {
        "format": FORMAT,
        "frames": frames,
        "fps": int(fps) if fps == int(fps) else fps,
        "size": list(size),
        "seed": seed,
        "model": dict(model),
        "settings": values | asdict(settings) | {"temporal_stride": temporal_stride},
        "versions": versions(),
        "warnings": [*warnings, *notes],
        "shots": [
            {
                "index": shot.index,
                "prompt": shot.caption or shot.prompt,
                "asked": list(shot.asked),
                "frames": [shot.frames[0], min(shot.frames[1], frames)],
            }
            | ({"cut": shot.cut} if shot.cut != "native" else {})
            | ({"seed": shot.seed} if shot.seed is not None else {})
            | ({"lora": loras_to_json(shot.lora)} if shot.lora else {})
            for shot in shots
        ],
    }


def versions() -> dict[str, str]:
    """What made the film: our version, Python's and torch's."""
    import torch

    from . import __version__

    return {"causalcine": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}


def to_json(report: Mapping[str, Any]) -> str:
    """The report as a file a person can read, in UTF-8: a line for each field, shot and chunk. What UTF-8 cannot hold (half a
    surrogate pair in a prompt, a byte of a file's name that is no text) stays a JSON escape."""
    fields = []
    for name, value in report.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n" + ",\n".join("  " + json.dumps(item, ensure_ascii=False) for item in value) + "\n ]"
        fields.append(f" {json.dumps(name)}: {text}")
    text = "{\n" + ",\n".join(fields) + "\n}\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- the memory map

_PLOT = 860  # pixels, both ways
_MARGIN, _BAND, _PICTURE, _HEAD, _FOOT = 36, 22, 44, 130, 30
_LEFT = _MARGIN + _PICTURE + _BAND + 12  # where the square begins
_MAX_COLUMNS = 2_000  # chunks drawn; of longer films every n-th
_MAX_LINES = 60  # shots whose cuts are drawn
_MAX_CAST, _CAST_HEAD, _CAST_ROW = 12, 34, 50  # pictures of the cast that are drawn, and pixels
_WINDOW = (52, 84, 120)
_RECALL = ((112, 52, 20), (232, 118, 30), (255, 226, 140))  # share of layers: few, half, all


def memory_map(report: Mapping[str, Any], pictures: Mapping[int, Any] | None = None) -> Image.Image:
    """What each moment of a film looked back at, at a glance.

    Film time runs to the right (what is made) and downwards (the past it sees). The diagonal is the chunk itself in
    the colour of its shot, the blue band the local window, warm marks are the frames that routing recalled: the
    brighter, the more layers recalled them. Below are the pictures of the cast, each with the moments that recalled it.
    pictures: the first frame, uint8 `[H W 3]`, of some shots by index, and pictures of the cast by number, to be shown beside.
    """
    if not report["chunks"]:
        raise ValueError("expected a report with at least one chunk")
    drawn = min(len(report.get("cast", ())), _MAX_CAST)
    below = _CAST_HEAD + _CAST_ROW * drawn if drawn else 0
    size = (_LEFT + _PLOT + _MARGIN, _HEAD + _PLOT + _BAND + _PICTURE + _FOOT + below)
    image = Image.new("RGB", size, GROUND)
    image.paste(Image.fromarray(_cells(report)), (_LEFT, _HEAD))
    draw = ImageDraw.Draw(image)
    _draw_shots(image, draw, report, pictures or {})
    _draw_times(draw, report["frames"] / report["fps"])
    _draw_words(draw, report)
    if drawn:
        _draw_cast(image, draw, report, pictures or {}, size[1] - below - _FOOT // 2)
    return image


def recall_summary(report: Mapping[str, Any]) -> list[str]:
    """Sentences: how much of what was recalled lies in earlier shots, how far back it reached, what was recalled
    most."""
    line, fps = _timeline(report), report["fps"]
    counts: Counter[int] = Counter()
    earlier, farthest = 0, 0
    starts = {shot["index"]: shot["frames"][0] for shot in report["shots"]}
    for chunk in report["chunks"]:
        recalled = Counter(frame for row in chunk["routing"] for frame in row if frame >= 0)
        counts += recalled
        earlier += sum(n for f, n in recalled.items() if _pixels(line, f)[0] < starts[chunk["shot"]])
        if recalled:
            farthest = max(farthest, chunk["frames"][0] - _pixels(line, min(recalled))[0])
    total = sum(counts.values())
    cast = _cast_sentences(report)
    if not total:
        return cast or ["Nothing was recalled: no frame was older than the window, or top_k is 0."]
    frame, times = counts.most_common(1)[0]
    return [
        f"{earlier / total:.0%} of all recalls reach into an earlier shot; "
        f"the farthest goes back {farthest / fps:.1f} s.",
        f"Recalled most: the moment at {_pixels(line, frame)[0] / fps:.1f} s ({times / total:.0%} of all recalls).",
        *cast,
    ]


def _cast_sentences(report: Mapping[str, Any]) -> list[str]:
    if not report.get("cast"):
        return []
    recalling = sum(any(is_picture(number) for row in chunk["routing"] for number in row) for chunk in report["chunks"])
    return [f"{recalling} of {_count(len(report['chunks']), 'chunk')} recalled a picture of the cast."]


def _timeline(report: Mapping[str, Any]) -> Timeline:
    settings = report["settings"]
    return Timeline(settings["chunk"], settings["first_chunk"], settings["temporal_stride"])


def _pixels(line: Timeline, latent: int) -> tuple[int, int]:
    """The pixel frames of one latent frame."""
    return (max(0, 1 + (latent - 1) * line.stride), 1 + latent * line.stride)


def _cells(report: Mapping[str, Any]) -> np.ndarray:
    """The square of the map: uint8 `[_PLOT, _PLOT, 3]`."""
    chunks, line, window = report["chunks"], _timeline(report), report["settings"]["window"] or 0
    scale = _PLOT / report["frames"]
    bounds = {chunk["index"]: chunk["frames"] for chunk in chunks}
    square = np.full((_PLOT, _PLOT, 3), _rgb(CARD), np.uint8)
    share = np.zeros((_PLOT, _PLOT))
    step = math.ceil(len(chunks) / _MAX_COLUMNS)
    for i in range(0, len(chunks), step):
        chunk, last = chunks[i], chunks[min(i + step, len(chunks)) - 1]
        begin, end = chunk["frames"][0], last["frames"][1]
        columns = _span(begin, end, scale)
        oldest = bounds.get(max(chunk["index"] - window, 0), chunk["frames"])[0]
        square[_span(oldest, begin, scale), columns] = _WINDOW
        square[_span(begin, end, scale), columns] = _rgb(_shot_colour(chunk["shot"]))
        layers = max(len(chunk["routing"]), 1)
        for frame, count in Counter(f for row in chunk["routing"] for f in set(row) if f >= 0).items():
            area = share[_span(*_pixels(line, frame), scale, least=3), columns]
            np.maximum(area, count / layers, out=area)
    recalled = share > 0
    square[recalled] = _warm(share[recalled])
    return square


def _recalls(report: Mapping[str, Any], picture: int) -> np.ndarray:
    """How much each moment recalled a picture of the cast: share of layers `[_PLOT]`."""
    share, scale = np.zeros(_PLOT), _PLOT / report["frames"]
    for chunk in report["chunks"]:
        layers = sum(mirrored(picture) in row for row in chunk["routing"])
        begin, end = chunk["frames"]
        columns = _span(begin, end, scale)
        share[columns] = np.maximum(share[columns], layers / max(len(chunk["routing"]), 1))
    return share


def _warm(share: np.ndarray) -> np.ndarray:
    """The colour of a share of layers: `[N]` in 0..1 to uint8 `[N, 3]`."""
    levels = np.array(_RECALL, float)
    return np.stack([np.interp(share, (0, 0.5, 1), levels[:, c]) for c in range(3)], -1).astype(np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + "s" * (n != 1)


def _shot_colour(shot: int) -> str:
    return SHOT_COLOURS[shot % len(SHOT_COLOURS)]


def _span(begin: int, end: int, scale: float, least: int = 1) -> slice:
    """Pixels of a range of frames, at least so many."""
    if end <= begin:
        return slice(0, 0)
    first = int(begin * scale)
    return slice(first, max(round(end * scale), first + least))


def _draw_shots(
    image: Image.Image, draw: ImageDraw.ImageDraw, report: Mapping[str, Any], pictures: Mapping[int, Any]
) -> None:
    """Shots as coloured bands with numbers and pictures, below and left of the square; cuts as dashed lines in
    it."""
    scale, floor, face = _PLOT / report["frames"], _HEAD + _PLOT, font(14)
    for shot in report["shots"]:
        begin, end = (round(frame * scale) for frame in shot["frames"])
        last = max(end - (2 if end - begin > 4 else 1), begin)
        below = (_LEFT + begin, floor + 4, _LEFT + last, floor + 4 + _BAND)
        left = (_LEFT - 4 - _BAND, _HEAD + begin, _LEFT - 4, _HEAD + last)
        number = str(shot["index"] + 1)
        for box in (below, left):
            draw.rectangle(box, _shot_colour(shot["index"]))
            if end - begin >= max(18, face.getlength(number) + 4):
                draw.text(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), number, GROUND, face, anchor="mm")
        if shot["index"] in pictures and end - begin >= 24:
            small = Image.fromarray(np.asarray(pictures[shot["index"]]))
            room = min(end - begin - 2, _PICTURE)
            small = small.resize((room, max(1, min(_PICTURE, round(room * small.height / small.width)))))
            image.paste(small, (_LEFT + begin, floor + _BAND + 8))
            image.paste(small, (_LEFT - _BAND - 8 - small.width, _HEAD + begin))
        if begin > 0 and len(report["shots"]) <= _MAX_LINES:
            for at in range(0, begin, 8):
                draw.line((_LEFT + begin, _HEAD + at, _LEFT + begin, _HEAD + at + 3), DIM)
            for at in range(begin, _PLOT, 8):
                draw.line((_LEFT + at, _HEAD + begin, _LEFT + at + 3, _HEAD + begin), DIM)


def _draw_cast(
    image: Image.Image, draw: ImageDraw.ImageDraw, report: Mapping[str, Any], pictures: Mapping[int, Any], top: int
) -> None:
    """Pictures of the cast, from `top` on: each with its name and how often it was recalled, over a strip of the film's time."""
    cast, chunks = report["cast"], report["chunks"]
    more = f" (the first {_MAX_CAST} of {len(cast)})" if len(cast) > _MAX_CAST else ""
    draw.text((_LEFT, top + 4), f"The cast, and which moments recalled it{more}", INK, font(15))
    for i, one in enumerate(cast[:_MAX_CAST]):
        y, share = top + _CAST_HEAD + _CAST_ROW * i, _recalls(report, i)
        strip = np.full((18, _PLOT, 3), _rgb(CARD), np.uint8)
        strip[:, share > 0] = _warm(share[share > 0])
        image.paste(Image.fromarray(strip), (_LEFT, y + 20))
        times = sum(any(mirrored(i) in row for row in chunk["routing"]) for chunk in chunks)
        name = fit_text(f"{one['name']}: recalled by {times} of {_count(len(chunks), 'chunk')}", 14, _PLOT, 1)
        draw.text((_LEFT, y), name, INK, font(14, name))
        if mirrored(i) in pictures:
            small = Image.fromarray(np.asarray(pictures[mirrored(i)]))
            small.thumbnail((_LEFT - _MARGIN - 12, _CAST_ROW - 8))
            image.paste(small, (_LEFT - 12 - small.width, y))


def _draw_times(draw: ImageDraw.ImageDraw, seconds: float) -> None:
    """A few round times above the square."""
    step = next((s for s in (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600) if seconds / s <= 10), 7200)
    for i in range(int(seconds / step) + 1):
        x = _LEFT + i * step / seconds * _PLOT
        draw.line((x, _HEAD - 6, x, _HEAD - 2), DIM)
        draw.text((x, _HEAD - 9), f"{i * step} s", DIM, font(13), anchor="ms")


def _draw_words(draw: ImageDraw.ImageDraw, report: Mapping[str, Any]) -> None:
    """Title, figures, and in the empty half of the square how to read it and what stands out."""
    chunks, settings = report["chunks"], report["settings"]
    seconds, layers = report["frames"] / report["fps"], len(chunks[0]["routing"])
    facts = (
        f"{_count(len(report['shots']), 'shot')}, {_count(len(chunks), 'chunk')}, {seconds:.1f} s. "
        f"Every chunk sees a window of {settings['window']} before it and up to {settings['top_k']} older frames "
        f"in each of {_count(layers, 'layer')}."
    )
    draw.text((_MARGIN, 24), "What each moment looked back at", INK, font(30))
    draw.text((_MARGIN, 66), fit_text(facts, 16, _LEFT + _PLOT - _MARGIN, 1), DIM, font(16))
    x, y, width = _LEFT + 24, _HEAD + _PLOT - 290, 330
    how = "Each column is one moment of the film. Read it from the top: which parts of the past it saw."
    draw.multiline_text((x, y), fit_text(how, 15, width, 3), DIM, font(15), spacing=5)
    y += 62
    for i in range(80):
        draw.line((x + i, y, x + i, y + 15), tuple(_warm(np.array([i / 79]))[0].tolist()))
    draw.text((x + 92, y + 8), "recalled: by few layers ... by all", INK, font(15), anchor="lm")
    draw.rectangle((x, y + 26, x + 79, y + 41), _WINDOW)
    draw.text((x + 92, y + 34), "the local window", INK, font(15), anchor="lm")
    for i in range(4):
        draw.rectangle((x + 20 * i, y + 52, x + 20 * i + 19, y + 67), SHOT_COLOURS[i])
    draw.text((x + 92, y + 60), "the moment itself, by shot", INK, font(15), anchor="lm")
    for at in range(0, 80, 8):
        draw.line((x + at, y + 86, x + at + 3, y + 86), DIM)
    draw.text((x + 92, y + 86), "a cut", INK, font(15), anchor="lm")
    summary = fit_text(" ".join(recall_summary(report)), 15, width, 5)
    draw.multiline_text((x, y + 112), summary, INK, font(15), spacing=5)
