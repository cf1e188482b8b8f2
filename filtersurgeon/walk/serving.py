"""``walk --serve``: the walk from a server on this computer, for images as they are sent."""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from threading import Thread
from threading import enumerate as list_threads
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import FilterSurgeonError, OptionError
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.walk.scene import LARGEST_UPLOAD, LOOPBACK, USUAL, Limit, WalkSettings

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.walk.walk_networks import WalkNetworks

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_WAITING = 4
BODY_SECONDS = 30.0
"""How long an image may take to arrive."""
QUIET_SECONDS = 15.0
"""How long a connection may neither ask for anything nor take what it is sent."""
MOST_CONNECTIONS = 64
ENDING_SECONDS = 1
"""How long requests may go on after Ctrl-C."""
_WORKER = "fsurgeon walk network"


def application(
    live: LiveWalk, page: str, token: str, body_seconds: float = BODY_SECONDS
) -> Starlette:
    """Make the application.

    Args:
        live: answers images.
        page: the HTML of the walk.
        token: the first part of every address; without it every request is refused alike.
        body_seconds: how long an image may take to arrive.
    """
    handlers = _Handlers(live, page, token, body_seconds)
    routes = [
        Route("/{token}/", handlers.page, methods=["GET"]),
        Route("/{token}/images", handlers.images, methods=["POST"]),
    ]
    # A page elsewhere could reach this server under a name of its own that points here.
    known = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    return Starlette(routes=routes, middleware=[known])


class _Handlers:
    """Takes requests; the networks run one at a time, beside the server's own work."""

    def __init__(self, live: LiveWalk, page: str, token: str, body_seconds: float) -> None:
        self.live = live
        self.html = page.encode()
        self.token = token.encode()
        self.body_seconds = body_seconds
        self.waiting = 0
        self.one = asyncio.Lock()

    def _is_known(self, request: Request) -> bool:
        given = str(request.path_params["token"]).encode("utf-8", "replace")
        return secrets.compare_digest(given, self.token)

    async def page(self, request: Request) -> Response:
        """Give the page."""
        if not self._is_known(request):
            return _plain("not found", 404)
        return HTMLResponse(self.html, headers=HEADERS)

    async def images(self, request: Request) -> Response:
        """Take an image file and give its activations."""
        if not self._is_known(request):
            return _plain("not found", 404)
        if not _is_own(request):
            return _plain("images are taken from the page of this server only", 403)
        if self.waiting >= MOST_WAITING:
            return _plain("busy with other images; try again", 503)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.body_seconds):
                content = await _body(request)
            if content is None:
                return _plain(f"an image may have {LARGEST_UPLOAD // 1_000_000} MB", 413)
            name = request.query_params.get("name", "")
            async with self.one:
                found = await _compute(self.live.answer, content, name)
        except FilterSurgeonError as problem:
            return _plain(str(problem), 400)
        except TimeoutError:
            return _plain(f"an image has to arrive within {self.body_seconds:g} s", 408)
        except ClientDisconnect:
            return _plain("the image did not arrive", 400)
        except Exception as problem:  # of the network, or too little memory
            return _plain(f"the network cannot be run ({type(problem).__name__})", 500)
        finally:
            self.waiting -= 1
        return JSONResponse(found, headers=HEADERS)


def _is_own(request: Request) -> bool:
    """Tell whether a browser sends a request for a page of this server; others send no origin."""
    origin = request.headers.get("origin")
    return origin is None or origin == f"http://{request.headers.get('host', '')}"


async def _compute(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a thread that is left behind when the server ends before it does."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Any] = loop.create_future()

    def tell(value: Any, problem: Exception | None) -> None:
        if result.done():  # the server has ended
            return
        if problem is None:
            result.set_result(value)
        else:
            result.set_exception(problem)

    def run() -> None:
        value, problem = None, None
        try:
            value = function(*arguments)
        except Exception as error:
            problem = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, value, problem)

    Thread(target=run, name=_WORKER, daemon=True).start()
    return await result


def is_computing() -> bool:
    """Tell whether a network still runs for a request that the server has given up."""
    return any(thread.name == _WORKER for thread in list_threads())


