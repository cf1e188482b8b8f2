"""A walk that other devices of the network reach: its address, its certificate, its refusals."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import socket
import ssl
import sys
from types import SimpleNamespace

import pytest
from workshop import PATIENCE

from filtersurgeon.errors import OptionError
from filtersurgeon.walk import lan


@pytest.mark.parametrize(
    "address", ["0.0.0.0", "::1", "localhost", "224.0.0.1", "1.2.3", "1.2.3.4.5", ""]
)
def test_other_than_addresses_of_one_computer_are_refused(address):
    with pytest.raises(OptionError, match="should be an IPv4 address"):
        lan.check_address(address)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setitem(sys.modules, "cryptography.x509", None)
    with pytest.raises(OptionError, match=r"needs cryptography .*filtersurgeon\[walk,lan"):
        lan.make_certificate("127.0.0.1")
    monkeypatch.setitem(sys.modules, "segno", None)
    assert lan.draw_code("https://127.0.0.1/") is None


def test_without_a_network_an_address_is_asked_for(monkeypatch):
    class Nowhere:
        def __init__(self, *_):
            raise OSError

    monkeypatch.setattr(lan.socket, "socket", Nowhere)
    with pytest.raises(OptionError, match="no address in a network; pass it with `address`"):
        lan.find_address()


def test_the_code_holds_the_address():
    pytest.importorskip("segno")
    lines = lan.draw_code("https://192.168.1.20:40123/token/").splitlines()
    assert len(lines) > 10
    assert len(set(map(len, lines[:-1]))) == 1


def test_commands_that_contradict_themselves_are_refused(refuse, model):
    assert "--lan needs --serve" in refuse("walk", model, "--lan", "-o", "w.html")
    assert "--address needs --lan" in refuse("walk", model, "--serve", "--address", "127.0.0.1")


@pytest.fixture(scope="module")
def place():
    pytest.importorskip("cryptography")
    return lan.lan_place("127.0.0.1")


class Served:
    """An application on a port of this computer, in the loop that runs the test."""

    def __init__(self, place):
        pytest.importorskip("uvicorn")
        from filtersurgeon.walk.application import application
        from filtersurgeon.walk.serving import make_server

        live = SimpleNamespace(maker=None, seconds=PATIENCE)
        self.server = make_server(
            application(live, "<p>walk</p>", "t" * 32, place=place), place, 0.2
        )
        self.place = place

    def __enter__(self):
        import contextlib
        from threading import Thread

        self.taken = socket.socket()
        self.taken.bind((self.place.host, 0))
        self.port = self.taken.getsockname()[1]
        self.server.capture_signals = contextlib.nullcontext
        self.thread = Thread(target=lambda: asyncio.run(self.server.serve([self.taken])))
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.taken.close()

    def ask(self, context, method, path, body=None, **headers):
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=PATIENCE, context=context
        )
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        found = answer.status, answer.read().decode()
        connection.close()
        return found


def test_a_walk_is_served_over_https_to_those_with_the_token(place):
    with Served(place) as served:
        pem = ssl.get_server_certificate(("127.0.0.1", served.port))
        digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest().upper()
        assert digest == place.fingerprint.replace(":", "")
        # Who trusts this certificate reaches the address without a warning.
        trusting = ssl.create_default_context(cadata=pem)
        page = f"/{'t' * 32}/"
        assert served.ask(trusting, "GET", page) == (200, "<p>walk</p>")
        for path in ("/", "/index.html", f"/{'t' * 31}/", f"/{'t' * 31}x/", f"/{'t' * 33}/"):
            assert served.ask(trusting, "GET", path)[0] == 403
        assert served.ask(trusting, "POST", f"/{'x' * 32}/images", b"x")[0] == 403
        assert served.ask(trusting, "GET", page, Host="evil.example")[0] == 400
        assert served.ask(trusting, "GET", page, Host="localhost")[0] == 400
        own = f"127.0.0.1:{served.port}"
        for origin in (f"http://{own}", "https://evil.example"):
            assert served.ask(trusting, "POST", f"{page}made", Origin=origin)[0] == 403
        # Others refuse it, and plain http is not answered.
        with pytest.raises(ssl.SSLCertVerificationError):
            served.ask(ssl.create_default_context(), "GET", page)
        plain = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE)
        plain.request("GET", page)
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
    assert place.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_silent_clients_neither_stay_nor_keep_the_server_from_ending(place):
    with Served(place) as served:
        context = ssl._create_unverified_context()
        raw = socket.create_connection(("127.0.0.1", served.port))
        quiet = context.wrap_socket(socket.create_connection(("127.0.0.1", served.port)))
        quiet.settimeout(PATIENCE)
        assert quiet.recv(1) == b""
        quiet.close()
    raw.close()


@pytest.mark.slow
def test_the_command_prints_an_https_address(tmp_path, command, place):
    import signal
    import subprocess

    import filtersurgeon as fs

    assert place.fingerprint
    fs.save(fs.untrained("timm:test_resnet"), tmp_path / "m.safetensors")
    words = [*command, "walk", str(tmp_path / "m.safetensors"), "--serve", "--lan",
             "--address", "127.0.0.1"]  # fmt: skip
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        address = process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
        noted = process.stderr.read()
    assert address.startswith("https://127.0.0.1:"), noted
    assert "SHA-256 fingerprint is" in noted
