"""scripts/batch.py against a server that answers as ComfyUI does; tests/comfyui/test_batch.py has the real one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from scripts import batch


class Comfy(ThreadingHTTPServer):
    """Runs a prompt each time that its queue is asked for. Texts with `boom` fail when they run, with `bad` before."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.queued: list[tuple[str, dict[str, Any]]] = []  # every prompt that ever was
        self.pending: list[tuple[str, dict[str, Any]]] = []
        self.ended: dict[str, Any] = {}
        self.calls: list[tuple[str, Any]] = []
        self.stands = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def queue(self, graph: dict[str, Any]) -> tuple[int, Any]:
        story = graph["2"]["inputs"]["story"]
        if "bad" in story:
            error = {"message": "Custom validation failed", "details": "story - shots[0].prompt is bad"}
            failed = {"2": {"class_type": "CausalCineShotList", "errors": [error, error]}}
            return 400, {"error": {"message": "Prompt outputs failed validation"}, "node_errors": failed}
        job = f"job{len(self.queued)}"
        self.queued.append((job, graph))
        self.pending.append((job, graph))
        return 200, {"prompt_id": job, "number": 1, "node_errors": {}}

    def run_one(self) -> None:
        job, graph = self.pending.pop(0)
        messages = [["execution_start", {"timestamp": 1000}], ["execution_success", {"timestamp": 3500}]]
        status, outputs = "success", {"4": {"images": [{"filename": "a.mp4", "subfolder": "b", "type": "output"}]}}
        if "boom" in graph["2"]["inputs"]["story"]:
            error = {
                "node_id": "3",
                "node_type": "CausalCineSampler",
                "exception_message": "shot 1: boom\n",
                "timestamp": 3000,
            }
            messages[1], status, outputs = ["execution_error", error], "error", {}
        self.ended[job] = {"outputs": outputs, "status": {"status_str": status, "messages": messages}}


class Answers(BaseHTTPRequestHandler):
    server: Comfy

    def do_GET(self) -> None:
        if self.path == "/queue":
            if self.server.pending and not self.server.stands:
                self.server.run_one()
            running, pending = (
                [[0, job] for job, _ in part] for part in (self.server.pending[:1], self.server.pending[1:])
            )
            return self.answer(200, {"queue_running": running, "queue_pending": pending})
        job = self.path.removeprefix("/history/")
        return self.answer(200, {job: self.server.ended[job]} if job in self.server.ended else {})

    def do_POST(self) -> None:
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/prompt":
            return self.answer(*self.server.queue(data["prompt"]))
        self.server.calls.append((self.path, data))
        return self.answer(200, None)

    def answer(self, code: int, data: Any) -> None:
        body = b"" if data is None else json.dumps(data).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    monkeypatch.setattr(batch, "EVERY", 0.0)
    with Comfy() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def stories(tmp_path: Path) -> Path:
    folder = tmp_path / "stories"
    folder.mkdir()
    (folder / "cat.txt").write_text("a red cat walks\n\na red cat sleeps")
    (folder / "dog.json").write_text('{"shots": ["a dog", {"prompt": "boom", "seconds": 2}]}')
    (folder / "fox.txt").write_text("a bad fox")
    (folder / "owl.json").write_text('{"shots": []}')
    (folder / "elk.txt").write_text("an elk")
    return folder


def run(comfy: Comfy, source: Path, *more: str) -> tuple[int, dict[str, Any]]:
    report = source.parent / "report.json"
    code = batch.main([str(source), "--server", comfy.address, "--report", str(report), *more])
    return code, json.loads(report.read_text())["stories"]


