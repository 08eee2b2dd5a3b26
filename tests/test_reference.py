"""The engine's rollout is the method as `reference` writes it down: latents and recalled frames, setting by setting."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from causalcine_core.cut import Cut
from causalcine_core.errors import InputError
from causalcine_core.memory import MemorySettings, PackedView
from causalcine_core.model import CausalWanTransformer, TextKV, WanConfig, project_text
from causalcine_core.model.rope import Rope
from causalcine_core.model.transformer import Compute
from causalcine_core.plan import plan
from causalcine_core.runner import Runner, describe_network
from causalcine_core.sampling import Recipe, State, begin, rollout
from causalcine_core.story import Shot as StoryShot
from causalcine_core.story import Story
from causalcine_core.vae import normalize

from . import reference
from .helpers import text
from .reference import Shot

CONFIG = WanConfig(dim=48, ffn_dim=64, num_heads=2, num_layers=2, freq_dim=16, text_dim=24, text_len=8)
SIZE = (4, 6)  # latents; two rows of three patches
SEED = 11


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random ones, of which every single one is felt: attention has its favourites, modulation and gates reach from -1 to 1."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, like in CausalWanTransformer(CONFIG, device="meta").state_dict().items():
        drawn = torch.randn(like.shape, generator=generator)
        if name.endswith("modulation"):
            out[name] = 0.4 * drawn
        elif "norm" in name and name.endswith("weight"):
            out[name] = 1.3 + 0.4 * drawn
        elif like.ndim == 1:
            out[name] = 0.3 * drawn
        else:
            out[name] = drawn / like.flatten(1).shape[1] ** 0.5
    return out


def engine(**options: Any) -> Runner:
    net = CausalWanTransformer(CONFIG).requires_grad_(False)
    net.load_state_dict(weights())
    return replace(describe_network(net.eval(), "reference"), compute=Compute(**options))


def plain() -> reference.Network:
    return reference.Network({name: t.double() for name, t in weights().items()}, CONFIG.num_heads, CONFIG.num_layers)


def as_read(text: Tensor) -> Tensor:
    """A text as Wan reads it: ending in zeros."""
    return torch.nn.functional.pad(text, (0, 0, 0, CONFIG.text_len - text.shape[1])).double()


def ours(
    shots: list[Shot], settings: MemorySettings, *, fold: int, negative: Tensor | None, stops: bool, **fields: Any
) -> State:
    """A film, made. stops: after each chunk it goes on from a state without its memory, as from a small file."""
    recipe = Recipe.of(width=8 * SIZE[1], height=8 * SIZE[0], **fields)
    line, story, position = recipe.timeline, [], 0
    for n, shot in enumerate(shots):
        latents = (line.first_chunk if n == 0 else line.chunk) + (shot.chunks - 1) * line.chunk
        end = position + latents * 4 - (3 if n == 0 else 0)
        blend = shot.blend if "soft" in shot.cut else None
        story.append(StoryShot(str(n), frames=end - position, cut=shot.cut, blend=blend))
        position = end
    chunks = plan(Story(story), chunk=line.chunk, first_chunk=line.first_chunk).chunks
    assert [chunk.shot for chunk in chunks] == [n for n, shot in enumerate(shots) for _ in range(shot.chunks)]
    state = begin(engine(), recipe, settings, size=SIZE, seed=SEED, batch=len(shots[0].text))
    given = {
        "negative": negative,
        "shot_seeds": {n: shot.seed for n, shot in enumerate(shots) if shot.seed is not None},
    }
    while state.chunks < len(chunks):
        rest = chunks[state.chunks : state.chunks + 1 if stops and recipe.schedule.sampler != "rolling" else None]
        for chunk in rollout(engine(fused_rows=fold), rest, lambda shot: shots[shot].text, state, size=SIZE, **given):
            state = chunk.state
            if stops:
                state = replace(state, memory=None)
                break
    return state


@dataclass(frozen=True)
class Case:
    """fields: of the recipe. memory: its settings. cuts: of the second and third shot. films: side by side. counts: chunks of each
    shot. words: tokens of each shot's text and of the negative. limit: frames beyond the view that the budget pays for. fold: rows up
    to which a chunk is written in the first pass of the next. stops: as in `ours`."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    cuts: tuple[str, str] = ("native", "native")
    blend: int = 0
    films: int = 1
    seed: int | None = None
    counts: tuple[int, int, int] = (3, 2, 3)
    words: tuple[int, int, int, int] = (8, 8, 8, 8)
    limit: int | None = None
    fold: int = 0
    stops: bool = False

    def __str__(self) -> str:
        return self.name


