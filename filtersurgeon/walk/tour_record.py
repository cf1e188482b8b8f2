"""A tour in a walk: its layers found among the panels, and its JSON in the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.walk.scene import NetworkScene
from filtersurgeon.walk.tour import Tour, TourStep


def check_places(tour: Tour, networks: Sequence[NetworkScene]) -> None:
    """Refuse a tour that goes where the networks have nothing.

    Raises:
        LayerError: a step names a layer or channel that is not there; names the near misses.
        OptionError: it names a second network, and there is one.
    """
    for number, step in enumerate(tour.steps, 1):
        line = f", line {step.line}" if step.line else ""
        where = f"{tour.name}{line}: step {number}"
        if not 1 <= step.network <= len(networks):
            raise OptionError(
                f"{where} goes to network {step.network}, and the walk shows {len(networks)}"
            )
        if step.layer is None:
            continue
        network = networks[step.network - 1]
        names = [panel.step.name for panel in network.panels]
        if step.layer not in names:
            close = near_misses(step.layer, names)
            raise LayerError(f"{where}: {network.name} has no layer {step.layer!r}{close}")
        count = network.panels[names.index(step.layer)].shape[0]
        if step.channel is not None and step.channel >= count:
            raise LayerError(
                f"{where}: layer {step.layer} has no channel {step.channel}; "
                f"its {count:,} channels are 0 to {count - 1}"
            )


def tour_record(tour: Tour, networks: Sequence[NetworkScene]) -> dict[str, Any]:
    """Write a tour as the page takes it, its layers as numbers of panels."""
    return {"title": tour.title, "steps": [_step_record(step, networks) for step in tour.steps]}


def _step_record(step: TourStep, networks: Sequence[NetworkScene]) -> dict[str, Any]:
    network = step.network - 1
    return {
        "title": step.title,
        "text": step.text,
        "network": network,
        "panel": None if step.layer is None else networks[network].panel(step.layer),
        "channel": step.channel,
        "view": step.view or ("layer" if step.layer else "stay"),
        "duration": step.duration,
    }


def read_record(content: Mapping[str, Any], networks: Sequence[NetworkScene]) -> Tour:
    """Read what :func:`tour_record` wrote."""

    def step(x: Mapping[str, Any]) -> TourStep:
        panel = x["panel"]
        layer = None if panel is None else networks[x["network"]].panels[panel].step.name
        return TourStep(
            x["text"], x["title"], layer, x["channel"], x["network"] + 1, x["view"], x["duration"]
        )

    return Tour(tuple(map(step, content["steps"])), content["title"])
