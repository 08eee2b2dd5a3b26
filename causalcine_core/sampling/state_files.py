"""Films on disk: one safetensors file that another process goes on from, bit for bit.

The header's entry `causalcine_state` says what film it is (recipe, memory settings, seed, model) and how many chunks and shots it
has; `causalcine_label` says how long it plays, its last words, and may hold a picture. Everything that grows with the film lies in a
few tensors, however long it is:

    film                `uint8 [n]`, JSON: shots, chunks made and planned
    latents             `[B, C, F, h, w]`, VAE space
    recalled            `int32 [chunks, layers, branches, k]`, numbers of frames (`numbering`)
    pending.0 ...       `[B, C, c, h, w]` of chunks that are half made
    decoder.*           of the streaming decode
    cast                `[1, C, n, h, w]`, VAE space: pictures of the cast, where there is one
    restyle             `[1, C, F, h, w]` of the clip that chunks begin from, VAE space
    memory.*            keys and values, where they are kept; those that workers hold are left out, and the header has their id
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from .. import checks
from ..errors import InputError, about
from ..lora import loras_of
from ..memory import KVMemory, RemoteMemory, ResolvedMemory
from ..numbering import mirrored
from ..plan import PlannedChunk, PlannedShot
from ..references import TENSOR as CAST
from ..references import cast_of, check_pictures
from ..story import MAX_FRAMES, MAX_SEED
from ..vae import SCALES, VAEState
from ..weights.header import Header, read_header
from ..weights.metadata import LABEL_ENTRY, STATE_ENTRY, parse_entry, read_entry
from ..weights.tensors import read_tensors, write_tensors
from .label import Label, label_entry, label_of
from .passes import open_store
from .recipe import Recipe
from .restyle import Restyle, check_strength
from .state import ChunkRecord, Pending, State

FORMAT = 3
WHAT = "state file"
FILM, LATENTS, RECALLED, RESTYLE, MEMORY = "film", "latents", "recalled", "restyle", "memory."


def save_state(state: State, path: str | os.PathLike[str], *, memory: bool = True, picture: bytes = b"") -> None:
    """Write a state; it appears under its name only when it is whole. memory: whether keys and values go with it. picture: of its
    label, a JPEG or PNG of up to 8 KiB."""
    label = label_entry(state, picture)
    film = {
        "shots": [_short(shot.to_dict(), PlannedShot) for shot in state.shots],
        "records": [
            {
                "plan": _short(asdict(r.plan), PlannedChunk),
                "seconds": r.seconds,
                "seed": r.seed,
                "k": r.recalled.shape[2],
            }
            for r in state.records
        ],
        "planned": [_short(asdict(chunk), PlannedChunk) for chunk in state.planned],
        "pending": [part.passes for part in state.pending],
    }
    if state.references:
        film["cast"] = [one.to_dict() for one in state.references]
    tensors = {FILM: torch.frombuffer(bytearray(json.dumps(film).encode()), dtype=torch.uint8)}
    if state.records:
        most = max(record.recalled.shape[2] for record in state.records)
        recalled = [pad(r.recalled, (0, most - r.recalled.shape[2]), value=-1) for r in state.records]
        tensors |= {LATENTS: state.film(), RECALLED: torch.stack(recalled).to(torch.int32)}
    if state.references:
        tensors[CAST] = torch.cat([one.latent for one in state.references], 2)
    tensors |= {f"pending.{i}": part.x for i, part in enumerate(state.pending)}
    if state.decoder is not None:
        tensors |= {f"decoder.{name}": t.cpu() for name, t in state.decoder.tensors().items()}
    if memory and state.local_memory is not None:
        tensors |= {f"{MEMORY}{name}": t for name, t in state.local_memory.tensors().items()}
    entry = {
        "format": FORMAT,
        "recipe": state.recipe.to_dict(),
        "given": (state.given or state.recipe).to_dict(),
        "settings": state.settings.to_dict(),
        "seed": state.seed,
        "model": state.model,
        "text": state.text,
        "size": list(state.size),
        "chunks": state.chunks,
        "shots": len(state.shots),
    }
    if state.restyle is not None:
        tensors[RESTYLE] = state.restyle.latents
        entry["restyle"] = {"strength": state.restyle.strength, "first": state.restyle.first}
    if state.history:
        entry["history"] = state.history
    if isinstance(state.memory, RemoteMemory):  # workers who still hold it are asked for it
        entry["remote"] = state.memory.id
    write_tensors(path, tensors, {"format": f"causalcine-state-{FORMAT}", STATE_ENTRY: json.dumps(entry)} | label)


def load_state(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> State:
    """Read a state onto a device. Raises InputError where the file is missing, incomplete, damaged, of another version or something
    else: what it holds is checked whole before anything is made of it."""
    tensors, header = read_tensors(path, WHAT)
    source = f"{WHAT} {path}"
    entry = describe_state(header.metadata, source)
    with about(source):
        return _state(entry, tensors).to(device)


def describe_state(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The header's entry of a state file, checked. Raises InputError that begins with `source`."""
    entry = read_entry(metadata, STATE_ENTRY, source)
    if entry is None:
        raise InputError(f"{source} holds no film of CausalCine: make one with --save-state")
    with about(source):
        if entry.get("format") != FORMAT:
            raise InputError(
                f"was written by another version (format {checks.show(entry.get('format', 2))}, this one reads {FORMAT}): make the "
                "film again"
            )
        known = ("format", "recipe", "given", "settings", "seed", "model", "size", "chunks", "shots")
        checks.fields(entry, "", (*known, "remote", "text", "history", "restyle"), needed=known)
        checks.whole(entry["seed"], "seed", 0, MAX_SEED)
        for name in ("model", "remote", "text"):
            if len(checks.text(entry.get(name, ""), name)) > 200:
                raise InputError(f"{name} must be a name of up to 200 characters, got {checks.show(entry[name])}")
        for name in ("chunks", "shots"):
            checks.whole(entry[name], name, 0, MAX_FRAMES)
        checks.whole(entry.get("history", 0), "history", 0, entry["chunks"])
        if "restyle" in entry:
            clip = checks.fields(entry["restyle"], "restyle", ("strength", "first"), needed=("strength", "first"))
            check_strength(clip["strength"])
            checks.whole(clip["first"], "restyle.first", 0, MAX_FRAMES)
    return entry


