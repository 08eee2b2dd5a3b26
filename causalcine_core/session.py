"""A film being directed: shots are appended, cut to and softened while it runs, takes are made and gone back to.

    session = pipe.session(seed=7)
    session.append(story)
    for chunk in session.run():                  # what is planned; more may be appended meanwhile, from any thread
        ...
        session.cut_now("Ben opens the door.")   # the very next chunk is under the new words
    session.undo()                               # the head goes back; nothing is made again, the branch left behind is a take
    other = session.fork()                       # a second take from here, made side by side if one likes

A session is a tree of takes. Its head is a place in it: a take, how many of its chunks, and what is planned after them. Edits and
finished chunks move the head; undo and redo put it back where it was. While a run makes a chunk, what is asked for waits until
that chunk is whole, so that the next one is made under the newest words. Everything that happens is told as an `Event`.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from . import checks
from .errors import FilmStoppedError, InputError
from .film import appended, back_to, retake
from .plan import PlannedChunk, PlannedShot
from .sampling import Chunk, State, StepInfo
from .story import Shot, Story

if TYPE_CHECKING:
    from .pipeline import Pipeline

KINDS = ("edited", "moved", "step", "chunk", "take", "cancelled", "failed", "done")
MOST_HISTORY = 1000  # places of the head that undo remembers
MOST_STEPS = 10**9


class CancelledError(Exception):
    """The run was cancelled; the chunk that was being made is lost, no other."""


@dataclass(frozen=True)
class Event:
    """Something that happened. kind: one of KINDS. take: id of the take that the head is on. chunks: of the film up to the head.
    data: `step`: a StepInfo; `chunk`: a Chunk; `take`: the id of the one that was left behind; `failed`: the sentence; else
    None."""

    kind: str
    take: str
    chunks: int
    data: Any = None


@dataclass(frozen=True)
class Head:
    """Where a session is: a take, how many of its chunks, the film's shots, and the chunks planned from there under a seed."""

    take: str
    chunks: int
    shots: tuple[PlannedShot, ...]
    planned: tuple[PlannedChunk, ...]
    seed: int


@dataclass(frozen=True)
class Take:
    """One branch of the tree. state: at its newest chunk. parent, since: the take that it left, and after how many chunks."""

    id: str
    state: State
    parent: str | None = None
    since: int = 0


