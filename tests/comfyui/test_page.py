"""The real page in headless Chromium: templates by mouse, no red node, the film plays."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from .graphs import film, node
from .server import PACK, Server

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
TEMPLATES = ("cast", "five_shots", "history", "shot_by_shot", "takes", "wan_1_3b")
ERRORS = """() => [
  ...Object.keys(app.lastNodeErrors ?? {}),
  ...(app.lastExecutionError ? [app.lastExecutionError.exception_message] : []),
  ...app.graph.nodes.filter((node) => node.has_errors).map((node) => node.type),
]"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        try:
            running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield running
        running.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page as a new user finds it: the template dialog is open."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    page.goto(server.url)
    page.wait_for_function("window.app?.extensionManager && window.app.graph", timeout=180_000)
    yield page
    page.close()


def open_template(page: Any, name: str) -> None:
    category = page.get_by_text("CausalCine", exact=True).last
    if not category.is_visible():
        page.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    category.wait_for(timeout=60_000)
    category.click()
    page.get_by_text(name, exact=False).first.click(timeout=60_000)
    page.wait_for_function("app.graph.nodes.some((node) => node.type.startsWith('CausalCine'))", timeout=60_000)
    page.wait_for_timeout(500)


def press_run(page: Any, server: Server, seconds: float = 600) -> dict[str, Any]:
    """Press Run and wait for the end; the history entry."""
    before = set(server.get("/history"))
    page.get_by_role("button", name="Run").first.click()
    deadline = time.monotonic() + seconds
    while not (new := set(server.get("/history")) - before):
        assert time.monotonic() < deadline
        assert not page.evaluate(ERRORS)
        page.wait_for_timeout(500)
    page.wait_for_timeout(1000)
    (key,) = new
    return server.get("/history")[key]


def stand_in(page: Any, checkpoint: str) -> None:
    page.evaluate(
        """(name) => { for (const node of app.graph.nodes)
             if (node.type === "CausalCineCheckpointLoader") node.widgets[0].value = name; }""",
        checkpoint,
    )


def test_template_a_takes_two_clicks(page: Any, server: Server, nano: str) -> None:
    open_template(page, "five_shots")
    shown = page.evaluate(
        """app.graph.nodes.map((node) => (node.widgets ?? []).filter(
             (w) => !w.hidden && (node.showAdvanced || !w.advanced)).length)"""
    )
    assert len(shown) <= 5 and sum(shown) <= 12
    stand_in(page, nano)
    done = press_run(page, server)
    assert done["status"]["status_str"] == "success"
    assert page.evaluate(ERRORS) == []
    (film,) = [
        file for out in done["outputs"].values() for file in out.get("images", []) if file["filename"].endswith("mp4")
    ]
    plays = page.evaluate(
        """async (url) => {
          const video = document.createElement("video"); video.muted = true; video.src = url;
          await new Promise((ok, no) => { video.onloadeddata = ok; video.onerror = () => no(video.error.message); });
          video.currentTime = video.duration - 0.5;
          await new Promise((ok) => { video.onseeked = ok; });
          return [video.duration, video.videoWidth, video.videoHeight, video.currentTime]; }""",
        f"/view?filename={film['filename']}&subfolder={film['subfolder']}&type={film['type']}",
    )
    duration, width, height, at = plays
    assert duration == pytest.approx(237 / 16, abs=0.2) and (width, height) == (96, 96)
    assert at == pytest.approx(duration - 0.5, abs=0.1), "C43: it seeks to the last second"
    assert page.locator("video").count() >= 1, "the film is shown on its node"


def test_template_b_runs_without_a_red_node(page: Any, server: Server) -> None:
    open_template(page, "shot_by_shot")
    stand_in(page, "random.safetensors")
    assert press_run(page, server)["status"]["status_str"] == "success"
    assert page.evaluate(ERRORS) == []


def test_template_c_opens_without_a_red_node_where_its_files_are(page: Any) -> None:
    open_template(page, "wan_1_3b")
    assert page.evaluate(ERRORS) == []


@pytest.mark.parametrize("grow", [False, True])
def test_a_film_that_is_dropped_onto_the_page_opens_its_graph(page: Any, server: Server, grow: bool) -> None:
    open_template(page, "five_shots")
    stand_in(page, "random.safetensors")
    page.evaluate(
        """(grow) => { for (const node of app.graph.nodes) {
             if (node.type === "CausalCineShotList") {
               node.widgets.find((w) => w.name === "story").value = "a red robot walks";
               node.widgets.find((w) => w.name === "seconds").value = 0.5; }
             if (node.type === "CausalCineSaveVideo") node.widgets.find((w) => w.name === "grow").value = grow; } }""",
        grow,
    )
    done = press_run(page, server)
    (film,) = [
        file for out in done["outputs"].values() for file in out.get("images", []) if file["filename"].endswith("mp4")
    ]
    page.evaluate("app.graph.clear()")
    page.evaluate(
        """async (url) => {
          const bytes = await (await fetch(url)).blob(), dropped = new DataTransfer();
          dropped.items.add(new File([bytes], "film.mp4", { type: "video/mp4" }));
          const at = document.getElementById("graph-canvas") ?? document.body;
          at.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: dropped })); }""",
        f"/view?filename={film['filename']}&subfolder={film['subfolder']}&type={film['type']}",
    )
    page.wait_for_function("app.graph.nodes.some((node) => node.type === 'CausalCineShotList')", timeout=60_000)
    story = "app.graph.nodes.find((node) => node.type === 'CausalCineShotList').widgets.find((w) => w.name === 'story').value"
    assert page.evaluate(story) == "a red robot walks"
    assert page.evaluate(ERRORS) == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_in_both_forms_are_the_same_graph(page: Any, name: str) -> None:
    flow = json.loads((PACK / f"workflows/{name}.json").read_text(encoding="utf-8"))
    twin = json.loads((PACK / f"workflows/api/{name}.json").read_text(encoding="utf-8"))
    page.evaluate("async (flow) => { await app.loadGraphData(flow) }", flow)
    prompt = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert {key: (node["class_type"], node["inputs"]) for key, node in prompt.items()} == {
        key: (node["class_type"], node["inputs"]) for key, node in twin.items()
    }


