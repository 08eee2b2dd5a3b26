"""Recipes: YAML files read into frozen dataclasses, one sentence for whatever does not fit.

A stage's recipe is a dataclass of its own with a field `run: Run`, and `Optimizer` and `EMA` for whatever it trains and
averages. Types are those of the fields: numbers, words (`Literal`), truth, text, tuples, dictionaries by word, and other
dataclasses. Ranges are checked by a class's `__post_init__`. A file that says `extends: other.yaml` holds
only what differs from that one, which lies beside it.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from causalcine_core import checks
from causalcine_core.errors import InputError, about

T = TypeVar("T")

LONG = 10**9  # steps, samples or seconds: more is a slip of the hand


@dataclasses.dataclass(frozen=True)
class Run:
    """How long a stage is trained, and on what.

    steps: updates in all; the one measure of schedules. max_seconds: of training in one sitting, after which it saves and
    stops; 0: no limit. seed: of everything that is drawn; what an update draws depends on seed and step alone. device:
    "auto" (CUDA where there is one) or a torch device. precision: what the large layers compute in, as in inference; "auto":
    bfloat16 where the hardware multiplies faster in it. Weights, gradients and averages are float32 in any case. compile:
    blocks with `torch.compile`. checkpointing: a block keeps its input alone and runs once more on the way back.
    log_every, save_every: in updates. preview_every, measure_every: in updates, from step 0 on; 0: never.
    """

    steps: int
    max_seconds: float = 0
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    checkpointing: bool = False
    log_every: int = 50
    save_every: int = 50
    preview_every: int = 0
    measure_every: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "log_every", "save_every"):
            checks.whole(getattr(self, name), name, 1, LONG)
        for name in ("seed", "preview_every", "measure_every"):
            checks.whole(getattr(self, name), name, 0, LONG)
        checks.number(self.max_seconds, "max_seconds", 0, LONG)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """How one part is trained: AdamW, and Muon for its hidden matrices and convolutions where `muon_learning_rate` is above 0.

    betas: of AdamW. clip: largest norm of the gradient; 0: any. warmup: updates of linear rise. cooldown: last share of the
    run, in which a cosine falls to zero.
    """

    learning_rate: float
    muon_learning_rate: float = 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    cooldown: float = 0

    def __post_init__(self) -> None:
        for name, high in (("learning_rate", 1), ("muon_learning_rate", 1), ("weight_decay", 1), ("clip", 1e6)):
            checks.number(getattr(self, name), name, 0, high)
        for beta in self.betas:
            checks.number(beta, "betas", 0, 0.999999)
        checks.whole(self.warmup, "warmup", 0, LONG)
        checks.number(self.cooldown, "cooldown", 0, 1)

    def factor(self, step: int, steps: int) -> float:
        """What the learning rates of update `step` (from 0) of `steps` are multiplied by."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        left = min(1.0, (1 - step / steps) / self.cooldown) if self.cooldown else 1.0
        return warm * (0.5 - 0.5 * math.cos(math.pi * left))


@dataclasses.dataclass(frozen=True)
class EMA:
    """Averaged weights. decay: share of the average that an update keeps; less at first, (1 + n) / (10 + n) of update n. start:
    updates before which the average is the weights themselves."""

    decay: float = 0.999
    start: int = 0

    def __post_init__(self) -> None:
        checks.number(self.decay, "decay", 0, 1)
        checks.whole(self.start, "start", 0, LONG)


def read_recipe(cls: type[T], path: Path, changes: Iterable[str] = ()) -> T:
    """A recipe out of a YAML file. changes: `field=value` or `part.field=value` in YAML, that replace what the file says.

    Raises InputError in one sentence: no such file, no YAML, an unknown or missing field, a wrong type or range.
    """
    data = _load(path)
    try:
        for change in changes:
            data = _changed(data, change)
        return read(cls, data)
    except InputError as error:
        raise InputError(f"recipe {path}: {error}") from None


