"""A state's tensors: each must be there, of its type and shape, or the file is refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file

from causalcine_core import InputError, MemorySettings, Pipeline, Shot, State, Story
from causalcine_core.sampling.state_files import read_label
from causalcine_core.weights.tensors import read_tensors


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A pipeline, and a state with all that a file can hold: five chunks, some of them remembered in 8 bits, a decoder's part."""
    pipe, path = Pipeline.random(), tmp_path_factory.mktemp("state") / "film.state"
    story = Story([Shot("a cat", frames=81)])
    *_, chunk = (chunk for chunk, _ in zip(pipe.stream(story, memory=MemorySettings(storage="8bit")), range(5)))
    chunk.state.save(path)
    return pipe, path


def changed(film, path, name: str, change) -> None:
    """The file with one tensor changed, or, where `change` gives None, without it."""
    tensors, header = read_tensors(film[1])
    tensors[name] = change(tensors[name])
    save_file({key: t for key, t in tensors.items() if t is not None}, path, metadata=header.metadata)


def names() -> list[str]:
    tiers = ["hot.keys", "hot.values", "hot.descriptors", "cold.keys", "cold.values", "cold.descriptors"]
    tiers += ["cold.key_scales", "cold.value_scales"]
    table = ["lengths", "uses", "turns", "hot.frames", "cold.frames"]
    memory = [f"memory.{name}" for name in (*table, *(f"{tier}.{layer}" for tier in tiers for layer in range(2)))]
    return ["film", "latents", "recalled", *memory]


CHANGES = {
    "missing": lambda t: None,
    "of another rank": lambda t: t[None],
    "of another type": lambda t: t.bool(),
    "shorter": lambda t: t[..., :-1].contiguous(),
    "empty": lambda t: t[:0],
    "longer": lambda t: torch.cat([t, t]),
}


def test_every_tensor_of_a_state_is_looked_at(film):
    held = set(read_tensors(film[1])[0])
    assert {name for name in held if not name.startswith("decoder.")} == set(names())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", names())
def test_a_tensor_that_is_not_what_it_must_be_is_refused(film, tmp_path, name, change):
    path = tmp_path / "bad.state"
    changed(film, path, name, CHANGES[change])
    with pytest.raises(InputError, match=r"^state file .*bad\.state"):
        State.load(path)


@pytest.mark.parametrize("change", CHANGES)
def test_a_decoders_part_that_is_not_what_it_must_be_is_refused(film, tmp_path, change):
    """At the latest where it is used: only the VAE knows what its layers keep."""
    path = tmp_path / "bad.state"
    changed(film, path, "decoder.past.1", CHANGES[change])
    with pytest.raises(InputError, match=r"VAE"):
        next(film[0].stream(None, state=State.load(path)))


@pytest.mark.parametrize("layer", [0, 1])
def test_a_memory_of_fewer_layers_than_the_network_is_refused(film, tmp_path, layer):
    path = tmp_path / "bad.state"
    tensors, header = read_tensors(film[1])
    kept = {n: t for n, t in tensors.items() if not (n.startswith("memory.") and n.endswith(".1"))}
    save_file(kept, path, metadata=header.metadata)
    with pytest.raises(InputError, match="its memory has 1 layers where 2 are needed"):
        next(film[0].stream(None, state=State.load(path)))


@pytest.mark.parametrize("axis", [1, 2])
def test_frames_recalled_in_other_layers_or_branches_are_refused(film, tmp_path, axis):
    path = tmp_path / "bad.state"
    changed(film, path, "recalled", lambda t: t.repeat_interleave(2, axis))
    with pytest.raises(InputError, match="state"):
        next(film[0].stream(None, state=State.load(path)))


NUMBERS = {
    "memory.lengths": [-1, 0, 2**40],
    "memory.hot.frames": [-1, 10**6],
    "memory.cold.frames": [-1, 10**6],
    "recalled": [-2, 10**6],
}


