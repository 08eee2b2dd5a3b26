"""ComfyUI's AUDIO as a sound of ours."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths

from ...causalcine_core.errors import InputError
from ...causalcine_core.sound import Sound


@contextlib.contextmanager
def sound_of(audio: Any) -> Iterator[Sound | None]:
    """An AUDIO as a sound whose file, in ComfyUI's temp folder, is there as long as this lasts; None: there is none. Raises InputError
    where it cannot be used."""
    if audio is None:
        yield None
        return
    waveform, rate = audio["waveform"], int(audio["sample_rate"])
    if waveform.ndim != 3 or len(waveform) != 1:
        raise InputError(
            f"audio must be one sound, [1, channels, time], got {list(waveform.shape)}: save one at a time"
        )
    temp = Path(folder_paths.get_temp_directory())
    temp.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="causalcine-", dir=temp) as folder:
        yield Sound.keep(waveform[0].float().cpu().numpy(), rate, Path(folder) / "sound")