def test_the_seed_of_a_new_sampler_is_fixed(page: Any) -> None:
    value = page.evaluate(
        """() => { const node = LiteGraph.createNode("CausalCineSampler"); app.graph.add(node);
             return node.widgets.find((widget) => widget.name === "control_after_generate").value; }"""
    )
    assert value == "fixed"


def test_the_page_loads_without_errors_of_ours(browser: Any, server: Server) -> None:
    page, said = browser.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.goto(server.url)
    page.wait_for_function("window.app?.extensionManager && window.app.graph", timeout=180_000)
    loaded = page.evaluate("app.extensions.map((extension) => extension.name)")
    assert "CausalCine.FixedSeed" in loaded
    assert not [text for text in said if "causalcine" in text.lower()]
    page.close()


def test_advanced_inputs_are_hidden_until_they_matter(page: Any) -> None:
    """Of the recipe: nine inputs to begin with, all where one is asked for or a loaded workflow has changed one of them."""
    count = "(node) => node.widgets.filter((widget) => node.isWidgetVisible(widget)).length"
    made = """() => { app.graph.clear(); const node = LiteGraph.createNode("CausalCineRecipe"); app.graph.add(node); return node; }"""
    assert page.evaluate(f"() => {{ const node = ({made})(); return ({count})(node); }}") == 9
    assert page.evaluate(f"() => {{ const node = ({made})(); node.toggleAdvanced(); return ({count})(node); }}") == 21
    loaded = f"""async (sink) => {{ const node = ({made})(); node.widgets.find((w) => w.name === "sink").value = sink;
      await app.loadGraphData(app.graph.serialize()); return ({count})(app.graph.nodes[0]); }}"""
    assert page.evaluate(loaded, -1) == 9
    assert page.evaluate(loaded, 3) == 21
    linked = """() => { app.graph.clear();
      const [sampler, latent] = ["CausalCineSampler", "EmptyLatentImage"].map((kind) => LiteGraph.createNode(kind));
      app.graph.add(sampler); app.graph.add(latent);
      const seen = () => sampler.isWidgetVisible(sampler.widgets.find((widget) => widget.name === "strength")), before = seen();
      latent.connect(0, sampler, sampler.inputs.findIndex((input) => input.name === "video")); return [before, seen()]; }"""
    assert page.evaluate(linked) == [False, True], "the strength of a video is shown where there is one"


def test_a_state_file_is_shown_on_the_node_that_takes_it_up(page: Any, server: Server) -> None:
    """Its picture, length and last words; a workflow keeps the file's name alone."""
    graph = film(story="a red robot walks", seed=90)
    graph["6"] = node("CausalCineSaveState", state=["3", 1], filename_prefix="states/page", with_memory=False)
    del graph["4"], graph["5"]
    assert server.run(graph).status == "success"
    shown = page.evaluate(
        """async () => {
          app.graph.clear(); const node = LiteGraph.createNode("CausalCineLoadState"); app.graph.add(node);
          const card = () => node.widgets.at(-1).element, chooser = node.widgets[0];
          const until = async (said) => { for (let i = 0; i < 100 && !said(); i++) await new Promise((ok) => setTimeout(ok, 50)); };
          await until(() => chooser.options.values.some((name) => name.startsWith("states/page")));
          const name = chooser.options.values.find((name) => name.startsWith("states/page"));
          chooser.value = name; chooser.callback(name);
          await until(() => card().textContent.includes("0.6 s") && card().querySelector("img").naturalWidth);
          const kept = node.serialize().widgets_values, prompt = (await app.graphToPrompt()).output[node.id].inputs;
          return [name, card().textContent, card().querySelector("img").naturalWidth, kept, prompt]; }"""
    )
    name, text, width, kept, prompt = shown
    assert "0.6 s, 1 shot" in text and "a red robot walks" in text and "without memory" in text and width == 256
    assert kept == [name] and prompt == {"state_file": name}


def test_a_cancel_that_kept_a_film_says_so_on_the_page(page: Any) -> None:
    """ComfyUI itself shows nothing of a cancel."""
    page.evaluate(
        """() => window.comfyAPI.api.api.dispatchEvent(
          new CustomEvent("causalcine.kept", { detail: { text: "2 of 4 chunks are kept as film.state [temp]" } }))"""
    )
    page.get_by_text("2 of 4 chunks are kept as film.state [temp]").wait_for(timeout=10_000)
