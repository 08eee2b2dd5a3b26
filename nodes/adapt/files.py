"""Where results go: file name prefixes that users and scripts really type, made safe on every system."""

from __future__ import annotations

import itertools
import json
import os
import posixpath
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args

from ...causalcine_core.errors import InputError
from ...causalcine_core.story_formats.film import STORY_FIELD

DEFAULT = "CausalCine"
LONGEST_PART, LONGEST = 180, 900  # bytes of one name and of the whole prefix: file systems allow 255 and 4,096
_RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")
_DATE = re.compile(r"%date:([^%]+)%")
_DATE_PARTS = {"yyyy": "%Y", "yy": "%y", "MM": "%m", "dd": "%d", "hh": "%H", "HH": "%H", "mm": "%M", "ss": "%S"}


def clean_prefix(prefix: str) -> str:
    """A prefix with `/` between folders and names that Windows, macOS and Linux accept.

    Raises InputError where it would leave the output folder or is too long.
    """
    text = _DATE.sub(lambda found: _date(found[1]), prefix.strip()).replace("\\", "/")
    if text.startswith("/") or re.match(r"[A-Za-z]:/", text):
        raise InputError(
            f"filename_prefix {prefix!r} is an absolute path: give a name or subfolder of ComfyUI's output"
        )
    if text.endswith("/") or not text:
        text += DEFAULT
    text = posixpath.normpath(text)
    if text.split("/")[0] == "..":
        raise InputError(f"filename_prefix {prefix!r} leaves ComfyUI's output folder: give a name or subfolder of it")
    text = "/".join(_clean_part(part) for part in text.split("/"))
    if len(os.fsencode(text)) > LONGEST:
        raise InputError(f"filename_prefix is too long ({len(os.fsencode(text))} bytes): {LONGEST} are allowed")
    return text


def reserve(prefix: str, size: tuple[int, int], top: Path | None = None) -> tuple[Path, str, str, int]:
    """The folder of a prefix, made where missing; the name in it; the subfolder for the browser; the next number. top: None: ComfyUI's
    output folder."""
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        clean_prefix(prefix), str(top or folder_paths.get_output_directory()), *size
    )
    return Path(folder), name, subfolder, number


@dataclass
class Written:
    """The last file that was written for each film, by its digest, and how often it was found to be gone."""

    files: dict[str, Path] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    def keep(self, film: str | None, path: Path) -> None:
        if film is not None:
            self.files[film] = path

    def lost(self, film: str | None) -> int:
        """How many of a film's files are gone by now; 0 for a film that was never written."""
        path = self.files.get(film) if film is not None else None
        if film is None or path is None:
            return self.times.get(film or "", 0)
        if not path.exists():
            del self.files[film]
            self.times[film] = self.times.get(film, 0) + 1
        return self.times.get(film, 0)


@dataclass
class Read:
    """The file that was last read for each film, by its digest, with its signature then, and how often it was found to be another."""

    files: dict[str, tuple[Path, str]] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)

    def keep(self, film: str | None, path: Path, signature: str) -> None:
        if film is not None:
            self.files[film] = path, signature

    def changed(self, film: str | None, sign: Callable[[Path], str]) -> int:
        """How many times a film's file has changed by now; 0 for one that was never read."""
        path, before = self.files.get(film or "", (None, ""))
        if film is not None and path is not None and (now := sign(path)) != before:
            self.files[film] = path, now
            self.times[film] = self.times.get(film, 0) + 1
        return self.times.get(film or "", 0)


def publish(file: Path, name: str, number: int) -> Path:
    """Give a finished file the first free numbered name in its folder; nothing is ever overwritten."""
    while True:
        target = file.with_name(f"{name}_{number:05}_{file.suffix}")
        try:
            os.close(os.open(target, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
            continue
        os.replace(file, target)
        return target


def free(folder: Path, start: str, end: str) -> Path:
    """The path of a file that is not there: `start` and `end`, or with a number between them."""
    names = (f"{start}{number or ''}{end}" for number in itertools.count())
    return next(path for name in names if not (path := folder / name).exists())


def metadata(hidden: Any, story: str | None) -> dict[str, str]:
    """Prompt, workflow and story as fields of a video file, unless the user turned that off."""
    if args.disable_metadata:
        return {}
    fields = dict(hidden.extra_pnginfo or {})
    if hidden.prompt is not None:
        fields["prompt"] = hidden.prompt
    told = {} if story is None else {STORY_FIELD: story}
    return {name: json.dumps(value) for name, value in fields.items()} | told


def _date(layout: str) -> str:
    pattern = re.compile("|".join(_DATE_PARTS))
    return time.strftime(pattern.sub(lambda found: _DATE_PARTS[found[0]], layout.replace("%", "")))


def _clean_part(part: str) -> str:
    part = re.sub(r'[<>:"|?*\x00-\x1f\x7f]', "_", part).strip().rstrip(". ") or "_"
    part = os.fsencode(part)[:LONGEST_PART].decode("utf-8", "ignore")
    return f"{part}_" if _RESERVED.fullmatch(part) else part
