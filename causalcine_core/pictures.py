"""Text in pictures, and the contact sheet: the first frame of every shot."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import InputError

MAX_CARDS = 48  # of a contact sheet
INK, DIM, GROUND, CARD = "#f2f2f5", "#9a9ba6", "#121218", "#1e1e27"
SHOT_COLOURS = ("#5aa9e6", "#f4a259", "#7fc29b", "#e5738f", "#b48ee0", "#e0c35c", "#5cc8c8", "#c98f6b")


@functools.lru_cache
def _font(size: int, wide: bool = False) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or one of the system's for scripts that it lacks (boxes where there is none)."""
    names = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf")
    for name in names if wide else ():
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    try:
        return ImageFont.load_default(size)
    except ImportError:  # a Pillow without FreeType has one small font
        return ImageFont.load_default()


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that suits a text, `size` pixels high."""
    return _font(size, any(ord(c) > 0x24F and not 0x2000 <= ord(c) <= 0x206F for c in text))


def fit_text(text: str, size: int, width: int, lines: int) -> str:
    """Text wrapped to a width in pixels and at most so many lines; what does not fit ends in an ellipsis."""
    face = font(size, text)
    text = " ".join(text.split())[: 40 * lines * max(1, width // size)].encode("utf-8", "replace").decode("utf-8")
    letter = max(face.getlength(text) / max(len(text), 1), 1)
    columns = max(int(width / letter), 4)
    while True:
        rows = textwrap.wrap(text, columns, max_lines=lines, placeholder=" \u2026")
        if columns <= 4 or all(face.getlength(row) <= width for row in rows):
            return "\n".join(rows)
        columns -= 1


def read_picture(path: str | os.PathLike[str], width: int, height: int) -> Any:
    """A picture of any format that Pillow reads as uint8 `[height, width, 3]`: scaled, and cut at the sides that are too long; what is
    transparent is black. Raises InputError where it cannot be read."""
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"picture {path} cannot be read ({error})") from None
    ground = Image.new("RGBA", picture.size, "black")
    ground.alpha_composite(picture)
    return np.asarray(ImageOps.fit(ground.convert("RGB"), (width, height), Image.Resampling.LANCZOS))


def sheet_shots(shots: int) -> list[int]:
    """Which shots a contact sheet shows: all, or `MAX_CARDS` of them at even distances."""
    if shots <= MAX_CARDS:
        return list(range(shots))
    return [i * (shots - 1) // (MAX_CARDS - 1) for i in range(MAX_CARDS)]


def contact_sheet(
    frames: Sequence[Any],
    captions: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    title: str = "CausalCine",
    subtitle: str = "",
) -> Image.Image:
    """One card a shot: its picture (uint8 `[H W 3]`), a label such as its number and time, and its caption.

    Shows at most `MAX_CARDS` cards; callers with more shots choose them with `sheet_shots`.
    """
    if not 0 < len(frames) == len(captions) <= MAX_CARDS:
        raise ValueError(f"expected 1 to {MAX_CARDS} frames with a caption each, got {len(frames)} and {len(captions)}")
    labels = labels or [f"Shot {i + 1}" for i in range(len(frames))]
    height, width = np.asarray(frames[0]).shape[:2]
    columns = _columns(len(frames), width / height)
    card_w = {1: 560, 2: 460, 3: 380}.get(columns, 320)
    picture_h = min(max(round(card_w * height / width), 40), 2 * card_w)
    gap, margin, head, lines = 22, 36, 96, 4
    card_h = picture_h + 44 + lines * 21 + 16
    rows = -(-len(frames) // columns)
    size = (2 * margin + columns * (card_w + gap) - gap, head + margin + rows * (card_h + gap) - gap)
    sheet = Image.new("RGB", size, GROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((margin, 28), fit_text(title, 30, size[0] - 2 * margin, 1), INK, font(30, title))
    draw.text((margin, 66), fit_text(subtitle, 16, size[0] - 2 * margin, 1), DIM, font(16, subtitle))
    for i, (frame, caption, label) in enumerate(zip(frames, captions, labels, strict=True)):
        x, y = margin + i % columns * (card_w + gap), head + i // columns * (card_h + gap)
        draw.rounded_rectangle((x, y, x + card_w, y + card_h), 12, CARD)
        picture = Image.fromarray(np.asarray(frame)).resize((card_w, picture_h), Image.Resampling.BICUBIC)
        sheet.paste(picture, (x, y), _rounded_top(card_w, picture_h, 12))
        draw.text((x + 16, y + picture_h + 12), label, SHOT_COLOURS[i % len(SHOT_COLOURS)], font(16, label))
        text = fit_text(caption, 16, card_w - 32, lines)
        draw.multiline_text((x + 16, y + picture_h + 38), text, INK, font(16, text), spacing=5)
    return sheet


def _columns(cards: int, aspect: float) -> int:
    """As many columns as make the sheet about as wide as a screen."""
    wide = math.sqrt(cards * (1.6 if aspect >= 1 else 2.2 / max(aspect, 0.2)))
    return max(1, min(round(wide), cards, 8))


def _rounded_top(width: int, height: int, radius: int) -> Image.Image:
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, width, height + radius), radius, 255)
    return mask
