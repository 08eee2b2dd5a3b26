"""A checkpoint under test: every film is made, read and written down once; what was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causalcine_core import Pipeline
from causalcine_core.atomic import write_atomic
from causalcine_core.errors import InputError
from causalcine_core.memory import MemorySettings
from causalcine_core.shot_cuts import find_cuts
from training.world import Film, make_film

from .codec import psnr
from .films import Frames, Result, generate, is_recalled, read_film, without_memory
from .luma import flicker
from .pictures import picture_figures, quarters
from .probe import Probe, features_of, load_probe, round_trip

FORMAT = 2


@dataclass
class Run:
    """A checkpoint under test, its readers, and the folders of what is known so far: a JSON file for every film.

    out: of the films that were made. ceilings: of the truth. compare: make films that recall somebody once more without memory.
    memory: as in `Pipeline.stream`.
    """

    pipe: Pipeline
    probe: Probe
    probe_file: Path
    out: Path
    ceilings: Path
    compare: bool = True
    memory: MemorySettings | None = None

    @property
    def window(self) -> int:
        """Pixel frames of the local window that the checkpoint was trained with."""
        recipe = self.pipe.recipe
        return recipe.visibility.window * recipe.timeline.chunk * self.pipe.vae.config.temporal_stride

    def film(self, seed: int, seconds: float) -> Film:
        """A film of the world planned at random, of the model's size and rate."""
        recipe = self.pipe.recipe
        return make_film(seed, seconds, recipe.timeline.fps, (recipe.picture.width, recipe.picture.height))

    def story(self, film: Film, *, long: bool = False, pictures: bool = False) -> Result:
        """The result of one film's story, made now or read from its file. long: it is not made without memory, and its quarters are
        kept apart. pictures: keep one of each shot."""
        path = self.out / "films" / f"{film.seed}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        began = time.perf_counter()
        frames, state, fork = generate(self.pipe, film, film.seed, self.memory)
        made = time.perf_counter() - began
        ranges = [shot.frames for shot in state.shots]
        began = time.perf_counter()
        result = self._read(film, ranges, frames, long)
        recalled = is_recalled(film, self.window)
        reading = time.perf_counter() - began
        extra = 0.0
        if recalled and fork is not None and self.compare and not long:
            began = time.perf_counter()
            plain = without_memory(self.pipe, fork, frames, ranges[recalled[-1]][1])
            extra = time.perf_counter() - began
            result["shots_without_memory"] = read_film(self.probe, film, ranges, plain, self.window)
        result["seconds"] = {"generate": round(made, 2), "without_memory": round(extra, 2), "read": round(reading, 2)}
        save_array(self._features(film), features_of(self.probe, frames, ranges))
        if pictures:
            save_array(
                self.out / "pictures" / f"{film.seed}.npy",
                np.stack([frames[(first + end) // 2] for first, end in ranges]),
            )
        write_json(path, result)
        return result

    def ceiling(self, film: Film, *, long: bool = False) -> Result:
        """The same readings of the true film after the VAE's round trip; beside them, `true_pictures` and `true_quarters` are of the
        true film as it is, and `psnr` says how well the VAE gives it back."""
        path = self.ceilings / f"{film.seed}-{film.frames}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        ranges = [(shot.first, shot.end) for shot in film.shots]
        true = film.render()
        frames = round_trip(self.pipe.vae, true)
        result = self._read(film, ranges, frames, long)
        result |= {"psnr": round(psnr(frames, true), 3), "true_pictures": picture_figures(true, film.cuts)}
        if long:
            result["true_quarters"] = quarters(true, film.cuts)
        for name, shown in (("true", true), ("codec", frames)):
            save_array(self._features(film, name), features_of(self.probe, shown, ranges))
        write_json(path, result)
        return result

    def features(self, film: Film, name: str = "") -> NDArray[np.float32]:
        """The probe's features of a film `[n, 192]`, once it was read: as it was made, or of the truth ("true", "codec")."""
        features: NDArray[np.float32] = np.load(self._features(film, name))
        return features

    def _features(self, film: Film, name: str = "") -> Path:
        if name:
            return self.ceilings / f"{film.seed}-{film.frames}-{name}.npy"
        return self.out / "features" / f"{film.seed}.npy"

    def _read(self, film: Film, ranges: Sequence[tuple[int, int]], frames: Frames, long: bool) -> Result:
        cuts = [first for first, _ in ranges[1:]]
        result: Result = {"seed": film.seed, "frames": len(frames), "cuts": {"asked": cuts, "found": find_cuts(frames)}}
        result["shots"] = read_film(self.probe, film, ranges, frames, self.window)
        result["pictures"] = picture_figures(frames, cuts)
        if long:
            result["quarters"] = quarters(frames, cuts)
        if long and len(frames) >= 2 * self.window:
            recipe, stride = self.pipe.recipe, self.pipe.vae.config.temporal_stride
            chunk, first = recipe.timeline.chunk * stride, 1 + (recipe.timeline.first_chunk - 1) * stride
            found = flicker(frames, cuts, chunk=chunk, first=first, window=recipe.visibility.window)
            result["flicker"] = {"chunk": found.chunk, "window": found.window}
        return result


def open_run(
    pipe: Pipeline,
    probe_file: Path,
    out: Path,
    ceilings: Path | None,
    settings: dict[str, Any],
    memory: MemorySettings | None = None,
) -> Run:
    """A run in its folder. InputError if the folder holds the results of another model or other settings."""
    probe = load_probe(probe_file)
    pipe.recipe = pipe.recipe.changed(**settings)
    readers = readers_print(pipe, probe_file)
    what = {"format": FORMAT, "model": pipe.network.fingerprint, "recipe": pipe.recipe.to_dict(), "readers": readers}
    if memory is not None:
        what["memory"] = asdict(memory)
    path = out / "run.json"
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(what)):
        raise InputError(
            f"{out} holds results of another model or other settings; choose another folder for --out, or delete it"
        )
    write_json(path, what)
    return Run(pipe, probe, probe_file, out, (ceilings or out / "ceilings") / readers, memory=memory)


def readers_print(pipe: Pipeline, probe_file: Path) -> str:
    """Ten hex digits that change with whatever a ceiling depends on: probe, VAE, window, size and rate of the films."""
    recipe = pipe.recipe
    digest = hashlib.sha256(probe_file.read_bytes())
    seen, line, picture = recipe.visibility, recipe.timeline, recipe.picture
    told = (FORMAT, seen.window, line.chunk, line.first_chunk, picture.width, picture.height, line.fps)
    digest.update(str(told).encode())
    for name, tensor in sorted(pipe.vae.state_dict().items()):
        digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:10]


def write_json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda partial: partial.write_text(json.dumps(data)))


def save_array(path: Path, array: NDArray[Any]) -> None:
    data = BytesIO()
    np.save(data, array)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, lambda partial: partial.write_bytes(data.getvalue()))
