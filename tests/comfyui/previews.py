"""Makes the pictures of the template browser by really running the templates on nano, and by opening (c).

python -m tests.comfyui.previews            # needs a ComfyUI (COMFYUI_PATH) and Chromium

Without a trained nano, all show their graphs as (c) does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from causalcine_core.weights.built_in import BUILT_IN

from .server import PACK, Server, install, installations

FOLDER = PACK / "workflows"
CELL = 256
MARGIN = 60  # the title bar of a node lies above its position


def run(server: Server, name: str) -> Image.Image:
    """Queue a template and lay out a frame of each shot: of two takes, one below the other, or of a film, and its memory map."""
    graph = json.loads((FOLDER / f"api/{name}.json").read_text(encoding="utf-8"))
    done = server.run(graph)
    if done.status != "success":
        raise SystemExit(f"{name}: {done.error}")
    saves = [key for key, node in graph.items() if node["class_type"] == "CausalCineSaveVideo"]
    charts = [key for key, node in graph.items() if node["class_type"] == "CausalCineMemoryMap"]
    pictures = []
    for key in saves:
        pictures += middles(server.path(done.files(key)[0]), 5 if charts else 3)
    pictures += [Image.open(server.path(done.files(key)[0])).convert("RGB") for key in charts]
    sheet = Image.new("RGB", (3 * CELL, 2 * CELL))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (i % 3 * CELL, i // 3 * CELL))
    return sheet


def middles(film: Path, shots: int) -> list[Image.Image]:
    """The frame in the middle of each shot of a film whose shots are equally long."""
    reader = imageio_ffmpeg.read_frames(str(film))
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    return [Image.fromarray(frames[len(frames) * (2 * shot + 1) // (2 * shots)]) for shot in range(shots)]


def screenshot(server: Server, name: str) -> Image.Image:
    """The graph of a template as the page shows it."""
    from playwright.sync_api import sync_playwright

    flow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    left, top = (min(node["pos"][i] for node in flow["nodes"]) - MARGIN for i in (0, 1))
    width, height = (max(n["pos"][i] + n["size"][i] for n in flow["nodes"]) + MARGIN - (left, top)[i] for i in (0, 1))
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width + 300, "height": height + 300})
        page.goto(server.url)
        page.wait_for_function("window.app?.extensionManager && window.app.graph", timeout=180_000)
        page.wait_for_timeout(4000)
        page.keyboard.press("Escape")
        page.evaluate("async (flow) => { await app.loadGraphData(flow) }", flow)
        page.add_style_tag(content="[class*=minimap] { display: none !important }")
        page.wait_for_timeout(1500)
        page.keyboard.press("Escape")
        corner = page.evaluate(
            """([x, y]) => { const view = app.canvas.ds; view.scale = 1; view.offset = [100 - x, 100 - y];
                 app.canvas.setDirty(true, true);
                 const canvas = app.canvas.canvas.getBoundingClientRect(); return [canvas.x, canvas.y]; }""",
            [left, top],
        )
        page.wait_for_timeout(1500)
        place = {"x": 100 + corner[0], "y": 100 + corner[1], "width": width, "height": height}
        page.screenshot(path=f"{folder}/page.png", clip=place)
        browser.close()
        picture = Image.open(f"{folder}/page.png").convert("RGB")
        return picture.resize((960, round(960 * height / width)), Image.Resampling.LANCZOS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install(base)
        (base / "input").mkdir()
        shutil.copy(
            installations()[0].parent / "input/example.png", base / "input/example.png"
        )  # which history begins with
        for kind, name in (
            ("diffusion_models", "causal_wan_1.3b"),
            ("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled"),
            ("vae", "wan_2.1_vae"),
        ):
            (base / "models" / kind).mkdir(parents=True)
            (base / "models" / kind / f"{name}.safetensors").touch()  # so that the page finds nothing missing
        server = Server(installations()[0], base)
        try:
            for name in ("cast", "five_shots", "history", "shot_by_shot", "takes", "wan_1_3b"):
                trained = BUILT_IN["nano"].exists() and name != "wan_1_3b"
                picture = run(server, name) if trained else screenshot(server, name)
                picture.save(FOLDER / f"{name}.jpg", quality=88)
                print(f"{name}.jpg: {'a film of nano' if trained else 'the graph'}")
        finally:
            server.close()


if __name__ == "__main__":
    main()
