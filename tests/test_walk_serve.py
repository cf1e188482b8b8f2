"""The walk from a server on this computer: what it answers, and what it refuses."""

import asyncio
import contextlib
import json
import shutil
import signal
import socket
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
    for path in ("/", wrong, "/etc/passwd", f"/{address.path}"):
        code, text, _ = ask("GET", path)
        assert (code, text) == (403, "this address needs the token that fsurgeon printed"), path
    for path in ("images", "made?how=decode&network=0&panel=1&unit=0"):
        assert ask("POST", f"{wrong}{path}", b"x")[0] == 403
    for path in ("client.js", "../etc/passwd", "images", "made"):
        assert ask("GET", address.path + path)[0] in (404, 405), path


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


def test_a_picture_of_a_channel_is_made_and_goes_back_in(server, ask):
    address, _ = server
    path = f"{address.path}made?how=decode&network=0&panel=1&unit=3"
    code, text, headers = ask("POST", path)
    assert code == 200, text
    assert headers["Content-Type"].startswith("application/x-ndjson")
    assert headers["Cache-Control"] == "no-store"
    answer = json.loads(text.splitlines()[-1])
    assert answer["made"]["how"] == "decoded"
    assert answer["made"]["shape"] == [7, 7, 3]
    code, text, _ = ask("POST", f"{address.path}images?made={answer['made']['id']}&name=back")
    assert code == 200, text
    assert json.loads(text)["picture"]["name"] == "back"
    assert json.loads(text)["picture"]["shape"] == [64, 64, 3]
    code, text, _ = ask("POST", f"{address.path}images?made=999")
    assert (code, text) == (400, "this image is not kept any more; make it again")
    code, text, _ = ask("POST", path.replace("unit=3", "unit=64"))
    assert code == 400
    assert text == "layer conv1 has no channel 64; its 64 channels are 0 to 63"


def _make_and_feed_back(page):
    """Make pictures of channels with the buttons of the details, and feed one back in."""
    details = page.locator("#details")
    page.evaluate("walk.select('input', 0)")
    details.locator("h2").wait_for()
    assert details.get_by_text("Maximise").count() == 0
    # Other channels can be looked at meanwhile; a click cancels.
    page.evaluate("walk.select('layer4.1.conv2', 5)")
    details.get_by_role("button", name="Maximise").click()
    details.locator("progress[value]").wait_for()
    page.evaluate("walk.select('conv1', 3)")
    details.get_by_text("Maximise layer4.1.conv2, channel 5").wait_for()
    assert details.get_by_role("button", name="Decode").is_disabled()
    details.get_by_role("button", name="Cancel").click()
    details.locator("progress").wait_for(state="detached")
    done = details.get_by_role("button", name="Feed the decoded image in")
    busy = details.locator(".problem")
    end = time.monotonic() + PATIENCE
    while True:  # the server ends the other picture at its next step
        details.get_by_role("button", name="Decode", disabled=False).click()
        done.or_(busy).first.wait_for()
        if done.count():
            break
        assert "busy with another picture" in busy.inner_text()
        assert time.monotonic() < end
    [caption] = details.locator("figcaption").all_inner_texts()
    assert caption.startswith("Decoded, 7")
    pictures = page.locator("#pictures button").count()
    before = page.evaluate("walk.facts('conv1', 3)")
    done.click()
    page.locator("#pictures button").nth(pictures).wait_for()
    while before == page.evaluate("walk.facts('conv1', 3)"):
        assert time.monotonic() < end
        page.wait_for_timeout(50)


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
        page.set_default_timeout(1000 * PATIENCE)
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
        _make_and_feed_back(page)
        chromium.close()
    checkpoint = fs.load(folder / "m.safetensors")
    image = as_input(folder / "b.png", checkpoint)
    own = torch_maps(checkpoint, image, ["layer1.0.conv1"])["layer1.0.conv1"][3]
    assert after[:2] == pytest.approx([own.min(), own.max()], rel=1e-4)
    assert errors == []


def test_images_from_pages_of_other_servers_are_refused(server, ask):
    address, _ = server
    path = f"{address.path}images?name=x"
    for origin in ("http://evil.example", "null", f"http://127.0.0.1:{address.port + 1}",
                   f"https://127.0.0.1:{address.port}"):  # fmt: skip
        assert ask("POST", path, b"x", headers=[("Origin", origin)])[0] == 403
    own = f"http://127.0.0.1:{address.port}"
    assert ask("POST", path, b"x", headers=[("Origin", own)])[0] == 400


def test_an_image_has_to_arrive_in_time():
    from filtersurgeon.walk.application import application

    app = application(None, "", "t", body_seconds=0.05)
    scope = {
        "type": "http", "method": "POST", "path": "/t/images", "query_string": b"",
        "headers": [(b"host", b"127.0.0.1:1"), (b"content-length", b"100")],
    }  # fmt: skip
    sent = []

    async def receive():
        if not sent:
            sent.append("a part")
            return {"type": "http.request", "body": b"x", "more_body": True}
        return await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[1]["status"] == 408
    assert b"within 0.05 s" in sent[2]["body"]


def test_connections_on_which_nothing_happens_are_closed():
    import uvicorn

    from filtersurgeon.walk.serving import _impatient

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(50_000_000)})

    async def main():
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            config = uvicorn.Config(
                app, http=_impatient(0.2), lifespan="off", log_level="critical",
                timeout_graceful_shutdown=1,
            )  # fmt: skip
            server = uvicorn.Server(config)
            server.capture_signals = contextlib.nullcontext
            task = asyncio.create_task(server.serve([taken]))
            while not server.started:
                await asyncio.sleep(0.01)
            silent, _ = await asyncio.open_connection("127.0.0.1", port)
            partial, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
            deaf = socket.create_connection(("127.0.0.1", port))
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert await asyncio.wait_for(silent.read(), PATIENCE) == b""
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.wait_for(partial.read(), PATIENCE) == b""
            while server.server_state.connections:
                await asyncio.sleep(0.05)
            deaf.close()
            server.should_exit = True
            await task

    asyncio.run(main())


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_first_signal_ends_the_server_whatever_clients_do(number, folder, command):
    words = [*command, "walk", str(folder / "m.safetensors"), "--serve", "--preprocess",
             "input_size=3,448,448"]  # fmt: skip
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = urlsplit(process.stdout.readline().strip())
        open_ = []
        content = (folder / "b.png").read_bytes()
        for head, body in (
            ("", b""),
            ("GET / HTTP/1.1\r\nHost: ", b""),
            (f"POST {address.path}images HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99", b"x"),
            (f"GET {address.path} HTTP/1.1\r\nHost: 127.0.0.1", b""),
            (
                f"POST {address.path}images HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"Content-Length: {len(content)}",
                content,
            ),
        ):
            client = socket.create_connection((address.hostname, address.port))
            end = b"\r\n\r\n" if body or address.path in head else b""
            client.sendall(head.encode() + end + body)
            open_.append(client)
        time.sleep(0.5)
        process.send_signal(number)
        # The network of the last one may still run; nothing waits for it.
        assert process.wait(PATIENCE) == 0
        assert process.stderr.read() == ""
        for client in open_:
            client.close()
