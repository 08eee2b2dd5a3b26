"""scripts/batch.py and a real ComfyUI. CAUSALCINE_STORIES=100 makes as many; else 12."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

import pytest

from scripts import batch

from .graphs import film
from .server import Server

STORIES = int(os.environ.get("CAUSALCINE_STORIES", "12"))
WARM = min(10, STORIES // 2)  # stories after which memory is looked at first


def test_of_many_stories_the_bad_one_alone_fails_and_memory_stays_flat(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason of the bad one stands in ComfyUI's history; the model is loaded once."""
    stories, workflow, report = tmp_path / "stories", tmp_path / "mine.json", tmp_path / "report.json"
    stories.mkdir()
    bad = f"{STORIES // 2:03}"
    for number in range(STORIES):
        text = f"a red robot {number}\n\na blue cat"
        (stories / f"{number:03}.txt").write_text("a red cat " * 30 if f"{number:03}" == bad else text)
    workflow.write_text(json.dumps(film(seconds=0.5, steps=1)))
    monkeypatch.setattr(batch, "EVERY", 0.2)
    memory: list[int] = []
    made = batch.ComfyUI.made

    def seen(self: batch.ComfyUI, history: dict) -> dict:
        memory.append(server.memory())
        return made(self, history)

    monkeypatch.setattr(batch.ComfyUI, "made", seen)
    before = server.log_text().count("model_type FLOW")
    asked = ["--server", server.url, "--workflow", str(workflow), "--report", str(report), "--ahead", str(STORIES)]
    assert batch.main([str(stories), *asked]) == 1
    told = json.loads(report.read_text())["stories"]
    assert [name for name, entry in told.items() if entry["status"] != "done"] == [bad]
    assert "its own text has 90 words" in told[bad]["reason"]
    failed = [entry for entry in server.get("/history").values() if entry["status"]["status_str"] == "error"]
    assert any("its own text has 90 words" in json.dumps(entry["status"]["messages"]) for entry in failed)
    assert all(
        (server.base / "output" / file).is_file() for name in told if name != bad for file in told[name]["files"]
    )
    assert len({file for name in told if name != bad for file in told[name]["files"]}) == STORIES - 1
    assert server.log_text().count("model_type FLOW") - before <= 1, "loaded once"
    first, last = (statistics.median(part) for part in (memory[WARM - 1 : WARM + 2], memory[-3:]))
    with capsys.disabled():
        print(f"\n{server.version}: {first / 1e6:.0f} MB after story {WARM}, {last / 1e6:.0f} MB after story {STORIES}")
    assert last < 1.05 * first
    assert batch.main([str(stories), *asked]) == 1, "made again: only the bad one"
    assert len(memory) == STORIES - 1
