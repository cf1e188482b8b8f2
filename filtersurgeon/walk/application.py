"""What a served walk answers: its page, activations of images, and pictures of channels."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from threading import enumerate as list_threads
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.walk.lan import HERE, Place
from filtersurgeon.walk.making import MOST_SECONDS, Maker, Making, StoppedError, list_able
from filtersurgeon.walk.scene import LARGEST_UPLOAD, Limit

if TYPE_CHECKING:
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
TICK = 0.25
"""Seconds between two lines about progress."""
BODY_SECONDS = 30.0
"""How long an image may take to arrive."""
_WORKER = "fsurgeon walk network"


class _Guard:
    """Answers nothing under an address without the token, whatever else it says."""

    def __init__(self, app: Any, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            given = str(scope["path"]).split("/")[1:2]
            first = "".join(given).encode("utf-8", "replace")
            if not secrets.compare_digest(first, self.token):
                refusal = _plain("this address needs the token that fsurgeon printed", 403)
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)


def application(
    live: LiveWalk,
    page: str,
    token: str,
    body_seconds: float = BODY_SECONDS,
    place: Place = HERE,
) -> Starlette:
    """Make the application.

    Args:
        live: answers images.
        page: the HTML of the walk.
        token: the first part of every address; without it every request is refused alike.
        body_seconds: how long an image may take to arrive.
        place: where it is served.
    """
    handlers = _Handlers(live, page, body_seconds, place.scheme)
    routes = [
        Route("/{token}/", handlers.page, methods=["GET"]),
        Route("/{token}/images", handlers.images, methods=["POST"]),
        Route("/{token}/made", handlers.made, methods=["POST"]),
    ]
    # A page elsewhere could reach this server under a name of its own that points here.
    known = Middleware(TrustedHostMiddleware, allowed_hosts=list(place.hosts))
    return Starlette(routes=routes, middleware=[known, Middleware(_Guard, token=token)])


class _Handlers:
    """Takes requests; the networks run one at a time, beside the server's own work."""

    def __init__(self, live: LiveWalk, page: str, body_seconds: float, scheme: str) -> None:
        self.live = live
        self.html = page.encode()
        self.body_seconds = body_seconds
        self.scheme = scheme
        self.waiting = 0
        self.one = asyncio.Lock()
        self.making: asyncio.Future[Any] | None = None

    async def page(self, _request: Request) -> Response:
        """Give the page."""
        return HTMLResponse(self.html, headers=HEADERS)

    async def images(self, request: Request) -> Response:
        """Take an image file, or the number of one that was made, and give its activations."""
        if not self._is_own(request):
            return _plain("images are taken from the page of this server only", 403)
        if self.waiting >= MOST_WAITING:
            return _plain("busy with other images; try again", 503)
        self.waiting += 1
        try:
            async with asyncio.timeout(self.body_seconds):
                content = await _body(request)
            if content is None:
                return _plain(f"an image may have {LARGEST_UPLOAD // 1_000_000} MB", 413)
            query = request.query_params
            async with self.one:
                found = await _compute(
                    self.live.answer, content, query.get("name", ""), query.get("made")
                )
        except FilterSurgeonError as problem:
            return _plain(str(problem), 400)
        except TimeoutError:
            return _plain(f"an image has to arrive within {self.body_seconds:g} s", 408)
        except ClientDisconnect:
            return _plain("the image did not arrive", 400)
        except Exception as problem:  # of the network, or too little memory
            return _plain(_describe(problem), 500)
        finally:
            self.waiting -= 1
        return JSONResponse(found, headers=HEADERS)

    async def made(self, request: Request) -> Response:
        """Make the picture of a channel; one at a time, for as long as the client listens."""
        if not self._is_own(request):
            return _plain("pictures are made for the page of this server only", 403)
        headers = request.headers
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            return _plain("this request takes no content", 413)
        maker = self.live.maker
        try:
            wish = maker.read(request.query_params)
        except FilterSurgeonError as problem:
            return _plain(str(problem), 400)
        if self.making is not None and not self.making.done():
            return _plain("busy with another picture; wait until it is done, or cancel it", 503)
        making = Making(self.live.seconds)
        self.making = asyncio.ensure_future(_compute(maker.make, wish, making))
        self.making.add_done_callback(_look_at)
        return _Lines(making, self.making)

    def _is_own(self, request: Request) -> bool:
        """Tell whether a page of this server asks; what is no browser states no origin."""
        origin = request.headers.get("origin")
        return origin is None or origin == f"{self.scheme}://{request.headers.get('host', '')}"


