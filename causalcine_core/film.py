"""A film as a value: gone on with under new settings, appended to, cut back. Nothing is made here, and no state is changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from .checks import show, whole
from .cut import Cut
from .errors import InputError
from .memory import KVMemory, MemorySettings, RemoteMemory, ResolvedMemory
from .plan import BLEND, Plan, PlannedShot, cut_short, plan
from .references import Reference, grown
from .sampling import Recipe, State
from .sampling.passes import limited
from .story import Shot, Story, check_seed, check_size, exact, join_prompt

# Fields of a recipe that a film keeps from its first chunk to its last.
KEPT = ("chunk", "first_chunk", "fps", "negative")


@dataclass(frozen=True)
class Asked:
    """What somebody asks for beside a story; None: as the story, the film or the model says.

    memory: what the film may see of its past. seed: 0 to 2^64 - 1. steps: denoising passes a chunk. guidance: 1 is none. width,
    height: pixels.
    """

    memory: MemorySettings | None = None
    seed: int | None = None
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    cast: Sequence[Reference] | None = None

    def __post_init__(self) -> None:
        if self.seed is not None:
            check_seed(self.seed)

    def over(self, recipe: Recipe) -> Recipe:
        """A recipe with what was asked in its place."""
        asked = {"steps": self.steps, "guidance": self.guidance}
        return recipe.changed(**{name: value for name, value in asked.items() if value is not None})


@dataclass(frozen=True)
class Model:
    """What a film is made with, as far as its states must agree with it. fingerprint: of the network; text: of its text encoder, ""
    where that has none. stride: pixels that width and
    height are multiples of; spatial, temporal: pixels and pixel frames of a latent one."""

    name: str
    fingerprint: str
    recipe: Recipe
    stride: int
    spatial: int
    temporal: int
    text: str = ""

    def latent_size(self, width: int, height: int) -> tuple[int, int]:
        """Height and width in latents of a size in pixels. Raises InputError where it does not fit."""
        check_size(width, height, self.stride)
        return height // self.spatial, width // self.spatial


def begun_recipe(model: Model, story: Story, asked: Asked) -> Recipe:
    """The recipe of a new film: the model's, with what the story and then the caller say in their places."""
    told = {"negative": story.negative, "fps": story.fps}
    return asked.over(model.recipe.changed(**{name: value for name, value in told.items() if value is not None}))


def begun_size(model: Model, story: Story, asked: Asked) -> tuple[int, int]:
    """Latent height and width of a new film."""
    picture = model.recipe.picture
    width = first(asked.width, story.width, picture.width)
    return model.latent_size(width, first(asked.height, story.height, picture.height))


def continued(state: State, model: Model, story: Story | None, asked: Asked) -> State:
    """A film that goes on: its state under what is asked now, nothing planned anew yet.

    Raises InputError that names the first thing which a film cannot change on its way: its model, size, frame rate, negative prompt,
    how it is cut into chunks, how its memory is kept, whether it is guided, and whom of its cast it knows already.
    """
    if state.model != model.fingerprint:
        raise InputError(f"state was made by another model ({state.model}) than {model.name} ({model.fingerprint})")
    if state.text and model.text and state.text != model.text:
        raise InputError(
            f"state was made through another text encoder ({state.text}) than that of {model.name} ({model.text}): its words "
            "would mean something else"
        )
    recipe = asked.over(_recipe_in_force(state, model.recipe))
    if recipe.branches != state.recipe.branches:
        raise InputError(
            "guidance cannot be switched on or off inside a film: its memory has the other number of branches"
        )
    if recipe.rolling != state.recipe.rolling:
        raise InputError(
            "sampler cannot become, or cease to be, rolling inside a film: several chunks are under way at once"
        )
    _check_same(state, model, story, asked)
    settings, memory = _settings_in_force(state, recipe, model.recipe, asked.memory)
    seed = first(asked.seed, story.seed if story else None, state.seed)
    same = (recipe, settings, seed) == (state.recipe, state.settings, state.seed)
    pending = state.pending if same and story is None else ()
    return replace(
        state,
        recipe=recipe,
        given=model.recipe,
        settings=settings,
        memory=memory,
        seed=seed,
        pending=pending,
        references=_cast_in_force(state, asked.cast),
    )


def appended(state: State, story: Story | None, temporal_stride: int, *, keep_planned: bool = False) -> State:
    """A film with a story planned after the chunks it has. Without a story, as it is.

    keep_planned: the story comes after what is planned and not made yet; otherwise it takes its place.
    """
    if story is None:
        return state
    shots = state.shots if keep_planned else cut_short(state.shots, state.frames)
    kept = state.planned if keep_planned else ()
    following = planned(story, state.recipe, temporal_stride, replace(state, shots=shots, planned=kept))
    return replace(
        state,
        shots=(*shots, *following.shots),
        planned=(*kept, *following.chunks),
        pending=state.pending if kept else (),
    )


