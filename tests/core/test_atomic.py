"""Files appear under their names only when they are whole, with the mode that a plain `open` would have given them."""

import contextlib
import os
import resource
import stat

import pytest
import torch

from causalcine_core.atomic import check_output, write_atomic
from causalcine_core.errors import InputError
from causalcine_core.pipeline import Pipeline
from causalcine_core.story import Shot, Story
from causalcine_core.vae.load import save_vae
from causalcine_core.weights.checkpoint import save_weights
from causalcine_core.weights.tensors import write_tensors, write_torch


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def umask(mask: int):
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def files_of_at_most(limit: int):
    """What a full disk does, to this process: a write beyond the limit fails with an OSError of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "text": lambda path: write_atomic(path, lambda partial: partial.write_text("a" * 100_000)),
    "safetensors": lambda path: write_tensors(path, {"a": torch.zeros(100_000)}),
    "checkpoint": lambda path: save_weights(path, {"a": torch.zeros(100_000)}, {}),
    "torch": lambda path: write_torch(path, {"a": torch.zeros(100_000)}),
}


@pytest.fixture(scope="module")
def made():
    """A pipeline and the state of a film of one chunk."""
    pipe = Pipeline.random()
    *_, last = pipe.stream(Story([Shot("a cat", frames=9)]), decode=False)
    return pipe, last.state


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_can_be_read_by_whom_the_umask_says(tmp_path, made, mask):
    pipe, state = made
    with umask(mask):
        (tmp_path / "plain").write_text("as open() makes it")
        for name, write in WRITERS.items():
            write(tmp_path / name)
        state.save(tmp_path / "state")
        save_vae(pipe.vae, tmp_path / "vae")
    assert {path.name: oct(mode(path)) for path in tmp_path.iterdir()} == {
        name: oct(0o666 & ~mask) for name in ("plain", *WRITERS, "state", "vae")
    }


@pytest.mark.parametrize("kept", [0o664, 0o600, 0o444])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_written_again_keeps_its_mode(tmp_path, kind, kept):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(kept)
    WRITERS[kind](path)
    assert mode(path) == kept
    assert path.stat().st_size > 50_000


@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_sentence_that_names_the_file_and_leaves_nothing(tmp_path, kind, older):
    path = tmp_path / "film.state"
    if older:
        path.write_text("old")
    with pytest.raises(OSError) as raised, files_of_at_most(50_000):
        WRITERS[kind](path)
    assert str(raised.value).startswith(f"{path} cannot be written: ")
    assert "causalcine-" not in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == ([("film.state", "old")] if older else [])


def test_a_stop_leaves_nothing(tmp_path):
    def stopped(partial):
        partial.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", stopped)
    assert not list(tmp_path.iterdir())


def test_what_is_no_ordinary_file_is_never_replaced(tmp_path):
    """A folder or a pipe; a device too, which root may rename over."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="no ordinary file"):
            write_tensors(tmp_path / name, {"a": torch.zeros(1)})
    with pytest.raises(InputError, match="pipe is no ordinary file"):
        check_output(tmp_path / "pipe", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