def read_label(path: str | os.PathLike[str]) -> Label:
    """What a state file says at a glance, from its header alone. Raises InputError where it is missing, incomplete or none."""
    header, source = read_header(path, WHAT), f"{WHAT} {path}"
    return label_in(header, describe_state(header.metadata, source), source)


def label_in(header: Header, entry: dict[str, Any], source: str) -> Label:
    """The label of a state file whose header was read. entry: as `describe_state` gives it. Raises InputError."""
    told = read_entry(header.metadata, LABEL_ENTRY, source) or {}
    with about(f"{source}: its label"):
        return label_of(header, entry, told, MEMORY)


def _state(entry: dict[str, Any], tensors: dict[str, Tensor]) -> State:
    recipe, settings = Recipe.from_dict(entry["recipe"]), ResolvedMemory.from_dict(entry["settings"])
    film = parse_entry(_bytes(tensors.pop(FILM, None)), FILM)
    needed = ("shots", "records", "planned", "pending")
    checks.fields(film, FILM, (*needed, "cast"), needed=needed)
    shots = tuple(_shot(item, f"shots[{i}]") for i, item in enumerate(_items(film, "shots", entry["shots"])))
    plans = tuple(_plan(item, f"records[{i}]") for i, item in enumerate(_items(film, "records", entry["chunks"])))
    planned = tuple(_chunk(item, f"planned[{i}]") for i, item in enumerate(_items(film, "planned")))
    _check_plan([plan for plan, *_ in plans], planned, len(shots))
    size = _size(entry["size"])
    made = [plan for plan, *_ in plans]
    references = cast_of(film["cast"], tensors.get(CAST)) if "cast" in film else ()
    latents, recalled = _made(tensors, made, recipe, size, len(references))
    for one in references[:1]:
        check_pictures(references, latents[0].shape[1] if latents else one.latent.shape[1], size)
    records = tuple(
        ChunkRecord(plan, seconds, _first(choice, k), seed)
        for (plan, seconds, seed, k), choice in zip(plans, recalled, strict=True)
    )
    pending = _pending(tensors, _items(film, "pending"), planned, latents, size)
    decoder = _group(tensors, "decoder.")
    kept = _group(tensors, MEMORY)
    remote = RemoteMemory(entry["remote"]) if "remote" in entry else None
    films = len(latents[0]) if latents else 1
    return State(
        memory=_memory(kept, recipe, settings, made, films, len(references)) if kept else remote,
        recipe=recipe,
        given=Recipe.from_dict(entry["given"]),
        settings=settings,
        seed=entry["seed"],
        model=entry["model"],
        text=entry.get("text", ""),
        size=size,
        latents=latents,
        records=records,
        shots=shots,
        planned=planned,
        pending=pending,
        decoder=VAEState.from_tensors(decoder) if decoder else None,
        references=references,
        history=entry.get("history", 0),
        restyle=_restyle(tensors.get(RESTYLE), entry, size),
    )


