"""Words: how a shot or a film is put into a sentence, and the closed vocabulary of all such sentences."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .camera import TIMES
from .characters import COLOURS, KINDS, MARKS, Character
from .poses import ACTIONS
from .stage import SETTINGS

Word = TypeVar("Word")
NAMES = ("[character1]", "[character2]", "[character3]")

MARK_WORDS: dict[str, tuple[str, ...]] = {
    "plain": ("",),
    "hat": ("with a black hat", "in a tall black hat", "wearing a hat"),
    "scarf": ("with a striped scarf", "in a red and white scarf", "wearing a scarf"),
    "crown": ("with a golden crown", "wearing a crown"),
    "stripes": ("with dark stripes", "with stripes"),
    "spots": ("with spots", "with many spots"),
}
ACTION_WORDS: dict[str, tuple[tuple[str, str], ...]] = {  # (finite, participle)
    "walk left": (("walks to the left", "walking to the left"), ("strolls to the left", "strolling to the left")),
    "walk right": (("walks to the right", "walking to the right"), ("strolls to the right", "strolling to the right")),
    "run left": (("runs to the left", "running to the left"), ("races to the left", "racing to the left")),
    "run right": (("runs to the right", "running to the right"), ("races to the right", "racing to the right")),
    "jump": (("jumps up and down", "jumping up and down"), ("jumps", "jumping"), ("hops", "hopping")),
    "wave": (("waves", "waving"), ("waves hello", "waving hello"), ("waves a hand", "waving a hand")),
    "dance": (("dances", "dancing"), ("dances happily", "dancing happily")),
    "spin": (("spins around", "spinning around"), ("turns around and around", "turning around and around")),
    "sit": (
        ("sits", "sitting"),
        ("sits down", "sitting down"),
        ("sits on the ground", "sitting on the ground"),
        ("sits and rests", "sitting and resting"),
    ),
    "sleep": (("sleeps", "sleeping"), ("takes a nap", "taking a nap")),
}
SETTING_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "in the green meadow", "in a field of flowers"),
    "beach": ("on the beach", "on a sandy beach", "by the sea"),
    "city": ("in the city", "on a city street", "in the street"),
    "mountain": ("on a snowy mountain", "in the snowy mountains", "in the snow"),
    "forest": ("in the forest", "in a deep forest", "among tall trees"),
    "desert": ("in the desert", "in a sandy desert"),
    "kitchen": ("in the kitchen", "in a cosy kitchen"),
    "harbour": ("at the harbour", "on the pier of a harbour"),
}
TIME_WORDS: dict[str, tuple[str, ...]] = {
    "day": ("by day", "on a sunny day", "in the daylight", "in the sunshine"),
    "sunset": ("at sunset", "at dusk", "in the evening light"),
    "night": ("at night", "by night", "under the moon"),
}
FRAMING_WORDS: dict[str, tuple[str, ...]] = {
    "wide": ("wide shot", "wide view"),
    "medium": ("medium shot",),
    "close": ("close shot", "close up"),
}
VIEWPOINT_WORDS: dict[str, tuple[str, ...]] = {
    "front": ("", "from the front"),
    "left": ("from the left", "seen from the left"),
    "right": ("from the right", "seen from the right"),
}
CAST_WORDS = {
    1: ("one hero", "a lonely traveller", "a friend"),
    2: ("two friends", "two travellers"),
    3: ("three friends", "three travellers"),
}
FILM_WORDS = ("a story about {}{}.", "a short film about {}{}.", "a tale of {}{}.", "a day with {}{}.")
THEME_WORDS = {
    ("beach",): ("by the sea",),
    ("harbour",): ("by the sea",),
    ("beach", "harbour"): ("by the sea",),
    ("kitchen",): ("at home",),
    ("city",): ("in town",),
    ("forest",): ("in the woods",),
}
LOOK_WORDS = frozenset(
    [
        *KINDS,
        *COLOURS,
        "black",
        "tall",
        "hat",
        "scarf",
        "golden",
        "crown",
        "dark",
        "stripes",
        "striped",
        "spots",
        "wearing",
    ]
)  # of these, only "green" (a meadow) and "tall" (trees) are said of places too
_MARK_OF = {words: mark for mark, phrases in MARK_WORDS.items() for words in phrases}
_DESCRIBED = re.compile(
    r"(?P<name>\[character\d+\])(?P<text>, an? (?P<colour>{}) (?P<kind>{})(?: (?P<mark>{}))?,)".format(
        *("|".join(map(re.escape, words)) for words in (COLOURS, KINDS, [w for w in _MARK_OF if w]))
    )
)
_TOKEN = re.compile(r"\[character\d+\]|[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]")


def tokenize(text: str) -> list[str]:
    """Lower-case words, punctuation marks and names such as '[character1]'; the built-in text encoder's rule."""
    return _TOKEN.findall(text.lower())


