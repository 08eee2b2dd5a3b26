"""Story in, chunks out: what the command line and scripts call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .atomic import check_output
from .card import Card
from .distributed.sequence_parallel import SequenceParallel
from .errors import InputError, WorkerLostError
from .memory import MemorySettings, ResolvedMemory
from .model import CausalWanTransformer, WanConfig, load_checkpoint
from .model.kernels import AUTO
from .model.transformer import Compute
from .plan import Plan, PlannedShot, cut_short, plan
from .runner import Runner, describe_network, fingerprint, pick_compute, pick_device, pick_dtype, prepare_network
from .sampling import Chunk, Recipe, State, StepInfo, begin, rollout
from .story import Story, check_seed, check_size, pace_notes
from .text import NanoTextEncoder, Reading, TextConfig, fit_prompt, fit_shot, prompt_notes
from .vae import VAEConfig, VAEState, WanVAE, frames_to_uint8, vae_from_weights
from .weights.built_in import model_path
from .weights.checkpoint import Checkpoint, assign


@dataclass(frozen=True)
class Video:
    """A finished film on disk."""

    path: Path
    state: State
    report: dict[str, Any]


class Pipeline:
    """A causal transformer, its text encoder and its VAE, ready to direct.

    Make one with `from_pretrained`. `recipe` holds how the checkpoint wants to be run.
    """

    def __init__(self, network: Runner, text: NanoTextEncoder, vae: WanVAE, recipe: Recipe, name: str = "unnamed"):
        self.network, self.text, self.vae, self.recipe, self.name = network, text, vae, recipe, name

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] = "nano",
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        attention: str = AUTO,
        compile: bool = False,
        sharding: SequenceParallel | None = None,
    ) -> Pipeline:
        """Load an all-in-one checkpoint: `nano` (built in) or a file.

        device: a torch device, CUDA where there is one by default. dtype: of the transformer; by default as `pick_dtype`;
        float8_e4m3fn keeps its linears so (`model.float8`). attention: a name in `model.KERNELS`. compile: the transformer's
        blocks, with `torch.compile`; each new size of picture then takes a while first. sharding: how passes are shared out
        over ranks, each of which calls this.
        """
        compute = pick_compute(pick_device(device), attention, compile)
        pipe = cls.from_checkpoint(
            load_checkpoint(model_path(source)), name=str(source), device=device, dtype=dtype, compute=compute
        )
        pipe.network = replace(pipe.network, sharding=sharding)
        return pipe

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *,
        name: str,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        compute: Compute | None = None,
    ) -> Pipeline:
        place = pick_device(device)
        source = f"checkpoint {name}"
        card = Card.of(checkpoint.header, source)
        vae = vae_from_weights(checkpoint.vae, source)
        net = CausalWanTransformer(card.model, device="meta", dtype=pick_dtype(place, dtype))
        assign(net, checkpoint.model, source)
        with torch.device("meta"):
            text = NanoTextEncoder(card.text)
        assign(text, checkpoint.text, source)
        for module in (net, text, vae):
            module.eval().requires_grad_(False)
        identity = fingerprint(checkpoint.header["model"], checkpoint.model)
        network = prepare_network(net.to(place), identity, dtype, compute)
        return cls(network, text.to(place, torch.float32), vae.to(place, torch.float32), card.recipe, name)

    @classmethod
    def random(
        cls, *, seed: int = 0, recipe: Recipe | None = None, vocabulary: Sequence[str] = ("a", "cat")
    ) -> Pipeline:
        """A tiny untrained pipeline of the real architecture: for tests, and for trying interfaces without weights."""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            config = WanConfig(dim=96, ffn_dim=128, num_heads=2, num_layers=2, freq_dim=32, text_dim=32, text_len=16)
            net = CausalWanTransformer(config).initialize()
            torch.nn.init.xavier_uniform_(net.head.head.weight)
            text = NanoTextEncoder(TextConfig(tuple(vocabulary), dim=32, heads=2, layers=1, length=16))
            vae = WanVAE(
                VAEConfig(dim=8, dim_mult=(1, 1, 1), num_res_blocks=1, temporal_downsample=(True, True), patch_size=2)
            )
        for module in (net, text, vae):
            module.eval().requires_grad_(False)
        recipe = recipe or Recipe.of(steps=2, width=32, height=32, window=1, top_k=2, seconds=1.5)
        return cls(describe_network(net, f"random-{seed}"), text, vae, recipe, "random")

    def stream(
        self,
        story: Story | None,
        *,
        state: State | None = None,
        memory: MemorySettings | None = None,
        seed: int | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        width: int | None = None,
        height: int | None = None,
        on_step: Callable[[StepInfo], None] | None = None,
        decode: bool = True,
        overlap: bool = False,
    ) -> Iterator[Chunk]:
        """Make a film chunk by chunk. Everything is checked before the generator is returned.

        With `state`, `story` is appended to that film, from its next chunk on (what was planned and not made is dropped);
        with `state` and no story, the film is made as it was planned. `state` itself is unchanged. `on_step` may raise to
        cancel. `decode=False` leaves `frames` out. With `overlap`, a GPU decodes a chunk while it makes the next one: each then
        comes a chunk later.
        """
        recipe = state.recipe if state else self.recipe
        asked = {"steps": steps, "guidance": guidance}
        recipe = recipe.changed(**{name: value for name, value in asked.items() if value is not None})
        if seed is None:
            seed = story.seed if story is not None and story.seed is not None else (state.seed if state else 0)
        check_seed(seed)
        if state is None:
            if story is None:
                raise InputError("story is missing: without a state to continue there is nothing to make")
            picture = recipe.picture
            pixels = check_size(
                _first(width, story.width, picture.width), _first(height, story.height, picture.height), self.stride
            )
            size = (pixels[1] // self.vae.config.spatial_stride, pixels[0] // self.vae.config.spatial_stride)
            if story.negative is not None:
                recipe = recipe.changed(negative=story.negative)
            if story.fps is not None:
                recipe = recipe.changed(fps=story.fps)
            start = begin(self.network, recipe, memory or MemorySettings(), size=size, seed=seed)
        else:
            size = self._check_state(state, recipe, story, width, height)
            settings = _continued(state.settings, memory)
            same = (recipe, settings, seed) == (state.recipe, state.settings, state.seed)
            pending = state.pending if same and story is None else ()
            start = replace(state, recipe=recipe, settings=settings, seed=seed, pending=pending)
        start = self._planned(start, story)
        stream = self._run(start, size, on_step)
        return self._decoded(stream, start.decoder, overlap) if decode else stream

    def _run(self, state: State, size: tuple[int, int], on_step: Callable[[StepInfo], None] | None) -> Iterator[Chunk]:
        shots = {shot.index: shot for shot in state.shots}
        for index in state.read_next(state.planned):
            self.fit(shots[index])  # what is too long is refused here, before anything is made
        negative = fit_prompt("", state.recipe.guidance.negative, self.reading, name="negative").text
        seeds = {shot.index: shot.seed for shot in state.shots if shot.seed is not None}
        return rollout(
            self.network,
            state.planned,
            lambda shot: self.encode(self.fit(shots[shot])),
            state,
            size=size,
            negative=self.encode(negative) if state.recipe.guidance.on else None,
            shot_seeds=seeds,
            on_step=on_step,
        )

    def _decoded(self, stream: Iterator[Chunk], decoder: VAEState | None, overlap: bool) -> Iterator[Chunk]:
        """Chunks with their frames. What decodes beside the next chunk does so in a GPU stream of its own."""
        device = next(self.vae.parameters()).device
        aside = torch.cuda.Stream(device) if overlap and device.type == "cuda" else None
        waiting: tuple[Chunk, Tensor] | None = None

        def done(chunk: Chunk, frames: Tensor) -> Chunk:
            with torch.cuda.stream(aside):
                return replace(chunk, frames=frames.cpu().numpy())

        try:
            for chunk in stream:
                with torch.cuda.stream(aside):
                    frames, decoder = self._decode(chunk.latent, decoder)
                newest = replace(chunk, state=replace(chunk.state, decoder=decoder)), frames
                ready, waiting = (waiting, newest) if overlap else (newest, None)
                if ready is not None:
                    yield done(*ready)
        except WorkerLostError:
            if waiting is not None:
                yield done(*waiting)
            raise
        if waiting is not None:
            yield done(*waiting)

    @property
    def reading(self) -> Reading:
        """How much of a prompt the text encoder reads."""
        return self.text.reading

    def fit(self, shot: PlannedShot) -> str:
        """The prompt of a shot as the encoder reads it whole: of the global text, what has room beside the shot's own words. Raises
        InputError where those alone are too many."""
        return fit_shot(shot, self.reading).text

    @torch.no_grad()
    def encode(self, prompt: str) -> Tensor:
        """Text of a prompt for the transformer: `[1, T, text_dim]`."""
        return self.text.encode([prompt])

    @torch.no_grad()
    def _decode(self, latent: Tensor, decoder: VAEState | None) -> tuple[Tensor, VAEState]:
        """Frames uint8 `[F, H, W, 3]` of a film's next latents, and the decoder's state after them."""
        weight = next(self.vae.parameters())
        video, decoder = self.vae.decode(latent.to(weight.device, weight.dtype), decoder)
        return frames_to_uint8(video), decoder

    def generate(
        self,
        story: Story | None,
        *,
        output: str | os.PathLike[str],
        on_chunk: Callable[[Chunk], None] | None = None,
        whole: bool = False,
        **settings: Any,
    ) -> Video:
        """Make a film and write it as it grows. Takes `stream`'s settings; the file appears when it is whole.

        With `state`, the file holds the new part only, or, with `whole`, the film from its beginning; frame ranges in the
        report are of the whole film. on_chunk: called with every chunk as soon as it is made, before it is written: whatever
        fails later, its state is good. Where a worker is lost, the file holds what was made, and the WorkerLostError
        has its state.
        """
        from .encoder import check_encoder
        from .report import build_report
        from .video import VideoWriter

        check_output(output, ".mp4")
        stream = self.stream(story, overlap=self.network.device.type == "cuda", **settings)
        check_encoder()
        state = asked = settings.get("state")
        if whole and state is not None:
            stream = chain(self.replay(state), stream)
        fps = _first(story.fps if story else None, (state.recipe if state else self.recipe).timeline.fps)
        writer: VideoWriter | None = None
        try:
            for chunk in stream:
                state = chunk.state
                if on_chunk is not None:
                    on_chunk(chunk)
                if writer is None:
                    writer = VideoWriter(output, fps, (chunk.frames.shape[2], chunk.frames.shape[1]))
                    writer.__enter__()
                writer.write(chunk.frames)
        except WorkerLostError as lost:
            if writer is not None:
                writer.__exit__(None, None, None)
                lost.state = state
            raise
        except BaseException as error:
            if writer is not None:
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        if writer is None or state is None:
            raise InputError("nothing is left to make: the film is finished; give a story that goes on from there")
        writer.__exit__(None, None, None)
        return Video(Path(output), state, build_report(state, model=self.describe(), warnings=self.check(story, asked)))

    def replay(self, state: State) -> Iterator[Chunk]:
        """The chunks that a film has, decoded once more; `state` of each is the film's."""
        decoder: VAEState | None = None
        for record, latent in zip(state.records, state.latents, strict=True):
            frames, decoder = self._decode(latent, decoder)
            done = Chunk(record.plan.index, record.plan.shot, latent, record.routing, state, record.seconds)
            yield replace(done, frames=frames.cpu().numpy())

    def check(self, story: Story | None, state: State | None = None) -> list[str]:
        """Warnings about a story that can be made but not as written: words the encoder lacks, global text that has no room. state:
        the film that it is appended to. Raises InputError where a shot has more words than the encoder reads."""
        if story is None:
            return []
        shots = self._plan(story, state.recipe if state else self.recipe, state).shots
        return [*pace_notes(story.fps, self.recipe.timeline.fps), *prompt_notes(self.text.config, shots)]

    def describe(self) -> dict[str, Any]:
        """What the report says of the model."""
        config = self.network.net.config
        parameters = sum(p.numel() for p in CausalWanTransformer(config, device="meta").parameters())
        return {
            "name": self.name,
            "fingerprint": self.network.fingerprint,
            "parameters": parameters,
            **config.to_dict(),
        }

    @property
    def stride(self) -> int:
        """Width and height must be multiples of this many pixels."""
        return self.vae.config.spatial_stride * self.network.patch[0]

    def _planned(self, state: State, story: Story | None) -> State:
        """`state` with `story` planned after the chunks it has."""
        if story is None:
            return state
        planned = self._plan(story, state.recipe, state)
        shots: tuple[PlannedShot, ...] = (*cut_short(state.shots, state.frames), *planned.shots)
        return replace(state, shots=shots, planned=planned.chunks)

    def _plan(self, story: Story, recipe: Recipe, state: State | None) -> Plan:
        """A story on the chunks that follow those of `state`."""
        return plan(
            story,
            chunk=recipe.timeline.chunk,
            first_chunk=recipe.timeline.first_chunk,
            fps=recipe.timeline.fps,
            temporal_stride=self.vae.config.temporal_stride,
            start_chunk=state.chunks if state else 0,
            start_shot=len(cut_short(state.shots, state.frames)) if state else 0,
            asked=state.asked if state else None,
            seconds=recipe.timeline.seconds,
            cut=recipe.cut.mode,
            phrase=recipe.cut.phrase,
            before=state.records[-1].plan if state and state.records else None,
        )

    def _check_state(
        self, state: State, recipe: Recipe, story: Story | None, width: int | None, height: int | None
    ) -> tuple[int, int]:
        """The state's latent size, once everything asked for agrees with it."""
        if not state.latents:
            raise InputError("state holds no chunk yet: start the film without it")
        if state.model != self.network.fingerprint:
            raise InputError(
                f"state was made by another model ({state.model}) than {self.name} ({self.network.fingerprint})"
            )
        if recipe.branches != state.recipe.branches:
            raise InputError(
                "guidance cannot be switched on or off inside a film: its memory has the other number of branches"
            )
        stride = self.vae.config.spatial_stride
        size = (state.latents[0].shape[3], state.latents[0].shape[4])
        have = {"height": size[0] * stride, "width": size[1] * stride, "fps": state.recipe.timeline.fps}
        asked = {
            "width": _first(width, story.width if story else None),
            "height": _first(height, story.height if story else None),
            "fps": story.fps if story else None,
        }
        for name, value in asked.items():
            if value is not None and value != have[name]:
                raise InputError(
                    f"{name} is {value:g}, but the film to continue has {have[name]:g}: leave it out, or start anew"
                )
        return size


def _continued(settings: ResolvedMemory, asked: MemorySettings | None) -> ResolvedMemory:
    """Memory settings of a film that goes on: its store stays as it was opened."""
    if asked is None:
        return settings
    for name, given, default in (("budget", asked.budget, None), ("storage", asked.storage, "full")):
        if given != default and given != getattr(settings, name):
            raise InputError(
                f"memory.{name} is {given!r}, but the film to continue was begun with {getattr(settings, name)!r}: leave it as "
                "it was, or start anew"
            )
    resolved = asked.resolve(settings.window, settings.top_k)
    return replace(resolved, budget=settings.budget, storage=settings.storage)


def _first(*values: Any) -> Any:
    """The first value that was given."""
    return next((value for value in values if value is not None), None)
