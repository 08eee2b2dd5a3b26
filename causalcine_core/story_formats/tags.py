"""HoloCine's tags: `[global caption]`, `[per shot caption]`, `[shot cut]`, however they are spelled."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from .. import checks

TAGS = ("global caption", "per shot caption", "shot cut")
_GAP = r"[\s_\-\u200b\u2010-\u2015]{0,9}"
_TAG = re.compile(
    rf"[\[\uff3b\u3010]{_GAP}(global{_GAP}captions?|per{_GAP}shot{_GAP}captions?|shot{_GAP}cuts?){_GAP}[\]\uff3d\u3011]",
    re.IGNORECASE,
)
_LIKE_TAG = re.compile(r"[\[(<{]([^\[\](){}<>]{4,24})[\])>}]")
_MOST = 1000  # bracketed pieces of a story that are compared with the tags


def has_tags(text: str) -> bool:
    return _TAG.search(text) is not None


def split_at_tags(text: str) -> tuple[str, list[tuple[str, str]], list[str]]:
    """The text before the first tag; each tag with the text after it; notes on tags that are spelled otherwise."""
    marks = list(_TAG.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    tags = [_plain(mark[1]) for mark in marks]
    odd = {mark[0]: tag for mark, tag in zip(marks, tags, strict=True) if mark[0].lower() != f"[{tag}]"}
    notes = [f"{checks.show(spelled)} is read as the tag [{tag}]" for spelled, tag in list(odd.items())[:3]]
    return (
        text[: marks[0].start()],
        [(tag, text[mark.end() : end]) for tag, mark, end in zip(tags, marks, ends, strict=True)],
        notes,
    )


def nearly_tags(prompts: Iterable[str]) -> list[str]:
    """A note on the first piece in brackets that is no tag but looks like one."""
    left = _MOST
    for prompt in prompts:
        for mark in _LIKE_TAG.finditer(prompt):
            left -= 1
            if left < 0:
                return []
            alike = 0.8 if mark[0][0] == "[" else 1.0  # in other brackets the very words
            near = difflib.get_close_matches(_letters(mark[1]), list(map(_letters, TAGS)), 1, alike)
            if near:
                tag = next(tag for tag in TAGS if _letters(tag) == near[0])
                return [f"{checks.show(mark[0])} looks like the tag [{tag}]; it is kept as text"]
    return []


def _plain(spelled: str) -> str:
    letters = _letters(spelled).removesuffix("s")
    return next(tag for tag in TAGS if _letters(tag) == letters)


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())