RICH = {"guidance": 2.5, "context_noise": 0.15, "sampler": "renoise", "top_k": 3, "steps": 3}
CASES = [
    Case("plain"),
    Case("euler", {"steps": 4, "sampler": "euler"}),
    Case("unipc", {"steps": 5, "sampler": "unipc", "shift": 3.0}),
    Case("renoise", {"steps": 3, "sampler": "renoise"}),
    Case("levels", {"levels": (1000.0, 700.0, 300.0), "first_levels": (1000.0, 900.0, 600.0, 200.0), "sampler": "renoise"}),
    Case("rolling", {"steps": 3, "sampler": "rolling"}),
    Case("rolling, rich", {**RICH, "sampler": "rolling", "sink": 1, "shot_angle": 0.3}, cuts=("flush", "pinned"), films=2),
    Case("rolling, frame by frame", {"chunk": 1, "first_chunk": 1, "steps": 4, "sampler": "rolling", "top_k": 3}),
    Case("rolling, short", {"steps": 9, "sampler": "rolling", "context_noise": 0.1}, cuts=("rope_jump", "soft"), blend=1),
    Case("guided", {"guidance": 3.0}),
    Case("guided below 1", {"guidance": 0.5}),
    Case("context noise", {"context_noise": 0.2}),
    Case("two films", {}, films=2),
    Case("guided, noisy context, two films", RICH, films=2),
    Case("frame by frame", {"chunk": 1, "first_chunk": 1, "window": 2, "top_k": 3}),
    Case("first frame", {"first_chunk": 1, **RICH}),
    Case("no window", {"window": 0, "top_k": 4}),
    Case("no routing", {"window": 2, "top_k": 0}),
    Case("wide window", {"window": 3, "top_k": 5}),
    Case("more than there is", {"window": 1, "top_k": 30}),
    Case("sink", {"sink": 4, "top_k": 2}),
    Case("choice of the first step", {"steps": 3}, {"routing": "first_step"}),
    Case("the first frames", {"top_k": 4}, {"routing": "sink"}, cuts=("flush", "pinned")),
    Case("the last frames before the window", {"top_k": 4, "guidance": 2.0}, {"routing": "fifo"}, cuts=("flush", "native")),
    Case("frames at even distances", {"top_k": 4, "sink": 1}, {"routing": "even"}, films=2),
    Case("even, frame by frame", {"chunk": 1, "first_chunk": 1, "top_k": 3}, {"routing": "even"}, fold=10**6),
    Case("one choice for all layers", {"top_k": 3}, {"routing": "rag"}, cuts=("flush", "native"), films=2),
    Case("one choice, rich", RICH, {"routing": "rag", "storage": "host"}, cuts=("pinned", "native")),
    Case("one choice, no window", {"window": 0, "top_k": 3}, {"routing": "rag", "storage": "8bit"}),
    Case("by place, rolling", {"steps": 3, "sampler": "rolling"}, {"routing": "even"}),
    Case("by place, in 8 bits on the host", {"top_k": 4}, {"routing": "fifo", "storage": "host_8bit"}),
    Case("by place, a budget", {"top_k": 2}, {"routing": "even"}, limit=4),
    Case("one choice, a budget", {"top_k": 2, "chunk": 1, "first_chunk": 1}, {"routing": "rag"}, limit=6),
    Case("flush", {"window": 2, "cut_keep": 2}, cuts=("flush", "flush")),
    Case("flush of all", {"window": 2, "cut_keep": 0}, cuts=("flush", "native")),
    Case("flush of little", {"window": 2, "cut_keep": 5, "sink": 1}, cuts=("flush", "flush")),
    Case("rope jump", {"cut_jump": 7}, cuts=("rope_jump", "rope_jump")),
    Case("pinned", {"top_k": 3}, cuts=("pinned", "pinned")),
    Case("all cuts", {"window": 2, "cut_keep": 1, "cut_jump": 5, "sink": 2}, cuts=("flush+rope_jump+pinned", "flush+pinned")),
    Case("shots of one chunk", {"cut_jump": 5, "window": 2}, cuts=("flush+rope_jump", "rope_jump+pinned"), counts=(1, 1, 4)),
    Case("soft", {}, cuts=("soft", "flush"), blend=1),
    Case("soft, soft", RICH, cuts=("soft", "soft"), blend=2),
    Case("soft after a cut", {"window": 2, "cut_keep": 1}, cuts=("flush+pinned", "soft"), blend=1),
    Case("rewrite", {"window": 2}, cuts=("soft+rewrite", "soft+rewrite")),
    Case("rewrite, guided", {"window": 2, **RICH}, cuts=("soft+rewrite", "flush"), blend=1),
    Case("recompute", {"recompute": True, "window": 2, "top_k": 0, "context_noise": 0.1}),
    Case("recompute, routed", {"recompute": True, "window": 2, "sink": 1, "guidance": 2.0}),
    Case("turned shots", {"shot_angle": 0.4, "top_k": 3}),
    Case("turned shots, all cuts", {"shot_angle": 0.4, "window": 2, "guidance": 2.0}, cuts=("flush+rope_jump", "pinned")),
    Case("a shot's own seed", RICH, seed=5),
    Case("on the host", RICH, {"storage": "host"}, films=2),
    Case("budget, guided", {"top_k": 2, "guidance": 2.5, "chunk": 1, "first_chunk": 1}, counts=(9, 6, 9), limit=8),
    Case("texts of any length", RICH, cuts=("soft", "native"), blend=1, words=(5, 8, 2, 3), films=2),
    Case("texts of any length, fused", {"guidance": 2.0}, words=(5, 8, 2, 3), fold=10**6),
    Case("texts of any length, rolling", {"guidance": 2.0, "sampler": "rolling"}, words=(5, 8, 2, 1)),
    Case("in 8 bits", {"window": 1, "top_k": 4}, {"storage": "8bit"}),
    Case("in 8 bits on the host", {"window": 1, "top_k": 4, "guidance": 2.0}, {"storage": "host_8bit"}),
    Case("budget", {"top_k": 2}, limit=4),
    Case("budget of what is recalled", {"top_k": 3, "window": 0, "chunk": 1, "first_chunk": 1}, limit=3),
    Case("budget, first step", {"top_k": 2, "window": 2, "sampler": "renoise"}, {"routing": "first_step"}, limit=6),
    Case("budget of long ago", {"top_k": 2, "window": 1, "chunk": 1, "first_chunk": 1}, counts=(9, 6, 9), limit=8),
    Case("budget in 8 bits", {"top_k": 2, "sink": 1}, {"storage": "8bit"}, limit=5),
    Case("budget on the host", {"top_k": 1, "first_chunk": 1}, {"storage": "host"}, ("flush", "pinned"), limit=4),
    Case("rewritten in 8 bits", {"window": 2, "top_k": 3}, {"storage": "8bit"}, cuts=("soft+rewrite", "soft+rewrite")),
    Case("recomputed on the host", {"window": 2, "top_k": 3, "recompute": True}, {"storage": "host_8bit"}),
    Case("fused", {}, fold=10**6),
    Case("fused, rich", RICH, films=2, fold=10**6, cuts=("flush", "pinned")),
    Case("fused, frame by frame", {"chunk": 1, "first_chunk": 1, "sampler": "unipc", "shot_angle": 0.3}, fold=10**6),
    Case("fused, budget", {"top_k": 1}, limit=5, fold=10**6),
    Case("fused, soft", {"context_noise": 0.1}, cuts=("soft", "soft+rewrite"), blend=1, fold=10**6),
    Case("stopped and gone on", RICH, films=2, stops=True),
    Case("stopped, fused", {"guidance": 2.0}, stops=True, fold=10**6),
    Case("stopped, rolling", {"steps": 3, "sampler": "rolling", "guidance": 2.0}, stops=True),
    Case("stopped, rewritten", {"window": 2, "sink": 1}, cuts=("soft+rewrite", "flush"), stops=True),
    Case("stopped, recomputed", {"window": 2, "recompute": True}, stops=True),
]  # fmt: skip


