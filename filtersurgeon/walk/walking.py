"""``walk``: from checkpoints and images to one page in three dimensions, below a given size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import OptionError
from filtersurgeon.networks.opened_module import analyses_modules, open_like
from filtersurgeon.walk.scene import USUAL, Limit, Scene, WalkSettings
from filtersurgeon.walk.tour import Tour, read_tour
from filtersurgeon.walk.tour_record import check_places

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.walk.walk_networks import WalkNetworks

_GREY = (128, 128, 128)


@dataclass(frozen=True)
class Opened:
    """The content of a walk: networks, images and layers.

    Attributes:
        checkpoints: one or two.
        networks: theirs.
        network: the first, whose preprocessing images go through; it knows their size.
        scene: what is shown.
        page: the HTML of it.
    """

    checkpoints: tuple[Checkpoint, ...]
    networks: WalkNetworks
    network: Network
    scene: Scene
    page: str


def open_walk(
    checkpoint: Checkpoint,
    images: Any,
    beside: Checkpoint | nn.Module | None,
    settings: WalkSettings,
    progress: Progress | None,
    tell: Callable[[str], None] | None,
    server: Callable[[WalkNetworks], Mapping[str, Any]] | None = None,
) -> Opened:
    """Run the networks on images, and make the page; the words are those of ``walk``.

    Args:
        checkpoint: the network.
        images: image files; without any, a grey one.
        beside: a second network.
        settings: what to show.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.
        server: gives what the page may ask a server for, see
            :func:`~filtersurgeon.walk.record.render`; None where there is none.
    """
    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.see.pictures import are_files, open_pictures, set_image_size
    from filtersurgeon.walk.record import render
    from filtersurgeon.walk.walk_networks import assemble, check_method

    check_method(settings)
    tour = settings.tour
    if tour is not None and not isinstance(tour, Tour):
        tour = read_tour(tour)
    checkpoints = [checkpoint]
    if beside is not None:
        checkpoints.append(open_like(beside, checkpoint))
    networks = [open_network(one, settings.preprocess) for one in checkpoints]
    ready = set_image_size(networks[0], tell)
    pictures = [_grey(ready)]
    if not are_files(images) or images:
        pictures = open_pictures(ready, images, None, tell)
    walked = assemble(checkpoints, networks, pictures[0], settings, progress, tell)
    if tour is not None:
        check_places(tour, walked.bases)
    scene, page = fit(
        lambda limit: replace(walked.scene(pictures, limit), tour=tour),
        lambda scene: render(scene, server and server(walked)),
        settings.max_size,
    )
    if scene.limit.text and tell:
        tell(f"to stay below {settings.max_size:g} MB, {scene.limit.text}")
    return Opened(tuple(checkpoints), walked, ready, scene, page)


def _grey(network: Network) -> Picture:
    from PIL import Image

    from filtersurgeon.see.pictures import as_picture

    assert network.preprocessing.input_size is not None
    _, height, width = network.preprocessing.input_size
    return as_picture(Image.new("RGB", (width, height), _GREY), "grey", network)


MEGABYTE = 1_000_000
SMALLEST_SIDE = 4
FEWEST_CHANNELS = 16


def fit(
    compose: Callable[[Limit], Scene], render: Callable[[Scene], str], max_size: float | None
) -> tuple[Scene, str]:
    """Find the largest scene whose page is small enough.

    First the maps are averaged down, to three quarters of their largest side again and again;
    then, at 4 pixels, the channels of a layer are halved down to 16.

    Args:
        compose: makes the scene at a limit.
        render: makes its page.
        max_size: in megabytes; None for no bound.

    Raises:
        OptionError: even the least is too large.
    """
    scene = compose(Limit())
    page = render(scene)
    most = float("inf") if max_size is None else max_size * MEGABYTE
    least = len(page.encode())
    if least <= most:
        return scene, page
    seen = [one for network in scene.networks for one in network.seen]
    shapes = [maps.values.shape for one in seen for maps in one.maps]
    steps = list(limits(shapes))
    best: tuple[Scene, str] | None = None
    low, high = 0, len(steps)
    while low < high:  # the harsher the limit, the smaller the page
        middle = (low + high) // 2
        tried = compose(steps[middle])
        text = render(tried)
        size = len(text.encode())
        if size <= most:
            best, high = (tried, text), middle
        else:
            low, least = middle + 1, size
    if best is None:
        raise OptionError(
            f"even with {FEWEST_CHANNELS} channels of {SMALLEST_SIDE} pixels the page takes "
            f"{least / MEGABYTE:.1f} MB; pass fewer images, or raise `max_size`"
        )
    return best


def limits(shapes: Sequence[tuple[int, ...]]) -> Iterator[Limit]:
    """List limits from the mildest to the harshest."""
    side = max(max(shape[1:]) for shape in shapes)
    while side > SMALLEST_SIDE:
        side = max(SMALLEST_SIDE, side * 3 // 4)
        yield Limit(side)
    channels = max(shape[0] for shape in shapes)
    while channels > FEWEST_CHANNELS:
        channels = max(FEWEST_CHANNELS, channels // 2)
        yield Limit(SMALLEST_SIDE, channels)


@analyses_modules
def walk(
    checkpoint: Checkpoint,
    path: str | Path,
    images: Sequence[str] | Any = (),
    beside: Checkpoint | nn.Module | None = None,
    settings: WalkSettings = USUAL,
    *,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Scene:
    """Write one HTML file to explore a network in 3-D, in a browser, offline.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, chapter 4.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        path: where to; ends in ``.html``.
        images: image files to run it on; may be several. Or images in memory.
        beside: a second network, such as the first after pruning, shown beside it with gaps for
            the channels that it has lost.
        settings: what to show.
        progress: told what is done and what is to be done, of pictures that are made.
        tell: told what was assumed or left out.

    Returns:
        What is shown.

    Raises:
        OptionError: no image, a tour that cannot be read, or a page that cannot be made as small
            as ``max_size``.
        LayerError: the tour goes to a layer or channel that is not there.
        GraphError: the network cannot be followed.
        ArchitectureError: it cannot be built or run.
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> from PIL import Image
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     image = Path(folder, "grey.png")
        ...     Image.new("RGB", (160, 160), "grey").save(image)
        ...     scene = fs.walk(checkpoint, Path(folder, "walk.html"), [str(image)])
        >>> scene.networks[0].maps("conv1.0").shape
        (16, 80, 80)
    """
    from filtersurgeon.checkpoint.atomic import write_bytes
    from filtersurgeon.see.pictures import are_files

    if are_files(images) and not images:
        raise OptionError("no image to run the network on: pass one with `images` FILE")
    opened = open_walk(checkpoint, images, beside, settings, progress, tell)
    write_bytes(Path(path), opened.page.encode())
    return opened.scene
