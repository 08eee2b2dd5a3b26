"""Stories: what the user asks for, read, checked and laid onto the chunks of a film.

A story is a list of shots. It comes as JSON, as HoloCine's tagged string or as plain text; `SHOT_SYNTAX`
names every form. `plan` is the only place where seconds and pixel frames turn into chunks and latent frames.
"Frame" means a pixel frame here and every range is `[first, end)`. Whatever cannot be used raises
`InputError`, whose sentence names the field.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

from .cut import Cut
from .errors import InputError

MAX_SHOTS = 9_999
MAX_FRAMES = 1_000_000  # of one film: 17 hours at 16 fps
MIN_SECONDS, MAX_SECONDS = 0.001, 86_400.0  # of one shot
MIN_FPS, MAX_FPS = 1, 120
MAX_SEED = 2**64 - 1
MAX_BLEND = 1000  # chunks
BLEND = 3  # chunks, where a soft cut names none
MAX_PIXELS = 4096 * 2304
MAX_BYTES = 32 * 2**20  # of a story file

SHOT_SYNTAX = (
    'JSON ({"shots": [{"prompt": "...", "seconds": 3}, ...]} or {"0": "...", "24": "..."} by first frame), '
    "[global caption] ... [per shot caption] ... [shot cut] ..., or plain text with one kind of separator: "
    "lines of ---, numbers (Shot 1: ... Shot 2: ..., or 1) ... 2) ...), blank lines, or | in one paragraph"
)

_STORY_FIELDS = ("global", "fps", "width", "height", "seed", "negative", "cut", "shots")
_TAGGED_FIELDS = ("prompt", "shot_cut_frames", "num_frames", "fps", "width", "height", "seed", "negative")
_SHOT_FIELDS = ("prompt", "seconds", "frames", "seed", "cut", "blend")


# --- values


def _show(value: object) -> str:
    """A value as JSON spells it, short enough for a sentence."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _whole(value: object, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"{name} must be a whole number from {low} to {high}, got {_show(value)}")
    return value


def _number(value: object, name: str, low: float, high: float, unit: str = "") -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not ok or not low <= value <= high:  # type: ignore[operator]
        raise InputError(f"{name} must be a number{unit} from {low:.15g} to {high:.15g}, got {_show(value)}")
    return value  # type: ignore[return-value]


