"""The method written down once more, to test the engine against: plain, slow, and independent of it.

What a film is, from weights, texts and settings, in float64: the Wan2.1 transformer, Content-Aware Memory Routing and Block-Relative
RoPE (CausalCine, arXiv, May 2026, Sec. 3.3), cuts, guidance, samplers, context noise, the budget. One film, one branch and one chunk
at a time; nothing is kept but what the method remembers. Only the rule of randomness is the engine's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from causalcine_core.sampling import chunk_generator

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shot:
    """text: `[B, T, text_dim]`. chunks: how many. cut: modes joined by +. blend: chunks over which a soft one changes its text."""

    text: Tensor
    chunks: int = 2
    cut: str = "native"
    blend: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Settings:
    """Fields as in a recipe. limit: frames beyond the view that are kept; None: all. eight_bit: how these are kept."""

    chunk: int = 3
    first_chunk: int = 3
    steps: int = 2
    levels: tuple[float, ...] | None = None
    first_levels: tuple[float, ...] | None = None
    shift: float = 5.0
    sampler: str = "euler"
    guidance: float = 1.0
    window: int = 1
    top_k: int = 2
    context_noise: float = 0.0
    sink: int = 0
    cut_keep: int = 2
    cut_jump: int = 24
    recompute: bool = False
    shot_angle: float = 0.0
    routing: str = "every_step"
    eight_bit: bool = False
    limit: int | None = None


# The network: Wan2.1's text-to-video transformer (Wan, arXiv:2503.20314), its weights under their published names.


@dataclass(frozen=True)
class Network:
    weights: dict[str, Tensor]
    heads: int
    layers: int

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].flatten(1).T + self.weights[f"{name}.bias"]

    def projected(self, x: Tensor, name: str, norm: str = "") -> Tensor:
        """`[..., dim]` to `[..., H, D]`; q and k are normed over all heads together."""
        y = self.linear(x, name)
        if norm:
            y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self.weights[f"{norm}.weight"]
        return y.unflatten(-1, (self.heads, -1))

    def velocity(self, x: Tensor, level: float, text: Tensor, attend: Attend) -> Tensor:
        """Of frames `x [C, F, h, w]` at a noise level, reading `text [T, text_dim]`; attend: self-attention of `[F, S, H, D]`."""
        channels, frames, height, width = x.shape
        rows, columns = height // 2, width // 2
        patches = x.reshape(channels, frames, rows, 2, columns, 2).permute(1, 2, 4, 0, 3, 5)
        h = self.linear(patches.reshape(frames, rows * columns, -1), "patch_embedding")
        half = self.weights["time_embedding.0.weight"].shape[1] // 2
        angles = 1000 * level * (-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).exp()
        time = self.linear(torch.cat([angles.cos(), angles.sin()]).to(h), "time_embedding.0")
        time = self.linear(silu(time), "time_embedding.2")
        modulation = self.linear(silu(time), "time_projection.1").unflatten(-1, (6, -1))
        context = self.linear(gelu(self.linear(text, "text_embedding.0"), approximate="tanh"), "text_embedding.2")
        for layer in range(self.layers):
            block = f"blocks.{layer}"
            own, cross = f"{block}.self_attn", f"{block}.cross_attn"
            terms = (self.weights[f"{block}.modulation"][0] + modulation).unbind()
            y = layer_norm(h) * (1 + terms[1]) + terms[0]
            q, k = self.projected(y, f"{own}.q", f"{own}.norm_q"), self.projected(y, f"{own}.k", f"{own}.norm_k")
            y = attend(layer, q, k, self.projected(y, f"{own}.v"))
            h = h + self.linear(y.flatten(-2), f"{own}.o") * terms[2]
            y = layer_norm(h) * self.weights[f"{block}.norm3.weight"] + self.weights[f"{block}.norm3.bias"]
            q = self.projected(y, f"{cross}.q", f"{cross}.norm_q").flatten(0, 1)
            k = self.projected(context, f"{cross}.k", f"{cross}.norm_k")
            y = attention(q, k, self.projected(context, f"{cross}.v")).flatten(-2)
            h = h + self.linear(y, f"{cross}.o").unflatten(0, h.shape[:2])
            y = self.linear(layer_norm(h) * (1 + terms[4]) + terms[3], f"{block}.ffn.0")
            h = h + self.linear(gelu(y, approximate="tanh"), f"{block}.ffn.2") * terms[5]
        shift, scale = (self.weights["head.modulation"][0] + time).unbind()
        out = self.linear(layer_norm(h) * (1 + scale) + shift, "head.head")
        out = out.reshape(frames, rows, columns, 2, 2, -1)  # of a patch: its rows, its columns, the channels
        return out.permute(5, 0, 1, 3, 2, 4).reshape(-1, frames, height, width)


def layer_norm(x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`[Q, H, D]` over `[K, H, D]`."""
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)


