"""C33: the pack under the folder names that people really have."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from .graphs import film
from .server import Server, install

NAMES = ["CausalCine-main", "causal cine (1)", "causalcine.v0.1"]


def prepare(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "models").symlink_to(weights, target_is_directory=True)


def check(server: Server) -> None:
    run = server.run(film())
    assert run.status == "success", run.error + server.log_text()[-2000:]
    assert run.previews and run.files("4") and run.files("5")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_copies_under_other_names_work(main: Path, weights: Path, tmp_path: Path, name: str) -> None:
    prepare(tmp_path, weights)
    pack = install(tmp_path, name, copy=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    before = sorted(path for path in pack.rglob("*") if "__pycache__" not in path.parts)
    server = Server(main, tmp_path, cwd=elsewhere)
    try:
        check(server)
        plain = name == "CausalCine-main"
        assert ("rename it to CausalCine" in server.log_text()) == (not plain)
        if plain:
            assert name in server.get("/workflow_templates")
            assert server.raw(f"/extensions/{name}/docs/CausalCineSampler.md")[0] == 200
    finally:
        server.close()
    after = sorted(path for path in pack.rglob("*") if "__pycache__" not in path.parts)
    assert before == after, "nothing is written into the pack: a read-only folder will do"


@pytest.mark.slow
def test_an_older_pip_install_beside_it_is_never_touched(
    main: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, weights)
    pack = install(tmp_path, copy=True)
    site = tmp_path / "site"
    for package in ("causalcine_core", "training"):
        (site / package).mkdir(parents=True)
        (site / package / "__init__.py").write_text("raise RuntimeError('the other install was imported')\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    server = Server(main, tmp_path)
    try:
        check(server)
        assert "other install" not in server.log_text()
    finally:
        server.close()
        shutil.rmtree(pack)