# --- values of the film


def _bytes(tensor: Tensor | None) -> str:
    if tensor is None or tensor.dtype != torch.uint8 or tensor.ndim != 1:
        raise InputError("has no tensor `film` of bytes, which says what shots and chunks there are")
    try:
        return bytes(tensor.tolist()).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"its film is no UTF-8 text ({error.reason} at byte {error.start})") from None


def _items(film: Mapping[str, Any], name: str, count: int | None = None) -> list[Any]:
    items = film[name]
    if not isinstance(items, list) or (count is not None and len(items) != count):
        wanted = "a list" if count is None else f"a list of {count}, as the header says"
        raise InputError(f"film.{name} must be {wanted}, got {checks.show(items)}")
    return items


def _short(value: dict[str, Any], kind: type[PlannedShot] | type[PlannedChunk]) -> dict[str, Any]:
    """The fields of a value that are not as usual."""
    usual = {f.name: f.default for f in fields(kind)}
    return {name: item for name, item in value.items() if item != usual[name]}


def _range(value: object, name: str) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{name} must be a first and an end frame, got {checks.show(value)}")
    first, end = (checks.whole(item, name, 0, 2 * MAX_FRAMES) for item in value)
    if first > end:
        raise InputError(f"{name} must not end before it begins, got {checks.show(value)}")
    return first, end


def _shot(item: object, name: str) -> PlannedShot:
    given = checks.fields(
        item, name, tuple(PlannedShot.__dataclass_fields__), needed=("index", "caption", "asked", "frames", "until")
    )
    seed = given.get("seed")
    texts = {key: checks.text(given[key], f"{name}.{key}") for key in _SHOT_TEXTS if key in given}
    return PlannedShot(
        index=checks.whole(given["index"], f"{name}.index", 0, MAX_FRAMES),
        asked=_range(given["asked"], f"{name}.asked"),
        frames=_range(given["frames"], f"{name}.frames"),
        until=_fraction(given["until"], f"{name}.until"),
        seed=None if seed is None else checks.whole(seed, f"{name}.seed", 0, MAX_SEED),
        lora=loras_of(given.get("lora", ()), f"{name}.lora"),
        **texts,
    )


_SHOT_TEXTS = ("caption", "shared", "phrase", "cut")