@pytest.mark.parametrize(("name", "number"), [(name, number) for name, all_ in NUMBERS.items() for number in all_])
def test_numbers_that_cannot_be_are_refused(film, tmp_path, name, number):
    def put(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[0] = number
        return tensor

    path = tmp_path / "bad.state"
    changed(film, path, name, put)
    with pytest.raises(InputError, match=r"^state file .*bad\.state"):
        State.load(path)


def test_a_frame_that_lies_in_two_places_is_refused(film, tmp_path):
    path = tmp_path / "bad.state"
    hot = read_tensors(film[1])[0]["memory.hot.frames"]
    changed(film, path, "memory.cold.frames", lambda t: torch.cat([hot[:1], t[1:]]))
    with pytest.raises(InputError, match="must hold every frame once"):
        State.load(path)


@pytest.mark.parametrize("gigabytes", [1e6, 1e300])
def test_a_budget_that_no_machine_has_is_refused(film, tmp_path, gigabytes):
    """As of a state that was made on a larger one."""
    path = tmp_path / "bad.state"
    tensors, header = read_tensors(film[1])
    entry = json.loads(header.metadata["causalcine_state"])
    entry["settings"]["budget"] = gigabytes
    save_file(tensors, path, metadata={**header.metadata, "causalcine_state": json.dumps(entry)})
    with pytest.raises(InputError, match=r"more than is free: set memory\.budget"):
        State.load(path)


MISPLACED = {
    "a gap in latent frames": lambda film: film["records"][1]["plan"].update(latents=[4, 7]),
    "a gap in frames": lambda film: film["records"][1]["plan"].update(frames=[10, 22]),
    "a gap after what was made": lambda film: film["planned"][0].update(frames=[58, 70]),
    "a chunk of nothing": lambda film: film["planned"][1].update(latents=[18, 18]),
    "another number": lambda film: film["records"][2]["plan"].update(index=3),
    "a shot that is none": lambda film: film["planned"][0].update(shot=1),
    "a text that is none": lambda film: film["records"][0]["plan"].update(text=[[0, 0.5], [1, 0.5]]),
    "a take that comes later": lambda film: film["records"][2]["plan"].update(take=3),
}


@pytest.mark.parametrize("what", MISPLACED)
def test_a_plan_that_does_not_hang_together_is_refused_when_it_is_read(film, tmp_path, what):
    """Not when the film is written and its report cannot be made."""

    def change(tensor):
        data = json.loads(bytes(tensor.tolist()))
        MISPLACED[what](data)
        return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)

    path = tmp_path / "bad.state"
    changed(film, path, "film", change)
    with pytest.raises(
        InputError, match=r"bad\.state: film: chunk \d does not follow the one before it, or names a shot"
    ):
        State.load(path)


def test_the_last_shot_and_the_chunk_itself_may_be_named(film, tmp_path):
    """What `does not follow` draws the line at is not beyond it."""

    def change(tensor):
        data = json.loads(bytes(tensor.tolist()))
        data["records"][2]["plan"].update(take=2, text=[[0, 1.0]])
        return torch.frombuffer(bytearray(json.dumps(data).encode()), dtype=torch.uint8)

    changed(film, tmp_path / "good.state", "film", change)
    assert State.load(tmp_path / "good.state").records[2].plan.take == 2


# --- what a file says at a glance


@pytest.mark.parametrize("memory", [True, False])
def test_a_file_says_at_a_glance_what_film_it_is(film, tmp_path, memory):
    """From its header alone: the numbers behind it may be anything."""
    pipe, path = film
    state, file = State.load(path), tmp_path / "labelled.state"
    state.save(file, memory=memory, picture=b"\xff\xd8 a picture")
    held = sum(tensor.nbytes for name, tensor in read_tensors(file)[0].items() if name.startswith("memory."))
    data = bytearray(file.read_bytes())
    header = 8 + int.from_bytes(data[:8], "little")
    assert state.nbytes(memory=memory) == pytest.approx(len(data) - header, rel=0.02, abs=4000)
    data[header:] = bytes(len(data) - header)
    file.write_bytes(data)
    label = read_label(file)
    assert (label.chunks, label.shots, label.frames) == (5, 1, 57)
    assert label.seconds == pytest.approx(57 / 16) and label.words == "a cat" and label.picture == b"\xff\xd8 a picture"
    assert label.memory == held and (held > 0) == memory


def test_a_label_counts_the_shots_that_were_begun(film, tmp_path):
    pipe, _ = film
    story = Story([Shot("a cat", frames=9), Shot("a", frames=12), Shot("a cat a", frames=24)])
    *_, chunk = (chunk for chunk, _ in zip(pipe.stream(story), range(2)))
    chunk.state.save(tmp_path / "begun.state")
    label = read_label(tmp_path / "begun.state")
    assert (label.shots, label.words) == (2, "a") and label.picture == b""


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("picture", "no base64!", "picture"),
        ("words", 5, "words"),
        ("seconds", -1, "seconds"),
        ("frames", "9", "frames"),
    ],
)
def test_a_label_that_cannot_be_is_refused_and_the_film_still_read(film, tmp_path, field, value, said):
    tensors, header = read_tensors(film[1])
    label = json.loads(header.metadata["causalcine_label"]) | {field: value}
    save_file(tensors, tmp_path / "x.state", metadata=header.metadata | {"causalcine_label": json.dumps(label)})
    with pytest.raises(InputError, match=f": its label: {said}"):
        read_label(tmp_path / "x.state")
    assert State.load(tmp_path / "x.state").chunks == 5


def test_a_picture_that_is_too_large_is_refused_before_anything_is_written(film, tmp_path):
    with pytest.raises(InputError, match="picture must be at most 8192 bytes, got 9000"):
        State.load(film[1]).save(tmp_path / "x.state", picture=bytes(9000))
    assert not list(tmp_path.iterdir())


def test_a_film_of_which_nothing_is_made_yet_is_kept_with_its_plan(pipe, tmp_path):
    planned = pipe.start(Story([Shot("a fox", frames=9), Shot("runs", frames=12)]), seed=3)
    planned.save(tmp_path / "s")
    loaded = State.load(tmp_path / "s")
    assert (loaded.chunks, loaded.planned, loaded.shots) == (0, planned.planned, planned.shots)
    films = [torch.cat([chunk.latent for chunk in pipe.run(state, decode=False)], 2) for state in (planned, loaded)]
    assert torch.equal(*films)
