"""Times at the head of a shot: `[0-5s]`, `[00:00-00:03]`, `(2s - 4.5s)`, or its beginning alone, `[0:05]`.

One rule for ranges: shots follow one another, and each is as long as its own range says. Where ranges leave gaps or overlap, that
is noted, and nothing else comes of it.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

from ..errors import InputError
from ..story import MAX_SECONDS, Shot, Story, listed
from .form import Form, noted, one_line, sections
from .writing import lengths, spelled

_CLOCK = r"\d{1,4}:\d{1,2}(?::\d{1,2})?(?:[.,]\d{1,3})?"
_NUMBER = r"\d{1,7}(?:\.\d{1,6})?"
_UNIT = r"(?:seconds?|secs?\.?|s)"
_TO = r"[ \t]{0,9}(?:-{1,2}>?|[\u2010-\u2015\u2212~\u2192]|to|until)[ \t]{0,9}"
_CLOCKS = rf"{_CLOCK}{_TO}{_CLOCK}(?:[ \t]?s)?"
_SECONDS = rf"{_NUMBER}[ \t]?{_UNIT}?{_TO}{_NUMBER}[ \t]?{_UNIT}"
ONE_TIME = rf"{_CLOCK}|{_NUMBER}[ \t]?{_UNIT}"
_AFTER = r"\*{0,2}(?:[ \t]{0,9}(?:[:\uff1a]|[-\u2013\u2014](?=\s)))?\*{0,2}"


def _header(range_: str, bare: str) -> re.Pattern[str]:
    """A time in square brackets anywhere; in round ones, or as one of `bare`, where a line begins."""
    square = rf"\*{{0,2}}[\[\uff3b\u3010][ \t]{{0,9}}(?P<a>{range_})[ \t]{{0,9}}[\]\uff3d\u3011]{_AFTER}"
    line = rf"^[ \t]*(?:\d{{1,5}}[ \t]*\n)?\*{{0,2}}(?:\([ \t]{{0,9}}(?P<b>{range_})[ \t]{{0,9}}\){_AFTER}|{bare})"
    return re.compile(rf"{square}|{line}", re.IGNORECASE | re.MULTILINE)


# without brackets a colon, a dash or the end of the line must stand behind it
_RANGES = _header(
    rf"{_CLOCKS}|{_SECONDS}",
    rf"(?P<c>{_CLOCKS}|{_SECONDS})(?=\*{{0,2}}[ \t]*(?:$|[:\uff1a]|[-\u2013\u2014]\s)){_AFTER}",
)
_LENGTH = re.compile(rf"[\[(][ \t]?(?P<a>{_NUMBER}[ \t]?{_UNIT})[ \t]?[\])]{_AFTER}", re.IGNORECASE)
_BEGINNINGS = _header(ONE_TIME, r"(?!)")
_SPLIT = re.compile(rf"({ONE_TIME}|{_NUMBER}){_TO}({ONE_TIME}|{_NUMBER})", re.IGNORECASE)
_SHOT_NUMBER = re.compile(r"\s*(?:shot|scene)\s{0,9}#?(\d{1,5})\s{0,9}[:.)]", re.IGNORECASE)
SHOT_TIME = rf"(?:{_CLOCKS}|{_SECONDS}|{_NUMBER}[ \t]?{_UNIT})"  # behind "Shot 1", in brackets of its own


class Times:
    """Reads the times of a story's shots in their order, and collects what to say of them."""

    def __init__(self) -> None:
        self._end: Decimal | None = Decimal(0)  # of the shot before; None: it has no range
        self.how = ""  # what a sentence on how a text was read ends in, where times stood at the head of shots
        self._odd: list[str] = []

    def shot(self, text: str, index: int, time: str | None = None) -> Shot:
        """Shot number `index`, from 0. time: its length or range; None: what its text begins with in brackets, if that is a time."""
        name, text = f"shot {index + 1}", text.strip()
        head = None if time is not None else _RANGES.match(text) or _LENGTH.match(text)
        if head is not None:
            time, text = _said(head), text[head.end() :]
            self.how = "; a time in brackets at the head of a shot is its length"
        prompt = one_line(text, name)
        if time is None:
            self._end = None
            return Shot(prompt)
        return Shot(prompt, seconds=self._length(time, name))

    def notes(self) -> list[str]:
        """Warnings about the times that were read. They name the times themselves, since a film may have other shots before these."""
        return [f"each shot is as long as its own times say: {listed(self._odd, 5)}"] if self._odd else []

    def _length(self, time: str, name: str) -> float:
        """Seconds of `5s` or of `0:05 - 0:10`."""
        both = _SPLIT.fullmatch(re.sub(r"(?<=\d)[ \t]?s(?:ec\w{0,6}\.?)?$", "", time.strip(), flags=re.IGNORECASE))
        if both is None:
            self._end = None
            return float(seconds_of(time, name))
        return self.between(seconds_of(both[1], name), seconds_of(both[2], name), name, time)

    def between(self, begin: Decimal, end: Decimal, name: str, said: str) -> float:
        """Seconds of the shot called `name` from its begin to its end. said: both, as the file says them."""
        if end <= begin:
            raise InputError(f"the times of {name}, {said}, must end after they begin")
        if self._end is not None and begin != self._end:
            what = "leave a gap of" if begin > self._end else "overlap by"
            self._odd.append(f"before {said} the times {what} {abs(begin - self._end).normalize():f} s")
        self._end = end
        return float(end - begin)


