"""Pages that stay below a size: the largest scene that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from filtersurgeon.errors import OptionError
from filtersurgeon.walk.scene import Limit, Scene

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
            f"{least / MEGABYTE:.1f} MB; name fewer images, or raise `max_size`"
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
