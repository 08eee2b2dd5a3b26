"""The quality report as people read it: tables in Markdown and a page of contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from causalcine_core.atomic import write_atomic
from causalcine_core.errors import InputError
from causalcine_core.pictures import CARD, DIM, GROUND, INK, fit_text, font
from training.world import Film

from .intervals import Estimate

DOCS = Path(__file__).parents[2] / "docs"
MARKS = ("<!-- quality: written by causalcine evaluate -->", "<!-- end of quality -->")
CUT_MARKS = ("<!-- cuts: written by training.evaluation.cut_modes -->", "<!-- end of cuts -->")

_ROWS = {  # figure: what it is called, the floor and the goal
    "cut_f1": ("cuts, F1 within 2 frames", 0.95, 0.98),
    "cut_precision": ("cuts, precision", None, None),
    "cut_recall": ("cuts, recall", None, None),
    "setting": ("setting", 0.97, None),
    "time": ("time of day", None, None),
    "colour": ("colour", 0.97, None),
    "kind": ("kind of character", 0.90, 0.95),
    "mark": ("mark", None, None),
    "kind_alone": ("kind, alone in the shot", None, None),
    "kind_of_two": ("kind, one of two", None, None),
    "colour_alone": ("colour, alone in the shot", None, None),
    "colour_of_two": ("colour, one of two", None, None),
    "consistency": ("a character's looks, alike between shots", None, None),
    "sharpness": ("sharpness, of the true films'", 0.80, 0.95),
    "motion": ("motion, of the true films'", None, None),
    "border_8": ("step at borders of 8 pixels, of the true films'", None, None),
    "border_16": ("step at borders of 16 pixels, of the true films'", None, None),
    "frechet": ("Fréchet distance to the true films", None, None),
    "psnr": ("PSNR of the VAE on the true films, dB", 25.0, 29.0),
}
_BY_KIND = ("cut_f1", "setting", "colour", "kind", "by_name_colour", "by_name_kind", "consistency")
_DRIFT = {"setting": "setting", "kind": "kind", "colour": "colour"} | {
    name: name.replace("_", ", ") for name in ("sharpness", "motion", "border_8", "border_16")
}
_RECALL = {"colour": (0.90, 0.95), "kind": (0.75, 0.90), "mark": (None, None)}  # floor and goal


def tables(quality: dict[str, Any]) -> str:
    """The figures as Markdown."""
    figures, recipe = quality["figures"], quality["recipe"]
    out = [
        f"{quality['stories']} unseen stories of 15 s (the benchmark's first, {_span(quality['seeds'])}), memory {quality['memory']}, "
        f"{recipe['steps']} steps, guidance {recipe['guidance']:g}, window {recipe['window']}, top-k {recipe['top_k']}; "
        f"model {quality['model']['name']} ({quality['model']['fingerprint']}), {quality['hardware']}, "
        f"{quality['frames_per_second']} frames a second.",
        "",
        "| figure | mean | 95% interval | n | ceiling | floor / goal |",
        "|---|---|---|---|---|---|",
    ]
    for name, (label, floor, goal) in _ROWS.items():
        if name in figures:
            f = figures[name]
            aim = _aim(floor, goal)
            out.append(
                f"| {label} | {_number(f['mean'])} | {_interval(f)} | {f['n']} | {_number(f['ceiling'])} | {aim} |"
            )
    out += [
        "",
        "Called by name only, last seen before the local window:",
        "",
        f"| figure | {quality['memory']} (top-k {recipe['top_k']}) | without (top-k 0) | gain | n | ceiling | floor / goal |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (floor, goal) in _RECALL.items():
        routed, plain, gain = (figures.get(f"by_name_{name}{end}") for end in ("", "_top_k_0", "_gain"))
        if routed is None:
            continue
        aim = _aim(floor, goal)
        cells = [_both(routed), _both(plain), _both(gain), str(routed["n"]), _number(routed["ceiling"]), aim]
        out.append(f"| {name} | {' | '.join(cells)} |")
    if "frechet" in figures:
        f = figures["frechet"]
        out += ["", f"The Fréchet distance is of {f['features']} features in {f['samples']} frames of each side."]
    out += ["", *_kinds(quality["kinds"])]
    if "against" in quality:
        out += ["", *_against(quality["against"])]
    if "long" in quality:
        out += ["", *_long(quality["long"])]
    return "\n".join(out) + "\n"


def _long(long: dict[str, Any]) -> list[str]:
    names = ("cut_f1", "setting", "time", "colour", "kind", "by_name_colour", "by_name_kind")
    out = [
        f"{long['films']} films of {long['seconds']:g} s (world seeds {_span(long['seeds'])}):",
        "",
        "| figure | first quarter | last quarter | ceilings |",
        "|---|---|---|---|",
    ]
    for name in names:
        first, last = (long[part].get(name) for part in ("first_quarter", "last_quarter"))
        if first is None or last is None:
            continue
        ceilings = f"{_number(first['ceiling'])}, {_number(last['ceiling'])}"
        out.append(f"| {_label(name)} | {_both(first)}, n {first['n']} | {_both(last)}, n {last['n']} | {ceilings} |")
    out += ["", "| from the first to the last quarter | moved by | ceiling |", "|---|---|---|"]
    for name, label in _DRIFT.items():
        out.append(f"| {label} | {_both(long['drift'][name])} | {_number(long['drift'][name]['ceiling'])} |")
    out += ["", "| blinking | worst film / median | true films |", "|---|---|---|"]
    for name, value in long.get("flicker", {}).items():
        out.append(f"| luma step at the start of a {name} | {value['worst']:.2f} | {value['truth']:.2f} |")
    return out


def _aim(floor: float | None, goal: float | None) -> str:
    return " / ".join(_number(x, 2) for x in (floor, goal)) if floor or goal else ""


def _against(other: dict[str, Any]) -> list[str]:
    """A row for each figure that has more than another run on the same stories."""
    head = f"more than {other['run']} (model {other['model']}) on the same stories"
    out = [f"| figure | {head} | n |", "|---|---|---|"]
    for name, one in other["figures"].items():
        if one["mean"] is not None:
            out.append(f"| {_label(name)} | {_both(one)} | {one['n']} |")
    return out


def _label(name: str) -> str:
    return _ROWS[name][0] if name in _ROWS else f"{name.removeprefix('by_name_')}, by name only"


def _kinds(kinds: dict[str, Any]) -> list[str]:
    """A row for each kind of story."""
    names = [_label(name) for name in _BY_KIND]
    out = [f"| kind of story | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for kind, figures in kinds.items():
        out.append(f"| {kind} | {' | '.join(_both(figures.get(name)) for name in _BY_KIND)} |")
    return out


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(figure: dict[str, Any]) -> str:
    return f"{_number(figure['low'])} to {_number(figure['high'])}"


def _both(figure: dict[str, Any] | None) -> str:
    return "-" if figure is None or figure["mean"] is None else f"{_number(figure['mean'])} ({_interval(figure)})"


def _span(seeds: Sequence[int]) -> str:
    return f"{seeds[0]} to {seeds[-1]}" if seeds else "-"


def quality_sheet(folder: Path, films: Sequence[Film], results: Sequence[dict[str, Any]]) -> Image.Image:
    """The first stories, not picked: a row a story, the middle frame of every shot, its caption, and what the probe read."""
    rows = [np.load(folder / "pictures" / f"{r['seed']}.npy") for r in results]
    columns, cell, text, gap = max(len(row) for row in rows), 208, 104, 10
    size = (gap + columns * (cell + gap), 54 + len(rows) * (cell + text + gap))
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((gap, 14), f"The first {len(rows)} unseen stories, not picked: middle frame of every shot", INK, font(20))
    for i, (row, film, result) in enumerate(zip(rows, films, results, strict=True)):
        y = 54 + i * (cell + text + gap)
        for j, (picture, shot, seen) in enumerate(zip(row, film.shots, result["shots"], strict=True)):
            x = gap + j * (cell + gap)
            draw.rectangle((x, y, x + cell, y + cell + text), CARD)
            sheet.paste(Image.fromarray(picture).resize((cell, cell), Image.Resampling.BICUBIC), (x, y))
            draw.multiline_text(
                (x + 6, y + cell + 5), fit_text(shot.caption, 12, cell - 12, 4), INK, font(12), spacing=3
            )
            right = seen["setting"] and seen["time"] and all(one["kind"] and one["colour"] for one in seen["cast"])
            line = fit_text("read: " + seen["read"], 12, cell - 12, 2)
            draw.multiline_text((x + 6, y + cell + 70), line, DIM if right else "#f4a259", font(12), spacing=3)
    return sheet


def publish(quality: dict[str, Any], sheet: Image.Image, docs: Path = DOCS) -> None:
    """Write the tables between the marks of docs/quality.md, and the sheet beside it."""
    write_between(docs / "quality.md", MARKS, tables(quality))
    (docs / "images").mkdir(exist_ok=True)
    sheet.save(docs / "images" / "quality_sheet.jpg", quality=88)


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Replace what stands between two lines of a page. InputError if they are not there once each."""
    begin, end = marks
    whole = page.read_text(encoding="utf-8")
    if whole.count(begin) != 1 or whole.count(end) != 1:
        raise InputError(f"{page} must hold the lines {begin!r} and {end!r} once each")
    before, rest = whole.split(begin)
    filled = f"{before}{begin}\n{text}{end}{rest.split(end)[1]}"
    write_atomic(page, lambda partial: partial.write_text(filled, encoding="utf-8"))


def cut_tables(models: Sequence[tuple[str, dict[str, dict[str, Estimate]]]], stories: int) -> str:
    """How each cut mode did, as Markdown: a table a model, a row a mode."""
    columns = {
        "cut_f1": "cuts, F1",
        "cut_recall": "cuts, recall",
        "setting": "setting",
        "kind": "kind",
        "colour": "colour",
        "by_name_colour": "colour, by name only",
    }
    out = [f"{stories} unseen stories of 15 s for each mode, the same ones and the same noise.", ""]
    for name, modes in models:
        out += [f"| {name} | {' | '.join(columns.values())} |", "|---" * (len(columns) + 1) + "|"]
        for mode, figures in modes.items():
            cells = [_both(figures[column].to_dict()) for column in columns]
            out.append(f"| `{mode}` | {' | '.join(cells)} |")
        out.append("")
    return "\n".join(out)
