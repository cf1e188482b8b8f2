"""Walks on software rendering: size of the page, time to open it, time of a frame of walking."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.measure import Row

NETWORKS = ("timm:resnet50", "timm:densenet121")
FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip
LARGEST_PAGE = 25.0
LONGEST_OPENING = 5.0
LONGEST_FRAME = 100.0
SECONDS = 6


def run() -> Iterator[Row]:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as play:
        system = shutil.which("chromium") or shutil.which("chromium-browser")
        chromium = play.chromium.launch(executable_path=system, args=FLAGS)
        for architecture in NETWORKS:
            page = _page(Path(folder), architecture)
            opening, frame = _visit(chromium, page)
            name = architecture.partition(":")[2]
            size = page.stat().st_size / 1e6
            yield Row(f"walk {name} at 224: 25 MB", size, LARGEST_PAGE, "MB", 1.0)
            yield Row(f"walk {name} opens: 5 s", opening, LONGEST_OPENING, "s", 1.0)
            yield Row(f"walk {name}, a frame: 100 ms", frame, LONGEST_FRAME, "ms", 1.0)
        chromium.close()


def _page(folder: Path, architecture: str) -> Path:
    import numpy as np
    from PIL import Image

    import filtersurgeon as fs

    coarse = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    image = folder / "image.png"
    Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC).save(image)
    page = folder / f"{architecture.partition(':')[2]}.html"
    fs.walk(fs.untrained(architecture), page, [str(image)])
    return page


def _visit(chromium: Any, path: Path) -> tuple[float, float]:
    """Give seconds until every map is shown, and milliseconds per frame of a walk after that."""
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    begin = time.perf_counter()
    page.goto(path.as_uri())
    page.evaluate("walk.ready")
    opening = time.perf_counter() - begin
    page.evaluate("walk.tour(1)")
    walked = page.evaluate(f"walk.tour({SECONDS})")
    page.close()
    return opening, 1000 * walked["seconds"] / walked["frames"]
