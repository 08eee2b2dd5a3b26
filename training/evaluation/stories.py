"""A story benchmark in open vocabulary, for models of real pictures: 100 stories of five shots, twenty of each of five kinds.

    python -m training.evaluation.stories -o DIR [--count 100] [--world]

writes a story file each, as `causalcine generate` and the nodes read them, and `index.json` with the kind of each and who is in which
shot. They are put together from words below by a seeded script, so the script is the benchmark. --world: the stories of the built-in
model's world in its place (`training.world.benchmark`). Kinds take turns, so the first stories are of all kinds.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_core.commands.arguments import Parser
from causalcine_core.errors import InputError
from training.world.benchmark import SHOTS, STORIES, STORY_KINDS, benchmark_film, kind_of

SECONDS, FPS = 3.0, 16  # of a shot; of a film
NAMES = ("[character1]", "[character2]", "[character3]")

PEOPLE = (
    "an elderly fisherman with a grey beard and a yellow raincoat",
    "a young woman with short red hair and a green leather jacket",
    "a tall man in a dark blue suit with round glasses",
    "a girl of about ten with two braids and a red woollen coat",
    "a baker with a white apron, rolled sleeves and flour on his cheeks",
    "a violinist with long black hair in a wine-red evening dress",
    "a mechanic in oil-stained orange overalls with a shaved head",
    "an old woman with silver curls and a purple knitted shawl",
    "a boy with freckles, a striped sweater and a blue cap",
    "a cyclist in a bright pink jersey with a black helmet",
    "a gardener with a wide straw hat and a checked shirt",
    "a detective with a moustache, a brown trench coat and a felt hat",
    "a nurse in light green scrubs with her blond hair tied up",
    "a painter with a stained denim shirt and a curly beard",
    "a dancer in a white dress with a golden belt",
    "a hiker with a big red backpack and a grey beanie",
    "a chef with a tall white hat and a thin black scarf",
    "a pilot in a worn brown leather jacket with sunglasses on her head",
    "a librarian with a mustard cardigan and a pearl necklace",
    "a street musician with dreadlocks and a patchwork vest",
    "a large golden retriever with a blue collar",
    "a black cat with white paws and a small silver bell",
    "a shaggy grey donkey with a red blanket on its back",
    "a white parrot with a yellow crest",
)
PLACES = (
    "in a narrow alley with wet cobblestones",
    "on a wooden pier above a calm lake",
    "in a crowded market hall with heaps of fruit",
    "in a small kitchen with copper pans on the wall",
    "on a windy cliff above the sea",
    "in an old library with tall shelves and ladders",
    "in a train compartment with worn green seats",
    "on a rooftop with water tanks and antennas",
    "in a snowy village street with wooden houses",
    "in a greenhouse full of ferns and orchids",
    "at a petrol station beside an empty desert road",
    "in a workshop with tools on every wall",
    "on a stone bridge over a slow river",
    "in a birch forest with fallen leaves",
    "in a tiled subway station",
    "in a field of sunflowers beneath low hills",
    "in a theatre with rows of red seats",
    "on a sandy beach with driftwood",
    "in a courtyard with a fountain and orange trees",
    "at a long table in a sunlit dining room",
)
LIGHT = (
    "in soft morning light",
    "on a grey day",
    "in warm light before sunset",
    "at night under street lamps",
    "in bright midday sun",
    "in thin fog",
    "while it rains",
    "in the dim light of a few lamps",
)
ACTIONS = (
    "walks slowly towards the camera",
    "stops and looks around",
    "sits down and looks at the ground",
    "turns around and looks back over the shoulder",
    "runs from left to right",
    "stands still while the wind moves everything around",
    "bends down to look at something on the ground",
    "looks up at the sky",
    "walks away from the camera",
    "waits and breathes deeply",
    "reaches for something outside the picture",
    "looks straight into the camera",
    "climbs a few steps and stops",
    "lies down and closes both eyes",
)
FRAMINGS = (
    "Wide shot",
    "Medium shot",
    "Close-up",
    "Low-angle shot",
    "High-angle shot",
    "Tracking shot",
    "Profile shot",
)
STYLES = (
    "A quiet film shot on 35 mm with natural colours.",
    "A warm family film with soft contrast.",
    "A crime story in cool, muted tones.",
    "A documentary with a calm hand-held camera.",
    "A fairy tale in saturated colours.",
    "A travel film with wide landscapes and clear air.",
)


@dataclass(frozen=True)
class OpenStory:
    """A story with its truth. story: as in a story file. cast: who is in each shot, by name."""

    name: str
    kind: str
    story: dict[str, Any]
    cast: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Shot:
    who: tuple[int, ...]
    place: str
    light: str
    framing: str


def open_story(number: int) -> OpenStory:
    """Story `number` of the benchmark in open vocabulary, from 0 to 99."""
    if not 0 <= number < STORIES:
        raise ValueError(f"number must be from 0 to {STORIES - 1}, got {number}")
    draw = random.Random(f"causalcine open stories {number}")
    kind = kind_of(number)
    people = draw.sample(PEOPLE, 3)
    shots = _KINDS[kind](draw)
    present = sorted({i for shot in shots for i in shot.who})
    looks = " ".join(f"{NAMES[i]} is {people[i]}." for i in present)
    actions = draw.sample(ACTIONS, SHOTS)
    prompts = []
    for shot, action in zip(shots, actions, strict=True):
        lead, *others = (NAMES[i] for i in shot.who)
        beside = f", beside {others[0]}," if others else ""
        prompts.append(f"{shot.framing} of {lead}, who {action}{beside} {shot.place} {shot.light}.")
    story = {
        "global": f"{draw.choice(STYLES)} {looks}",
        "fps": FPS,
        "shots": [{"prompt": prompt, "seconds": SECONDS} for prompt in prompts],
    }
    return OpenStory(_name(number), kind, story, tuple(tuple(NAMES[i] for i in shot.who) for shot in shots))


def world_story(number: int) -> OpenStory:
    """The same of the world's benchmark."""
    film = benchmark_film(number)
    cast = tuple(tuple(c.name for c in shot.characters) for shot in film.shots)
    return OpenStory(_name(number), kind_of(number), film.story(), cast)