def test_each_bad_story_fails_alone_with_its_reason(
    comfy: Comfy, stories: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = run(comfy, stories, "--seed", "5", "--seed-step", "2")
    assert code == 1
    assert {name: entry["status"] for name, entry in told.items()} == {
        "cat": "done", "dog": "failed", "elk": "done", "fox": "failed", "owl": "failed",
    }  # fmt: skip
    assert told["cat"]["files"] == ["b/a.mp4"] and told["cat"]["seconds"] == 2.5
    assert told["dog"]["reason"] == "CausalCineSampler (node 3): shot 1: boom"
    assert told["fox"]["reason"] == "CausalCineShotList (node 2): story - shots[0].prompt is bad"
    assert "owl.json" in told["owl"]["reason"] and "shots" in told["owl"]["reason"]
    said = capsys.readouterr().out
    assert "2 of 5 stories made" in said and said.count("shot 1: boom") == 2
    graphs = [graph for _, graph in comfy.queued]
    assert [graph["3"]["inputs"]["seed"] for graph in graphs] == [5, 7, 9], "counted over all stories"
    assert [graph["4"]["inputs"]["filename_prefix"] for graph in graphs] == ["batch/cat", "batch/dog", "batch/elk"]
    assert [shot["prompt"] for shot in json.loads(graphs[0]["2"]["inputs"]["story"])["shots"]] == [
        "a red cat walks", "a red cat sleeps",
    ]  # fmt: skip
    assert all(graph["2"]["inputs"]["global_text"] == "" for graph in graphs), "the template's is of its own story"


def test_what_is_made_is_not_made_again(comfy: Comfy, stories: Path) -> None:
    run(comfy, stories)
    before = len(comfy.queued)
    (stories / "dog.json").write_text('["a dog that is well"]')
    (stories / "elk.txt").write_text("another elk")
    code, told = run(comfy, stories)
    assert [graph["4"]["inputs"]["filename_prefix"] for _, graph in comfy.queued[before:]] == ["batch/dog", "batch/elk"]
    assert code == 1 and [told[name]["status"] for name in ("cat", "dog", "elk")] == ["done"] * 3


def test_ctrl_c_takes_back_what_is_queued_and_the_same_command_goes_on(
    comfy: Comfy, stories: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comfy.stands = True
    comfy.pending.append(("of somebody else", {}))

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(batch.time, "sleep", stop)
        code, told = run(comfy, stories, "--ahead", "2")
    assert code == 130
    assert comfy.calls == [("/queue", {"delete": ["job0", "job1"]})], "and what another runs is not interrupted"
    assert [told[name]["status"] for name in ("cat", "dog")] == ["cancelled"] * 2
    comfy.stands, comfy.pending[:] = False, []
    code, told = run(comfy, stories)
    assert told["cat"]["status"] == "done" and len(comfy.queued) == 2 + 3


def test_a_script_that_was_killed_finds_its_jobs_again(comfy: Comfy, stories: Path) -> None:
    run(comfy, stories)
    report = stories.parent / "report.json"
    told = json.loads(report.read_text())
    told["stories"]["cat"]["status"] = "queued"  # as it was noted before the job ended
    report.write_text(json.dumps(told))
    before = len(comfy.queued)
    _, told = run(comfy, stories)
    assert told["cat"]["status"] == "done" and len(comfy.queued) == before + 1, "the one that fails is tried again"


def test_a_table_names_stories_seeds_and_prefixes(comfy: Comfy, stories: Path) -> None:
    table = stories / "list.csv"
    (stories / "two.jsonl").write_text('{"prompts": ["a gnu"]}\n{"prompts": ["an ibis"]}\n')
    table.write_text(
        'name,story,seed,prefix\n,cat.txt,,\nhen,"a hen, red",18446744073709551615,mine/{name}\n,elk.txt,-1,\n,two.jsonl#2,,\n'
    )
    code, told = run(comfy, table)
    assert code == 1 and list(told) == ["cat", "hen", "elk", "two"]
    assert json.loads(comfy.queued[2][1]["2"]["inputs"]["story"])["shots"][0]["prompt"] == "an ibis"
    assert told["elk"]["reason"] == "seed must be a whole number from 0 to 18446744073709551615, got -1"
    hen = comfy.queued[1][1]
    assert hen["3"]["inputs"]["seed"] == 2**64 - 1 and hen["4"]["inputs"]["filename_prefix"] == "mine/hen"
    assert json.loads(hen["2"]["inputs"]["story"])["shots"][0]["prompt"] == "a hen, red"
    assert comfy.queued[0][1]["3"]["inputs"]["seed"] == 7, "the workflow's"


def test_fields_of_other_nodes_are_named(comfy: Comfy, stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = json.loads(batch.WORKFLOW.read_text())
    graph["4"]["class_type"] = "SaveVideo"
    workflow = stories.parent / "mine.json"
    workflow.write_text(json.dumps(graph))
    mine = ("--workflow", str(workflow))
    source = [str(stories), "--server", comfy.address, *mine]
    assert batch.main(source) == 2
    assert (
        "has no CausalCineSaveVideo: name the field of the prefix with --prefix-field NODE.INPUT"
        in capsys.readouterr().err
    )
    assert batch.main([*source, "--prefix-field", "44.filename_prefix"]) == 2
    assert (
        "--prefix-field must be NODE.INPUT, got 44.filename_prefix; the workflow's nodes are 1 ("
        in capsys.readouterr().err
    )
    run(comfy, stories, *mine, "--prefix-field", "4.filename_prefix", "--prefix", "{number}-{name}")
    assert comfy.queued[0][1]["4"]["inputs"]["filename_prefix"] == "001-cat"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [('{"nodes": []}', "is no workflow in API form: in ComfyUI's menu choose"), ("{", "cannot be read")],
)
def test_a_workflow_that_is_none_is_refused(
    comfy: Comfy, stories: Path, text: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    workflow = stories.parent / "mine.json"
    workflow.write_text(text)
    assert batch.main([str(stories), "--server", comfy.address, "--workflow", str(workflow)]) == 2
    assert sentence in capsys.readouterr().err


def test_a_server_that_is_not_there_is_said(stories: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert batch.main([str(stories), "--server", "http://127.0.0.1:9", "--report", str(stories.parent / "r.json")]) == 2
    assert "no ComfyUI answers at http://127.0.0.1:9" in capsys.readouterr().err
