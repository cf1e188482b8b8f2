"""``walk --serve``: the walk from a server on this computer, for images as they come."""

from __future__ import annotations

import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BytesIO
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.walk.scene import Limit
from filtersurgeon.walk.settings import LARGEST_UPLOAD, LOOPBACK, USUAL, WalkSettings

if TYPE_CHECKING:
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.walk.players import Players

MOST_PIXELS = 50_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
LONGEST_NAME = 120
_SERVER = {"images": "images", "largest": LARGEST_UPLOAD}
"""What the page is told of where to send images."""


class LiveWalk:
    """A walk that takes further images.

    Args:
        players: the networks.
        network: whose preprocessing images go through; it knows their size.
        limit: how much of the maps is sent.
    """

    def __init__(self, players: Players, network: Network, limit: Limit) -> None:
        self.players = players
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
        seen = self.players.see(picture, self.limit)
        pairs = zip(seen, self.players.bases, strict=True)
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
    from PIL import Image

    from filtersurgeon.see.pictures import as_picture

    try:
        # The header tells the size; a file of a few bytes can claim to be huge.
        with Image.open(BytesIO(content), formats=FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise DataError(f"{name} has more than {MOST_PIXELS // 1_000_000} million pixels")
            opened.load()
            image = opened.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise DataError(f"{name} is not an image that can be read ({problem})") from None
    return as_picture(image, name, network)


def serve_walk(
    checkpoint: Checkpoint,
    images: Sequence[str] = (),
    beside: Checkpoint | None = None,
    settings: WalkSettings = USUAL,
    *,
    port: int = 0,
    announce: Callable[[str], None] = print,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Serve a walk on this computer until it is interrupted; images can be sent to it.

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
    from filtersurgeon.walk.asgi import application
    from filtersurgeon.walk.opening import open_walk

    taken = _listen(port)
    with taken:
        walk = open_walk(checkpoint, images, beside, settings, progress, tell, _SERVER)
        live = LiveWalk(walk.players, walk.network, walk.scene.limit)
        token = secrets.token_urlsafe(24)
        app = application(live, walk.page, token)
        config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off")
        server = uvicorn.Server(config)
        server.capture_signals = lambda: _until_interrupted(server)
        announce(f"http://{LOOPBACK}:{taken.getsockname()[1]}/{token}/")
        server.run(sockets=[taken])


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