class _Lines(Response):
    """Lines of JSON while a picture is made: progress, then the picture or what went wrong.

    The making ends at its next step once nobody listens.
    """

    def __init__(self, making: Making, result: asyncio.Future[Any]) -> None:
        super().__init__(headers=HEADERS, media_type="application/x-ndjson")
        del self.headers["content-length"]
        self.making, self.result = making, result

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        gone = asyncio.ensure_future(_wait_until_gone(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            told = -1
            while not self.result.done() and not gone.done() and not self.making.is_late:
                if told != self.making.done:
                    told = self.making.done
                    await _send_line(send, {"done": told, "total": self.making.total}, more=True)
                await asyncio.wait(
                    {self.result, gone}, timeout=TICK, return_when=asyncio.FIRST_COMPLETED
                )
            if not gone.done():
                await _send_line(send, self._outcome(), more=False)
        finally:
            self.making.stop()
            gone.cancel()

    def _outcome(self) -> dict[str, Any]:
        late = {"problem": "making the picture takes too long; it was ended"}
        if not self.result.done() or self.result.cancelled():
            return late
        problem = self.result.exception()
        if problem is None:
            return dict(self.result.result())
        if isinstance(problem, FilterSurgeonError):
            return {"problem": str(problem)}
        return late if isinstance(problem, EndedError) else {"problem": _describe(problem)}


async def _send_line(send: Any, line: dict[str, Any], more: bool) -> None:
    body = json.dumps(line, separators=(",", ":")).encode() + b"\n"
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _wait_until_gone(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _look_at(result: asyncio.Future[Any]) -> None:
    """Take up a result that nobody may wait for any more; asyncio would complain."""
    if not result.cancelled():
        result.exception()


def _describe(problem: BaseException) -> str:
    return f"the network cannot be run ({type(problem).__name__})"


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
        value: Any = None
        problem: Exception | None = None
        try:
            value = function(*arguments)
        except StoppedError:
            problem = EndedError()
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


class EndedError(Exception):
    """The making of a picture was ended before it was done."""


def describe_server(networks: WalkNetworks) -> dict[str, Any]:
    """Say where the page sends images, and whose pictures can be made."""
    return {
        "images": "images", "largest": LARGEST_UPLOAD, "made": "made", "able": list_able(networks)
    }  # fmt: skip


class LiveWalk:
    """A walk that takes further images, and makes pictures of channels.

    Args:
        networks: the networks.
        network: whose preprocessing images go through; it knows their size.
        limit: how much of the maps is sent.
        maker: makes pictures of channels.
        seconds: how long making one may take.
    """

    def __init__(
        self,
        networks: WalkNetworks,
        network: Network,
        limit: Limit,
        maker: Maker,
        seconds: float = MOST_SECONDS,
    ) -> None:
        self.networks = networks
        self.network = network
        self.limit = limit
        self.maker = maker
        self.seconds = seconds

    def answer(self, content: bytes, name: str, made: str | None = None) -> dict[str, Any]:
        """Run the networks on an image file, or on a picture that was made.

        Args:
            content: the bytes of the file.
            name: what it is called.
            made: the number of the picture, instead of a file.

        Returns:
            What the page's script adds to its scene.

        Raises:
            DataError: it is no image, or one with too many pixels.
            OptionError: the picture is not kept any more.
        """
        from filtersurgeon.walk.record import Blobs, picture_record, seen_record
        from filtersurgeon.walk.scene import ScenePicture

        name = name[:LONGEST_NAME] or "image"
        if made is None:
            picture = open_upload(content, name, self.network)
        else:
            picture = self.maker.picture(made, name)
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