def rotated(x: Tensor, times: Tensor, columns: int, turn: Tensor) -> Tensor:
    """3D RoPE of `x [F, S, H, D]` at temporal positions `[F]`: of the head's channels, rows and columns of patches have
    `2 * (D // 6)` each, time the rest, in adjacent pairs. turn: radians `[F]` more for every temporal pair."""
    frames, tokens, _, dim = x.shape
    side = 2 * (dim // 6)

    def angles(positions: Tensor, channels: int) -> Tensor:
        return positions[:, None] / 10000 ** (torch.arange(0, channels, 2, dtype=x.dtype) / channels)

    place = torch.arange(tokens)
    time = (angles(times, dim - 2 * side) + turn[:, None])[:, None].expand(-1, tokens, -1)
    space = torch.cat([angles(place // columns, side), angles(place % columns, side)], -1)
    angle = torch.cat([time, space.expand(frames, -1, -1)], -1)[:, :, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = [even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()]
    return torch.stack(turned, -1).flatten(-2)


# What a chunk remembers, sees and recalls.


@dataclass
class Frame:
    """A remembered frame of one film and branch: unrotated keys and values `[S, H, D]` of every layer, and their descriptors."""

    shot: int
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)
    descriptors: dict[int, Tensor] = field(default_factory=dict)
    cold: bool = False

    def cool(self) -> None:
        """Keep it in 8 bits, with one scale for each head."""
        if not self.cold:
            for kept in (self.keys, self.values):
                for layer, x in kept.items():
                    scale = x.abs().amax((0, 2), keepdim=True) / 127
                    kept[layer] = (x / scale).round() * scale
        self.cold = True


@dataclass(frozen=True)
class Planned:
    """A chunk of a film. take: the chunk with which began what it goes on from; cut: how that began."""

    length: int
    shot: int
    text: Tensor
    take: int
    cut: frozenset[str]
    rewrite: bool
    seed: int | None


def plan(shots: Sequence[Shot], settings: Settings) -> list[Planned]:
    """A soft shot goes on in the take before it, while its text takes the place of what was in force."""
    out: list[Planned] = []
    for number, shot in enumerate(shots):
        cut, begin, before = frozenset(shot.cut.split("+")), len(out), out[-1:]
        for i in range(shot.chunks):
            length, text, take, how = settings.chunk if out else settings.first_chunk, shot.text, begin, cut
            if "soft" in cut and before:
                new = min(1.0, (i + 1) / (shot.blend + 1))
                text, take, how = (1 - new) * before[0].text + new * text, before[0].take, before[0].cut
            out.append(Planned(length, number, text, take, how, "rewrite" in cut and number > 0 and not i, shot.seed))
    return out


def seen(chunks: Sequence[Planned], n: int, settings: Settings) -> tuple[list[int], list[int], int]:
    """Of chunk n: frames that it always sees, frames that it may recall, and positions left empty before its own."""
    starts = [0, *accumulate(chunk.length for chunk in chunks[:n])]
    chunk, past = chunks[n], range(starts[n])
    near = set(past[starts[max(0, n - settings.window)] :])
    if "flush" in chunk.cut and chunk.take:
        near = {frame for frame in near if frame >= starts[chunk.take] - settings.cut_keep}
    near |= set(past[: settings.sink])
    if "pinned" in chunk.cut and chunk.take < n:
        near |= set(range(starts[chunk.take], starts[chunk.take + 1]))
    jumps = "rope_jump" in chunk.cut and chunk.take == n > 0
    return sorted(near), [frame for frame in past if frame not in near], settings.cut_jump if jumps else 0


class Past:
    """What one branch of one film remembers. margins: by how much the last frame that was chosen beat the first that was not."""

    def __init__(self) -> None:
        self.frames: list[Frame | None] = []
        self.margins: list[float] = []

    def attend(
        self,
        view: tuple[list[int], list[int], int],
        chunk: Planned,
        settings: Settings,
        columns: int,
        kept: bool = False,
    ) -> tuple[Attend, dict[int, list[int]], list[Frame]]:
        """Self-attention of a chunk under its view; what each layer recalls in it; and its own frames, as they would be remembered.
        kept: whether a layer keeps what it chose first."""
        near, far = ([frame for frame in part if self.frames[frame] is not None] for part in view[:2])
        recalled: dict[int, list[int]] = {}
        own = [Frame(chunk.shot) for _ in range(chunk.length)]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if not (kept and layer in recalled):
                recalled[layer] = self.choose(far, q.mean((0, 1)), layer, settings.top_k)
            frames = [self.frames[frame] for frame in (*recalled[layer], *near)]
            for i, frame in enumerate(own):
                frame.keys[layer], frame.values[layer], frame.descriptors[layer] = k[i], v[i], k[i].mean(0)
            place = torch.arange(len(frames) + len(own), dtype=q.dtype)  # compact, whatever was left out
            place[len(frames) :] += view[2]
            turn = settings.shot_angle * torch.tensor([frame.shot - chunk.shot for frame in (*frames, *own)]).double()
            keys = torch.stack([frame.keys[layer] for frame in (*frames, *own)])
            values = torch.stack([frame.values[layer] for frame in (*frames, *own)])
            keys, q = (
                rotated(keys, place, columns, turn),
                rotated(q, place[len(frames) :], columns, turn[len(frames) :]),
            )
            return attention(q.flatten(0, 1), keys.flatten(0, 1), values.flatten(0, 1)).unflatten(0, q.shape[:2])

        return attend, recalled, own

    def choose(self, far: list[int], query: Tensor, layer: int, top_k: int) -> list[int]:
        """The frames whose descriptors match the chunk's best, summed over heads, in temporal order."""
        scores = {frame: float((self.frames[frame].descriptors[layer] * query).sum()) for frame in far}
        best = sorted(far, key=lambda frame: -scores[frame])
        if 0 < top_k < len(best):
            self.margins.append(scores[best[top_k - 1]] - scores[best[top_k]])
        return sorted(best[:top_k])


# A film.


@dataclass(frozen=True)
class Made:
    """A chunk: latents in model space `[B, C, c, h, w]`; frames recalled in its last pass, by film, branch and layer."""

    latent: Tensor
    recalled: list[list[dict[int, list[int]]]]


class Film:
    """Films made side by side. size: latent height and width. negative: text of the unguided branch."""

    def __init__(
        self,
        network: Network,
        shots: Sequence[Shot],
        settings: Settings,
        size: tuple[int, int],
        seed: int,
        negative: Tensor | None = None,
    ):
        self.network, self.settings, self.size, self.seed, self.negative = network, settings, size, seed, negative
        self.chunks = plan(shots, settings)
        self.batch, branches = len(shots[0].text), 1 if settings.guidance == 1 else 2
        self.past = [[Past() for _ in range(branches)] for _ in range(self.batch)]
        self.uses: list[dict[int, float]] = [
            {} for _ in range(self.batch)
        ]  # of frames of each film, in layers and branches
        self.turns: dict[int, int] = {}  # chunks that could have recalled a frame
        self.made: list[Made] = []

    def make(self) -> list[Made]:
        for n in range(len(self.chunks)):
            if n:
                self.remember(n)
            self.made.append(self.denoise(n))
        return self.made

    def noise(self, n: int, use: str = "") -> Callable[[], Tensor]:
        chunk = self.chunks[n]
        generator = chunk_generator(self.seed if chunk.seed is None else chunk.seed, n, use)
        shape = (self.batch, self.network.weights["patch_embedding.weight"].shape[1], chunk.length, *self.size)
        return lambda: torch.randn(shape, generator=generator).double()

    def text(self, film: int, branch: int, text: Tensor) -> Tensor:
        return (text if branch == 0 else self.negative.expand_as(text))[film]

    def denoise(self, n: int) -> Made:
        chunk, view = self.chunks[n], seen(self.chunks, n, self.settings)
        first_step = self.settings.routing == "first_step"
        views = [
            [past.attend(view, chunk, self.settings, self.size[1] // 2, first_step) for past in film]
            for film in self.past
        ]

        def velocity(x: Tensor, level: float) -> Tensor:
            films = []
            for i, branches in enumerate(views):
                out = [
                    self.network.velocity(x[i], level, self.text(i, b, chunk.text), attend)
                    for b, (attend, _, _) in enumerate(branches)
                ]
                films.append(out[0] if len(out) == 1 else out[1] + self.settings.guidance * (out[0] - out[1]))
            return torch.stack(films)

        noise = self.noise(n)
        latent = sample(noise(), velocity, levels(self.settings, n), noise, self.settings.sampler)
        return Made(latent, [[dict(recalled) for _, recalled, _ in branches] for branches in views])

    def remember(self, n: int) -> None:
        """Write what chunk n is to see and memory lacks: the chunk before it, or its whole window once more, under its own text."""
        settings, again = self.settings, 0
        if settings.recompute or self.chunks[n].rewrite:
            again = min(n, settings.window)
        for branch in (branch for film in self.past for branch in film):
            del branch.frames[sum(chunk.length for chunk in self.chunks[: n - max(again, 1)]) :]
        for i, m in enumerate(range(n - max(again, 1), n)):
            how = settings
            if settings.recompute and again:  # nothing older than what is written anew
                how = Settings(**{**vars(settings), "window": i, "top_k": 0, "sink": 0})
            self.write(m, self.chunks[n if again else m].text, how, new=m == n - 1)

    def write(self, n: int, text: Tensor, settings: Settings, new: bool) -> None:
        """A pass over a finished chunk, at the level of context noise; its keys and values are remembered."""
        chunk, view, level, x = (
            self.chunks[n],
            seen(self.chunks, n, settings),
            settings.context_noise,
            self.made[n].latent,
        )
        x = (1 - level) * x + level * self.noise(n, "context")()
        if new:
            self.turns.update({frame: self.turns.get(frame, 0) + 1 for frame in view[1]})
        for i, branches in enumerate(self.past):
            if new:
                taken = [frame for branch in self.made[n].recalled[i] for frames in branch.values() for frame in frames]
                for frame in taken:
                    self.uses[i][frame] = self.uses[i].get(frame, 0) + 1 / (len(branches) * self.network.layers)
            dropped = self.least_used(i, view[1])
            for b, past in enumerate(branches):
                attend, _, own = past.attend(view, chunk, settings, self.size[1] // 2)
                self.network.velocity(x[i], level, self.text(i, b, text), attend)
                for frame in view[1]:
                    if frame in dropped:
                        past.frames[frame] = None
                    elif settings.eight_bit and past.frames[frame] is not None:
                        past.frames[frame].cool()
                past.frames += own

    def least_used(self, film: int, far: list[int]) -> list[int]:
        """Frames that a budget has no room for: those that were recalled least, for as often as they could have been."""
        far = [frame for frame in far if self.past[film][0].frames[frame] is not None]
        worth = {frame: (self.uses[film].get(frame, 0) + 0.25) / (self.turns.get(frame, 0) + 4) for frame in far}
        limit = len(far) if self.settings.limit is None else self.settings.limit
        return sorted(far, key=lambda frame: worth[frame])[: max(0, len(far) - limit)]


def levels(settings: Settings, n: int) -> list[float]:
    """Noise levels of chunk n, from the first down to 0; of a schedule as float32 has them, as schedulers keep their sigmas."""
    given = settings.first_levels if n == 0 and settings.first_levels else settings.levels
    if given:
        return [timestep / 1000 for timestep in given] + [0.0]
    even = torch.linspace(1, 0, settings.steps + 1)
    return (settings.shift * even / (1 + (settings.shift - 1) * even)).tolist()


def sample(
    x: Tensor,
    velocity: Callable[[Tensor, float], Tensor],
    levels: Sequence[float],
    noise: Callable[[], Tensor],
    sampler: str,
) -> Tensor:
    """From noise to clean latents. UniPC: order 2, variant bh2, of clean latents (arXiv:2302.04867, Alg. 5 to 8)."""
    known: list[tuple[float, Tensor, Tensor]] = []  # level, corrected x and clean latents there
    for level, following in pairwise(levels):
        v = velocity(x, level)
        clean = x - level * v
        if following == 0:
            break
        if sampler == "euler":
            x = x + (following - level) * v
        elif sampler == "renoise":
            x = (1 - following) * clean + following * noise()
        else:
            corrected = unipc(known, level, clean) if known else x
            known.append((level, corrected, clean))
            x = unipc(known, following)
    return clean


def unipc(known: Sequence[tuple[float, Tensor, Tensor]], level: float, clean: Tensor | None = None) -> Tensor:
    """From the newest known level to another. clean: a first estimate there, which corrects."""

    def log_ratio(s: float) -> float:
        return math.log((1 - min(s, 1 - 1e-6)) / min(s, 1 - 1e-6))

    start, x, newest = known[-1]
    h = log_ratio(level) - log_ratio(start)
    b = math.expm1(-h)
    ratios, differences = [], []
    for older, _, then in known[-2:-1]:
        ratios.append((log_ratio(older) - log_ratio(start)) / h)
        differences.append((then - newest) / ratios[-1])
    if clean is None:
        weights = [0.5] * len(differences)
    else:
        ratios.append(1.0)
        differences.append(clean - newest)
        phi_2, phi_3 = b / -h - 1, (b / -h - 1) / -h - 0.5
        system = torch.tensor([[ratio**power for ratio in ratios] for power in range(len(ratios))]).double()
        right = torch.tensor([phi_2 / b, 2 * phi_3 / b]).double()[: len(ratios)]
        weights = [0.5] if len(ratios) == 1 else torch.linalg.solve(system, right).tolist()
    moved = newest + sum(weight * difference for weight, difference in zip(weights, differences, strict=True))
    return level / start * x - (1 - level) * b * moved
