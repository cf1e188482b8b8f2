"""What the tests of the walk share: images, pages, browsers, and what torch says of a layer."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from workshop import PATIENCE

import filtersurgeon as fs
from filtersurgeon.checkpoint import Checkpoint

FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip


def write_image(path: Path, size: int, seed: int = 0) -> Path:
    """Write a smooth picture of exactly this size, which no network needs to resize."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return path


def as_input(path: Path, checkpoint: Checkpoint) -> Tensor:
    """Normalise a picture as the network's own configuration says."""
    cfg = checkpoint.pretrained_cfg or {}
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    mean, std = cfg.get("mean", (0.485, 0.456, 0.406)), cfg.get("std", (0.229, 0.224, 0.225))
    normal = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normal.transpose(2, 0, 1))[None]


def torch_maps(checkpoint: Checkpoint, image: Tensor, layers: list[str]) -> dict[str, np.ndarray]:
    """Run the network by itself and note what modules give, ``(channels, height, width)``."""
    model = fs.build(checkpoint)
    found: dict[str, np.ndarray] = {}

    def hook(name: str) -> object:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            maps = output[0].clone().numpy()
            found.setdefault(name, maps.reshape(len(maps), *maps.shape[1:] or (1, 1)))

        return keep

    for name in layers:
        model.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad():
        model(image)
    return found


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def open_chromium(flags=FLAGS):
    """Start a browser, and end it when the fixture that yields from this ends."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as play:
        try:
            opened = play.chromium.launch(executable_path=system, args=list(flags))
        except api.Error as problem:
            pytest.skip(f"no headless Chromium starts: {str(problem).splitlines()[0]}")
        yield opened
        opened.close()


class Visitor:
    """A page of a walk, opened; remembers what went wrong and what was asked for."""

    def __init__(self, chromium, path: Path, **device):
        self.errors: list[str] = []
        self.outside: list[str] = []
        context = chromium.new_context(**{"viewport": {"width": 1100, "height": 700}, **device})
        self.page = context.new_page()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        context.route("**/*", self._route)
        self.page.goto(path.as_uri())
        self.page.evaluate("walk.ready")

    def _console(self, message):
        if message.type in ("error", "warning") and "GPU stall" not in message.text:
            self.errors.append(message.text)

    def _route(self, route):
        address = route.request.url
        if address.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.outside.append(address)
            route.abort()

    def ask(self, script, argument=None):
        return self.page.evaluate(script, argument)

    def wait(self, script, argument=None):
        """Wait until a script gives true; playwright's own way needs eval, which pages forbid."""
        end = time.monotonic() + PATIENCE
        while not self.ask(script, argument):
            assert time.monotonic() < end, script
            self.page.wait_for_timeout(50)

    def settle(self):
        self.wait("!walk.flying")

    def rest(self):
        """Wait until nothing is drawn any more."""
        for _ in range(200):
            still = self.ask("walk.frames")
            self.page.wait_for_timeout(400)
            if self.ask("walk.frames") == still:
                return
        raise AssertionError("it is drawn on and on")

    def finish(self):
        """Close the page, which must not have failed or asked for anything."""
        self.page.context.close()
        assert not self.errors
        assert not self.outside