def planned(story: Story, recipe: Recipe, temporal_stride: int, after: State | None = None) -> Plan:
    """A story on chunks: of a new film, or after those that a film has and has planned."""
    line, rest = recipe.timeline, after.planned if after else ()
    newest = after.records[-1].plan if after and after.records else None
    kept = () if after is None else after.shots if rest else cut_short(after.shots, after.frames)
    asked = kept[-1].until if rest and kept else after.asked if after else None
    return plan(
        story,
        chunk=line.chunk,
        first_chunk=line.first_chunk,
        fps=line.fps,
        temporal_stride=temporal_stride,
        start_chunk=after.chunks + len(rest) if after else 0,
        start_shot=len(kept),
        asked=asked,
        seconds=line.seconds,
        cut=recipe.cut.mode,
        phrase=recipe.cut.phrase,
        before=rest[-1] if rest else newest,
    )


def back_to(state: State, chunks: int) -> State:
    """The film up to the end of its first `chunks` chunks, with nothing planned after them; what it goes on to is as if it had never
    gone further, but for the sampler `rolling`, whose chunks that were half made begin anew. Its memory comes along where the store
    keeps frames as they were; else it is written anew, a pass for each chunk.

    Raises InputError where the film has fewer chunks.
    """
    whole(chunks, "chunk", 0, state.chunks)
    records = state.records[:chunks]
    made = records[-1].plan.frames[1] if records else 0
    all_of_it = chunks == state.chunks
    return replace(
        state,
        memory=state.memory if all_of_it else _memory_back(state, chunks),
        latents=state.latents[:chunks],
        records=records,
        shots=cut_short(state.shots, made),
        planned=(),
        pending=(),
        decoder=state.decoder if all_of_it else None,
        history=min(state.history, chunks),
    )


def before(state: State, *, shot: int | None = None, chunk: int | None = None) -> State:
    """The film up to where a shot, or a chunk, begins: what a retake goes on from. Both are counted from 1; one of the two is given.

    Raises InputError where the film has no such shot or chunk.
    """
    if (shot is None) == (chunk is None):
        raise InputError("from_shot and from_chunk say the same in two ways: give one of them")
    if chunk is not None:
        return back_to(state, whole(chunk, "from_chunk", 1, max(1, state.chunks)) - 1)
    numbers = state.shot_numbers
    first_anew = whole(shot, "from_shot", 1, max(numbers, default=0) + 1) - 1
    return back_to(state, sum(number < first_anew for number in numbers))


def retake(state: State, *, shot: int | None = None, chunk: int | None = None, seed: int | None = None) -> State:
    """The film up to where a shot, or a chunk, begins (`before`), with all that followed on it planned again as it was.

    seed: of what is made anew, in place of the film's and of the shots' own; None: as before, so that the same film is made again
    unless something else is asked. Raises InputError.
    """
    if seed is not None:
        check_seed(seed)
    kept = before(state, shot=shot, chunk=chunk)
    if kept.chunks < state.history:
        asked = f"from_shot is {shot}" if chunk is None else f"from_chunk is {chunk}"
        raise InputError(
            f"{asked}, inside the history that the film was given and that nobody made: it is made anew from chunk "
            f"{state.history + 1} on"
        )
    anew = state.records[kept.chunks :]
    had = {record.plan.shot: record.seed for record in reversed(anew)}  # a film that went on may have had several

    def seeded(shot: PlannedShot) -> PlannedShot:
        if shot.frames[1] <= kept.frames or (seed is None and had.get(shot.index, state.seed) == state.seed):
            return shot
        return replace(shot, seed=had[shot.index] if seed is None else None)

    return replace(
        kept,
        shots=tuple(map(seeded, state.shots)),
        planned=(*(record.plan for record in anew), *state.planned),
        seed=state.seed if seed is None else seed,
    )


def told(state: State, model: Model, begin: int = 0) -> Story:
    """The story that makes a film, or what of it follows on its first `begin` pixel frames: the same plan, seeds, size and texts.

    What the model does by itself is not said again. A shot with chunks of several seeds has that of its first one.
    """
    line, native = state.recipe.timeline, state.given or model.recipe
    rate = exact(line.fps)
    plans = [*(record.plan for record in state.records), *state.planned]
    seeds = {record.plan.shot: record.seed for record in reversed(state.records)}
    texts = {chunk.shot: chunk.text for chunk in reversed(plans)}  # of each shot's first chunk
    following = [(shot, before) for shot, before in _with_begin(state.shots) if shot.frames[1] > begin]
    one = len({shot.shared for shot, _ in following}) == 1
    shots = []
    for shot, before in following:
        start = Fraction(begin) if shot.frames[0] < begin else before
        blend = _blend(shot, texts.get(shot.index, ())) if shot.index else None
        seed = seeds.get(shot.index, state.seed) if shot.seed is None else shot.seed
        shots.append(
            Shot(
                shot.caption if one else join_prompt(shot.shared, shot.caption),
                seconds=float(max(shot.until - start, Fraction(1)) / rate),
                seed=None if seed == state.seed else seed,
                cut=None if shot.cut == state.recipe.cut.mode and blend is None else shot.cut,
                blend=blend,
                lora=shot.lora,
            )
        )
    size = tuple(side * model.spatial for side in state.size)
    usual_size = (native.picture.height, native.picture.width)
    return Story(
        shots,
        following[0][0].shared if one else "",
        fps=None if line.fps == native.timeline.fps else line.fps,
        width=None if size == usual_size else size[1],
        height=None if size == usual_size else size[0],
        seed=state.seed,
        negative=None if state.recipe.guidance.negative == native.guidance.negative else state.recipe.guidance.negative,
        cut=None if state.recipe.cut.mode == native.cut.mode else state.recipe.cut.mode,
    )