def _chunk(item: object, name: str) -> PlannedChunk:
    needed = ("index", "shot", "latents", "frames")
    given = checks.fields(item, name, tuple(PlannedChunk.__dataclass_fields__), needed=needed)
    text = given.get("text", [])
    if not isinstance(text, list) or not all(isinstance(part, list) and len(part) == 2 for part in text):
        raise InputError(f"{name}.text must be a list of shots and weights, got {checks.show(text)}")
    return PlannedChunk(
        index=checks.whole(given["index"], f"{name}.index", 0, MAX_FRAMES),
        shot=checks.whole(given["shot"], f"{name}.shot", 0, MAX_FRAMES),
        latents=_range(given["latents"], f"{name}.latents"),
        frames=_range(given["frames"], f"{name}.frames"),
        take=checks.whole(given.get("take", 0), f"{name}.take", 0, MAX_FRAMES),
        cut=checks.text(given.get("cut", "native"), f"{name}.cut"),
        text=tuple(
            (checks.whole(shot, f"{name}.text", 0, MAX_FRAMES), checks.number(weight, f"{name}.text", 0, 1))
            for shot, weight in text
        ),
        rewrite=checks.truth(given.get("rewrite", False), f"{name}.rewrite"),
    )


def _plan(item: object, name: str) -> tuple[PlannedChunk, float, int, int]:
    given = checks.fields(item, name, ("plan", "seconds", "seed", "k"), needed=("plan", "seconds", "seed", "k"))
    return (
        _chunk(given["plan"], f"{name}.plan"),
        checks.number(given["seconds"], f"{name}.seconds", 0, 1e9),
        checks.whole(given["seed"], f"{name}.seed", 0, MAX_SEED),
        checks.whole(given["k"], f"{name}.k", 0, 1024),
    )


def _check_plan(made: Sequence[PlannedChunk], planned: Sequence[PlannedChunk], shots: int) -> None:
    """Chunks must follow one another without a gap, in latent and in pixel frames, and belong to shots that there are."""
    latent = frame = 0
    for n, chunk in enumerate((*made, *planned)):
        read = [chunk.shot, *(shot for shot, _ in chunk.text)]
        follows = (chunk.index, chunk.latents[0], chunk.frames[0]) == (n, latent, frame)
        if not follows or chunk.length < 1 or chunk.take > n or (shots and max(read) >= shots):
            raise InputError(
                f"film: chunk {n} does not follow the one before it, or names a shot that is none of the {shots}"
            )
        latent, frame = chunk.latents[1], chunk.frames[1]


def _fraction(value: object, name: str) -> Fraction:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"{name} must be a numerator and a denominator, got {checks.show(value)}")
    over, under = checks.whole(value[0], name, 0, 2**63), checks.whole(value[1], name, 1, 2**63)
    if over > 2 * MAX_FRAMES * under:
        raise InputError(f"{name} must be a number of frames up to {2 * MAX_FRAMES}, got {checks.show(value)}")
    return Fraction(over, under)


