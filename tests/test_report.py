"""The report is one page that needs nothing else, whatever the checkpoint calls itself."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from small_data import LENET
from small_data import digits as digits  # a fixture

import filtersurgeon as fs
from filtersurgeon.plots.page import script_data

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def browser():
    """A headless Chromium, of playwright's own or of the system."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    with api.sync_playwright() as play:
        options = {"args": ["--no-sandbox"]}
        try:
            opened = play.chromium.launch(executable_path=system, **options)
        except api.Error as problem:
            pytest.skip(f"no headless Chromium starts: {str(problem).splitlines()[0]}")
        yield opened
        opened.close()


def visit(browser, path: Path) -> dict:
    """Open a page with the network cut off; gives what went wrong, and what it shows."""
    page = browser.new_context(offline=True, viewport={"width": 1200, "height": 900}).new_page()
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(path.as_uri())
    page.wait_for_timeout(200)
    loaded = "images => images.map(i => i.complete && i.naturalWidth > 1)"
    return {
        "page": page,
        "errors": errors,
        "outside": [u for u in requests if not u.startswith(("data:", path.as_uri()))],
        "images": page.eval_on_selector_all("img", loaded),
        "wide": page.evaluate("document.documentElement.scrollWidth > window.innerWidth"),
    }


@pytest.fixture
def pair(digits):
    """A network, and one whose second layer was changed and whose history is full of markup."""
    tensors = load_file("le.safetensors")
    tensors["conv2.weight"] = np.round(tensors["conv2.weight"], 1)
    save_file(tensors, "raw.safetensors", {"format": "pt"})
    arch = "factory:examples.zoo.networks:lenet5"
    raw = fs.load("raw.safetensors", arch=arch)
    from dataclasses import replace

    from filtersurgeon.checkpoint import HistoryEntry

    entry = HistoryEntry(EVIL, {"option<b>": EVIL})
    cfg = fs.load("le.safetensors").pretrained_cfg
    fs.save(replace(raw, history=(entry,), pretrained_cfg=cfg), "changed.safetensors")
    return digits


def test_a_report_of_a_pair_in_a_browser(pair, fsurgeon, browser):
    path = pair / "r.html"
    done = fsurgeon(
        "report", "changed.safetensors", "--against", "le.safetensors", *LENET, "--data",
        "digits.npz", "--subset", 40, "--ranking", "l2", "-o", path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    seen = visit(browser, path)
    assert seen["errors"] == []
    assert seen["outside"] == []
    assert len(seen["images"]) >= 3
    assert all(seen["images"])
    assert not seen["wide"]
    page = seen["page"]
    titles = page.locator("h2").all_inner_texts()
    assert titles == [
        "History", "Size and speed", "Accuracy", "Layers", "Kernels", "Spectra", "Ranking",
        "Decoded filters", "Where it looks",
    ]  # fmt: skip
    assert page.title() != "owned"
    assert EVIL in page.locator("#part-1").inner_text()
    assert path.stat().st_size < 5e6


def test_an_embedding_in_a_browser(pair, fsurgeon, browser):
    path = pair / "e.html"
    done = fsurgeon("embed", "le.safetensors", *LENET, "--data", "digits.npz", "--subset", 40,
                    "--method", "pca", "--page", path)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    seen = visit(browser, path)
    assert seen["errors"] == seen["outside"] == []
    page = seen["page"]
    inked = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v > 0)"
    assert page.eval_on_selector("canvas", inked)
    for button in page.locator("#legend button").all():
        button.click()
    assert not page.eval_on_selector("canvas", inked)  # every class is switched off


def test_without_architecture_the_tensors_are_reported(model, tmp_path, fsurgeon):
    path = tmp_path / "r.html"
    done = fsurgeon("report", model, "-o", path)
    assert done.returncode == 0, done.stderr.decode()
    text = path.read_text("utf-8")
    assert "Layers" in text
    assert "Bank use" in text
    assert "only the tensors are analysed" in done.stderr.decode()


@pytest.mark.slow
@pytest.mark.usefixtures("pair")
def test_the_same_report_twice(fsurgeon, tmp_path):
    pages = []
    for name in ("a.html", "b.html"):
        words = (*LENET, "--latency-runs", 0, "-o", tmp_path / name, "-q")
        done = fsurgeon("report", "changed.safetensors", *words)
        assert done.returncode == 0, done.stderr.decode()
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]
    assert EVIL.encode() not in pages[0]


@pytest.mark.usefixtures("pair")
def test_report_refusals(refuse):
    assert "-o FILE.html" in refuse("report", "le.safetensors", *LENET)
    assert ".html" in refuse("report", "le.safetensors", *LENET, "-o", "r.pdf")
    assert "pipe" in refuse("report", "-", "--against", "-", "-o", "r.html")


def test_data_in_a_script_is_no_markup():
    assert "<" not in script_data({"name": EVIL})