def _with_begin(shots: Sequence[PlannedShot]) -> list[tuple[PlannedShot, Fraction]]:
    """Each shot with what was asked for up to its begin, exact pixel frames."""
    return list(zip(shots, [Fraction(0), *(shot.until for shot in shots)], strict=False))


def _blend(shot: PlannedShot, text: Sequence[tuple[int, float]]) -> int | None:
    """Over how many chunks a soft shot goes over, told from how much of its own text its first chunk reads; None: as usual."""
    how = Cut.parse(shot.cut)
    over = round(1 / text[-1][1]) - 1 if text else 0
    return over if how.soft and over != (0 if how.rewrite else BLEND) else None


def first(*values: Any) -> Any:
    """The first value that was given."""
    return next((value for value in values if value is not None), None)


def _memory_back(state: State, chunks: int) -> KVMemory | None:
    memory = state.local_memory
    if memory is None or memory.limit is not None or memory.store.cold is not memory.store.hot:
        return None
    return memory.without(max(0, memory.chunks - max(0, chunks - 1)))


def _recipe_in_force(state: State, recipe: Recipe) -> Recipe:
    """The film's recipe, with what the model's has changed since the film began (another recipe node, another file)."""
    began = (state.given or recipe).to_dict()
    changed = {name: value for name, value in recipe.to_dict().items() if value != began[name]}
    for name in KEPT:
        if name in changed:
            raise InputError(
                f"{name} of the recipe is {show(changed[name])}, but the film to continue was begun with {show(began[name])}: "
                "leave it as it was, or start anew"
            )
    if "levels" in changed or "steps" in changed:
        changed |= {name: recipe.to_dict()[name] for name in ("steps", "levels")}
    return state.recipe.changed(**changed) if changed else state.recipe


def _cast_in_force(state: State, asked: Sequence[Reference] | None) -> tuple[Reference, ...]:
    """The cast of a film that goes on: who is new comes behind those it knows, for its memory has each at its place."""
    if asked is None:
        return state.references
    cast = grown(asked, state.references)
    if len(cast) > len(state.references):
        if state.settings.budget is not None:
            raise InputError(
                f"cast: memory.budget of {state.settings.budget:g} GiB was shared out when the film began, with "
                f"{len(state.references)} pictures and not {len(cast)}: give the whole cast to the first part, or no budget"
            )
        if state.recipe.rolling and state.pending:
            raise InputError(
                "cast: chunks are under way already (sampler rolling): give the whole cast to the first part"
            )
    return cast


def _check_same(state: State, model: Model, story: Story | None, asked: Asked) -> None:
    have: dict[str, Any] = {"fps": state.recipe.timeline.fps, "negative": state.recipe.guidance.negative}
    have |= {"height": state.size[0] * model.spatial, "width": state.size[1] * model.spatial}
    wanted = {
        "width": first(asked.width, story.width if story else None),
        "height": first(asked.height, story.height if story else None),
        "fps": story.fps if story else None,
        "negative": story.negative if story else None,
    }
    for name, value in wanted.items():
        if value is not None and value != have[name]:
            raise InputError(
                f"{name} is {show(value)}, but the film to continue has {show(have[name])}: leave it out, or start anew"
            )


def _settings_in_force(
    state: State, recipe: Recipe, model: Recipe, asked: MemorySettings | None
) -> tuple[ResolvedMemory, KVMemory | RemoteMemory | None]:
    """Memory settings of a film that goes on, and its memory under them: its store stays as it was opened, and what is asked now is
    shared out of its budget as if it were new."""
    settings, memory = state.settings, state.memory
    began = state.given or model
    asked = asked or MemorySettings(routing=settings.routing)
    for name, given, usual in (("budget", asked.budget, None), ("storage", asked.storage, "full")):
        if given != usual and given != getattr(settings, name):
            raise InputError(
                f"memory.{name} is {show(given)}, but the film to continue was begun with "
                f"{show(getattr(settings, name))}: leave it as it was, or start anew"
            )
    now, then = model.visibility, began.visibility
    window = settings.window if now.window == then.window else now.window
    top_k = settings.top_k if now.top_k == then.top_k else now.top_k
    resolved = replace(asked.resolve(window, top_k), budget=settings.budget, storage=settings.storage)
    if isinstance(memory, KVMemory) and resolved != settings:
        memory = limited(memory, recipe, resolved, len(state.references))
    return resolved, memory
