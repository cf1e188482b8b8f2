"""The size of image that a network is looked into with."""

from __future__ import annotations

from collections.abc import Callable

from filtersurgeon.learn.networks import Network

USUAL = 224


def image_size(network: Network, tell: Callable[[str], None] | None = None) -> tuple[int, int, int]:
    """Give (channels, height, width) of a network's own images.

    Args:
        network: its preprocessing may state the size.
        tell: told where it does not, and 224 by 224 is taken.
    """
    stated = network.preprocessing.input_size
    if stated is None and tell:
        tell(
            f"{network.name} does not state the size of its images: {USUAL}x{USUAL} is taken; "
            "change it with `preprocess` input_size=C,H,W"
        )
    return stated or (network.preprocessing.channels, USUAL, USUAL)
