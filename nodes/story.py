"""The story: shots, their lengths and their text, encoded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..causalcine_core.lora import MAX_STRENGTH, LoRA
from ..causalcine_core.plan import plan
from ..causalcine_core.sound import cut_to
from ..causalcine_core.story import MAX_BLEND, MAX_SEED, Shot, Story, join_prompt
from ..causalcine_core.story_formats import SHOT_SYNTAX
from ..causalcine_core.text import fit_shot
from .adapt import clip as clips
from .adapt.audio import sound_of
from .adapt.form import Form
from .adapt.progress import warn
from .loaders import choices, find
from .styles import check_loras

ShotsType = io.Custom("CAUSALCINE_SHOTS")

EXAMPLE = """medium shot from the front: [character1], a red cat with dark stripes, waves on a sandy beach at sunset.

wide shot: [character1] walks to the right on a city street at night.

close shot: [character1] dances in a deep forest on a sunny day."""
EXAMPLE_SHOT = EXAMPLE.split("\n", 1)[0]
AS_MODEL = "as the model"
NO_LORA = "none"
CUTS = [
    AS_MODEL, "native", "flush", "rope_jump", "flush+rope_jump", "flush+rope_jump+pinned", "pinned", "phrase",
    "flush+phrase", "soft", "soft+rewrite",
]  # fmt: skip
CUT_TIP = (
    "native: the model knows cuts. flush: what came before leaves the window, memory stays. rope_jump: a gap in time. pinned: "
    "the shot's first chunk stays in view. phrase: words that announce the cut. soft: no cut, the text goes over."
)


@dataclass(frozen=True)
class Shots:
    """A story, and the text context of each of its prompts. The encoder stays at hand for the negative prompt."""

    story: Story
    clip: Any
    contexts: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, story: Story, clip: Any, known: Mapping[str, Tensor] | None = None) -> Shots:
        """Encodes the prompts of a story, but for those that are `known`. Raises InputError where a shot has too many words; which
        number it has in the film is known only to the sampler."""
        reading = clips.reading(clip)
        prompts = dict.fromkeys(fit_shot(shot, reading, " of this list").text for shot in plan(story).shots)
        known = dict(known or {})
        contexts = {prompt: known[prompt] if prompt in known else clips.encode(clip, prompt) for prompt in prompts}
        return cls(story, clip, contexts)

    def encode(self, prompt: str) -> Tensor:
        context = self.contexts.get(prompt)
        return clips.encode(self.clip, prompt) if context is None else context


class CausalCineShotList(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineShotList",
            display_name="CausalCine Shot List",
            category="CausalCine",
            description=f"A whole story in one field. Forms: {SHOT_SYNTAX}.",
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the prompts."),
                io.String.Input(
                    "story",
                    multiline=True,
                    default=EXAMPLE,
                    dynamic_prompts=False,
                    tooltip=f"One shot per paragraph, or any of these: {SHOT_SYNTAX}.",
                ),
                io.String.Input(
                    "global_text",
                    default="",
                    dynamic_prompts=False,
                    tooltip="Put before every shot's prompt: characters, style, place.",
                ),
                io.Float.Input(
                    "seconds",
                    default=3.0,
                    min=0.1,
                    max=3600.0,
                    step=0.1,
                    tooltip="Length of every shot that does not name its own. Cuts land on the nearest chunk.",
                ),
                io.Combo.Input(
                    "cut",
                    options=CUTS,
                    default=AS_MODEL,
                    optional=True,
                    tooltip=f"How shots follow one another. {CUT_TIP}",
                ),
                io.Audio.Input(
                    "audio",
                    optional=True,
                    tooltip="Shots change in the longest pauses of this sound, and the last one ends with it. For "
                    "stories whose shots name no length. To hear it, connect it to CausalCine Save Video too.",
                ),
            ],
            outputs=[ShotsType.Output(display_name="SHOTS", tooltip="For CausalCine Sampler.")],
        )

    @classmethod
    def check(cls, story: str = EXAMPLE) -> None:
        check_loras(Story.parse(story))

    @classmethod
    def execute(
        cls, clip: Any, story: str, global_text: str = "", seconds: float = 3.0, cut: str = AS_MODEL, audio: Any = None
    ) -> io.NodeOutput:
        read = Story.parse(story)
        check_loras(read)
        with sound_of(audio) as sound:
            read = cut_to(read, sound) if sound else read
        timed = [shot if shot.seconds or shot.frames else replace(shot, seconds=seconds) for shot in read.shots]
        told = {
            "shots": timed,
            "global_prompt": join_prompt(global_text, read.global_prompt),
            "cut": read.cut or _cut(cut),
        }
        shots = Shots.of(replace(read, **told), clip)
        notes = list(read.notes[1:])
        warn(notes)
        return io.NodeOutput(shots, ui={"text": notes} if notes else None)


class CausalCineShot(Form):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="CausalCineShot",
            display_name="CausalCine Shot",
            category="CausalCine",
            description="One shot. Chain shots to make a list, or give each its own sampler and chain those by their state: "
            "then a change of a later shot leaves the earlier ones as they are.",
            inputs=[
                io.Clip.Input("clip", tooltip="Encodes the prompt."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default=EXAMPLE_SHOT,
                    dynamic_prompts=False,
                    tooltip="What is seen in this shot.",
                ),
                io.Float.Input(
                    "seconds",
                    default=3.0,
                    min=0.1,
                    max=3600.0,
                    step=0.1,
                    tooltip="Length of the shot. Its end lands on the nearest chunk.",
                ),
                ShotsType.Input("shots", optional=True, tooltip="Shots before this one."),
                io.Combo.Input(
                    "cut",
                    options=CUTS,
                    default=AS_MODEL,
                    optional=True,
                    tooltip=f"How this shot follows the one before. {CUT_TIP}",
                ),
                io.Int.Input(
                    "blend",
                    default=0,
                    min=0,
                    max=MAX_BLEND,
                    optional=True,
                    tooltip="For a soft cut: chunks over which the text goes over. 0: three, or at once with rewrite.",
                ),
                io.Int.Input(
                    "shot_seed",
                    default=-1,
                    min=-1,
                    max=MAX_SEED,
                    optional=True,
                    tooltip="Of this shot's noise alone: another one is another take of it. -1: the sampler's.",
                ),
                io.Combo.Input(
                    "lora",
                    options=[NO_LORA, *choices("loras")],
                    default=NO_LORA,
                    optional=True,
                    tooltip="Changes the model for this shot alone. Files in models/loras.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=-MAX_STRENGTH,
                    max=MAX_STRENGTH,
                    step=0.05,
                    optional=True,
                    tooltip="How much the LoRA changes the model. 0: not at all.",
                ),
            ],
            outputs=[ShotsType.Output(display_name="SHOTS", tooltip="For CausalCine Sampler, or for the next shot.")],
        )

    @classmethod
    def check(cls, prompt: str = EXAMPLE_SHOT, lora: str = NO_LORA) -> None:
        Story([Shot(prompt)])
        if lora != NO_LORA:
            find("loras", lora, "lora")

    @classmethod
    def execute(
        cls,
        clip: Any,
        prompt: str,
        seconds: float = 3.0,
        shots: Shots | None = None,
        cut: str = AS_MODEL,
        blend: int = 0,
        shot_seed: int = -1,
        lora: str = NO_LORA,
        lora_strength: float = 1.0,
    ) -> io.NodeOutput:
        cls.check(prompt, lora)  # what came by a link was not known before
        shot = Shot(
            prompt,
            seconds=seconds,
            seed=None if shot_seed < 0 else shot_seed,
            cut=_cut(cut),
            blend=blend or None,
            lora=() if lora == NO_LORA else (LoRA(lora, lora_strength),),
        )
        story = replace(shots.story, shots=[*shots.story.shots, shot]) if shots else Story([shot])
        return io.NodeOutput(Shots.of(story, clip, shots.contexts if shots else None))


def _cut(choice: str) -> str | None:
    return None if choice == AS_MODEL else choice
