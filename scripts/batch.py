#!/usr/bin/env python3
"""Makes a film of each of many stories in a running ComfyUI, over its HTTP API: `python scripts/batch.py FOLDER`, see docs/batch.md.

Needs nothing but Python and this repository. What was made is in a report, and is not made again when the same is asked again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from causalcine_core.errors import InputError  # noqa: E402
from causalcine_core.story import MAX_SEED, Story  # noqa: E402
from scripts.comfyui import ComfyUI, Gone, Refused, reason_of  # noqa: E402

WORKFLOW = ROOT / "workflows/api/five_shots.json"
FIELDS = {
    "story": ("CausalCineShotList", "story"),
    "seed": ("CausalCineSampler", "seed"),
    "prefix": ("CausalCineSaveVideo", "filename_prefix"),
}
EVERY = 1.0  # seconds between two looks at the server
DONE, FAILED, CANCELLED, QUEUED = "done", "failed", "cancelled", "queued"


def stories_of(source: Path) -> list[dict[str, Any]]:
    """What is to be made, each with a name, and a file or a text; of a table seed and prefix too, where it has these columns.

    source: a folder of stories, or a CSV file with the columns story (a file, seen from the table's folder, or a text), and if one
    likes name, seed and prefix. Raises InputError where there is none.
    """
    if source.is_dir():
        found = sorted(path for path in source.iterdir() if not path.name.startswith("."))
        rows = [{"name": path.name if path.is_dir() else path.stem, "file": path} for path in found]
    elif source.suffix.lower() == ".csv" and source.is_file():
        rows = list(_rows(source))
    else:
        raise InputError(f"{source} must be a folder of stories or a .csv file")
    if not rows:
        raise InputError(f"{source} holds no story")
    seen: dict[str, int] = {}
    for row in rows:  # cat.txt beside cat.json
        name = row["name"]
        seen[name] = seen.get(name, 0) + 1
        row["name"] = name if seen[name] == 1 else f"{name}-{seen[name]}"
    return rows


def _rows(table: Path) -> Iterator[dict[str, Any]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if "story" not in (reader.fieldnames or ()):
            raise InputError(f"{table}: its first line must name the columns, one of them story")
        for number, row in enumerate(reader, 1):
            text = (row["story"] or "").strip()
            path = table.parent / text
            lies = table.parent / re.sub(r"#\d{1,6}$", "", text)  # of a file that holds several, #2 names one
            is_file = 0 < len(text) < 256 and "\n" not in text and lies.exists()
            told = {"file": path} if is_file else {"text": text}
            told["name"] = row.get("name") or (path.stem if is_file else f"{number:03}")
            yield told | {key: row[key].strip() for key in ("seed", "prefix") if (row.get(key) or "").strip()}


def fields_of(graph: dict[str, Any], named: dict[str, list[str]]) -> dict[str, list[tuple[str, str]]]:
    """Node and input of each field: as named (`3.seed`), else of every node of its class. Raises InputError where there is none."""
    places = {}
    for field, (kind, name) in FIELDS.items():
        asked = [tuple(place.split(".", 1)) for place in named.get(field) or ()]
        found = asked or [(key, name) for key, entry in graph.items() if entry["class_type"] == kind]
        for place in asked:
            if len(place) != 2 or place[0] not in graph:
                known = ", ".join(f"{key} ({entry['class_type']})" for key, entry in graph.items())
                raise InputError(
                    f"--{field}-field must be NODE.INPUT, got {'.'.join(place)}; the workflow's nodes are {known}"
                )
        if not found or (field == "story" and len(found) > 1):
            many = "several" if found else "no"
            raise InputError(
                f"the workflow has {many} {kind}: name the field of the {field} with --{field}-field NODE.INPUT"
            )
        places[field] = found
    return places


def load_workflow(path: Path) -> dict[str, Any]:
    """A graph in API form. Raises InputError where it is none."""
    try:
        graph = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--workflow {path} cannot be read: {error}") from None
    if not isinstance(graph, dict) or not all(isinstance(one, dict) and "class_type" in one for one in graph.values()):
        raise InputError(f"--workflow {path} is no workflow in API form: in ComfyUI's menu choose File > Export (API)")
    if path == WORKFLOW:
        for entry in graph.values():
            if "global_text" in entry["inputs"]:
                entry["inputs"]["global_text"] = ""  # of its own five shots
    return graph


def filled(
    graph: dict[str, Any],
    places: dict[str, list[tuple[str, str]]],
    row: dict[str, Any],
    number: int,
    asked: argparse.Namespace,
) -> dict[str, Any]:
    """The workflow for one story. number: from 0. Raises InputError where the story cannot be read."""
    story = Story.load(row["file"]) if "file" in row else Story.parse(row["text"])
    seed: Any = row.get("seed")
    if seed is not None:
        if not re.fullmatch(r"\d{1,20}", seed) or int(seed) > MAX_SEED:
            raise InputError(f"seed must be a whole number from 0 to {MAX_SEED}, got {seed}")
        seed = int(seed)
    elif asked.seed is not None:
        seed = (asked.seed + number * asked.seed_step) % (MAX_SEED + 1)
    prefix = (row.get("prefix") or asked.prefix).replace("{name}", row["name"]).replace("{number}", f"{number + 1:03}")
    graph = json.loads(json.dumps(graph))
    values = {"story": json.dumps(story.to_dict(), ensure_ascii=False), "seed": seed, "prefix": prefix}
    for field, value in values.items():
        for node, name in places[field] if value is not None else ():
            graph[node]["inputs"][name] = value
    return graph


class Batch:
    """Stories on their way. results: of each by name, what the report says of it."""

    def __init__(self, server: ComfyUI, report: Path, ahead: int):
        self.server, self.report, self.ahead = server, report, ahead
        self.results: dict[str, dict[str, Any]] = {}
        self.waiting: list[tuple[str, dict[str, Any]]] = []

    def add(self, name: str, graph: dict[str, Any], earlier: dict[str, Any] | None) -> None:
        """A story to be made, unless an earlier report says that the same was made, or is on its way."""
        job = hashlib.sha256(json.dumps(graph, sort_keys=True).encode()).hexdigest()
        earlier = earlier if earlier is not None and earlier.get("job") == job else {}
        status = earlier.get("status")
        if status == DONE or (status == QUEUED and self.server.knows(earlier["prompt_id"])):
            self.results[name] = earlier
        else:
            self.results[name] = {"status": "", "job": job}
            self.waiting.append((name, graph))

    def refuse(self, name: str, reason: str) -> None:
        self.results[name] = {"status": FAILED, "reason": reason}
        print(f"{name}: {reason}", flush=True)

    def run(self) -> None:
        """Until each is made or has failed. A story that fails stops no other."""
        while self.waiting or self._queued():
            while self.waiting and len(self._queued()) < self.ahead:
                self._queue(*self.waiting.pop(0))
            time.sleep(EVERY)
            self._look()
        self._write()

    def cancel(self) -> None:
        """Take what is on its way back out of the queue, and stop what is being made."""
        queued = self._queued()
        self.server.cancel([entry["prompt_id"] for entry in queued.values()])
        self._look()  # what was made meanwhile stays made
        for entry in self._queued().values():
            entry["status"] = CANCELLED
        self._write()

    def _queued(self) -> dict[str, dict[str, Any]]:
        return {name: entry for name, entry in self.results.items() if entry["status"] == QUEUED}

    def _queue(self, name: str, graph: dict[str, Any]) -> None:
        try:
            self.results[name] |= {"status": QUEUED, "prompt_id": self.server.queue(graph)}
        except Refused as refused:
            self.refuse(name, str(refused))
        self._write()

    def _look(self) -> None:
        known = self.server.waiting()  # asked first: what ends in between is in the history
        for name, entry in self._queued().items():
            history = self.server.history(entry["prompt_id"])
            if history is None and entry["prompt_id"] in known:
                continue
            if history is None:
                self.refuse(
                    name,
                    "ComfyUI does not know this job any more: it was taken out of the queue, or ComfyUI was restarted",
                )
            elif (reason := reason_of(history)) is not None:
                self.refuse(name, reason)
            else:
                entry |= {"status": DONE} | self.server.made(history)
                print(f"{name}: {entry['seconds']:.1f} s, {', '.join(entry['files']) or 'no file'}", flush=True)
            self._write()

    def _write(self) -> None:
        text = json.dumps({"stories": self.results}, indent=1, ensure_ascii=False)
        temporary = self.report.with_name(f".{self.report.name}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.report)

    def summary(self) -> str:
        """A line for each story that was not made, and the sums."""
        entries = list(self.results.values())
        lines = [
            f"{name}: {entry.get('reason', entry['status'] or 'not begun')}"
            for name, entry in self.results.items()
            if entry["status"] != DONE
        ]
        made = [entry for entry in entries if entry["status"] == DONE]
        seconds = sum(entry["seconds"] for entry in made)
        return "\n".join(
            [
                *lines,
                f"{len(made)} of {len(entries)} stories made, in {seconds:.0f} s of computing; report: {self.report}",
            ]
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of stories in any form, or a CSV with a column story")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="address of ComfyUI (default: %(default)s)")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="graph in API form (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of the first story (default: the workflow's)")
    parser.add_argument(
        "--seed-step", type=int, default=0, help="what each next story's seed is more (default: 0, one for all)"
    )
    parser.add_argument(
        "--prefix", default="batch/{name}", help="of files; {name} and {number} are the story's (default: %(default)s)"
    )
    parser.add_argument(
        "--report", type=Path, default=Path("batch.json"), help="where what was made is noted (default: %(default)s)"
    )
    parser.add_argument(
        "--ahead", type=int, default=4, help="how many wait in ComfyUI's queue at once (default: %(default)s)"
    )
    for field, (kind, name) in FIELDS.items():
        parser.add_argument(
            f"--{field}-field",
            action="append",
            metavar="NODE.INPUT",
            help=f"where the {field} goes (default: {name} of {kind})",
        )
    asked = parser.parse_args(arguments)
    if asked.seed is not None and not 0 <= asked.seed <= MAX_SEED:
        parser.error(f"--seed must be a whole number from 0 to {MAX_SEED}, got {asked.seed}")
    if asked.ahead < 1:
        parser.error(f"--ahead must be a whole number of at least 1, got {asked.ahead}")
    return asked


def main(arguments: Sequence[str] | None = None) -> int:
    """0: all were made; 1: some were not; 2: nothing could be begun; 130: stopped by Ctrl-C."""
    asked = parse(arguments)
    batch = Batch(ComfyUI(asked.server), asked.report, asked.ahead)
    try:
        graph = load_workflow(asked.workflow)
        places = fields_of(graph, {field: getattr(asked, f"{field}_field") for field in FIELDS})
        rows = stories_of(asked.source)
        earlier = _earlier(asked.report)
        batch.server.waiting()  # is it there at all?
        for number, row in enumerate(rows):
            try:
                one = filled(graph, places, row, number, asked)
            except InputError as error:
                batch.refuse(row["name"], str(error))
            else:
                batch.add(row["name"], one, earlier.get(row["name"]))
        batch.run()
    except (InputError, Gone) as error:
        print(f"batch: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        with contextlib.suppress(Gone):
            batch.cancel()
        print(f"stopped; the same command goes on\n{batch.summary()}")
        return 130
    print(batch.summary())
    return 0 if all(entry["status"] == DONE for entry in batch.results.values()) else 1


def _earlier(report: Path) -> dict[str, dict[str, Any]]:
    try:
        stories = json.loads(report.read_text(encoding="utf-8"))["stories"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"--report {report} is no report of a batch ({error}): name another file") from None
    return {name: entry for name, entry in stories.items() if entry.get("status")}


if __name__ == "__main__":
    sys.exit(main())