def _name(number: int) -> str:
    return f"{number:03d}-{kind_of(number).replace(' ', '-')}"


def _framed(draw: random.Random, who: Sequence[tuple[int, ...]], places: Sequence[str], light: str) -> list[_Shot]:
    """Shots whose framing changes at every cut."""
    out: list[_Shot] = []
    for cast, place in zip(who, places, strict=True):
        framing = draw.choice([f for f in FRAMINGS if not out or f != out[-1].framing])
        out.append(_Shot(cast, place, light, framing))
    return out


def _journey(draw: random.Random) -> list[str]:
    """Places of the shots, out of three, never the same twice in a row."""
    pool = draw.sample(PLACES, 3)
    out = [draw.choice(pool)]
    while len(out) < SHOTS:
        out.append(draw.choice([place for place in pool if place != out[-1]]))
    return out


def _reappearance(draw: random.Random) -> list[_Shot]:
    order = draw.choice([(0, 1, 2, 0, 1), (0, 1, 0, 2, 1), (0, 1, 1, 0, 1), (0, 1, 2, 0, 2)])
    return _framed(draw, [(i,) for i in order], _journey(draw), draw.choice(LIGHT))


def _scene_change(draw: random.Random) -> list[_Shot]:
    return _framed(draw, [(0,)] * SHOTS, draw.sample(PLACES, SHOTS), draw.choice(LIGHT))


def _shot_reverse_shot(draw: random.Random) -> list[_Shot]:
    place, light = draw.choice(PLACES), draw.choice(LIGHT)
    framing = draw.choice(("Medium shot", "Close-up"))
    sides = draw.choice([("left", "right"), ("right", "left")])
    return [_Shot((i % 2,), place, light, f"{framing} from the {sides[i % 2]}") for i in range(SHOTS)]


def _viewpoint_change(draw: random.Random) -> list[_Shot]:
    who = draw.choice([(0,), (0, 1)])
    return _framed(draw, [who] * SHOTS, [draw.choice(PLACES)] * SHOTS, draw.choice(LIGHT))


def _long_gap(draw: random.Random) -> list[_Shot]:
    order = draw.choice([(0, 1, 2, 1, 0), (0, 1, 1, 2, 0), (0, 1, 2, 2, 0)])
    return _framed(draw, [(i,) for i in order], _journey(draw), draw.choice(LIGHT))


_KINDS: dict[str, Callable[[random.Random], list[_Shot]]] = dict(
    zip(STORY_KINDS, (_reappearance, _scene_change, _shot_reverse_shot, _viewpoint_change, _long_gap), strict=True)
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog="python -m training.evaluation.stories", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the files go")
    parser.add_argument("--count", type=int, default=STORIES, help="how many; default 100")
    parser.add_argument("--world", action="store_true", help="the stories of the built-in model's world")
    args = parser.parse_args(argv)
    if not 1 <= args.count <= STORIES:
        raise InputError(f"count must be from 1 to {STORIES}, got {args.count}")
    args.output.mkdir(parents=True, exist_ok=True)
    index = []
    for one in map(world_story if args.world else open_story, range(args.count)):
        (args.output / f"{one.name}.json").write_text(json.dumps(one.story, indent=1) + "\n")
        index.append({"file": f"{one.name}.json", "kind": one.kind, "cast": one.cast})
    (args.output / "index.json").write_text(json.dumps(index, indent=1) + "\n")
    print(f"{args.count} stories in {args.output}")


if __name__ == "__main__":
    main()