class Session:
    """Its methods may be called from any thread; one thread at a time runs it."""

    def __init__(self, pipe: Pipeline, state: State, on_event: Callable[[Event], None] | None = None):
        """
        Args:
            pipe: what makes the film.
            state: where it begins, from `pipe.start`, or any state of this model.
            on_event: told of everything, in the thread where it happens.
        """
        self.pipe, self.on_event = pipe, on_event
        first = Take(uuid.uuid4().hex, state)
        self._takes = {first.id: first}
        self._history = [Head(first.id, state.chunks, state.shots, state.planned, state.seed)]
        self._at = 0
        self._lock, self._turn = threading.RLock(), threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()  # edits that a run has yet to take in
        self._told: deque[Event] = deque()
        self._running, self._cancelled = False, False

    # --- what there is

    @property
    def head(self) -> Head:
        """Where the session is."""
        with self._lock:
            return self._history[self._at]

    @property
    def takes(self) -> tuple[Take, ...]:
        """All takes, oldest first; the head's is among them."""
        with self._lock:
            return tuple(self._takes.values())

    @property
    def state(self) -> State:
        """The film up to the head, with what is planned after it: a value, as any `State`."""
        with self._lock:
            head = self.head
            tip = self._takes[head.take].state
            here = back_to(tip, head.chunks)
            same = (head.chunks, head.planned, head.shots, head.seed) == (tip.chunks, tip.planned, tip.shots, tip.seed)
            pending = tip.pending if same else ()
            return replace(here, shots=head.shots, planned=head.planned, seed=head.seed, pending=pending)

    # --- what a director does

    def append(self, story: Story | str) -> None:
        """Plan more shots after those that are planned already."""
        story = _story(story)
        self._edit(lambda state: self._appended(state, story, keep_planned=True))

    def cut_now(self, prompt: str, seconds: float | None = None) -> None:
        """A new shot from the very next chunk on; what was planned and not made is dropped."""
        story = Story([Shot(prompt, seconds=seconds)])
        self._edit(lambda state: self._appended(state, story))

    def change_text(self, prompt: str, seconds: float | None = None, over: int | None = None) -> None:
        """Other words inside the going shot from the next chunk on, blended over so many chunks; what was planned is dropped."""
        story = Story([Shot(prompt, seconds=seconds, cut="soft", blend=over)])
        self._edit(lambda state: self._appended(state, story))

    def undo(self, steps: int = 1) -> None:
        """Put the head back by so many edits and chunks, as far as there are any. Nothing is made again."""
        checks.whole(steps, "steps", 1, MOST_STEPS)
        self._do(lambda: self._move(-steps))

    def redo(self, steps: int = 1) -> None:
        """Take so many steps of `undo` back, as far as there are any."""
        checks.whole(steps, "steps", 1, MOST_STEPS)
        self._do(lambda: self._move(steps))

    def back_to(self, chunks: int) -> None:
        """Put the head after the film's first `chunks` chunks, with nothing planned: what is made from there is another take."""
        self._do(lambda: self._put(back_to(self.state, chunks), "moved"))

    def retake(self, *, shot: int | None = None, chunk: int | None = None, seed: int | None = None) -> None:
        """Put the head to where a shot, or a chunk, of the film begins, both counted from 1, with all that followed planned again:
        another take. seed: of what is made anew; None: as before."""
        self._edit(lambda state: retake(state, shot=shot, chunk=chunk, seed=seed))

    def choose(self, take: str) -> None:
        """Put the head at the end of another take."""
        self._do(lambda: self._choose(take))

    def drop(self, take: str) -> None:
        """Forget a take that the head is not on; what only it remembered is free again."""
        self._do(lambda: self._forget(take))

    def fork(self) -> Session:
        """Another session that begins at the head. Both go on from one film, at the same time if one likes, and neither changes the
        other."""
        return Session(self.pipe, self.state, self.on_event)

    def cancel(self) -> None:
        """Stop the run after the pass that is under way; finished chunks stay."""
        self._cancelled = True

    def run(self, chunks: int | None = None, *, decode: bool = True, **options: Any) -> Iterator[Chunk]:
        """Make what is planned, and whatever is planned meanwhile, chunk by chunk.

        Args:
            chunks: how many at most; None: until nothing is planned any more.
            decode: whether chunks have frames.
            options: of `Pipeline.run`.

        Raises InputError where another thread runs this session, and what `Pipeline.run` raises; the head is then at the last
        finished chunk. A cancelled run just ends.
        """
        if chunks is not None:
            checks.whole(chunks, "chunks", 0, MOST_STEPS)
        if not self._turn.acquire(blocking=False):
            raise InputError(
                "this session is running already: cancel it, or fork it to make another take at the same time"
            )
        try:
            with self._lock:
                self._running, self._cancelled = True, False
            yield from self._run(chunks, decode, options)
        finally:
            try:
                with self._lock:
                    self._take_in()
                    self._running = False
                self._flush()
            finally:
                self._running = False
                self._turn.release()

    # --- how

    def _run(self, left: int | None, decode: bool, options: dict[str, Any]) -> Iterator[Chunk]:
        while left is None or left > 0:
            self._let_go()
            start = self.state
            if not start.planned:
                self._tell("done")
                self._flush()
                return
            stream = self.pipe.run(start, on_step=self._step, decode=decode, **options)
            try:
                for chunk in stream:
                    left = None if left is None else left - 1
                    self._put(chunk.state, "chunk", data=chunk)
                    self._flush()
                    yield chunk
                    if self._cancelled:
                        self._tell("cancelled")
                        return
                    if self._take_in() or left == 0:
                        break  # the rest is planned otherwise now
                    self._flush()
            except CancelledError:
                self._tell("cancelled")
                return
            except (FilmStoppedError, InputError) as error:
                self._tell("failed", str(error))
                raise
            finally:
                if isinstance(stream, Generator):
                    stream.close()  # so that nothing is half made while the head is elsewhere

    def _step(self, info: StepInfo) -> None:
        self._tell("step", info)
        self._flush()
        if self._cancelled:
            raise CancelledError

    def _edit(self, change: Callable[[State], State]) -> None:
        if not self._running:
            change(self.state)  # what cannot be planned is said to whoever asks
        self._do(lambda: self._put(change(self.state), "edited"))

    def _appended(self, state: State, story: Story, *, keep_planned: bool = False) -> State:
        return appended(state, story, self.pipe.model.temporal, keep_planned=keep_planned)

    def _do(self, action: Callable[[], None]) -> None:
        """Now, or where a chunk is being made as soon as it is whole."""
        with self._lock:
            self._waiting.append(action)
            if not self._running:
                self._take_in()
        self._flush()

    def _take_in(self) -> bool:
        """Do what waits; whether there was anything."""
        with self._lock:
            waited = bool(self._waiting)
            while self._waiting:
                action = self._waiting.popleft()
                if not self._running:
                    action()
                    continue
                try:
                    action()
                except InputError as error:
                    self._tell("failed", str(error))
            return waited

    def _put(self, state: State, kind: str, take: str | None = None, data: Any = None) -> None:
        """The head at the end of `state`, which goes on from where the head is, or is the end of another take."""
        with self._lock:
            head = self.head
            take = take or head.take
            tip = self._takes[take].state
            if state.chunks > head.chunks and take == head.take:
                if tip.chunks > head.chunks:  # something else was made from here before: it stays as a take
                    self._tell("take", take)
                    take = uuid.uuid4().hex
                    self._takes[take] = Take(take, state, head.take, head.chunks)
                else:
                    self._takes[take] = replace(self._takes[take], state=state)
            self._history[self._at + 1 :] = [Head(take, state.chunks, state.shots, state.planned, state.seed)]
            del self._history[:-MOST_HISTORY]
            self._at = len(self._history) - 1
            self._tell(kind, data)
            self._let_go()

    def _let_go(self) -> None:
        """Under a budget a film keeps what it remembers only where the head is; where another take, or an earlier chunk, goes on it is
        written anew."""
        with self._lock:
            for take in self.takes:
                here = take.id == self.head.take and take.state.chunks == self.head.chunks
                if not here and take.state.settings.budget is not None and take.state.memory is not None:
                    self._takes[take.id] = replace(take, state=replace(take.state, memory=None))

    def _choose(self, take: str) -> None:
        state = self._known(take).state
        self._put(back_to(state, state.chunks), "moved", take)

    def _move(self, steps: int) -> None:
        self._at = max(0, min(len(self._history) - 1, self._at + steps))
        self._tell("moved")

    def _known(self, take: str) -> Take:
        if not isinstance(take, str) or take not in self._takes:
            raise InputError(f"take is {take!r}: this session has {', '.join(self._takes)}")
        return self._takes[take]

    def _forget(self, take: str) -> None:
        if self._known(take).id == self.head.take:
            raise InputError(f"take {take} cannot be dropped, since the head is on it: choose another one first")
        del self._takes[take]
        self._at -= sum(head.take == take for head in self._history[: self._at])
        self._history = [head for head in self._history if head.take != take]

    def _tell(self, kind: str, data: Any = None) -> None:
        with self._lock:
            head = self.head
            self._told.append(Event(kind, head.take, head.chunks, data))

    def _flush(self) -> None:
        """Tell what is to be told, in its order, while nothing is locked: who is told may wait for another thread."""
        while self._told:
            try:
                event = self._told.popleft()
            except IndexError:  # another thread was quicker
                return
            if self.on_event is not None:
                self.on_event(event)


def _story(story: Story | str) -> Story:
    return story if isinstance(story, Story) else Story.parse(story)
