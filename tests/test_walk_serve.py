"""The walk from a server on this computer: what it answers, and what it refuses."""

import json
import shutil
import struct
import subprocess
import time
import zlib
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np
import pytest
from walking import FLAGS, as_input, torch_maps, write_image
from workshop import PATIENCE

import filtersurgeon as fs
from filtersurgeon.walk.quantise import unpack
from filtersurgeon.walk.record import read_numbers

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    fs.save(fs.untrained("timm:resnet18"), folder / "m.safetensors")
    write_image(folder / "a.png", 64)
    write_image(folder / "b.png", 64, seed=1)
    return folder


@pytest.fixture(scope="module")
def server(folder, command):
    words = ["walk", folder / "m.safetensors", "--serve", "--image", folder / "a.png",
             "--preprocess", "input_size=3,64,64"]  # fmt: skip
    with subprocess.Popen(
        [*command, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = process.stdout.readline().strip()
        yield urlsplit(address), process
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""


@pytest.fixture
def ask(server):
    """Send a request; gives its status, its text and its headers."""
    address, _ = server

    def send(method, path, body=None, host=None, headers=()):
        connection = HTTPConnection(address.hostname, address.port, timeout=PATIENCE)
        own = {"Host": host} if host else {}
        connection.request(method, path, body, {**own, **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers

    return send


def test_the_page_is_served_under_its_token_only(server, ask):
    address, _ = server
    assert address.hostname == "127.0.0.1"
    assert len(address.path) > 30
    code, text, headers = ask("GET", address.path)
    assert code == 200
    assert '"server":{"images":"images"' in text
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    wrong = address.path[:-2] + ("a/" if address.path[-2] != "a" else "b/")
    for path in ("/", wrong, address.path + "client.js", address.path + "../etc/passwd",
                 "/etc/passwd", address.path + "images"):  # fmt: skip
        assert ask("GET", path)[0] in (404, 405), path
    assert ask("POST", f"{wrong}images", b"x")[0] == 404


def test_other_names_of_this_computer_are_refused(server, ask):
    address, _ = server
    assert ask("GET", address.path, host=f"localhost:{address.port}")[0] == 200
    assert ask("GET", address.path, host="evil.example")[0] == 400
    assert ask("POST", f"{address.path}images", b"x", host="evil.example:80")[0] == 400


def test_an_image_goes_through_the_network(server, ask, folder):
    address, _ = server
    content = (folder / "b.png").read_bytes()
    code, text, _ = ask("POST", f"{address.path}images?name=b.png", content)
    assert code == 200, text
    answer = json.loads(text)
    assert answer["picture"]["name"] == "b.png"
    page = json.loads(_scene(ask("GET", address.path)[1]))
    names = [panel["name"] for panel in page["networks"][0]["panels"]]
    checkpoint = fs.load(folder / "m.safetensors")
    expected = torch_maps(checkpoint, as_input(folder / "b.png", checkpoint), ["conv1"])["conv1"]
    seen = answer["seen"][0]
    at = names.index("conv1")
    shape = tuple(seen["maps"][at]["shape"])
    before = sum(maps["shape"][0] for maps in seen["maps"][:at])
    total = sum(maps["shape"][0] for maps in seen["maps"])
    bound = read_numbers(answer["blobs"][seen["bound"]], (total,), "<f4")[before : before + 64]
    values = unpack(answer["blobs"][seen["maps"][at]["blob"]], shape).astype(np.float64)
    found = (values - 128) * bound[:, None, None] / 127
    assert (np.abs(found - expected) <= bound[:, None, None] / 254 * 1.001 + 1e-6).all()


def _scene(page):
    start = page.index('id="scene">') + len('id="scene">')
    return page[start : page.index("</script>", start)]


def test_what_is_no_image_is_refused_with_a_line(server, ask, folder):
    address, _ = server
    path = f"{address.path}images?name=x"
    code, text, _ = ask("POST", path, b"not an image")
    assert code == 400
    assert "x is not an image" in text
    assert "\n" not in text
    code, text, _ = ask("POST", path, (folder / "b.png").read_bytes()[:200])
    assert code == 400
    code, text, _ = ask("POST", path, _bomb(60_000))
    assert code == 400
    assert "million pixels" in text or "decompression bomb" in text
    code, text, _ = ask("POST", path, headers=[("Content-Length", "99999999999")])
    assert code == 413


def _bomb(side):
    """A PNG of a few bytes that claims to be huge."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_port_that_is_taken_is_refused(server, folder, fsurgeon):
    address, _ = server
    done = fsurgeon("walk", folder / "m.safetensors", "--serve", "--port", address.port)
    assert done.returncode == 2
    assert b"--port" in done.stderr


def test_an_image_that_is_picked_in_the_browser_changes_the_panels(server, folder):
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    system = shutil.which("chromium") or shutil.which("chromium-browser")
    address, _ = server
    errors = []
    with api.sync_playwright() as play:
        try:
            chromium = play.chromium.launch(executable_path=system, args=FLAGS)
        except api.Error as problem:
            pytest.skip(f"no headless Chromium starts: {str(problem).splitlines()[0]}")
        page = chromium.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address.geturl())
        page.evaluate("walk.ready")
        before = page.evaluate("walk.facts('layer1.0.conv1', 3)")
        page.set_input_files("input[type=file]", folder / "b.png")
        page.locator("#pictures button").nth(1).wait_for()
        end = time.monotonic() + PATIENCE
        while page.evaluate("walk.facts('layer4.1.conv2', 3)[1]") == 0 or before == (
            after := page.evaluate("walk.facts('layer1.0.conv1', 3)")
        ):
            assert time.monotonic() < end
            page.wait_for_timeout(50)
        # Refused at once, while an image is on its way, which arrives all the same.
        page.set_input_files("input[type=file]", folder / "b.png")
        page.set_input_files("input[type=file]", folder / "m.safetensors")
        page.locator("#tip", has_text="is larger than 20 MB").wait_for()
        page.locator("#pictures button").nth(2).wait_for()
        (folder / "c.png").write_text("no picture")
        page.set_input_files("input[type=file]", folder / "c.png")
        page.locator("#tip", has_text="is not an image").wait_for()
        chromium.close()
    checkpoint = fs.load(folder / "m.safetensors")
    image = as_input(folder / "b.png", checkpoint)
    own = torch_maps(checkpoint, image, ["layer1.0.conv1"])["layer1.0.conv1"][3]
    assert after[:2] == pytest.approx([own.min(), own.max()], rel=1e-4)
    assert errors == []
