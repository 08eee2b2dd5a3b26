"""A film in ComfyUI: the core's pipeline over a connected MODEL and texts that its CLIP encoded, with room made for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor
from torch.nn.functional import pad

from ..causalcine_core.errors import InputError
from ..causalcine_core.executors.executor import Executor, lies_with
from ..causalcine_core.film import Model, back_to, told
from ..causalcine_core.history import Clip
from ..causalcine_core.memory.store import GIB
from ..causalcine_core.model import WanConfig
from ..causalcine_core.needs import working_bytes
from ..causalcine_core.numbering import called
from ..causalcine_core.pipeline import Pipeline
from ..causalcine_core.plan import PlannedShot
from ..causalcine_core.sampling import Recipe, State
from ..causalcine_core.sampling.passes import most_held
from ..causalcine_core.sampling.rollout import memory_for, passes_of
from ..causalcine_core.story import Story
from ..causalcine_core.text import Reading, fit_notes, fit_shot
from ..causalcine_core.vae import published_vae
from .adapt import clip as clips
from .adapt import model as models
from .adapt import vae as vaes
from .adapt import workers
from .adapt.progress import warn
from .adapt.stores import Stores
from .story import Shots
from .styles import PatchedStyles

KEY = "causalcine"
FPS = 16.0  # of Wan 2.1, where a LATENT does not say


@dataclass
class ShotTexts:
    """Text of shots as a transformer of this shape reads it, each encoded once, by the CLIP that the shots were made with."""

    shots: Shots
    config: WanConfig
    _known: dict[str, Tensor] = field(default_factory=dict)

    def encode(self, prompts: Sequence[str], name: str = "a prompt") -> Tensor:
        """`[M, text_len, text_dim]`. name: of a prompt, in errors. Raises InputError where the CLIP is of another kind than the model,
        or gives more than the model reads."""
        for prompt in prompts:
            if prompt not in self._known:
                self._known[prompt] = self._fitted(self.shots.encode(prompt), name)
        return torch.cat([self._known[prompt] for prompt in prompts])

    @property
    def fingerprint(self) -> str:
        """Of the CLIP, where it is ours: a stock one has none, and comes in many number types that mean the same."""
        return clips.fingerprint(self.shots.clip)

    @property
    def reading(self) -> Reading:
        """How much of a prompt the CLIP, and the model behind it, read."""
        one = clips.reading(self.shots.clip)
        return replace(one, limit=min(one.limit, self.config.text_len))

    def notes(self, shots: Sequence[PlannedShot]) -> list[str]:
        """What of these shots of a film will not be read as written. Raises InputError where one does not fit at all."""
        return [*clips.vocabulary(self.shots.clip, shots), *fit_notes(shots, self.reading)]

    def encode_all(self, state: State, executor: Executor) -> None:
        """Everything that the film will read, now: an encoder that runs later could push the model off its device."""
        texts = state.texts
        for shot in state.read_next(state.planned, elsewhere=lies_with(executor, state)):
            self.encode([fit_shot(texts[shot], self.reading).text], called(shot))
        if state.recipe.guidance.on:
            self.encode([state.recipe.guidance.negative], "negative")

    def _fitted(self, context: Tensor, name: str) -> Tensor:
        if context.ndim != 3 or len(context) != 1:
            raise InputError(
                f"clip gives text of shape {list(context.shape)} for one prompt: [1, tokens, channels] is needed"
            )
        if context.shape[-1] != self.config.text_dim:
            raise InputError(
                f"clip gives text of {context.shape[-1]} channels, the model reads {self.config.text_dim}: use the CLIP of the "
                "same checkpoint, or umt5 (Load CLIP, type wan) for a Wan model"
            )
        given, most = int(context.any(-1).nonzero()[-1, 1]) + 1 if context.any() else 0, self.config.text_len
        if given > most:  # though its words fit: what it puts before them pushes the last ones out
            raise InputError(
                f"{name}: clip gives {given:,} tokens for its text and the model reads {most:,}: the last {given - most:,}, where its "
                "own words stand, would be lost; shorten it, or use the CLIP that the model was trained with"
            )
        return pad(context, (0, 0, 0, most - context.shape[1]))  # beyond what is given there is padding


def pipeline_of(model: Any, shots: Shots) -> Pipeline:
    """A MODEL and the texts of shots as a pipeline, which makes latents only."""
    config = models.config_of(model)
    crew = workers.crew_of(model)
    latents_only = SimpleNamespace(config=published_vae(config.in_dim))
    return Pipeline(
        models.network_of(model),
        ShotTexts(shots, config),
        latents_only,
        _recipe(model),
        "the connected model",
        executor=crew.executor if crew else None,
        styles=PatchedStyles(model),
    )


@contextlib.contextmanager
def on_device(
    pipe: Pipeline, model: Any, start: State, given: State | None, preview: Any, stores: Stores
) -> Iterator[None]:
    """The model on its device, with room for what the film remembers. Raises InputError where there is none.

    start: the film that is to be made. given: the state that it goes on from, which ComfyUI's cache holds meanwhile. preview: the
    VAE that makes previews, or None. stores: of all films.
    """
    runner = pipe.network
    if (crew := workers.crew_of(model)) is not None:
        crew.take(model, runner)
        yield
        return
    recipe, settings = start.recipe, start.settings
    tokens = start.size[0] * start.size[1] // (runner.patch[0] * runner.patch[1])
    working = working_bytes(models.config_of(model), recipe, settings, tokens, runner.dtype)
    memory = memory_for(passes_of(runner, start, start.size), start)
    film = most_held(recipe, settings, start.planned, len(start.references)) if start.planned else 0
    growth, on_host = stores.make_room(memory, film, runner.device)
    others = [] if preview is None else [preview.patcher]
    mm.load_models_gpu([model, *model.get_nested_additional_models(), *others], memory_required=working + growth)
    _check_budget(film, start, given)
    _check_room(film, growth, runner.device, "set a budget or another storage (host, 8bit)")
    _check_room(film, on_host, torch.device("cpu"), "set a budget, or the storage to host_8bit")
    styles = pipe.styles
    assert isinstance(styles, PatchedStyles)
    styles.beside, styles.room = others, working
    styles.use(model)
    try:
        yield
    finally:
        styles.cleanup()


def _check_budget(film: int, start: State, given: State | None) -> None:
    """Raise InputError where a budget does not pay for the film beside the state that it goes on from."""
    memory = start.local_memory
    if memory is None or given is None or given.local_memory is None or memory.limit is None:
        return
    held, slots = memory.frames - memory.evicted, memory.store.slots
    if held + film - memory.frames > slots:
        raise InputError(
            f"memory.budget is {start.settings.budget:g} GiB: the state that this film goes on from stays in ComfyUI's cache and "
            f"holds {held} of the {slots} latent frames that it pays for, and the film adds {film - memory.frames}; raise it, or make "
            "all shots in one sampler"
        )


def _check_room(film: int, growth: int, device: torch.device, remedy: str) -> None:
    """Raise InputError where the memory of a film of so many frames does not fit. growth: bytes it takes on top of what it has."""
    free, place = mm.get_free_memory(device), "this machine" if device.type == "cpu" else device
    if growth > free:
        raise InputError(
            f"memory: the {film} latent frames of this film take {growth / GIB:.1f} GiB more, and {place} has {free / GIB:.1f} GiB "
            f"left: {remedy} in CausalCine Memory, or lower width, height or seconds"
        )


def _recipe(model: Any) -> Recipe:
    recipe = models.recipe_of(model)
    if recipe is None:
        kind = "its file names no recipe" if models.is_ours(model) else "it was not trained to stream"
        warn([f"this model is rolled out with default settings, since {kind}: add a CausalCine Recipe"])
    return recipe or Recipe()


def latent_of(state: State, story: Story) -> dict[str, Any]:
    """The film so far as a LATENT, in VAE space, with the story that makes it, and its state but for what it remembers."""
    text, kept = json.dumps(story.to_dict(), ensure_ascii=False), replace(state, memory=None, decoder=None)
    return {"samples": state.film(), KEY: {"fps": float(state.recipe.timeline.fps), "story": text, "state": kept}}


def film_of(state: State) -> dict[str, Any]:
    """What was made of the film of a state as a LATENT, whoever made it; of no frames where nothing was."""
    if not state.latents:
        return {"samples": torch.zeros(1, 16, 0, *state.size), KEY: {"fps": float(state.recipe.timeline.fps)}}
    vae = published_vae(state.latents[0].shape[1])
    given = state.given or state.recipe
    model = Model(state.model, state.model, given, vae.spatial_stride, vae.spatial_stride, vae.temporal_stride)
    return latent_of(state, told(back_to(state, state.chunks), model))


def history_of(samples: dict[str, Any], pipe: Pipeline, story: Story, vae: Any) -> Clip:
    """A LATENT as what a film begins with: of a clip, of one picture, or of a film of ours, which brings its shots and words.

    story: what follows on it. vae: encodes a picture for as long as it is held. Raises InputError where it cannot be.
    """
    latents, recipe, notes = samples["samples"], pipe.recipe, list[str]()
    first = recipe.timeline.first_chunk
    if latents.ndim == 5 and latents.shape[2] == 1 < first:
        if vae is None:
            raise InputError(
                f"history is one picture, and the model's first chunk has {first} latent frames: connect vae, so that it can be held"
            )
        vaes.check(vae, latents)
        frames = vaes.pixel_frames(vae, first)
        latents = vaes.held(vae, latents, frames)
        notes.append(f"history is one picture: it is held for {frames} frames, the model's first chunk")
    made_at, fps = fps_of(samples), story.fps or recipe.timeline.fps
    if KEY in samples and made_at != fps:
        notes.append(f"history was made for {made_at:g} fps: at {fps:g} it moves {fps / made_at:.3g} times as fast")
    told = story_of(samples)
    history = Clip(latents, Story.from_dict(json.loads(told)) if told else None, notes=tuple(notes))
    return history.fitted(recipe, pipe.model.temporal, story)


def fps_of(samples: dict[str, Any]) -> float:
    """The frame rate that a LATENT was made for."""
    return samples.get(KEY, {}).get("fps", FPS)


def story_of(samples: dict[str, Any]) -> str | None:
    """The story of a LATENT, as JSON text; None: it does not say."""
    return samples.get(KEY, {}).get("story")


def state_of(samples: dict[str, Any]) -> State | None:
    """The state of the film of a LATENT, without memory; None where it is another film by now, or none of ours."""
    state = samples.get(KEY, {}).get("state")
    same = state is not None and state.film().shape == samples["samples"].shape
    return state if same else None