async def _body(request: Request) -> bytes | None:
    """Read a request to its end; None where it is too long, without reading on."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > LARGEST_UPLOAD:
        return None
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_UPLOAD:
            return None
    return bytes(content)


def _plain(text: str, code: int) -> Any:
    return PlainTextResponse(text, code, HEADERS)


LONGEST_NAME = 120
_SERVER = {"images": "images", "largest": LARGEST_UPLOAD}
"""Where the page sends images."""


class LiveWalk:
    """A walk that takes further images.

    Args:
        networks: the networks.
        network: whose preprocessing images go through; it knows their size.
        limit: how much of the maps is sent.
    """

    def __init__(self, networks: WalkNetworks, network: Network, limit: Limit) -> None:
        self.networks = networks
        self.network = network
        self.limit = limit

    def answer(self, content: bytes, name: str) -> dict[str, Any]:
        """Run the networks on an image file.

        Args:
            content: the bytes of the file.
            name: what it is called.

        Returns:
            What the page's script adds to its scene.

        Raises:
            DataError: it is no image, or one with too many pixels.
        """
        from filtersurgeon.walk.record import Blobs, picture_record, seen_record
        from filtersurgeon.walk.scene import ScenePicture

        picture = open_upload(content, name[:LONGEST_NAME] or "image", self.network)
        blobs = Blobs()
        seen = self.networks.see(picture, self.limit)
        pairs = zip(seen, self.networks.bases, strict=True)
        return {
            "picture": picture_record(ScenePicture(picture.name, picture.pixels), blobs),
            "seen": [seen_record(one, base.panels, blobs) for one, base in pairs],
            "blobs": blobs.texts,
        }


def open_upload(content: bytes, name: str, network: Network) -> Picture:
    """Open an image that came from outside.

    Raises:
        DataError: it is no image of a usual format, or has too many pixels.
    """
    from filtersurgeon.data.opening import open_image
    from filtersurgeon.see.pictures import as_picture

    return as_picture(open_image(content, name), name, network)


@analyses_modules
def serve_walk(
    checkpoint: Checkpoint,
    images: Sequence[str] | Any = (),
    beside: Checkpoint | nn.Module | None = None,
    settings: WalkSettings = USUAL,
    *,
    port: int = 0,
    announce: Callable[[str], None] = print,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Serve a walk on this computer until interrupted, and accept further images.

    It listens on 127.0.0.1 only, answers only under an address with a random token, and serves
    nothing but the page and the activations of the images that it is sent.

    Args:
        checkpoint: the network.
        images: image files to begin with; without any, a grey one.
        beside: see :func:`~filtersurgeon.walk.walking.walk`.
        settings: what to show.
        port: where to listen; 0 for any that is free.
        announce: told the address, once it can be opened.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.

    Raises:
        OptionError: the port is taken, or the server's packages are not installed.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> fs.serve_walk(checkpoint, port=8000)  # doctest: +SKIP
        http://127.0.0.1:8000/...
    """
    uvicorn: Any = _require("uvicorn")
    _require("starlette")
    from filtersurgeon.walk.walking import open_walk

    taken = _listen(port)
    with taken:
        walk = open_walk(checkpoint, images, beside, settings, progress, tell, _SERVER)
        live = LiveWalk(walk.networks, walk.network, walk.scene.limit)
        token = secrets.token_urlsafe(24)
        app = application(live, walk.page, token)
        config = uvicorn.Config(
            app,
            http=_impatient(QUIET_SECONDS),
            ws="none",
            log_level="critical",
            access_log=False,
            lifespan="off",
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
        server = uvicorn.Server(config)
        server.capture_signals = lambda: _until_interrupted(server)
        announce(f"http://{LOOPBACK}:{taken.getsockname()[1]}/{token}/")
        server.run(sockets=[taken])


def _impatient(seconds: float) -> Any:
    """Make the class of connections that are closed when nothing happens on them."""
    h11_impl: Any = _require("uvicorn.protocols.http.h11_impl")

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


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((LOOPBACK, port))
        listening.listen()
    except OSError as problem:
        listening.close()
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


def _require(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as problem:
        raise OptionError(
            f"serving needs {package} ({problem}): pip install 'filtersurgeon[walk]'"
        ) from None
