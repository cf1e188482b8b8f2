"""``walk --serve``: the walk from a server on this computer, for images as they are sent."""

from __future__ import annotations

import errno
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.vision import import_optional
from filtersurgeon.errors import OptionError
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.walk.lan import HERE, Place, lan_place
from filtersurgeon.walk.making import Maker
from filtersurgeon.walk.scene import USUAL, WalkSettings

if TYPE_CHECKING:
    from torch import nn

QUIET_SECONDS = 15.0
"""How long a connection may neither ask for anything nor take what it is sent."""
MOST_CONNECTIONS = 64
ENDING_SECONDS = 1
"""How long requests may go on after Ctrl-C."""


@analyses_modules
def serve_walk(
    checkpoint: Checkpoint,
    images: Sequence[str] | Any = (),
    beside: Checkpoint | nn.Module | None = None,
    settings: WalkSettings = USUAL,
    *,
    port: int = 0,
    lan: bool = False,
    address: str | None = None,
    announce: Callable[[str], None] = print,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Serve a walk until interrupted: it accepts further images and makes pictures of channels.

    It listens on 127.0.0.1 only, answers only under an address with a random token, and serves
    nothing but the page, the activations of the images that it is sent, and decoded or maximised
    channels. With ``lan`` it listens on the address of this computer in its network, over https.

    Args:
        checkpoint: the network.
        images: image files to begin with; without any, a grey one.
        beside: see :func:`~filtersurgeon.walk.walking.walk`.
        settings: what to show.
        port: where to listen; 0 for any that is free.
        lan: let other devices of the network in, with a certificate that is made for this run.
        address: the IPv4 address of this computer to listen on, with ``lan``; None for that of
            the network through which others are reached.
        announce: told the address, once it can be opened.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.

    Raises:
        OptionError: the port is taken, the server's packages are not installed, or this computer
            has no address in a network.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> fs.serve_walk(checkpoint, port=8000)  # doctest: +SKIP
        http://127.0.0.1:8000/...
    """
    _need("uvicorn")
    _need("starlette")
    from filtersurgeon.walk.application import LiveWalk, application, describe_server
    from filtersurgeon.walk.walking import open_walk

    if address is not None and not lan:
        raise OptionError("`address` needs `lan`")
    place = lan_place(address) if lan else HERE
    taken = _listen(port, place.host)
    with taken:
        walk = open_walk(checkpoint, images, beside, settings, progress, tell, describe_server)
        maker = Maker(walk.checkpoints, walk.networks, walk.network, settings)
        live = LiveWalk(walk.networks, walk.network, walk.scene.limit, maker)
        token = secrets.token_urlsafe(24)
        app = application(live, walk.page, token, place=place)
        server = make_server(app, place)
        if place.fingerprint and tell:
            tell(
                "the browser warns of a certificate that it does not know; it is made for this "
                f"run, its SHA-256 fingerprint is {place.fingerprint}"
            )
        # Who reads the address may press Ctrl-C before the server runs.
        with _until_interrupted(server):
            announce(f"{place.scheme}://{place.host}:{taken.getsockname()[1]}/{token}/")
            server.run(sockets=[taken])


def make_server(app: Any, place: Place = HERE, quiet_seconds: float = QUIET_SECONDS) -> Any:
    """Make the server of an application, which ends on Ctrl-C.

    Args:
        app: what it serves.
        place: where.
        quiet_seconds: how long a connection may be silent; up to twice as long may pass.
    """
    uvicorn: Any = _need("uvicorn")
    config = uvicorn.Config(
        app,
        http=_impatient(quiet_seconds),
        ws="none",
        log_level="critical",
        access_log=False,
        lifespan="off",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=ENDING_SECONDS,
    )
    config.load()
    config.ssl = place.context
    server = uvicorn.Server(config)
    server.capture_signals = lambda: _until_interrupted(server)
    return server


def _impatient(seconds: float) -> Any:
    """Make the class of connections that are closed when nothing happens on them."""
    h11_impl: Any = _need("uvicorn.protocols.http.h11_impl")

    class Impatient(h11_impl.H11Protocol):
        """A connection that is closed if it neither asks nor takes for some seconds."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._before: Any = None
            self._timer = self.loop.call_later(seconds, self._look)

        def connection_lost(self, problem: Exception | None) -> None:
            self._timer.cancel()
            super().connection_lost(problem)

        def _look(self) -> None:
            """Close the connection where it is as it was when this was called last."""
            waits = self.cycle is None or self.cycle.response_complete
            unsent = self.transport.get_write_buffer_size()
            now = (id(self.cycle), waits, unsent)
            if (waits or unsent) and (self._before == now or self.cycle is None):
                self.transport.abort()
                return
            self._before = now
            self._timer = self.loop.call_later(seconds, self._look)

    return Impatient


def _listen(port: int, host: str) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError as problem:
        listening.close()
        if problem.errno == errno.EADDRNOTAVAIL:
            raise OptionError(
                f"{host} is no address of this computer; pass another `address`, or none"
            ) from None
        raise OptionError(
            f"cannot listen on port {port} ({problem.strerror}); give another `port`, or none"
        ) from None
    return listening


@contextmanager
def _until_interrupted(server: Any) -> Iterator[None]:
    """End the server on Ctrl-C and SIGTERM: that is how it is meant to end."""
    stopping = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, server.handle_exit) for number in stopping}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _need(module: str) -> Any:
    return import_optional(module, "walk", "serving")
