"""What filters and classes look for, decoded into image space."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.learn.networks import Network, classifier, running
from filtersurgeon.plots.sheet import Row
from filtersurgeon.report.reporting import Section, Subject, sheet

if TYPE_CHECKING:
    from filtersurgeon.see.decoding import Decoded

_UNITS = 12


def decoded(subject: Subject) -> Section | None:
    """Decode the first units of an early, a middle and the last layer of each network."""
    if subject.network is None:
        return None
    rows = []
    named = (("", subject.network), (" before", subject.network_before))
    if subject.network_before:
        named = ((" after", subject.network), (" before", subject.network_before))
    for suffix, network in named:
        if network is not None:
            rows += list(_rows(network, subject.settings.device, suffix))
    if not rows:
        return None
    text = (
        "Each unit is replaced by its filter, every value of that by the filter below it, and so "
        "on down to the image. Grey, or white, is zero."
    )
    caption = "Decoded units with their numbers; the last layer's are classes."
    return Section("Decoded filters", (text,), (), (sheet(rows, caption, tile=80, columns=_UNITS),))


def _rows(network: Network, device: str, suffix: str) -> Iterator[Row]:
    from filtersurgeon.see.decoding import decoded_rows

    for find in _finders(network, device):
        try:
            with running(network.name):
                found = find()
        except FilterSurgeonError:
            continue
        for row in decoded_rows(found):
            yield Row(row.title + suffix, row.pictures, row.labels)


def _finders(network: Network, device: str) -> Iterator[Callable[[], Decoded]]:
    from torch import nn

    from filtersurgeon.see.decoding import decode_units
    from filtersurgeon.see.linearise import find_canvas
    from filtersurgeon.see.pictures import image_size

    spatial = [
        name
        for name, module in network.model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
    chosen = [*spatial[:1], *spatial[len(spatial) // 3 : len(spatial) // 3 + 1]]
    for name in dict.fromkeys([*chosen, classifier(network.model)[0]]):

        def find(layer: str = name) -> Decoded:
            canvas = find_canvas(network.model, layer, image_size(network), "bilinear", device)
            return decode_units(canvas, range(min(_UNITS, canvas.channels)))

        yield find
