"""A film being made, watched: the progress bar, and the first frame of each shot for the pictures."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..pictures import contact_sheet, sheet_shots

if TYPE_CHECKING:
    from ..sampling import Chunk, State, StepInfo


class Watch:
    """shots: that the video will show. made: pixel frames of the film before it. newest: the state after the newest chunk.
    pictures: first frames, uint8 `[H W 3]`, by shot."""

    def __init__(self, shots: int, made: int):
        self._shots, self._made = shots, made
        self._bar: Any = None
        self._wanted = set(sheet_shots(shots))
        self._first_shot: int | None = None
        self._began = time.perf_counter()
        self.newest: State | None = None
        self.pictures: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, info: StepInfo) -> None:
        """After every denoising pass."""
        self._show(info.chunk.shot, f"pass {info.step}/{info.steps}")

    def chunk(self, chunk: Chunk) -> None:
        """After every chunk, before it is written."""
        self.newest = chunk.state
        self._show(chunk.shot, "")
        end = chunk.state.planned[-1].frames[1] if chunk.state.planned else chunk.state.frames
        here = chunk.state.records[chunk.index].plan.frames[1]
        done = here - self._made
        if self._bar is not None:
            speed = done / (time.perf_counter() - self._began)
            left = (end - here) / speed
            self._bar.total = end - self._made
            self._bar.set_postfix_str(f"{speed:.1f} fps, {math.ceil(left)} s left", refresh=False)
            self._bar.update(done - self._bar.n)
        if chunk.shot not in self.pictures and chunk.shot - (self._first_shot or 0) in self._wanted:
            self.pictures[chunk.shot] = _thumbnail(chunk.frames[0])

    def contact_sheet(self, report: Mapping[str, Any], name: str) -> Image.Image:
        """First frames of the shots that were made, with their captions and times."""
        fps, shots = report["fps"], {shot["index"]: shot for shot in report["shots"]}
        labels = [
            f"Shot {i + 1}   {shots[i]['frames'][0] / fps:.1f} - {shots[i]['frames'][1] / fps:.1f} s"
            for i in self.pictures
        ]
        width, height = report["size"]
        begin, end = report["written"]
        facts = (
            f"{self._shots} shots, {end - begin} frames, {(end - begin) / fps:.1f} s at {fps:g} fps, "
            f"{width}x{height}, seed {report['seed']}, {report['model'].get('name', 'unnamed')}"
        )
        captions = [shots[i]["prompt"] for i in self.pictures]
        return contact_sheet(list(self.pictures.values()), captions, labels=labels, title=name, subtitle=facts)

    def _show(self, shot: int, what: str) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._first_shot = shot
            form = "{desc} {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} frames{postfix}"
            self._bar = tqdm(total=None, bar_format=form, file=sys.stderr, dynamic_ncols=True)
        number = shot - (self._first_shot or 0) + 1
        self._bar.set_description_str(
            f"shot {number}/{self._shots} {what:<11}", refresh=bool(what) and sys.stderr.isatty()
        )


def _thumbnail(frame: Any) -> Any:
    """A frame of at most 640 pixels either way: what the pictures need of it."""
    small = Image.fromarray(np.asarray(frame))
    small.thumbnail((640, 640))
    return np.asarray(small)
