"""``walk --serve --lan``: the address of this computer in its network, and https for one run."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filtersurgeon.checkpoint.vision import import_optional
from filtersurgeon.errors import OptionError
from filtersurgeon.walk.scene import LOOPBACK

_ELSEWHERE = ("192.0.2.1", 9)
"""An address that belongs to nobody; asking for the way there sends nothing."""
_DAYS = 7
_PAST = timedelta(hours=24)
"""Devices whose clocks are slow accept the certificate, too."""


@dataclass(frozen=True)
class Place:
    """Where a walk is served.

    Attributes:
        host: the address that the server listens on.
        hosts: what a request may name as its host.
        context: of the encryption; None for plain http.
        fingerprint: SHA-256 of the certificate, in pairs of digits; empty for plain http.
    """

    host: str
    hosts: tuple[str, ...]
    context: ssl.SSLContext | None = None
    fingerprint: str = ""

    @property
    def scheme(self) -> str:
        """The first word of addresses."""
        return "http" if self.context is None else "https"


HERE = Place(LOOPBACK, (LOOPBACK, "localhost"))
"""This computer only."""


def lan_place(address: str | None = None) -> Place:
    """Make the place that other devices of the network reach: its address, and a certificate.

    Args:
        address: an IPv4 address of this computer; None for the one through which others are
            reached.

    Raises:
        OptionError: no such address, or ``cryptography`` is not installed.
    """
    host = find_address() if address is None else check_address(address)
    certificate, key, fingerprint = make_certificate(host)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with TemporaryDirectory() as folder:  # which only this user can enter
        path = Path(folder) / "pair.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return Place(host, (host,), context, fingerprint)


def check_address(address: str) -> str:
    """Refuse what is no address of a single computer.

    Raises:
        OptionError: it is none, or one that stands for all.
    """
    with suppress(ValueError):
        found = ipaddress.IPv4Address(address)
        if not found.is_unspecified and not found.is_multicast:
            return str(found)
    raise OptionError(f"`address` {address} should be an IPv4 address such as 192.168.1.20")


def find_address() -> str:
    """Find the address of this computer in the network through which others are reached.

    Raises:
        OptionError: it is in none.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(_ELSEWHERE)
        found = str(probe.getsockname()[0])
        if not ipaddress.IPv4Address(found).is_unspecified:
            return found
    raise OptionError("this computer has no address in a network; pass it with `address`")


def make_certificate(host: str) -> tuple[bytes, bytes, str]:
    """Make a certificate for an address, signed by itself.

    Returns:
        The certificate and its private key in PEM, and the certificate's SHA-256 fingerprint.

    Raises:
        OptionError: ``cryptography`` is not installed.
    """
    needed: list[Any] = [
        import_optional(f"cryptography.{name}", "walk,lan", "serving in a network")
        for name in (
            "x509", "hazmat.primitives.hashes", "hazmat.primitives.serialization",
            "hazmat.primitives.asymmetric.ec",
        )
    ]  # fmt: skip
    x509, hashes, serialization, ec = needed
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fsurgeon walk")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))])
    server = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _PAST)
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(server, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    digest = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    return certificate.public_bytes(pem), private, digest


def draw_code(address: str) -> str | None:
    """Draw an address as a QR code of text; None where ``segno`` is not installed.

    Args:
        address: what a camera reads.
    """
    from io import StringIO

    try:
        segno: Any = import_module("segno")
    except ImportError:
        return None
    drawn = StringIO()
    segno.make(address, error="l").terminal(drawn, compact=True)
    return drawn.getvalue()
