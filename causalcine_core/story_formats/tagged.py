"""HoloCine's tagged string: `[global caption] ... [per shot caption] ... [shot cut] ...`."""

from __future__ import annotations

from .. import checks
from ..errors import InputError
from ..story import Story, check_count
from .form import Form, noted, one_line
from .tags import has_tags, split_at_tags
from .times import Times


def split_tagged(text: str) -> tuple[str, list[str], list[str]]:
    """The global text, the texts of the shots, and notes on how they were read."""
    before, parts, notes = split_at_tags(text)
    tags = [tag for tag, _ in parts]
    for tag in ("global caption", "per shot caption"):
        if tags.count(tag) > 1:
            raise InputError(f"the tag [{tag}] stands {tags.count(tag)} times; it may stand once")
    if "global caption" in tags and tags[:2] != ["global caption", "per shot caption"]:
        raise InputError("after [global caption] ... the text needs [per shot caption] ... with the first shot")
    if "per shot caption" in tags:
        first = tags.index("per shot caption")
        if "shot cut" in tags[:first]:
            raise InputError("[shot cut] may only stand after [per shot caption]")
        shared = " ".join(" ".join([before, *(text for _, text in parts[:first])]).split())
        texts = [text for _, text in parts[first:]]
    else:  # a [shot cut] b
        shared, texts = "", [before, *(text for _, text in parts)]
    texts, more = _without_blank_ends(texts)
    check_count(len(texts))
    return shared, [one_line(text, f"shot {i + 1}") for i, text in enumerate(texts)], [*notes, *more]


def _without_blank_ends(texts: list[str]) -> tuple[list[str], list[str]]:
    """Texts without the blank ones at both ends: there a [shot cut] cuts nothing off. A blank one between two others stays, and is
    refused by its number."""
    filled = [i for i, text in enumerate(texts) if not checks.is_blank(text)]
    if not filled:
        raise InputError("the story holds tags but no text; it needs at least one shot")
    kept, notes = texts[filled[0] : filled[-1] + 1], []
    if filled[0]:
        notes.append("a [shot cut] before the first shot cuts nothing off and is left out")
    if filled[-1] + 1 < len(texts):
        notes.append("a [shot cut] after the last shot has no text of its own and is left out")
    return kept, notes


def _read(text: str) -> Story:
    shared, texts, notes = split_tagged(text)
    times = Times()
    shots = [times.shot(text, i) for i, text in enumerate(texts)]
    return noted(Story(shots, shared), "split at [shot cut] tags" + times.how, *times.notes(), *notes)


def tagged(story: Story) -> str:
    """A story as HoloCine's string."""
    shared = f"[global caption] {story.global_prompt} " if story.global_prompt else ""
    return f"{shared}[per shot caption] {' [shot cut] '.join(shot.prompt for shot in story.shots)}"


TAGGED_TEXT: Form[str] = Form(
    "holocine",
    "[global caption] ... [per shot caption] ... [shot cut] ...",
    has_tags,
    _read,
    lambda story, name: {name: tagged(story) + "\n"},
)
