"""How many threads a CPU takes for passes of many small operations.

PyTorch shares even operations of a tenth of a millisecond out among its threads. Where another program wants the cores too, each
operation then waits until the system has given every thread its turn, and a pass takes several times as long with all threads as
with one; where nobody else is there, all are faster. So a small piece of a pass is timed both ways, the faster way is chosen
(`Choice`), and it is measured again now and then, since a neighbour may come and go.

A film must not show how many threads made it: the same seed, settings and machine give the same film. Nearly everything does,
since threads share out rows; what differs in its last bits are sums that a library splits in another way. Of ours these are the
time embedding (MKL's products of few rows) and a 1x1 convolution of the VAE; both are always computed by one thread (`one_thread`).
Whether anything else differs, for another network or on another processor, is tried once a machine for each shape: if so, the
number of threads stays as it is set.
"""

from __future__ import annotations

import functools
import platform
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .measured import keep_measured, measured_file, read_measured

LONG = 1e11  # multiplications and additions from which on waits between operations matter little
SHARE = 0.05  # of the time, at most, goes into measuring again
SOONER = 0.125  # the same, where passes take another time than before
CHANGED = 1.5  # times as long, or as short, is another time
WORTH = 0.95  # times as long is worth all threads
CLEARLY = 2.0  # times as long, once, is clear


@dataclass
class Choice:
    """The number of threads of passes, as was last measured, and when it is to be measured again.

    count: in force; one, until something is known: so much is never far behind, where all threads can be many times.
    """

    most: int
    count: int = 1
    _cost: float = 0.0  # seconds that measuring took
    _since: float = 0.0  # seconds of passes since then
    _usual: dict[Hashable, float] = field(default_factory=dict)  # seconds of a pass then, by kind
    _changes: int = 0  # passes in a row that took another time

    @property
    def due(self) -> bool:
        """Whether it is to be measured now."""
        return self._since * (SOONER if self._changes >= 2 else SHARE) >= self._cost

    def settle(self, seconds: Callable[[int], float]) -> None:
        """Measure. seconds: those of a small piece of a pass, by so many threads."""
        alone, together = (
            [min(seconds(1), seconds(1))],
            [seconds(self.most)],
        )  # the first by one is no measure of anything else
        self._cost = 2 * alone[0] + together[0]
        while len(together) < 3 and 1 / CLEARLY < together[0] / alone[0] < CLEARLY:
            alone.append(seconds(1))
            together.append(seconds(self.most))
            self._cost += alone[-1] + together[-1]
        self.count = self.most if min(together) < WORTH * min(alone) else 1
        self._since, self._changes = 0.0, 0
        self._usual.clear()

    def note(self, kind: Hashable, seconds: float) -> None:
        """A pass took so long."""
        self._since += seconds
        changed = not 1 / CHANGED < seconds / self._usual.setdefault(kind, seconds) < CHANGED
        self._changes = self._changes + 1 if changed else 0


class Threads:
    """The number of threads of one network's passes, and of what goes with them."""

    def __init__(self, *, fixed: bool = False) -> None:
        """fixed: leave the number as it is set."""
        self._fixed = fixed
        self._choices: dict[int, Choice] = {}  # by the number that PyTorch is set to
        self._same: dict[str, bool] = {}
        self._lock = threading.Lock()

    @contextmanager
    def timed(self, kind: Hashable, work: float, trial: Callable[[], Tensor]) -> Iterator[None]:
        """Inside, a pass on the CPU: by one thread or all.

        kind: passes that take equally long. work: multiplications and additions of one; more than LONG are left to all threads.
        trial: a small piece of such a pass, with all of its operations; gives what would differ in its bits if the number of threads
        mattered to them.
        """
        choice = self._choice(kind, work, trial)
        if choice is None:
            yield
            return
        with self._lock:
            if choice.due:
                choice.settle(lambda count: _seconds(trial, count))
            count = choice.count
        with _SETTING.at(count):
            began = time.perf_counter()
            yield
            seconds = time.perf_counter() - began
        with self._lock:
            choice.note(kind, seconds)

    @contextmanager
    def followed(self, kind: Hashable, work: float, trial: Callable[[], Tensor]) -> Iterator[None]:
        """Inside, other work on the CPU: by as many threads as passes are found to be fastest with. Takes what `timed` takes."""
        choice = self._choice(kind, work, trial)
        if choice is None:
            yield
            return
        with _SETTING.at(choice.count):
            yield

    def _choice(self, kind: Hashable, work: float, trial: Callable[[], Tensor]) -> Choice | None:
        """None where there is no choice: one thread is all there is, or the number would show in the film."""
        most = _SETTING.most
        if self._fixed or most == 1 or work > LONG:
            return None
        here = f"{_machine()}, {most} threads, {kind}"
        if here not in self._same:
            file = measured_file("threads")
            kept = read_measured(file).get(here)
            if not isinstance(kept, bool):
                kept = _same_bits(trial, most)
                keep_measured(file, {here: kept})
            self._same[here] = kept
        return self._choices.setdefault(most, Choice(most)) if self._same[here] else None


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Inside, one thread of the CPU computes: what would otherwise differ in its last bits with their number. device: where it is
    computed; elsewhere than on a CPU nothing changes."""
    if device.type != "cpu" or _SETTING.most == 1:
        yield
        return
    with _SETTING.lock, _SETTING.at(1):  # nobody else changes what MKL has from us meanwhile
        yield


@functools.cache
def _machine() -> str:
    capability: str = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, torch {torch.__version__}"


def _seconds(work: Callable[[], Tensor], count: int) -> float:
    with _SETTING.at(count):
        began = time.perf_counter()
        work()
        return time.perf_counter() - began


def _same_bits(trial: Callable[[], Tensor], most: int) -> bool:
    with _SETTING.at(1):
        alone = trial()
    with _SETTING.at(most):
        return torch.equal(alone, trial())


class _Setting:
    """PyTorch's number of threads: what whoever uses us has set it to, and what we have it at meanwhile.

    It is the process's, though PyTorch keeps a part of it for each thread: films that are made side by side must not take one
    another's number for what was set.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._inside, self._most = 0, 1
        self._own = threading.local()

    @property
    def most(self) -> int:
        """What it is set to, from outside."""
        with self.lock:
            return self._most if self._inside else torch.get_num_threads()

    @contextmanager
    def at(self, count: int) -> Iterator[None]:
        """Inside, this number; then what it was before."""
        with self.lock:
            before: int | None = getattr(self._own, "count", None)
            self._most = self.most
            self._inside += 1
            self._own.count = count
            torch.set_num_threads(count)
        try:
            yield
        finally:
            with self.lock:
                self._inside -= 1
                self._own.count = before
                torch.set_num_threads(self._most if before is None else before)


_SETTING = _Setting()
