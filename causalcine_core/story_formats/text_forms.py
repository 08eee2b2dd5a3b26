"""Plain text: exactly one kind of separator counts, the first that occurs in `PLAIN_TEXT`'s order."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..story import Shot, Story
from .form import Form, noted, one_line, pieces, sections
from .times import BEGINNINGS_TEXT, RANGES_TEXT, SHOT_TIME, Times, begins_with_range
from .writing import is_soft, lengths, prompts, seconds, spelled

# --- lines of ---

_DASHES = re.compile(r"^[ \t]*-{3,}[ \t]*$", re.MULTILINE)


def _read_dashes(text: str) -> Story:
    return _timed(_DASHES.split(text), "split at lines of ---")


def _timed(texts: list[str], how: str) -> Story:
    """A shot of each text that is not blank; what stands at its head in brackets, and is a time, is its length."""
    times = Times()
    shots = [times.shot(shot.prompt, i) for i, shot in enumerate(pieces(texts))]
    return noted(Story(shots), how + times.how, *times.notes())


# --- numbers

_GAP = r"\s{0,9}"
_END = rf"{_GAP}\*{{0,2}}(?:\]{_GAP}:?|[:.)\uff1a]|\s[-\u2013\u2014]\s)\*{{0,2}}"
_TIMED_ENDS = (
    rf"{_GAP},?{_GAP}[(\[]{_GAP}(?P<t>{SHOT_TIME}){_GAP}[)\]](?:{_END})?"  # Shot 1 (5s): ...
    rf"|[:,]?{_GAP}(?P<u>{SHOT_TIME}){_GAP}\]:?"  # [Shot 1: 5s] ...
    rf"|,{_GAP}(?P<v>{SHOT_TIME}){_END}"  # Shot 1, 5s: ...
)
_SHOT_MARK = re.compile(
    rf"(?:^\#{{1,6}}[ \t]{{0,9}})?(?<!\w)\*{{0,2}}(?:\[{_GAP})?(?:shot|scene){_GAP}\#?{_GAP}(?P<n>\d{{1,5}})"
    rf"(?:{_GAP}(?:/|of){_GAP}\d{{1,5}})?(?:{_TIMED_ENDS}|{_END})",
    re.IGNORECASE | re.MULTILINE,
)
_SHOT_LINE = re.compile(
    r"^[ \t]{0,9}\#{0,6}[ \t]{0,9}\*{0,2}(?:shot|scene)[ \t]{0,9}\#?(?P<n>\d{1,5})\*{0,2}[ \t]{0,9}$",
    re.IGNORECASE | re.MULTILINE,
)
_LIST_MARK = re.compile(r"(?:^[ \t]*(?P<n>\d{1,5})[.):](?=\s)|(?<=\s)(?P<m>\d{1,5})\)(?=\s))", re.MULTILINE)
_BRACKET_MARK = re.compile(r"\[(?P<n>\d{1,5})\](?=\s)")  # EchoShot's, as ComfyUI-WanVideoWrapper takes them
_KINDS = ((_SHOT_MARK, "Shot 1:"), (_SHOT_LINE, "Shot 1"), (_LIST_MARK, "1)"), (_BRACKET_MARK, "[1]"))


def _marks(text: str) -> tuple[list[re.Match[str]], str]:
    """The numbers of shots and what they look like, of the first kind that runs 1, 2, 3, ...; none where no kind does."""
    for kind, looks in _KINDS:
        marks = list(kind.finditer(text))
        numbers = [int(_group(mark, "n", "m") or 0) for mark in marks]
        before = text[: marks[0].start()].strip() if marks else ""
        if marks and numbers == list(range(1, len(marks) + 1)) and not (before and kind in (_LIST_MARK, _BRACKET_MARK)):
            return marks, looks
    return [], ""


def _group(mark: re.Match[str], *names: str) -> str | None:
    found = mark.groupdict()
    return next((found[name] for name in names if found.get(name) is not None), None)


def _has_numbers(text: str) -> bool:
    return bool(_marks(text)[0]) and not begins_with_range(text)


def _read_numbers(text: str) -> Story:
    """`Shot 1: a Shot 2: b` (text before it is global) or `1) a 2) b`, or `[1] a [2] b`."""
    marks, looks = _marks(text)
    before, texts = sections(text, marks)
    times = Times()
    shots = [
        times.shot(text.strip().strip("*"), i, _group(mark, "t", "u", "v"))
        for i, (mark, text) in enumerate(zip(marks, texts, strict=True))
    ]
    how = f"numbered like {looks}" + ("; the text before it is global" if before else "")
    return noted(Story(shots, before), how + times.how, *times.notes())


# --- paragraphs, bars, one paragraph

_BLANK = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_ODD = re.compile(
    r"(?<!\w)(?:shot|scene|clip)\s{0,9}#?\d|^[ \t]*\d{1,9}(?:[ \t]{0,9}-[ \t]{0,9}\d{1,9})?[ \t]{0,9}[:.)]"
    r"|^[ \t]*[\[(]?\d{1,9}(?:\.\d{1,9})?(?:[ \t]?s|:\d\d)[^\w]|[\[(]\d{1,9}[ \t]?-[ \t]?\d{1,9}[ \t]?\w{0,6}[\])]",
    re.IGNORECASE | re.MULTILINE,
)

_SENTENCE_END = re.compile(r"[.!?:;\u3002\uff01\uff1f][\s\"')\]*\u201d\u300d]*$")
_WRAPPED = 40  # characters: a line so long that ends inside a sentence goes on in the next


def _read_bars(text: str) -> Story:
    return _timed(_at_bars(text), "split at every | of a single paragraph")


def _at_bars(text: str) -> list[str]:
    """A text split at every | but those inside brackets that close again, as in {red|blue}."""
    bars: list[int] = []
    inside: list[tuple[int, int]] = []  # of bars, counted from 0, those that a pair of brackets holds: first, end
    opened: list[tuple[str, int]] = []
    closes = {"}": "{", "]": "[", ")": "("}
    for mark in re.finditer(r"[|{}\[\]()]", text):
        sign = mark[0]
        if sign == "|":
            bars.append(mark.start())
        elif sign not in closes:
            opened.append((sign, len(bars)))
        elif opened and opened[-1][0] == closes[sign]:
            inside.append((opened.pop()[1], len(bars)))
    held = [0] * (len(bars) + 1)
    for first, end in inside:
        held[first] += 1
        held[end] -= 1
    depth, cuts = 0, [-1]
    for bar, change in zip(bars, held):
        depth += change
        cuts += [] if depth else [bar]
    return [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def looks_like_more(text: str) -> bool:
    """Whether somebody may have meant several shots by what is one paragraph: it has lines that are no wrapped prose, numbers or
    times."""
    lines = text.split("\n")
    wrapped = any(len(line) >= _WRAPPED and not _SENTENCE_END.search(line) for line in lines[:-1])
    return (len(lines) > 1 and not wrapped) or _ODD.search(text) is not None


# --- Infinity-RoPE's lines

_SEGMENT_END = re.compile(r"\[[ ]?(?P<t>\d{1,7}(?:\.\d{1,6})?)[ ]?s(?P<cut>#?)\][ \t]*(?P<then>[|;]|$)")


def _segments(line: str) -> tuple[list[tuple[str, str, bool]], str]:
    """The texts of a line `a[5s] | b[10s#] ; subtitles`, each with its seconds and whether it begins with a cut, and the subtitles;
    no texts where the line is another thing."""
    found, at = list[tuple[str, str, bool]](), 0
    for mark in _SEGMENT_END.finditer(line):
        found.append((line[at : mark.start()].strip(), mark["t"], bool(mark["cut"])))
        at = mark.end()
        if mark["then"] != "|":
            break
    subtitles = line[at:].strip()
    whole = bool(found) and all(text for text, _, _ in found) and (not subtitles or line[:at].endswith(";"))
    return (found, subtitles) if whole else ([], "")


def _one_liners(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip()]


def _has_segments(text: str) -> bool:
    lines = _one_liners(text)
    plain = len(lines) > 1 and not any(mark in text for mark in ("|", ";", "s#]"))
    return not plain and all(_segments(line)[0] for line in lines)


def _read_segments(line: str) -> Story:
    segments, subtitles = _segments(line)
    shots = [
        Shot(one_line(text, f"shot {i + 1}"), seconds=float(seconds), cut=None if cut or not i else "soft")
        for i, (text, seconds, cut) in enumerate(segments)
    ]
    how = 'a line of Infinity-RoPE; # is a cut, without it the text goes over ("soft")'
    return noted(Story(shots), how, ignored=["the subtitles after ;"] if subtitles else [])


def _write_segments(story: Story, name: str) -> dict[str, str]:
    parts = [
        f"{text}[{spelled(length)}s{'#' if i and not is_soft(story, shot) else ''}]"
        for i, (shot, text, length) in enumerate(
            zip(story.shots, prompts(story), lengths(story, "infinity-rope"), strict=True)
        )
    ]
    return {name: " | ".join(parts) + "\n"}


# --- a list of lines

_BULLET = re.compile(r"[ \t]*([-*\u2022])[ \t]+(?=\S)")


def _has_bullets(text: str) -> bool:
    """Two lines or more, each of which begins with the same bullet."""
    marks = [_BULLET.match(line) for line in _one_liners(text)]
    return len(marks) > 1 and all(mark is not None and mark[1] == (marks[0] or mark)[1] for mark in marks)


def _read_bullets(text: str) -> Story:
    return _timed([_BULLET.sub("", line, count=1) for line in _one_liners(text)], "a list, one in each line")


# --- the table


def _headed(story: Story) -> list[str]:
    """The whole text of each shot behind its length in brackets, for a form without a global text."""
    found = [seconds(story, shot) for shot in story.shots]
    return [
        text if length is None else f"[{spelled(length)}s] {text}"
        for length, text in zip(found, prompts(story), strict=True)
    ]


def _write_numbers(story: Story, name: str) -> dict[str, str]:
    parts = [story.global_prompt] if story.global_prompt else []
    for i, shot in enumerate(story.shots):
        length = seconds(story, shot)
        parts.append(f"Shot {i + 1}{'' if length is None else f' ({spelled(length)}s)'}: {shot.prompt}")
    return {name: "\n\n".join(parts) + "\n"}


def _joined(between: str, before: str = "") -> Callable[[Story, str], dict[str, str]]:
    """Writes shots with something between them."""
    return lambda story, name: {name: between.join(before + text for text in _headed(story)) + "\n"}


PLAIN_TEXT: tuple[Form[str], ...] = (
    Form("dashes", "lines of ---", lambda text: _DASHES.search(text) is not None, _read_dashes, _joined("\n---\n")),
    Form("numbers", "numbers (Shot 1: ... Shot 2: ..., or 1) ... 2) ...)", _has_numbers, _read_numbers, _write_numbers),
    RANGES_TEXT,
    BEGINNINGS_TEXT,
    Form(
        "infinity-rope",
        "... [5s] | ... [5s#] in one line",
        _has_segments,
        _read_segments,
        _write_segments,
        stories=_one_liners,
    ),
    Form("lines", "- ... in every line", _has_bullets, _read_bullets, _joined("\n", "- ")),
    Form(
        "paragraphs",
        "blank lines",
        lambda text: len(_BLANK.split(text)) > 1,
        lambda text: _timed(_BLANK.split(text), "one per paragraph"),
        _joined("\n\n"),
    ),
    Form("bars", "| in one paragraph", lambda text: len(_at_bars(text)) > 1, _read_bars, _joined(" | ")),
)
