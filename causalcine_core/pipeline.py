"""Story in, chunks out: what the command line and scripts call. Video files are the business of those who ask for them: without that a
pipeline needs torch, safetensors and einops alone, on a borrowed machine too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .atomic import check_output
from .decoding import Decoding
from .distributed.sequence_parallel import SequenceParallel
from .errors import InputError
from .executors import Executor, Job, LocalExecutor
from .film import Asked, Model, appended, begun_recipe, begun_size, continued, first, planned, told
from .history import Clip, begun_with, borrowed, check_fits, restyled, size_of
from .lora import LoRA
from .memory import MemorySettings
from .model import CausalWanTransformer, load_checkpoint
from .model.kernels import AUTO
from .model.transformer import Compute
from .numbering import mirrored
from .parts import parts_of, random_parts
from .plan import PlannedShot
from .references import Reference, check_pictures, reference
from .runner import Runner, pick_compute, pick_device
from .sampling import Chunk, Recipe, State, StepInfo, begin
from .sampling.restyle import check_restyle, check_strength
from .session import Event, Session
from .story import Shot, Story, pace_notes
from .styles import MergedStyles, Styles
from .text import NanoTextEncoder, Reading, fit_prompt, fit_shot
from .threads import one_thread
from .vae import WanVAE
from .weights.built_in import model_path
from .weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from .filming import Filming, Video
    from .sound import Sound


class Pipeline:
    """A causal transformer, its text encoder and its VAE, ready to direct.

    Make one with `from_pretrained`. `recipe` holds how the checkpoint wants to be run.
    """

    def __init__(
        self,
        network: Runner,
        text: NanoTextEncoder,
        vae: WanVAE,
        recipe: Recipe,
        name: str = "unnamed",
        executor: Executor | None = None,
        styles: Styles | None = None,
    ):
        """executor: who makes the chunks; None: this process. styles: who gives shots with LoRAs their networks; None: files sought
        from the working directory."""
        self.network, self.text, self.vae, self.recipe, self.name = network, text, vae, recipe, name
        self._executor = executor
        self.styles: Styles = styles or MergedStyles()

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
        """A checkpoint that was read. name: what it is called in sentences and reports. device, dtype: as in `from_pretrained`."""
        parts = parts_of(checkpoint, name, device, dtype, compute)
        return cls(parts.network, parts.text, parts.vae, parts.recipe, name)

    @classmethod
    def random(
        cls,
        *,
        seed: int = 0,
        recipe: Recipe | None = None,
        vocabulary: Sequence[str] = ("a", "cat"),
        text_len: int = 16,
    ) -> Pipeline:
        """A tiny untrained pipeline of the real architecture: for tests, and for trying interfaces without weights.

        text_len: words and marks of a prompt that it reads.
        """
        parts = random_parts(seed, vocabulary, text_len)
        return cls(parts.network, parts.text, parts.vae, recipe or parts.recipe, "random")

    @property
    def _decoding(self) -> Decoding:
        return Decoding(self.vae, self.network)

    @property
    def executor(self) -> Executor:
        """Who makes the chunks: whoever was given, or this process."""
        return self._executor or LocalExecutor(self.network)

    @property
    def model(self) -> Model:
        """What states of a film must agree with to go on here."""
        vae = self.vae.config
        return Model(
            self.name,
            self.network.fingerprint,
            self.recipe,
            self.stride,
            vae.spatial_stride,
            vae.temporal_stride,
            self.text.fingerprint,
        )

    def start(
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
        cast: Sequence[Reference] | None = None,
        history: Clip | None = None,
        video: Clip | None = None,
        strength: float = 1.0,
    ) -> State:
        """A film that is planned and not made: what `run` makes.

        Args:
            story: what to make. With `state` it is appended to that film, from its next chunk on, in place of what was planned and
                not made; None: the film is made as it was planned.
            state: a film to go on with, which is itself unchanged.
            memory: what the film may see of its past; None: as trained, or as the film was begun.
            seed: 0 to 2^64 - 1; None: the story's, then the film's, then 0.
            steps: denoising passes a chunk; None: as the model wants.
            guidance: 1 is none; None: as the model wants.
            width, height: pixels; None: as the story, then the history, then the model says.
            history: footage that a new film begins with; its chunks are those that `run` does not make. `fitted` says how it is cut.
            video: footage that is made anew under the story's words: chunks begin from it, as far as it goes, under noise, and a
                story without lengths has those of its shots.
            strength: of this noise, above 0 and up to 1, where nothing is left of the video: each chunk begins at the first noise
                level of the model's schedule at or below it.
            cast: pictures that the film may recall at any time, of its size; None: none, or those that the film has. A film that goes
                on keeps its own, and may get more behind them.

        Raises InputError in one sentence for what cannot be made.
        """
        asked = Asked(memory, seed, steps, guidance, width, height, cast)
        if state is not None and history is not None:
            raise InputError("history and state are both what a film goes on from: give one of the two")
        check_strength(strength)
        if video is None and strength != 1:
            raise InputError(
                f"strength is {strength:g}, but there is no video that it is of: give one, or leave it out"
            )
        if video is not None and story is not None:
            story = video.timed(story, self.recipe, self.model.temporal)
        if story is not None:
            self._prepare(_named(story))
        if state is not None:
            begun = continued(state, self.model, story, asked)
            check_pictures(begun.references, self.network.channels, begun.size)
        elif story is not None:
            begun = self._begun(story, asked, history, video)
        else:
            raise InputError("story is missing: without a state to continue there is nothing to make")
        if video is not None:
            check_fits(video.latents, "video", self.model, self.network.channels, begun.size)
            if strength < 1:
                check_restyle(begun.recipe, strength)
            begun = restyled(begun, video, strength)
        return appended(begun, story, self.model.temporal)

    def _begun(self, story: Story, asked: Asked, history: Clip | None = None, video: Clip | None = None) -> State:
        clip = history or video
        if clip is not None and story.width is None and story.height is None and asked.width is asked.height is None:
            width, height = size_of(clip, self.model)
            asked = replace(asked, width=width, height=height)
        recipe, size = begun_recipe(self.model, story, asked), begun_size(self.model, story, asked)
        seed = first(asked.seed, story.seed, 0)
        memory, here = asked.memory or MemorySettings(), self._executor is None
        cast = asked.cast or ()
        begun = begin(self.network, recipe, memory, size=size, seed=seed, here=here, references=cast)
        begun = replace(begun, given=self.recipe, size=size, text=self.text.fingerprint)
        if history is None:
            return begun
        check_fits(history.latents, "history", self.model, self.network.channels, size)
        fitted = history.fitted(recipe, self.model.temporal, story)
        return begun_with(begun, fitted, self.model.temporal, self.network.layers)

    def footage(
        self,
        path: str | os.PathLike[str],
        story: Story | None = None,
        *,
        prompt: str | None = None,
        name: str = "history",
        **asked: Any,
    ) -> Clip:
        """A clip or a picture from a file, for `start(history=...)` or `start(video=...)`: scaled and cut to the film's size, at its
        rate, encoded.

        story: what follows on it, or is made of it, whose size and rate the film has. prompt: what is seen; None: as the story says
        that the file carries, else words of `story`. name: "history" or "video", for which it is. asked: of `start`. Raises
        InputError where the file cannot be read.
        """
        from .footage import Footage

        film, told = story or Story([Shot("film")]), Asked(**asked)
        recipe, (height, width) = begun_recipe(self.model, film, told), begun_size(self.model, film, told)
        size = (width * self.model.spatial, height * self.model.spatial)
        keep = "end" if name == "history" else "begin"
        clip = Footage.open(Path(path), size, recipe.timeline, self.model.temporal, name=name, keep=keep)
        notes = list(clip.notes)
        if prompt is None and not clip.prompts:
            prompt, said = borrowed(story or (film if name == "video" else None))
            notes += [said] if name == "history" else []
        line = clip.line
        latents = self._decoding.encode(clip.read(), chain([line.frames(1)], repeat(line.chunk * line.stride)))
        read = Clip(latents, clip.story(prompt), name=name, notes=tuple(notes))
        return read.fitted(recipe, self.model.temporal) if name == "history" else read

    def run(
        self,
        state: State,
        *,
        on_step: Callable[[StepInfo], None] | None = None,
        decode: bool = True,
        overlap: bool = False,
        find_layer: bool = False,
    ) -> Iterator[Chunk]:
        """Make the chunks that a film has planned.

        Args:
            state: from `start`; unchanged.
            on_step: called after every pass; it may raise to cancel.
            decode: whether chunks have `frames`.
            overlap: on a GPU, decode a chunk while the next one is made: each then comes a chunk later.
            find_layer: wait for every layer, so that a NotFiniteError names the first that is at fault.

        Raises FilmStoppedError, with the state so far, where the film cannot go on.
        """
        texts = state.texts
        for index in state.read_next(state.planned):
            self.fit(texts[index])  # what is too long is refused here, before anything is made
        styled = {texts[index].lora: f"the LoRA of shot {index + 1}" for index in state.computed_next(state.planned)}
        self._prepare(styled, state.recipe)
        negative = fit_prompt("", state.recipe.guidance.negative, self.reading, name="negative").text
        job = Job(
            state,
            lambda shot: self.encode(self.fit(texts[shot])),
            self.encode(negative) if state.recipe.guidance.on else None,
            find_layer,
            (lambda number: self.styles.network(self.network, texts[number].lora)) if any(styled) else None,
        )
        stream = self.executor.run(job, on_step)
        return self._decoding.stream(stream, state, overlap) if decode else stream

    def stream(
        self,
        story: Story | None,
        *,
        on_step: Callable[[StepInfo], None] | None = None,
        decode: bool = True,
        overlap: bool = False,
        find_layer: bool = False,
        **asked: Any,
    ) -> Iterator[Chunk]:
        """Make a film chunk by chunk: `run` of `start`, whose arguments it takes. Everything is checked before the generator is
        returned."""
        begun = self.start(story, **asked)
        return self.run(begun, on_step=on_step, decode=decode, overlap=overlap, find_layer=find_layer)

    def reference(self, name: str, picture: Any, caption: str | None = None) -> Reference:
        """One picture of a cast. picture: uint8 `[H, W, 3]`, of the film's size. caption: None: the name. Raises InputError."""
        return reference(name, self._decoding.encode_picture(picture), caption)

    def cast_pictures(self, state: State) -> dict[int, Any]:
        """The pictures of a film's cast, by their numbers: uint8 `[H, W, 3]`."""
        return {mirrored(i): self._decoding.picture(one.latent) for i, one in enumerate(state.references)}

    def session(
        self, story: Story | None = None, *, on_event: Callable[[Event], None] | None = None, **asked: Any
    ) -> Session:
        """A film to be directed while it is made. Takes `start`'s arguments; without story and state nothing is planned yet."""
        if story is None and asked.get("state") is None:
            history = asked.pop("history", None)
            if history is not None:
                history = history.fitted(self.recipe, self.model.temporal)  # there are no words but its own
            state = self._begun(Story([Shot("film")]), Asked(**asked), history)
        else:
            state = self.start(story, **asked)
        return Session(self, state, on_event)

    def _prepare(self, sets: Mapping[tuple[LoRA, ...], str], recipe: Recipe | None = None) -> list[str]:
        """Networks with LoRAs, each set with what names it in sentences. Gives warnings; raises InputError where one cannot be had."""
        named = next((name for loras, name in sets.items() if loras), None)
        if named is not None and self._executor is not None:
            raise InputError(
                f"{named}: workers have one network for all shots; leave it out, or make this film without workers"
            )
        if named is not None and (recipe or self.recipe).rolling:
            raise InputError(
                f"{named}: the rolling sampler makes several shots at once with one network; choose another sampler"
            )
        return self.styles.prepare(self.network, sets)

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
        with one_thread(self.network.device):  # a short text is little work
            return self.text.encode([prompt])

    def generate(
        self,
        story: Story | None,
        *,
        output: str | os.PathLike[str],
        on_chunk: Callable[[Chunk], None] | None = None,
        whole: bool = False,
        sound: Sound | None = None,
        grow: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> Video:
        """Make a film and write it as it grows. Takes `stream`'s settings; the file appears when it is whole.

        With `state`, the file holds the new part only, or, with `whole`, the film from its beginning; frame ranges in the
        report are of the whole film. The file carries the story of what it holds, which `Story.load` reads back. on_chunk:
        called with every chunk as soon as it is made, before it is written: whatever fails later, its state is good. Where the
        film stops early, the file holds what was made, and the FilmStoppedError has its state. sound: of the whole film, from
        its first frame on; a file that holds the new part only has the sound of that part. grow: of another file, which can be
        played while the film is made, up to its newest chunk, and goes when the film is whole.
        """
        files: dict[str, Any] = {"output": output, "whole": whole, "sound": sound, "grow": grow}
        make = self.filming(story, on_chunk=on_chunk, **files, **settings)
        del settings
        return make()

    def filming(
        self,
        story: Story | None,
        *,
        output: str | os.PathLike[str],
        on_chunk: Callable[[Chunk], None] | None = None,
        whole: bool = False,
        sound: Sound | None = None,
        grow: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> Filming:
        """`generate` in two steps: everything is checked now, and the film is made when what comes back is called. For whoever lets go
        of `state` in between: a call that lasts as long as the film holds what it was given, and a budget pays for no two states."""
        from .encoder import check_encoder
        from .filming import Filming, carried
        from .report import build_report

        for path in (output, grow):
            if path is not None:
                check_output(path, ".mp4")
        run = {name: settings.pop(name) for name in ("on_step", "find_layer") if name in settings}
        begun = self.start(story, **settings)
        stream = self.run(begun, overlap=self.network.device.type == "cuda", **run)
        check_encoder()
        if whole:
            stream = chain(self._decoding.replay(begun), stream)
        warnings = self.check(story, begun)
        fps = begun.recipe.timeline.fps
        shown = whole and begun.chunks > 0  # what was made before is in the video too
        if story is None or shown or "video" in settings:  # whose shots gave the story its lengths
            story = self.told(begun, 0 if shown else begun.frames) if shown or begun.planned else None
        how: dict[str, Any] = {"fps": fps, "grow": grow, "metadata": carried(story, begun, settings)}
        if sound is not None:
            here = 0 if whole else begun.frames
            end = begun.planned[-1].frames[1] if begun.planned else begun.frames
            warnings += sound.notes(here / fps, (end - here) / fps) if end > here else []
            how |= {"sound": sound, "begin": here / fps}
        report = partial(build_report, model=self.describe(), warnings=warnings)
        return Filming(stream, Path(output), how, report, on_chunk)

    def told(self, state: State, begin: int = 0) -> Story:
        """The story that makes a film again, or what of it follows on its first `begin` pixel frames."""
        return told(state, self.model, begin)

    def check(self, story: Story | None, state: State | None = None) -> list[str]:
        """Warnings about a story that can be made but not as written: words the encoder lacks, global text that has no room. state:
        the film that it is appended to. Raises InputError where a shot has more words than the encoder reads."""
        if story is None:
            return []
        recipe = state.recipe if state else self.recipe
        after = replace(state, planned=()) if state else None
        shots = planned(story, recipe, self.model.temporal, after).shots
        styled = self._prepare(_named(story), recipe)
        return [*pace_notes(story.fps, self.recipe.timeline.fps), *self.text.notes(shots), *styled]

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


def _named(story: Story) -> dict[tuple[LoRA, ...], str]:
    """The sets of LoRAs of a story's shots, each with the first field that names it."""
    return {shot.lora: f"shots[{i}].lora" for i, shot in reversed(list(enumerate(story.shots)))}