def _pick(rng: np.random.Generator, words: Sequence[Word]) -> Word:
    return words[int(rng.integers(len(words)))]


def describe(who: Character, rng: np.random.Generator) -> str:
    """Name and looks: '[character1], a red cat with a crown'."""
    article = "an" if who.colour[0] in "aeiou" else "a"
    return f"{who.name}, {article} {who.colour} {who.kind} {_pick(rng, MARK_WORDS[who.mark])}".strip()


@dataclass(frozen=True)
class Mention:
    """A character described in a caption: its name, and its looks as (colour, kind, mark). `text` is what a later
    caption leaves out when it calls the character by name only."""

    name: str
    looks: tuple[str, str, str]
    text: str


def mentions(caption: str) -> list[Mention]:
    """The characters that a caption describes, in order; `describe` read backwards."""
    return [
        Mention(found["name"], (found["colour"], found["kind"], _MARK_OF[found["mark"] or ""]), found["text"])
        for found in _DESCRIBED.finditer(caption)
    ]


def with_looks(caption: str, texts: Mapping[str, str]) -> str:
    """The caption with its characters described: `texts` are the `Mention.text` of those that it may call by name
    only. The inverse of leaving those texts out."""
    known = {mention.name for mention in mentions(caption)}
    return re.sub(
        r"\[character\d+\]", lambda name: name[0] + (texts.get(name[0], "") if name[0] not in known else ""), caption
    )


def shot_caption(
    cast: list[tuple[Character, str, bool]],
    setting: str,
    time: str,
    framing: str,
    viewpoint: str,
    rng: np.random.Generator,
) -> str:
    """One sentence on a shot; `cast` lists (character, action, by name only)."""
    place, when = _pick(rng, SETTING_WORDS[setting]), _pick(rng, TIME_WORDS[time])
    shot, view = _pick(rng, FRAMING_WORDS[framing]), _pick(rng, VIEWPOINT_WORDS[viewpoint])
    tail = f"{shot} {view}".strip()
    where = f"{place} {when}" if rng.uniform() < 0.75 else f"{when} {place}"
    style = int(rng.integers(3))
    parts = []
    for who, action, name_only in cast:
        finite, participle = _pick(rng, ACTION_WORDS[action])
        looks = who.name if name_only else describe(who, rng)
        comma = "" if name_only else ","
        parts.append(f"{looks}{comma} {participle if style == 0 else finite}")
    people = " and ".join(parts)
    if style == 0:
        return f"{tail} of {people} {where}."
    if style == 1:
        return f"{people} {where}, {tail}."
    return f"{tail}: {people} {where}."


def film_caption(people: int, settings: list[str], rng: np.random.Generator) -> str:
    """A short sentence on a whole film that says nothing of anybody's looks."""
    theme = THEME_WORDS.get(tuple(sorted(set(settings))))
    extra = f" {_pick(rng, theme)}" if theme and rng.uniform() < 0.7 else ""
    return _pick(rng, FILM_WORDS).format(_pick(rng, CAST_WORDS[people]), extra)


def _vocabulary() -> tuple[str, ...]:
    texts = [*NAMES, *KINDS, *COLOURS, "a an , . : of and"]
    for table in (MARK_WORDS, SETTING_WORDS, TIME_WORDS, FRAMING_WORDS, VIEWPOINT_WORDS, CAST_WORDS, THEME_WORDS):
        texts += [text for words in table.values() for text in words]
    texts += [text for pairs in ACTION_WORDS.values() for pair in pairs for text in pair]
    texts += [text.format("", "") for text in FILM_WORDS]
    return tuple(sorted({word for text in texts for word in tokenize(text)}))


CAPTION_VOCABULARY: tuple[str, ...] = _vocabulary()
assert set(MARK_WORDS) == set(MARKS) and set(ACTION_WORDS) == set(ACTIONS)
assert set(SETTING_WORDS) == set(SETTINGS) and set(TIME_WORDS) == set(TIMES)
