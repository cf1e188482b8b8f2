"""The report is one page that needs nothing else, whatever the checkpoint calls itself."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from small_data import LENET
from small_data import digits as digits  # a fixture
from walking import open_chromium

import filtersurgeon as fs
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.latency import Latency
from filtersurgeon.learn.networks import open_network
from filtersurgeon.plots.kernel_sheet import draw_kernels
from filtersurgeon.plots.page import script_data
from filtersurgeon.report.measures import Measures
from filtersurgeon.report.reporting import ReportSettings, Subject
from filtersurgeon.report.sections.filters import filters, share_weights
from filtersurgeon.report.verdict import verdict

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"


@pytest.fixture
def browser():
    """A headless Chromium, of playwright's own or of the system."""
    yield from open_chromium(["--no-sandbox"])


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


def _evaluation(right, images=1000, classes=10):
    counts = (images // classes,) * classes
    return Evaluation(images, right, right, 0.0, counts, (0,) * classes, None, 1.0)


class _Measured(Measures):
    """Measures that are given."""

    def __init__(self, parameters, right=None, times=None, evaluation=_evaluation):
        names = [SimpleNamespace(parameters=n) for n in parameters]
        super().__init__(names, [], None if right is None else DataSpec("made"))
        self._outcomes = right and tuple(map(evaluation, right))
        self._times = times and tuple(Latency(t, 0.99 * t, 1.01 * t, 1, "cpu", 9) for t in times)

    def outcomes(self):
        return self._outcomes

    def latencies(self):
        return self._times


@pytest.mark.parametrize(
    ("measured", "line"),
    [
        (
            _Measured((500, 1000), (915, 936), (10.0, 17.0)),
            "Half the parameters, 2.1 points less top-1 accuracy (91.5 % instead of 93.6 %, 1,000 "
            "images, within the uncertainty), 1.7 times as fast (10 ms instead of 17 ms per image, "
            "cpu).",
        ),
        (
            _Measured((300, 1000)),
            "30 % of the parameters, accuracy not measured (no labelled images), "
            "speed not measured.",
        ),
        (
            _Measured((250, 1000), (104, 936), (10.0, 40.0)),
            "The accuracy is lost: top-1 accuracy falls from 93.6 % to 10.4 % (1,000 images). "
            "A quarter of the parameters, 4 times as fast (10 ms instead of 40 ms per image, cpu).",
        ),
        (
            _Measured((1000, 1000), (110, 105), (10.0, 10.1)),
            "Neither network is measurably better than guessing: top-1 accuracy 10.5 % and 11.0 % "
            "(1,000 images). As many parameters, no measurable difference in speed "
            "(10 ms instead of 10.1 ms per image, cpu).",
        ),
        (
            _Measured((1200, 1000), (936, 936), (20.0, 10.0)),
            "1.2 times the parameters, the same top-1 accuracy (93.6 %, 1,000 images), "
            "takes 2 times as long (20 ms instead of 10 ms per image, cpu).",
        ),
        (
            _Measured((1234,), (936,), (20.0,)),
            "1,234 parameters, top-1 accuracy 93.6 % (1,000 images), 20 ms per image (cpu).",
        ),
        (
            _Measured((1234,), (101,)),
            "1,234 parameters, top-1 accuracy 10.1 % (1,000 images), not measurably better than "
            "guessing, speed not measured.",
        ),
    ],
)  # fmt: skip
def test_the_verdict_tells_what_was_measured(measured, line):
    assert verdict(measured) == line


@pytest.mark.parametrize("right", range(0, 500, 50))
def test_no_lost_accuracy_is_praised(right):
    """Of ten classes, 93.6 % right; guessing is 10 %, and half of the way there is 51.8 %."""
    text = verdict(_Measured((100, 1000), (right, 936), (1.0, 10.0)))
    assert text.startswith("The accuracy is lost: ")


def test_always_the_commonest_class_is_guessing():
    def uneven(right):
        return Evaluation(1000, right, right, 0.0, (900, 100), (0, 0), None, 1.0)

    text = verdict(_Measured((100, 1000), (900, 980), evaluation=uneven))
    assert text.startswith("The accuracy is lost: top-1 accuracy falls from 98.0 % to 90.0 %")


def test_a_measure_that_fails_is_not_tried_again():
    tried = []

    def fail():
        tried.append(1)
        raise DataError("no such images")

    measures = Measures([], [])
    for _ in range(3):
        with pytest.raises(DataError):
            measures._once("outcomes", fail)
    assert tried == [1]


def _weights_in(sheet, filters):
    """Find the colours of every weight in a picture of kernels that are laid out in one line."""
    pixels = np.asarray(Image.open(io.BytesIO(sheet.png)).convert("RGB"), int)
    found = []
    left = 1
    for kernels in filters:
        for kernel in kernels:
            height, width = kernel.shape
            found.append(pixels[1 : 1 + height, left : left + width])
            left += width + 1
        left += len(kernels) > 1
    return np.array(found)


def test_every_weight_of_a_layer_has_a_pixel():
    filters = np.linspace(-1, 1, 3 * 2 * 9).reshape(3, 2, 3, 3)
    filters[1, 1] = 0
    filters[2, 0, 1, 1] = np.nan
    sheet = draw_kernels(filters)
    assert sheet.bound == pytest.approx(0.99, abs=0.02)
    colours = _weights_in(sheet, filters).reshape(3, 2, 3, 3, 3)
    assert (colours[1, 1] == 255).all()
    assert colours[2, 0, 1, 1].tolist() == [255, 0, 200]
    red, blue = colours[..., 0], colours[..., 2]
    assert (red < blue)[filters < -0.1].all()
    assert (red > blue)[filters > 0.1].all()


def test_kernels_are_shared_out_within_a_bound():
    shapes = [(16, 3, 3, 3), (512, 512, 3, 3), (512, 512, 3, 3), (64, 1, 5, 5)]
    counts = share_weights(shapes, 100_000)
    assert counts[0] == 16
    assert counts[3] == 64
    assert counts[1] == counts[2] == (100_000 - 432 - 1600) // 2 // 4608
    assert share_weights(shapes, 10**9) == [16, 512, 512, 64]
    assert share_weights([(4, 100, 9, 9)] * 3, 10) == [1, 1, 1]
    assert share_weights([], 10) == []


def _checkpoint(path, width):
    chance = np.random.default_rng(0)
    shapes = {"stem": (width, 3, 3, 3), "deep": (2 * width, width, 3, 3), "wide": (width, 1, 7, 7),
              "point": (9, 2 * width, 1, 1)}  # fmt: skip
    save_file(
        {
            f"{name}.weight": chance.standard_normal(shape, np.float32)
            for name, shape in shapes.items()
        },
        path,
    )
    return fs.load(path)


def test_the_kernels_of_every_spatial_layer_of_a_pruned_network_are_drawn(tmp_path):
    slim, whole = _checkpoint(tmp_path / "slim", 5), _checkpoint(tmp_path / "whole", 8)
    subject = Subject(
        slim, whole, None, None, ReportSettings(), Measures([slim, whole], [None] * 2)
    )
    section = filters(subject)
    assert [figure.title for figure in section.figures] == [
        "deep: 10 filters with 5 kernels of 3x3, before 16 filters with 8 kernels",
        "stem: 5 filters with 3 kernels of 3x3, before 8 filters with 3 kernels",
        "wide: 5 filters with 1 kernel of 7x7, before 8 filters with 1 kernel",
    ]
    assert [figure.is_open for figure in section.figures] == [True, False, False]
    assert section.text == (
        "No spatial layer of the same shape differs between the two.",
        "All 70 kernels of the 3 spatial layers; click a layer to open it.",
    )
    [first, *_] = section.figures
    pixels = Image.open(io.BytesIO(first.png))
    assert np.unique(np.asarray(pixels)).size > 30
    assert first.width % pixels.width == 0


def test_a_report_of_tensors_says_what_it_did_not_measure(tmp_path):
    slim, whole = _checkpoint(tmp_path / "slim", 5), _checkpoint(tmp_path / "whole", 8)
    fs.write_report(slim, tmp_path / "r.html", whole)
    text = (tmp_path / "r.html").read_text("utf-8")
    line = (
        "48.3 % of the parameters, accuracy not measured (no labelled images), speed not measured."
    )
    assert f'<p class="verdict">{line}</p>' in text
    assert "<summary>wide: 5 filters with 1 kernel of 7x7, before" in text
    assert "<details open><summary>deep" in text


def test_statistics_of_batch_norms_are_no_parameters():
    checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
    counted = sum(p.numel() for p in fs.build(checkpoint).parameters())
    measures = Measures([checkpoint], [open_network(checkpoint)])
    assert measures.parameters == (counted,)
    assert counted < checkpoint.parameters
    assert Measures([checkpoint], [None]).parameters == (checkpoint.parameters,)
