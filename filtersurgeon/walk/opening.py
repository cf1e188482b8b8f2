"""From checkpoints and image files to a walk that is ready to be shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.walk.scene import Scene
from filtersurgeon.walk.settings import WalkSettings

if TYPE_CHECKING:
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.walk.players import Players

_GREY = (128, 128, 128)


@dataclass(frozen=True)
class Opened:
    """A walk.

    Attributes:
        players: the networks.
        network: the first, whose preprocessing images go through; it knows their size.
        scene: what is shown.
        page: the HTML of it.
    """

    players: Players
    network: Network
    scene: Scene
    page: str


def open_walk(
    checkpoint: Checkpoint,
    images: Sequence[str],
    beside: Checkpoint | None,
    settings: WalkSettings,
    progress: Progress | None,
    tell: Callable[[str], None] | None,
    server: Mapping[str, Any] | None = None,
) -> Opened:
    """Run the networks on images, and make the page; the words are those of ``walk``.

    Args:
        checkpoint: the network.
        images: image files; without any, a grey one.
        beside: a second network.
        settings: what to show.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.
        server: see :func:`~filtersurgeon.walk.page.render`.
    """
    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.see.pictures import open_pictures, sized
    from filtersurgeon.walk.bounding import fit
    from filtersurgeon.walk.page import render
    from filtersurgeon.walk.players import assemble
    from filtersurgeon.walk.scores import check_method

    check_method(settings)
    checkpoints = [checkpoint] if beside is None else [checkpoint, beside]
    networks = [open_network(one, settings.preprocess) for one in checkpoints]
    ready = sized(networks[0], tell)
    pictures = open_pictures(ready, images, None, tell) if images else [_grey(ready)]
    players = assemble(checkpoints, networks, pictures[0], settings, progress, tell)
    scene, page = fit(
        lambda limit: players.scene(pictures, limit),
        lambda scene: render(scene, server),
        settings.max_size,
    )
    if scene.limit.text and tell:
        tell(f"to stay below {settings.max_size:g} MB, {scene.limit.text}")
    return Opened(players, ready, scene, page)


def _grey(network: Network) -> Picture:
    from PIL import Image

    from filtersurgeon.see.pictures import as_picture

    assert network.preprocessing.input_size is not None
    _, height, width = network.preprocessing.input_size
    return as_picture(Image.new("RGB", (width, height), _GREY), "grey", network)