def _text(value: object, name: str, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text in quotes, got {_show(value)}")
    bad = next((c for c in value if c == "\0" or "\ud800" <= c <= "\udfff"), None)
    if bad is not None:
        raise InputError(f"{name} holds a character that is not text (U+{ord(bad):04X})")
    if not empty and not value.strip():
        raise InputError(f"{name} is empty; every shot needs a prompt that says what is seen")
    return value.strip()


def check_seed(value: object, name: str = "seed") -> int:
    """A seed is any whole number from 0 to 2^64 - 1; anything else is an `InputError`."""
    return _whole(value, name, 0, MAX_SEED)


def check_fps(value: object, name: str = "fps") -> float:
    """Frames per second: a number from 1 to 120, whole or not; anything else is an `InputError`."""
    return _number(value, name, MIN_FPS, MAX_FPS)


def pace_notes(fps: float | None, trained: float) -> list[str]:
    """A warning if a film is asked for at another rate than its model was trained at (both frames per second)."""
    if fps is None or fps == trained:
        return []
    return [f"the model moves at {trained:g} fps; at {fps:g} fps its motion looks {fps / trained:.3g} times as fast"]


def parse_size(text: str) -> tuple[int, int]:
    """`(width, height)` of a text such as `832x480`; `check_size` says whether a model can make it."""
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if match is None:
        raise InputError(f"size is {text!r}: it must be WIDTHxHEIGHT in pixels, such as 832x480")
    return int(match[1]), int(match[2])


def check_size(width: object, height: object, multiple: int = 16) -> tuple[int, int]:
    """`(width, height)` in pixels, if a model whose VAE stride times patch size is `multiple` can make it.

    Otherwise an `InputError`. The command line and the nodes both call this, so that the words are the same.
    """
    for name, value in (("width", width), ("height", height)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of pixels, a multiple of {multiple}, got {_show(value)}")
    w, h = int(width), int(height)  # type: ignore[call-overload]
    if w * h > MAX_PIXELS:
        # a Wan decoder's last layers: 96 channels, 4 frames, float32, a convolution's input and output
        gib = 2 * 96 * 4 * 4 * w * h / 2**30
        raise InputError(
            f"{w}x{h} is too large: decoding it would need about {gib:,.0f} GiB of memory; "
            f"width times height may be at most {MAX_PIXELS:,} pixels (such as 4096x2304)"
        )
    down = [max(side // multiple, 1) * multiple for side in (w, h)]
    up = [-(-side // multiple) * multiple for side in (w, h)]
    if up != [w, h]:
        choices = dict.fromkeys(f"{a}x{b}" for a, b in (down, up))
        raise InputError(
            f"size {w}x{h} does not fit: width and height must be multiples of {multiple}; "
            f"nearest are {' or '.join(choices)}"
        )
    return w, h


def join_prompt(global_prompt: str, prompt: str) -> str:
    """What a text encoder reads for one shot: the global text, then the shot's own."""
    return f"{global_prompt} {prompt}".strip()


# --- story


@dataclass(frozen=True)
class Shot:
    """One shot: its prompt and its length, in `seconds` or pixel `frames` (neither: the model's own).

    cut: how it follows the shot before it (`cut.Cut`; None: as the story, then as the model). blend: chunks over which
    the text goes over to this shot's, for a soft cut.

    The `Story` that holds it checks it, because the message names its place, `shots[2].seconds`.
    """

    prompt: str
    seconds: float | None = None
    frames: int | None = None
    seed: int | None = None
    cut: str | None = None
    blend: int | None = None

    def to_dict(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in _SHOT_FIELDS}
        return {name: value for name, value in fields.items() if value is not None}


def _checked_shot(shot: object, name: str) -> Shot:
    if not isinstance(shot, Shot):
        raise InputError(f"{name} must be a Shot, got {_show(shot)}")
    if shot.seconds is not None and shot.frames is not None:
        raise InputError(f'{name} has both "seconds" and "frames"; give one of the two')
    if shot.seconds is not None:
        _number(shot.seconds, f"{name}.seconds", MIN_SECONDS, MAX_SECONDS)
    if shot.frames is not None:
        _whole(shot.frames, f"{name}.frames", 1, MAX_FRAMES)
    if shot.seed is not None:
        check_seed(shot.seed, f"{name}.seed")
    if shot.cut is not None:
        Cut.parse(shot.cut, name=f"{name}.cut")
    if shot.blend is not None:
        _whole(shot.blend, f"{name}.blend", 0, MAX_BLEND)
    return replace(shot, prompt=_text(shot.prompt, f"{name}.prompt"))


@dataclass(frozen=True)
class Story:
    """A film to make: shots in order, and what holds for all of them (None: as the checkpoint was trained).

    `width` and `height` are pixels, `fps` frames per second (1 to 120), `seed` 0 to 2^64 - 1, `cut` how shots that name
    no cut of their own follow one another. `notes` are
    sentences about how a text was read. Raises `InputError` for anything that cannot be used.
    """

    shots: Sequence[Shot]
    global_prompt: str = ""
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int | None = None
    negative: str | None = None
    cut: str | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.shots, list | tuple) or not self.shots:
            raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {_show(self.shots)}")
        if len(self.shots) > MAX_SHOTS:
            raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {len(self.shots):,} of them")
        clean = {
            "shots": tuple(_checked_shot(shot, f"shots[{i}]") for i, shot in enumerate(self.shots)),
            "global_prompt": _text(self.global_prompt, "global", empty=True),
        }
        if self.negative is not None:
            clean["negative"] = _text(self.negative, "negative", empty=True)
        for name, value in clean.items():
            object.__setattr__(self, name, value)
        if self.fps is not None:
            check_fps(self.fps)
        for name in ("width", "height"):
            if getattr(self, name) is not None:
                _whole(getattr(self, name), name, 1, MAX_PIXELS)
        if self.seed is not None:
            check_seed(self.seed)
        if self.cut is not None:
            Cut.parse(self.cut)
        for i, shot in enumerate(self.shots):
            if shot.blend is not None and not Cut.parse(shot.cut or self.cut or "native").soft:
                raise InputError(f'shots[{i}].blend belongs to a soft cut; add "cut": "soft", or leave it out')

    def prompt(self, index: int) -> str:
        """The text that the encoder gets for shot `index`: the global text, then the shot's own."""
        return join_prompt(self.global_prompt, self.shots[index].prompt)

    def to_dict(self) -> dict[str, Any]:
        """The story as its JSON file would hold it; `Story.from_dict` reads it back to an equal story."""
        fields = {
            "global": self.global_prompt or None,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
        }
        fields |= {"seed": self.seed, "negative": self.negative, "cut": self.cut}
        known = {name: value for name, value in fields.items() if value is not None}
        return known | {"shots": [shot.to_dict() for shot in self.shots]}

    @classmethod
    def load(cls, path: str | Path) -> Story:
        """Reads a story file: UTF-8 text of at most 32 MiB. A name that ends in .json must hold JSON."""
        path = Path(path)
        try:
            text = _read_text(path)
            return _from_json(text) if path.suffix.lower() == ".json" else cls.parse(text)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> Story:
        """Reads a story from text in any form of `SHOT_SYNTAX`; the result's `notes` say which it was."""
        text = _text(text, "story", empty=True).removeprefix("\ufeff").strip()
        if not text:
            raise InputError("the story is empty; it needs at least one shot")
        if re.match(r'\{|\[\s*([\[{"\]\d-]|null|true|false)', text):
            return _from_json(text)
        if re.match(r'"\d+"\s*:', text):
            return _from_json("{" + text.rstrip(",") + "}")
        if text.startswith('"') and text.endswith('"'):
            try:
                inner = json.loads(text)
            except ValueError:
                inner = None  # a paragraph that begins and ends with speech
            if isinstance(inner, str):
                return cls.parse(inner)
        return _from_text(text)

    @classmethod
    def from_dict(cls, data: object) -> Story:
        """A story from decoded JSON: our fields, HoloCine's `prompt` and `shot_cut_frames`, or texts by
        frame."""
        if not isinstance(data, dict):
            raise InputError(f'a JSON story must be an object such as {{"shots": [...]}}, got {_show(data)}')
        if data and all(re.fullmatch(r"\d{1,9}", str(key)) for key in data):
            return _from_frame_keys(data)
        if "prompt" in data and "shots" not in data:
            return _from_tagged_dict(data)
        _only_known(data, _STORY_FIELDS, "the story")
        if "shots" not in data:
            raise InputError('the story has no "shots"; it needs a list of {"prompt": "...", "seconds": 3}')
        items = data["shots"]
        if not isinstance(items, list):
            raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {_show(items)}")
        shots = [_shot_from_dict(item, f"shots[{i}]") for i, item in enumerate(items[: MAX_SHOTS + 1])]
        if len(items) > MAX_SHOTS:
            raise InputError(f"shots must be a list of 1 to {MAX_SHOTS:,} shots, got {len(items):,} of them")
        return _noted(cls(shots=shots, **_common(data)), f'JSON, {len(shots)} in the list "shots"')


# --- reading


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError("this is a folder; a story is a file")
        if size > MAX_BYTES:
            raise InputError(f"a story file may hold at most {MAX_BYTES:,} bytes, this one has {size:,}")
        raw = path.read_bytes()
    except FileNotFoundError:
        raise InputError("there is no such story file") from None
    except OSError as error:
        raise InputError(f"the story file cannot be read ({error.strerror})") from None
    except ValueError as error:  # a name with a null character
        raise InputError(f"the story file cannot be read ({error})") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"the story file is not UTF-8 text (byte {error.start:,}); save it as UTF-8") from None


def _from_json(text: str) -> Story:
    try:
        return Story.from_dict(json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_unique_keys))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"this is not valid JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InputError("this is not a story: the JSON is nested too deeply") from None
    except InputError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise InputError(f"this is not valid JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the field {_show(next(n for n in names if names.count(n) > 1))} is given twice")
    return data


def _only_known(data: dict[str, Any], known: Sequence[str], where: str) -> None:
    for name in data:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f', did you mean "{close[0]}"?' if close else ";"
            raise InputError(f"{where} has an unknown field {_show(name)}{hint} allowed are {', '.join(known)}")


def _common(data: dict[str, Any]) -> dict[str, Any]:
    """The fields that hold for the whole film; JSON null means "not given"."""
    names = {"global": "global_prompt"} | {name: name for name in ("fps", "width", "height", "seed", "negative", "cut")}
    return {ours: data[name] for name, ours in names.items() if data.get(name) is not None}


def _shot_from_dict(item: object, name: str) -> Shot:
    if not isinstance(item, dict):
        raise InputError(f'{name} must be an object such as {{"prompt": "...", "seconds": 3}}, got {_show(item)}')
    _only_known(item, _SHOT_FIELDS, name)
    if "prompt" not in item:
        raise InputError(f'{name} has no "prompt"; every shot needs one')
    return Shot(**{field: item[field] for field in _SHOT_FIELDS if item.get(field) is not None or field == "prompt"})


def _from_frame_keys(data: dict[str, Any]) -> Story:
    """`{"0": "a", "24": "b"}`: each text begins at its frame; the last one has the usual length."""
    by_frame = {int(key): (key, value) for key, value in data.items()}
    if len(by_frame) < len(data):
        raise InputError("two texts begin at the same frame; every frame number may stand once")
    if 0 not in by_frame:
        raise InputError(f'texts by first frame must begin with "0", the first here is "{min(by_frame)}"')
    starts = sorted(by_frame)
    lengths = [b - a for a, b in pairwise(starts)] + [None]
    texts = [_text(by_frame[start][1], f'the text at frame "{by_frame[start][0]}"') for start in starts]
    shots = [Shot(text, frames=length) for text, length in zip(texts, lengths, strict=True)]
    return _noted(Story(shots), "JSON, one text for each first frame; the last has the usual length")


_TAG = re.compile(r"\[\s*(global caption|per shot caption|shot cut)\s*\]", re.IGNORECASE)


def _from_tagged_dict(data: dict[str, Any]) -> Story:
    """HoloCine's form: one tagged string, and the frames at which shots 2, 3, ... begin."""
    _only_known(data, _TAGGED_FIELDS, "the story")
    text = _text(data["prompt"], "prompt")
    global_prompt, prompts = _split_tagged(text) if _TAG.search(text) else ("", [text])
    cuts, end = data.get("shot_cut_frames"), data.get("num_frames")
    lengths: list[int | None] = [None] * len(prompts)
    if cuts is not None:
        if not isinstance(cuts, list) or len(cuts) != len(prompts) - 1:
            raise InputError(
                f"shot_cut_frames must be a list of {len(prompts) - 1} frames, one fewer than the "
                f"{len(prompts)} shots of the prompt, got {_show(cuts)}"
            )
        ends = [*cuts, end] if end is not None else cuts
        begin = 0
        for i, cut in enumerate(ends):
            name = f"shot_cut_frames[{i}]" if i < len(cuts) else "num_frames"
            lengths[i] = _whole(cut, name, begin + 1, MAX_FRAMES) - begin
            begin = cut
    elif end is not None:
        total, n = _whole(end, "num_frames", len(prompts), MAX_FRAMES), len(prompts)
        lengths = [total * (i + 1) // n - total * i // n for i in range(n)]
    shots = [Shot(prompt, frames=length) for prompt, length in zip(prompts, lengths, strict=True)]
    how = "JSON with [shot cut] tags" if len(shots) > 1 else "JSON with one prompt"
    return _noted(Story(shots, **{**_common(data), "global_prompt": global_prompt}), how)


def _split_tagged(text: str) -> tuple[str, list[str]]:
    """The global text and the shots of `[global caption] ... [per shot caption] ... [shot cut] ...`."""
    parts = _TAG.split(text)
    before, tags, texts = parts[0].strip(), [tag.lower() for tag in parts[1::2]], parts[2::2]
    for tag in ("global caption", "per shot caption"):
        if tags.count(tag) > 1:
            raise InputError(f"the tag [{tag}] stands {tags.count(tag)} times; it may stand once")
    if "global caption" in tags and tags[:2] != ["global caption", "per shot caption"]:
        raise InputError("after [global caption] ... the text needs [per shot caption] ... with the first shot")
    if tags[0] == "shot cut" and "per shot caption" not in tags:  # a [shot cut] b
        return "", [_one_line(t, f"shot {i + 1}") for i, t in enumerate([before, *texts])]
    if "shot cut" in tags[: tags.index("per shot caption")]:
        raise InputError("[shot cut] may only stand after [per shot caption]")
    first = tags.index("per shot caption")
    shared = " ".join(" ".join([before, *texts[:first]]).split())
    return shared, [_one_line(t, f"shot {i + 1}") for i, t in enumerate(texts[first:])]


def _one_line(text: str, name: str) -> str:
    return " ".join(_text(text, f"the text of {name}").split())


_DASHES = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)
_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_SHOT_MARK = re.compile(
    r"(?<!\w)\*{0,2}\[?\s*(?:shot|scene)\s*\#?\s*(?P<n>\d{1,5})\s*(?:\(\s*(?P<s>\d+(?:\.\d+)?)\s*s(?:ec(?:ond)?s?)?\.?\s*\)\s*)?"
    r"\*{0,2}(?:\]\s*:?|[:.)\uff1a]|\s[-\u2013\u2014]\s)\*{0,2}",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(r"(?:^[ \t]*(?P<n>\d{1,5})[.):](?=\s)|(?<=\s)(?P<m>\d{1,5})\)(?=\s))", re.MULTILINE)
_ODD = re.compile(r"(?<!\w)(?:shot|scene|clip)\s*#?\d|^\s*\d+(?:\s*-\s*\d+)?\s*[:.)]", re.IGNORECASE | re.MULTILINE)


def _from_text(text: str) -> Story:
    """Plain text: exactly one kind of separator counts, the first that occurs in `SHOT_SYNTAX`'s order."""
    text = re.sub(r"\r\n?|[\x85\u2028\u2029]", "\n", text)
    if _TAG.search(text):
        global_prompt, prompts = _split_tagged(text)
        return _noted(Story([Shot(p) for p in prompts], global_prompt), "split at [shot cut] tags")
    if _DASHES.search(text):
        return _noted(Story(_pieces(_DASHES, text)), "split at lines of ---")
    numbered = _numbered(text)
    if numbered is not None:
        return numbered
    shots = _pieces(_BLANK, text)
    if len(shots) > 1:
        return _noted(Story(shots), "one per paragraph")
    if "|" in text:
        return _noted(Story(_pieces(re.compile(r"\|"), text)), "split at every | of a single paragraph")
    if text.count("\n") or _ODD.search(text):
        hint = f"if more were meant, separate shots by a blank line; all forms: {SHOT_SYNTAX}"
        return _noted(Story(shots), "one paragraph", hint)
    return _noted(Story(shots), "one paragraph")


def _pieces(separator: re.Pattern[str], text: str) -> list[Shot]:
    pieces = (" ".join(piece.split()) for piece in separator.split(text))
    shots = [Shot(piece) for piece in pieces if piece]
    if not shots:
        raise InputError("the story holds separators but no text; it needs at least one shot")
    return shots


def _numbered(text: str) -> Story | None:
    """`Shot 1: a Shot 2: b` (text before it is global) or `1) a 2) b`; None unless numbers run 1, 2, 3,
    ..."""
    for marks, what in (
        (list(_SHOT_MARK.finditer(text)), "Shot 1:"),
        (list(_LIST_MARK.finditer(text)), "1)"),
    ):
        numbers = [int(mark["n"] or mark["m"]) for mark in marks]
        before = " ".join(text[: marks[0].start()].split()) if marks else ""
        if not marks or numbers != list(range(1, len(marks) + 1)) or (before and what == "1)"):
            continue
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        shots = [
            Shot(
                _one_line(text[mark.end() : end].strip("*"), f"shot {number}"),
                seconds=float(mark["s"]) if what == "Shot 1:" and mark["s"] else None,
            )
            for mark, end, number in zip(marks, ends, numbers, strict=True)
        ]
        how = f"numbered like {what}" + ("; the text before it is global" if before else "")
        return _noted(Story(shots, before), how)
    return None


def _noted(story: Story, how: str, *hints: str) -> Story:
    """The story with notes: how many shots were read and why, then hints."""
    n = len(story.shots)
    notes = [f"read {n} shot{'s' * (n > 1)}: {how}", *hints]
    if any("|" in shot.prompt for shot in story.shots):
        notes.append("| is kept as text here; it separates shots only in a single paragraph of plain text")
    object.__setattr__(story, "notes", tuple(notes))
    return story


# --- plan


@dataclass(frozen=True)
class PlannedShot:
    """A shot on the film's timeline: `prompt` is what the encoder gets, `caption` the shot's own text.

    `asked` and `frames` are pixel ranges `[first, end)` of the whole film: as the story says and as it will
    be.
    """

    index: int
    prompt: str
    asked: tuple[int, int]
    frames: tuple[int, int]
    caption: str = ""
    seed: int | None = None
    cut: str = "native"


@dataclass(frozen=True)
class PlannedChunk:
    """A chunk on the film's timeline: ranges `[first, end)` in latent and in pixel frames of the whole film.

    take: the chunk at which what it goes on from begins, its shot or, through soft cuts, an earlier one; cut: how that
    began. text: shots whose texts it reads, with weights that add up to 1 (empty: its own). rewrite: the window is
    written once more under this text first.
    """

    index: int
    shot: int
    latents: tuple[int, int]
    frames: tuple[int, int]
    take: int = 0
    cut: str = "native"
    text: tuple[tuple[int, float], ...] = ()
    rewrite: bool = False

    @property
    def length(self) -> int:
        """Latent frames."""
        return self.latents[1] - self.latents[0]

    @property
    def mixture(self) -> tuple[tuple[int, float], ...]:
        """Shots whose texts it reads, with their weights."""
        return self.text or ((self.shot, 1.0),)


@dataclass(frozen=True)
class Plan:
    """Where every shot of a story lands."""

    shots: tuple[PlannedShot, ...]
    chunks: tuple[PlannedChunk, ...]
    fps: float

    @property
    def frames(self) -> int:
        """Pixel frames of the whole film once this plan is done, what came before `start_chunk` included."""
        return self.shots[-1].frames[1]


@dataclass(frozen=True)
class Timeline:
    """Where chunks end: `first_chunk` latent frames, then `chunk` at a time.

    Latent frame 0 is one pixel frame, every later one is `stride`.
    """

    chunk: int = 3
    first_chunk: int = 3
    stride: int = 4

    def __post_init__(self) -> None:
        for name in ("chunk", "first_chunk", "stride"):
            _whole(getattr(self, name), name, 1, 10_000)

    def latents(self, chunks: int) -> int:
        """Latent frames in the first `chunks` chunks."""
        return self.first_chunk + (chunks - 1) * self.chunk if chunks else 0

    def frames(self, chunks: int) -> int:
        """Pixel frames in the first `chunks` chunks."""
        return 1 + (self.latents(chunks) - 1) * self.stride if chunks else 0

    def nearest(self, frame: int) -> int:
        """How many chunks end nearest to a pixel frame, at least one; of two equally near ends the
        earlier."""
        step = self.chunk * self.stride
        return 1 + max(0, -(-(2 * (frame - self.frames(1)) - step) // (2 * step)))


def plan(
    story: Story,
    *,
    chunk: int = 3,
    first_chunk: int = 3,
    fps: float = 16,
    temporal_stride: int = 4,
    start_chunk: int = 0,
    start_shot: int = 0,
    seconds: float = 3.0,
    cut: str = "native",
    phrase: str = "",
    before: PlannedChunk | None = None,
) -> Plan:
    """Lays a story onto chunks, O(shots + chunks).

    `chunk` and `first_chunk` are latent frames, `fps` holds where the story names none, `seconds` is the
    length of shots that name none. A cut is the sum of all asked lengths so far, so that roundings do not add
    up; it goes to the nearest chunk end (a tie to the earlier) that leaves every shot at least one chunk.
    With `start_chunk` and `start_shot` > 0 the story is appended to a film that has so many chunks and shots, `before` being
    its last chunk; indices and ranges are the film's. `cut` holds for shots that name none, `phrase` is what a cut with
    `phrase` puts before the prompt. A film of more than 1,000,000 frames is an `InputError`.
    """
    line = Timeline(chunk, first_chunk, temporal_stride)
    _whole(start_chunk, "start_chunk", 0, MAX_FRAMES)
    _whole(start_shot, "start_shot", 0, MAX_FRAMES)
    _number(seconds, "seconds", MIN_SECONDS, MAX_SECONDS)
    rate = story.fps if story.fps is not None else check_fps(fps)
    begin, at, position = line.frames(start_chunk), start_chunk, Fraction(line.frames(start_chunk))
    shots: list[PlannedShot] = []
    chunks: list[PlannedChunk] = []
    for i, shot in enumerate(story.shots):
        # exact decimals: 23.976 is 2997/125 here, so that sums of any length stay exact
        position += shot.frames or Fraction(repr(shot.seconds or seconds)) * Fraction(repr(rate))
        end = max(begin + 1, math.floor(position + Fraction(1, 2)))
        if end > MAX_FRAMES:
            raise InputError(
                f"shots[{i}] ends at frame {end:,}; a film may have at most {MAX_FRAMES:,} frames "
                f"({MAX_FRAMES / rate / 3600:.1f} hours at {rate:g} fps)"
            )
        last = max(at + 1, line.nearest(end))
        named = shot.cut or story.cut or cut
        how = Cut.parse(named)
        previous = chunks[-1] if chunks else before
        for n in range(at, last):
            one = PlannedChunk(
                n, start_shot + i, (line.latents(n), line.latents(n + 1)), (line.frames(n), line.frames(n + 1))
            )
            if how.soft and previous is not None:
                texts = _blended(previous, start_shot + i, n - at, shot.blend, how)
                rewrite = how.rewrite and n == at
                chunks.append(replace(one, take=previous.take, cut=previous.cut, text=texts, rewrite=rewrite))
            else:
                chunks.append(replace(one, take=at, cut="native" if how.soft else named))
        prompt = f"{phrase} {story.prompt(i)}".strip() if how.phrase and previous is not None else story.prompt(i)
        frames = (line.frames(at), line.frames(last))
        shots.append(PlannedShot(start_shot + i, prompt, (begin, end), frames, shot.prompt, shot.seed, named))
        begin, at = end, last
    return Plan(tuple(shots), tuple(chunks), rate)


def _blended(
    previous: PlannedChunk, shot: int, chunk: int, blend: int | None, how: Cut
) -> tuple[tuple[int, float], ...]:
    """Texts of chunk number `chunk` of a soft shot: what was in force before it, giving way to its own."""
    over = blend if blend is not None else (0 if how.rewrite else BLEND)
    if chunk >= over:
        return ()
    new = (chunk + 1) / (over + 1)
    old = previous.mixture
    return (*((number, weight * (1 - new)) for number, weight in old), (shot, new))


def cut_notes(shots: Sequence[PlannedShot], chunk_frames: int) -> list[str]:
    """Sentences about ends that are not simply the nearest chunk end, with shots counted from 1 as pictures do.

    `chunk_frames` is the length of a chunk.
    """
    late = [shot.index for shot in shots if 2 * (shot.frames[1] - shot.asked[1]) > chunk_frames]
    ties = [shot.index for shot in shots if 2 * (shot.asked[1] - shot.frames[1]) == chunk_frames]
    notes = [_named(ties, "ends half way between two chunk ends; the earlier is taken")] if ties else []
    if late:
        notes.append(_named(late, "ends later than asked, since every shot has at least one chunk"))
    return notes


def _named(indices: list[int], what: str) -> str:
    names = ", ".join(str(i + 1) for i in indices[:5]) + (f" and {len(indices) - 5} more" if len(indices) > 5 else "")
    return f"shot {names} {what}" if len(indices) == 1 else f"shots {names}: each {what}"
