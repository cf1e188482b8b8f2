"""The page of a walk: one file that holds the scene, the script and the style."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from importlib.resources import files
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.errors import DataError
from filtersurgeon.plots.page import fill_page, script_data
from filtersurgeon.walk.record import record, scene_of
from filtersurgeon.walk.scene import SCHEMA, Scene

_DATA = re.compile(r'<script type="application/json" id="scene">(.*?)</script>', re.DOTALL)
_BLOB = re.compile(r'<script type="text/plain" class="blob">(.*?)</script>', re.DOTALL)


def client() -> str:
    """Give the script that runs in the browser, bundled from ``client/`` of the repository."""
    return files("filtersurgeon.walk").joinpath("client.js").read_text("utf-8")


def render(scene: Scene, server: Mapping[str, Any] | None = None) -> str:
    """Make the page of a scene.

    Args:
        scene: what is shown.
        server: what a page that is served may ask for; None for a page that asks for nothing.
    """
    content, texts = record(scene)
    if server is not None:
        content["server"] = dict(server)
    names = " and ".join(network.name for network in scene.networks)
    return fill_page(
        "walk.html",
        title=f"A walk through {names}",
        data=script_data(content),
        blobs=texts,
        script=client(),
        connect="'self'" if server is not None else "'none'",
    )


def read_walk(path: str | Path) -> Scene:
    """Read the scene in a page that :func:`~filtersurgeon.walk.walking.walk` wrote.

    Raises:
        DataError: it is no such page.

    Examples:
        >>> import filtersurgeon as fs
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     page, image = Path(folder, "walk.html"), Path(folder, "grey.png")
        ...     Image.new("RGB", (160, 160), "grey").save(image)
        ...     _ = fs.walk(checkpoint, page, [str(image)])
        ...     scene = fs.read_walk(page)
        >>> scene.networks[0].maps("conv1.0").shape
        (16, 80, 80)
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise DataError(f"{path}: cannot be read ({problem})") from None
    found = _DATA.search(text)
    try:
        content = parse_json(unescape(found[1])) if found else {}
        if content.get("schema") == SCHEMA:
            return scene_of(content, _BLOB.findall(text))
    except (ValueError, TypeError, LookupError, AttributeError) as problem:
        raise DataError(f"{path} is a damaged page of fsurgeon walk ({problem})") from None
    raise DataError(f"{path} is not a page of fsurgeon walk")