def _size(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise InputError(f"size must be a latent height and width, got {checks.show(value)}")
    height, width = (checks.whole(side, "size", 1, 65_536) for side in value)
    return height, width


# --- tensors


def _made(
    tensors: Mapping[str, Tensor],
    plans: Sequence[PlannedChunk],
    recipe: Recipe,
    size: tuple[int, int],
    references: int,
) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
    """Latents of each chunk, and what each recalled."""
    if not plans:
        return (), ()
    lengths = [plan.length for plan in plans]
    latents, recalled = tensors.get(LATENTS), tensors.get(RECALLED)
    wanted = (sum(lengths), *size)
    if latents is None or latents.ndim != 5 or latents.shape[2:] != wanted or 0 in latents.shape:
        raise InputError(f"latents must be [B, C, {', '.join(map(str, wanted))}], got {_shape(latents)}")
    if latents.shape[1] not in SCALES or not latents.is_floating_point():
        raise InputError(f"latents must have {' or '.join(map(str, SCALES))} channels, got {_shape(latents)}")
    branches = latents.shape[0] * recipe.branches
    if recalled is None or recalled.ndim != 4 or recalled.dtype != torch.int32 or len(recalled) != len(lengths):
        raise InputError(f"recalled must be int32 [{len(lengths)}, layers, branches, k], got {_shape(recalled)}")
    if (
        recalled.shape[2] not in (branches, latents.shape[0], 2 * latents.shape[0])
        or recalled.numel() == 0 < recalled.shape[3]
    ):
        raise InputError(f"recalled must be of {branches} branches, got {_shape(recalled)}")
    least = mirrored(references - 1)
    if recalled.numel() and not least <= int(recalled.min()) <= int(recalled.max()) < sum(lengths):
        raise InputError(f"recalled must hold frames from 0 to {sum(lengths) - 1}, or numbers from {least} to -1")
    return tuple(part.contiguous() for part in latents.split(lengths, 2)), recalled.unbind(0)


def _first(recalled: Tensor, k: int) -> Tensor:
    """What one chunk recalled, of a tensor as wide as that of the chunk which recalled most."""
    if k > recalled.shape[2]:
        raise InputError(
            f"recalled must hold the {k} frames of each chunk that film.records names, got {_shape(recalled)}"
        )
    return recalled[..., :k].long()


def _pending(
    tensors: Mapping[str, Tensor],
    passes: Sequence[object],
    planned: Sequence[PlannedChunk],
    latents: Sequence[Tensor],
    size: tuple[int, int],
) -> tuple[Pending, ...]:
    """What is half made of the first planned chunks. passes: done of each."""
    if len(passes) > len(planned):
        raise InputError(f"film.pending has {len(passes)} chunks, and {len(planned)} are planned")
    out = []
    for i, (done, chunk) in enumerate(zip(passes, planned, strict=False)):
        x = tensors.get(f"pending.{i}")
        right = x is not None and x.ndim == 5 and x.is_floating_point() and x.shape[2:] == (chunk.length, *size)
        if x is None or not right or (latents and x.shape[:2] != latents[0].shape[:2]):
            wanted = ", ".join(map(str, (chunk.length, *size)))
            raise InputError(f"pending.{i} must be [B, C, {wanted}], got {_shape(x)}")
        out.append(Pending(x, checks.whole(done, f"film.pending[{i}]", 0, 1000)))
    return tuple(out)


def _restyle(latents: Tensor | None, entry: Mapping[str, Any], size: tuple[int, int]) -> Restyle | None:
    if "restyle" not in entry:
        return None
    if latents is None or latents.ndim != 5 or not latents.is_floating_point() or latents.shape[3:] != size:
        raise InputError(f"restyle must be [1, C, F, {size[0]}, {size[1]}], got {_shape(latents)}")
    if len(latents) != 1 or latents.shape[1] not in SCALES:
        raise InputError(f"restyle must have {' or '.join(map(str, SCALES))} channels, got {_shape(latents)}")
    return Restyle(latents, **entry["restyle"])


def _memory(
    tensors: dict[str, Tensor],
    recipe: Recipe,
    settings: ResolvedMemory,
    plans: Sequence[PlannedChunk],
    films: int,
    references: int,
) -> KVMemory:
    keys, layers = tensors.get("hot.keys.0"), sum(name.startswith("hot.keys.") for name in tensors)
    if keys is None or keys.ndim != 5 or not keys.is_floating_point():
        raise InputError(f"memory.hot.keys.0 must be [branches, frames, tokens, heads, channels], got {_shape(keys)}")
    branches, _, *frame = keys.shape
    store = open_store(recipe, settings, layers, branches, frame, keys.dtype, torch.device("cpu"), references)
    memory = KVMemory.from_tensors(tensors, store)
    if branches != films * recipe.branches:
        raise InputError(f"memory must be of {films * recipe.branches} branches, got {branches}")
    if memory.references > references:
        raise InputError(
            f"memory.references must be up to {references}, the pictures of the cast, got {memory.references}"
        )
    if memory.lengths[memory.references :] != tuple(plan.length for plan in plans[: memory.chunks]):
        raise InputError(f"memory.lengths must be those of the film's chunks, got {checks.show(list(memory.lengths))}")
    return memory


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
