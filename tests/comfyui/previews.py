"""Makes the pictures of the template browser by really running templates (a) and (b), and by opening (c).

python -m tests.comfyui.previews            # needs a ComfyUI (COMFYUI_PATH), Chromium, and a trained nano
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from PIL import Image

from .server import PACK, Server, install, installations

FOLDER = PACK / "workflows"
CELL = 256
FIT = """() => {
  const nodes = app.graph.nodes, view = app.canvas.ds;
  const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1])) - 40;
  const width = Math.max(...nodes.map((n) => n.pos[0] + n.size[0])) - left;
  const height = Math.max(...nodes.map((n) => n.pos[1] + n.size[1])) - top;
  view.scale = Math.min(1150 / width, 700 / height);
  view.offset = [-left + 90 / view.scale, -top + 110 / view.scale];
  app.canvas.setDirty(true, true);
}"""


def run(server: Server, name: str) -> Image.Image:
    """Queue a template and lay out a frame of each shot, with the memory map as the last picture."""
    graph = json.loads((FOLDER / f"api/{name}.json").read_text(encoding="utf-8"))
    done = server.run(graph)
    if done.status != "success":
        raise SystemExit(f"{name}: {done.error}")
    save = next(key for key, node in graph.items() if node["class_type"] == "CausalCineSaveVideo")
    chart = next(key for key, node in graph.items() if node["class_type"] == "CausalCineMemoryMap")
    reader = imageio_ffmpeg.read_frames(str(server.path(done.files(save)[0])))
    width, height = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    middles = [len(frames) * (2 * shot + 1) // 10 for shot in range(5)]
    pictures = [Image.fromarray(frames[at]) for at in middles]
    pictures.append(Image.open(server.path(done.files(chart)[0])).convert("RGB"))
    sheet = Image.new("RGB", (3 * CELL, 2 * CELL))
    for i, picture in enumerate(pictures):
        sheet.paste(picture.resize((CELL, CELL), Image.Resampling.BICUBIC), (i % 3 * CELL, i // 3 * CELL))
    return sheet


def screenshot(server: Server, name: str) -> Image.Image:
    """The graph of a template as the page shows it."""
    from playwright.sync_api import sync_playwright

    flow = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    with sync_playwright() as play, tempfile.TemporaryDirectory() as folder:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 860})
        page.goto(server.url)
        page.wait_for_function("window.app?.extensionManager && window.app.graph", timeout=180_000)
        page.wait_for_timeout(4000)
        page.keyboard.press("Escape")
        page.evaluate("async (flow) => { await app.loadGraphData(flow) }", flow)
        page.wait_for_timeout(1500)
        page.keyboard.press("Escape")
        page.evaluate(FIT)
        page.wait_for_timeout(1500)
        page.screenshot(path=f"{folder}/page.png", clip={"x": 70, "y": 85, "width": 1200, "height": 600})
        browser.close()
        return Image.open(f"{folder}/page.png").convert("RGB").resize((768, 384), Image.Resampling.LANCZOS)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        install(base)
        for kind, name in (
            ("diffusion_models", "causal_wan_1.3b"),
            ("text_encoders", "umt5_xxl_fp8_e4m3fn_scaled"),
            ("vae", "wan_2.1_vae"),
        ):
            (base / "models" / kind).mkdir(parents=True)
            (base / "models" / kind / f"{name}.safetensors").touch()  # so that the page finds nothing missing
        server = Server(installations()[0], base)
        try:
            for name in ("five_shots", "shot_by_shot"):
                run(server, name).save(FOLDER / f"{name}.jpg", quality=88)
            screenshot(server, "wan_1_3b").save(FOLDER / "wan_1_3b.jpg", quality=88)
        finally:
            server.close()


if __name__ == "__main__":
    main()
