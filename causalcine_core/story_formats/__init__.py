"""Every written form of a story, in and out.

A form is one entry of a table: `JSON_FORMS` for decoded JSON, `TEXT_FORMS` for text, each in the order in which they are tried,
`FILE_FORMS` for what is no text of its own. `SHOT_SYNTAX` names them for people. Whatever cannot be read raises `InputError`, whose
sentence names the field, or the shot where a text has no fields; what is read otherwise than one may think is said in the story's
`notes`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from .. import checks
from ..errors import InputError
from ..story import Story
from .fields import decoded
from .files import FILE_FORMS
from .form import Form, noted, pieces
from .json_forms import JSON_FORMS, story_from_dict
from .peers import LONGLIVE
from .reading import MAX_BYTES, read_text
from .shot_lists import story_to_dict
from .tables import StoryFile
from .tagged import TAGGED_TEXT
from .text_forms import PLAIN_TEXT, looks_like_more
from .times import Times

__all__ = [
    "FILE_FORMS",
    "FILE_SYNTAX",
    "JSON_FORMS",
    "MAX_BYTES",
    "SHOT_SYNTAX",
    "TEXT_FORMS",
    "Form",
    "load_story",
    "parse_story",
    "story_from_dict",
    "story_to_dict",
]

_PLAIN = [form.syntax for form in PLAIN_TEXT if form.syntax]
SHOT_SYNTAX = (
    f"JSON ({' or '.join(form.syntax for form in JSON_FORMS)}, or {LONGLIVE.syntax}), {TAGGED_TEXT.syntax}, or plain text with one "
    f"kind of separator: {', '.join(_PLAIN[:-1])}, or {_PLAIN[-1]}"
)
FILE_SYNTAX = f"{', '.join(form.syntax for form in FILE_FORMS[:-1])} or {FILE_FORMS[-1].syntax}"


def _read_one(text: str) -> Story:
    """A single shot; what stands at its head in brackets, and is a time, is its length, as in every form of plain text: unless more
    such times follow, so that several shots may have been meant."""
    times, (whole,) = Times(), pieces([text])
    shot = times.shot(whole.prompt, 0)
    if shot.seconds is not None and not re.search(r"[\[(]\s?\d", shot.prompt):
        return noted(Story([shot]), "one paragraph" + times.how, *times.notes())
    hint = ["if several shots were meant, put a blank line between them"] if looks_like_more(text) else []
    return noted(Story([whole]), "one paragraph", *hint)


_ONE: Form[str] = Form("paragraph", "", lambda text: True, _read_one)
TEXT_FORMS: tuple[Form[str], ...] = (LONGLIVE, TAGGED_TEXT, *PLAIN_TEXT, _ONE)


def load_story(path: Path) -> Story:
    """Reads a story file: one of `FILE_FORMS`, or UTF-8 text of at most 32 MiB. A name that ends in .json must hold JSON, one that
    ends in .jsonl a story in each line; behind the name of a file that holds several, #2 names one of them."""
    file, number = _numbered(path)
    try:
        form = next((form for form in FILE_FORMS if form.detect(StoryFile(file))), None)
        if form is not None:
            return form.read_one(StoryFile(file), number)
        text = read_text(file)
        if file.suffix.lower() == ".json":
            return story_from_dict(decoded(text), number)
        if file.suffix.lower() == ".jsonl":
            return LONGLIVE.read_one(text, number)
        return parse_story(text, number)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _numbered(path: Path) -> tuple[Path, int | None]:
    """A file's path and the number behind it, from 1, of one of the stories that it holds."""
    mark = re.fullmatch(r"(.+)#(\d{1,6})", path.name)
    if mark is None or os.path.lexists(path):
        return path, None
    return path.with_name(mark[1]), int(mark[2])


def parse_story(text: str, number: int | None = None) -> Story:
    """Reads a story from text in any form of `SHOT_SYNTAX`; the result's `notes` say which it was. number: of one of the stories of
    a text that may hold several, from 1."""
    text = checks.text(text, "story").removeprefix("\ufeff").strip()
    if not text:
        raise InputError("the story is empty; it needs at least one shot")
    inner = _quoted(text)
    if inner is not None:
        return parse_story(inner, number)
    data = None if LONGLIVE.detect(text) else _data_of(text)
    if data is not None:
        return story_from_dict(data, number)
    text = re.sub(r"\r\n?|[\x0b\x0c\x85\u2028\u2029]", "\n", text)
    return next(form for form in TEXT_FORMS if form.detect(text)).read_one(text, number)


# a brace or bracket that begins JSON, however broken: {}, {"key":, {"key (cut off), {'key':, {shots:, [], [{", ["text",
_MEANT_AS_JSON = re.compile(
    r"""\{\s*(?:\}|$|"(?:[^"\\\n]|\\.)*(?:"\s*(?::|$)|$)|'\w+'\s*:|(?:shots|prompt|global)\s*:)"""
    r"""|\[\s*(?:\]|$|\{\s*(?:["'}]|$)|"(?:[^"\\\n]|\\.)*"\s*(?:,|$))"""
)


def _data_of(text: str) -> Any:
    """What a text holds, if it is JSON or was meant to be; None: it is prose, such as `[35mm film] a cat` or `{red|blue} cat`."""
    if re.match(r'"\d+"\s*:\s*"', text):  # texts by first frame without the braces around them
        return decoded("{" + text.rstrip(",") + "}", column=-1)
    if text[0] not in "{[":
        return None
    try:
        return decoded(text)
    except InputError as error:
        if _MEANT_AS_JSON.match(text) or not isinstance(error.__cause__, ValueError):
            raise
        return None


def _quoted(text: str) -> str | None:
    """The text inside a JSON string; None: there is none, as in a paragraph that begins and ends with speech."""
    if not (text.startswith('"') and text.endswith('"')):
        return None
    try:
        inner = json.loads(text)
    except ValueError:
        return None
    return inner if isinstance(inner, str) else None