def _said(mark: re.Match[str]) -> str:
    return next(text for text in mark.groups() if text is not None)


def seconds_of(time: str, name: str) -> Decimal:
    """Seconds of `5`, `5 s`, `0:05` or `1:02:03.5`."""
    parts = re.sub(r"[^\d:.,]", "", time).rstrip(".").replace(",", ".").split(":")
    if any(Decimal(part) >= 60 for part in parts[1:]):
        raise InputError(f"{time} in {name} is no time: its minutes and seconds run to 59")
    seconds = sum((Decimal(part) * 60**i for i, part in enumerate(reversed(parts))), Decimal(0))
    if seconds > MAX_SECONDS:
        raise InputError(f"{time} in {name} is too long: a shot may last {MAX_SECONDS:,.0f} seconds")
    return seconds


# --- texts that are split at their times


def begins_with_range(text: str) -> bool:
    return _RANGES.match(text) is not None


def _has_ranges(text: str) -> bool:
    return _RANGES.search(text) is not None


def _read_ranges(text: str) -> Story:
    marks = list(_RANGES.finditer(text))
    before, texts = sections(text, marks)
    times = Times()
    shots = [times.shot(_own(text, i), i, _said(mark)) for i, (mark, text) in enumerate(zip(marks, texts, strict=True))]
    how = "split at times such as " + _said(marks[0]) + ("; the text before them is global" if before else "")
    return noted(Story(shots, before), how + times.how, *times.notes())


def _beginnings(text: str) -> list[Decimal]:
    """Where shots begin, if a text says that of every shot: two times or more that rise from zero."""
    marks = list(_BEGINNINGS.finditer(text))
    try:
        begins = [seconds_of(_said(mark), "the story") for mark in marks]
    except InputError:
        return []
    rising = len(begins) > 1 and begins[0] == 0 and all(a < b for a, b in pairwise(begins))
    return begins if rising else []


def _read_beginnings(text: str) -> Story:
    before, texts = sections(text, list(_BEGINNINGS.finditer(text)))
    lengths = [float(b - a) for a, b in pairwise(_beginnings(text))] + [None]
    shots = [
        Shot(one_line(_own(text, i), f"shot {i + 1}"), seconds=length)
        for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
    ]
    how = "split at the times at which they begin; the last has the usual length"
    return noted(Story(shots, before), how + ("; the text before them is global" if before else ""))


def _own(text: str, index: int) -> str:
    """The text behind a time, without a number that says once more which shot it is, and without separators at its end."""
    number = _SHOT_NUMBER.match(text)
    if number and int(number[1]) == index + 1:
        text = text[number.end() :]
    return text.strip().strip("|").strip()


def _write_ranges(story: Story, name: str) -> dict[str, str]:
    parts, end = [story.global_prompt] if story.global_prompt else [], Fraction(0)
    for shot, length in zip(story.shots, lengths(story, "ranges"), strict=True):
        begin, end = end, end + length
        parts.append(f"[{spelled(begin)}-{spelled(end)}s] {shot.prompt}")
    return {name: "\n\n".join(parts) + "\n"}


RANGES_TEXT: Form[str] = Form("ranges", "times ([0-5s] ... [5-10s] ...)", _has_ranges, _read_ranges, _write_ranges)
BEGINNINGS_TEXT: Form[str] = Form("beginnings", "", lambda text: bool(_beginnings(text)), _read_beginnings)