def _load(path: Path, above: tuple[Path, ...] = ()) -> Any:
    """The plain data of a recipe, with that of the file that it extends. above: the files that extend it."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(data, dict) or "extends" not in data:
        return data
    with about(f"recipe {path}"):
        other = path.parent / checks.text(data.pop("extends"), "extends")
        if other.resolve() in {one.resolve() for one in (path, *above)}:
            raise InputError(f"extends must name another recipe, got {other.name}, which extends this one")
    return _over(_load(other, (path, *above)), data)


def _over(below: Any, above: Any) -> Any:
    """Plain data in which what `above` says holds, and of objects, field by field."""
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return below | {name: _over(below.get(name), value) for name, value in above.items()}


def _changed(data: Any, change: str) -> Any:
    name, equals, value = change.partition("=")
    if not equals or not name:
        raise InputError(f"--set must be like run.steps=100, got {checks.show(change)}")
    first, _, rest = name.partition(".")
    if not isinstance(data, dict):
        raise InputError(f"{first} is no field here")
    try:
        new = _changed(data.get(first, {}), f"{rest}={value}") if rest else yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"{name} must be YAML, got {checks.show(value)}") from None
    return {**data, first: new}


def read(cls: type[T], data: Any, name: str = "") -> T:
    """A dataclass out of plain data. A field whose metadata holds `read`, a function of data and name, is read by it."""
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    dot = f"{name}." if name else ""
    given = checks.fields(data, name or "it", fields)
    for field in needed:
        if field not in given:
            raise InputError(f"{dot}{field} is missing")
    values = {
        key: fields[key].metadata.get("read", lambda value, at, hint=hints[key]: _value(hint, value, at))(
            value, dot + key
        )
        for key, value in given.items()
    }
    try:
        return cls(**values)
    except InputError as error:
        raise InputError(f"{dot}{error}") from None


def _value(hint: Any, value: Any, name: str) -> Any:
    """A value as the type of its field."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return checks.choice(value, name, args)
    if origin in (types.UnionType, typing.Union):
        kept = [arg for arg in args if arg is not type(None)]
        return None if value is None and len(kept) < len(args) else _value(kept[0], value, name)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list, got {checks.show(value)}")
        kinds = [args[0]] * len(value) if args[-1] is ... else list(args)
        if len(kinds) != len(value):
            raise InputError(f"{name} must be a list of {len(kinds)}, got {checks.show(value)}")
        return tuple(_value(kind, one, f"{name}[{i}]") for i, (kind, one) in enumerate(zip(kinds, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{name} must be an object of fields, got {checks.show(value)}")
        return {
            checks.text(key, f"a name in {name}"): _value(args[1], one, f"{name}.{key}") for key, one in value.items()
        }
    if dataclasses.is_dataclass(hint):
        return read(typing.cast(type, hint), value, name)
    if hint is bool:
        return checks.truth(value, name)
    if hint is int:
        return checks.whole(value, name, -LONG, LONG)
    if hint is float:
        return float(checks.number(_spelled(value), name, -1e300, 1e300))
    return checks.text(value, name)


def _spelled(value: Any) -> Any:
    """YAML takes 1e-3, without a point, for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def plain(recipe: Any) -> dict[str, Any]:
    """A recipe as plain data, as it is kept in states and cards."""
    out: dict[str, Any] = _plain(dataclasses.asdict(recipe))
    return out


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def completed(recipe: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The plain data of an older recipe of this kind, with the defaults of fields that there were none of when it was kept."""
    newer = {}
    for field in dataclasses.fields(recipe):
        if field.name not in data and field.default_factory is not dataclasses.MISSING:
            newer[field.name] = field.default_factory()
        elif field.name not in data and field.default is not dataclasses.MISSING:
            newer[field.name] = field.default
    whole = {name: dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for name, one in newer.items()}  # type: ignore[arg-type]
    return {**_plain(whole), **data}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], name: str = "") -> dict[str, tuple[Any, Any]]:
    """Old and new value of every field in which two recipes, as plain data, differ. A field that one lacks is None there."""
    out: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            out |= differences(before, after, f"{name}{key}.")
        elif before != after:
            out[name + key] = (before, after)
    return out