def budget_for(limit: int, settings: MemorySettings, recipe: Recipe) -> float:
    """GiB for which so many frames are kept beyond the view, found by trial."""
    low, high = 0.0, 1.0
    while True:
        middle = (low + high) / 2
        try:
            asked = replace(settings, budget=middle)
            found = begin(engine(), recipe, asked, size=SIZE, seed=0).memory.store.limit
        except InputError:  # not even what is recalled at once
            found = -1
        if found == limit:
            return middle
        low, high = (middle, high) if found < limit else (low, middle)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_film_is_the_methods(case):
    cuts = ("native", *case.cuts)
    shots = [
        Shot(text(n, case.films, words), count, cut, case.blend if "soft" in cut else 0, case.seed if n == 1 else None)
        for n, (count, cut, words) in enumerate(zip(case.counts, cuts, case.words[:3], strict=True))
    ]
    negative = text(50, length=case.words[3]) if case.fields.get("guidance", 1.0) != 1.0 else None
    memory = MemorySettings(**case.memory)
    fields = {"chunk": 3, "first_chunk": 3, "steps": 2, "window": 1, "top_k": 2} | case.fields
    if case.limit is not None:
        memory = replace(memory, budget=budget_for(case.limit, memory, Recipe.of(**fields)))
    state = ours(shots, memory, fold=case.fold, negative=negative, stops=case.stops, **fields)

    how = {"routing": memory.routing, "eight_bit": "8bit" in memory.storage, "limit": case.limit}
    padded = [replace(shot, text=as_read(shot.text)) for shot in shots]
    own = reference.Settings(**fields, **how)
    film = reference.Film(plain(), padded, own, SIZE, SEED, None if negative is None else as_read(negative))
    for made, latent, record in zip(film.make(), state.latents, state.records, strict=True):
        off = 1e-3 if "8bit" in memory.storage else 5e-5  # a key may be rounded the other way
        torch.testing.assert_close(normalize(latent).double(), made.latent, atol=off, rtol=off)
        branches = [
            branch for films in zip(*made.recalled, strict=True) for branch in films
        ]  # all guided, all unguided
        for layer, recalled in enumerate(record.recalled.tolist()):
            assert [[f for f in row if f >= 0] for row in recalled] == [branch.get(layer, []) for branch in branches]
    assert min(past.margin for films in film.past for past in films) > 1e-4  # no choice hangs on a rounding
    if state.memory is not None:
        kept = [frame for frame in film.past[0][0].frames if frame < state.memory.frames]
        assert state.memory.kept(range(state.memory.frames)).tolist() == sorted(kept)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"chunk": 1, "first_chunk": 1, "window": 2, "top_k": 3},
        {"first_chunk": 1, "sink": 1},
        {"window": 0, "top_k": 30},
        {"window": 2, "top_k": 0},
        {"cut": "flush", "cut_keep": 1, "window": 2},
        {"cut": "flush+rope_jump+pinned", "cut_jump": 5, "first_chunk": 1},
        {"shot_angle": 0.4, "cut": "pinned", "sink": 2},
        {"routing": "sink", "top_k": 4, "cut": "flush", "cut_keep": 1},
        {"routing": "fifo", "top_k": 4, "first_chunk": 1},
        {"routing": "even", "top_k": 3, "cut": "pinned"},
        {"routing": "rag", "top_k": 3, "first_chunk": 1, "cut": "flush"},
        {"routing": "rag", "chunk": 1, "first_chunk": 1, "window": 0, "shot_angle": 0.4},
    ],
    ids=str,
)
@pytest.mark.parametrize("first", [0, 3])
def test_the_packed_pass_is_the_methods(fields, first):
    """For two films, from the first chunk that is denoised on."""
    cut = fields.get("cut", "native")
    settings = reference.Settings(**{name: value for name, value in fields.items() if name != "cut"})
    shots = [Shot(text(n), chunks, cut) for n, chunks in enumerate((3, 2, 2))]
    of_chunk = [n for n, shot in enumerate(shots) for _ in range(shot.chunks)]
    lengths = [settings.first_chunk] + [settings.chunk] * (len(of_chunk) - 1)
    generator = torch.Generator().manual_seed(SEED)
    clean, noisy = (torch.randn(2, 16, sum(lengths), *SIZE, generator=generator) for _ in range(2))

    net = engine().net
    view = PackedView(
        lengths,
        MemorySettings(routing=settings.routing).resolve(settings.window, settings.top_k),
        Rope(CONFIG.head_dim, (SIZE[0] // 2, SIZE[1] // 2), "cpu"),
        first=first,
        shots=of_chunk,
        cut=Cut.parse(cut, keep=settings.cut_keep, jump=settings.cut_jump),
        **{name: fields[name] for name in ("sink", "shot_angle") if name in fields},
    )
    rows = torch.tensor([n for n, length in zip(of_chunk, lengths, strict=True) for _ in range(length)])
    begin = sum(lengths[:first])
    rows = torch.cat([rows[: view.clean], rows[begin:]])
    timesteps = torch.cat([torch.zeros(view.clean), torch.full((view.frames - view.clean,), 700.0)])
    texts = TextKV(project_text(net, torch.cat([shot.text for shot in shots])), rows.expand(2, -1), 1)
    packed = net(view.pack(clean, noisy), timesteps.expand(2, -1), texts, view)[:, :, view.clean :]

    double = [replace(shot, text=shot.text.double()) for shot in shots]
    for film in range(2):
        own = reference.teacher_forcing(plain(), clean[film].double(), noisy[film].double(), 0.7, double, settings)
        torch.testing.assert_close(packed[film].double(), own[:, begin:], atol=5e-5, rtol=5e-5)
