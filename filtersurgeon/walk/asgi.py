"""The application behind ``walk --serve``: a page, and activations for images that are sent."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.walk.settings import LARGEST_UPLOAD, LOOPBACK

if TYPE_CHECKING:
    from filtersurgeon.walk.serving import LiveWalk

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
MOST_WAITING = 4


def application(live: LiveWalk, page: str, token: str) -> Starlette:
    """Make the application.

    Args:
        live: answers images.
        page: the HTML of the walk.
        token: the first part of every address; without it nothing is told from nothing.
    """
    desk = _Desk(live, page, token)
    routes = [
        Route("/{token}/", desk.page, methods=["GET"]),
        Route("/{token}/images", desk.images, methods=["POST"]),
    ]
    # A page elsewhere could reach this server under a name of its own that points here.
    known = Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost"])
    return Starlette(routes=routes, middleware=[known])


class _Desk:
    """Takes requests; the networks run one at a time, beside the server's own work."""

    def __init__(self, live: LiveWalk, page: str, token: str) -> None:
        self.live = live
        self.html = page.encode()
        self.token = token.encode()
        self.waiting = 0
        self.one = CapacityLimiter(1)

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
        if self.waiting >= MOST_WAITING:
            return _plain("busy with other images; try again", 503)
        self.waiting += 1
        try:
            content = await _body(request)
            if content is None:
                return _plain(f"an image may have {LARGEST_UPLOAD // 1_000_000} MB", 413)
            name = request.query_params.get("name", "")
            found = await to_thread.run_sync(self.live.answer, content, name, limiter=self.one)
        except FilterSurgeonError as problem:
            return _plain(str(problem), 400)
        finally:
            self.waiting -= 1
        return JSONResponse(found, headers=HEADERS)


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
