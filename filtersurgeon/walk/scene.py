"""A scene: everything that a walk shows, as plain objects that do not depend on a browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import LayerError, near_misses
from filtersurgeon.walk.layout import Place, Step, Way
from filtersurgeon.walk.quantise import Maps
from filtersurgeon.walk.rules import Link, Rule
from filtersurgeon.walk.tour import Tour
from filtersurgeon.walk.weights import Weights

LOOPBACK = "127.0.0.1"
LARGEST_UPLOAD = 20_000_000
"""Bytes of an image file that ``--serve`` takes."""


@dataclass(frozen=True)
class WalkSettings:
    """Settings of a walk.

    Attributes:
        ranking: the method of the filters' scores; None takes the ranking in the checkpoint's
            metadata, else their length (``l2``).
        decode: globs on layers whose channels are shown decoded.
        maximize: globs on layers whose channels are shown by the image that excites them.
        units: which channels of those layers, such as ``0,3,8-11``, or ``all``.
        max_size: of the page, in megabytes (10^6 bytes); None for no bound.
        seed: of what is drawn.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
        tour: steps with text to show in the page: a file of YAML, see
            :func:`~filtersurgeon.walk.tour.read_tour`, or a tour.
    """

    ranking: str | None = None
    decode: tuple[str, ...] = ()
    maximize: tuple[str, ...] = ()
    units: str | None = None
    max_size: float | None = 50.0
    seed: int = 0
    device: str = "auto"
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    tour: str | Path | Tour | None = None


USUAL = WalkSettings()


SCHEMA = "filtersurgeon.walk/1"


@dataclass(frozen=True)
class Panel:
    """A step that is shown.

    Attributes:
        step: what it is; ``feeds`` count panels.
        shape: channels, height and width of its maps as the network computes them.
        place: where it stands.
        section: of the network, see :func:`~filtersurgeon.walk.pairing.sections_of`.
        weights: its filters, if it has any.
        slots: for each of its channels the place among the channels of the panel of the same name
            in the first network, where this is the second and channels were removed; else None.
        lost: number of channels that the first network has here and this one has not.
        links: what happened to the maps of each feed on the way.
        rule: how its values are computed; None for kinds that no page computes.
    """

    step: Step
    shape: tuple[int, int, int]
    place: Place
    section: str
    weights: Weights | None = None
    slots: tuple[int, ...] | None = None
    lost: int = 0
    links: tuple[Link, ...] = ()
    rule: Rule | None = None


@dataclass(frozen=True)
class Guess:
    """A class that a network sees in an image.

    Attributes:
        index: of the class.
        label: its name, or its index in words.
        share: softmax of the output, 0 to 1.
    """

    index: int
    label: str
    share: float


@dataclass(frozen=True)
class Seen:
    """What one network does with one image.

    Attributes:
        maps: of every panel, in their order. They may be smaller than ``Panel.shape`` says.
        guesses: the likeliest classes, best first; empty for networks that give no classes.
    """

    maps: tuple[Maps, ...]
    guesses: tuple[Guess, ...]


@dataclass(frozen=True)
class Made:
    """A picture that belongs to a channel.

    Attributes:
        how: ``decoded`` or ``maximised``.
        pixels: ``(height, width, 3)`` uint8.
        text: what a person should know.
    """

    how: str
    pixels: np.ndarray
    text: str


@dataclass(frozen=True)
class NetworkScene:
    """One network.

    Attributes:
        name: of its file.
        architecture: if it is known.
        panels: in the order of the run, the image first.
        ways: the edges.
        seen: one per image.
        ranking: the method of the scores, or None.
        made: pictures by panel number and channel.
        notes: what people should know, one line each.
        labels: names of the classes, if they are known.
        classes: panels whose channels are the classes.
        scores: the panel that holds the scores of the classes, or None.
    """

    name: str
    architecture: str | None
    panels: tuple[Panel, ...]
    ways: tuple[Way, ...]
    seen: tuple[Seen, ...]
    ranking: str | None = None
    made: Mapping[tuple[int, int], Sequence[Made]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    scores: int | None = None

    def panel(self, name: str) -> int:
        """Give the number of the panel of that name.

        Raises:
            LayerError: there is none; names the near misses.
        """
        names = [panel.step.name for panel in self.panels]
        if name not in names:
            raise LayerError(f"no panel is called {name!r}{near_misses(name, names)}")
        return names.index(name)

    def maps(self, name: str, image: int = 0) -> np.ndarray:
        """Give the maps of a panel as numbers, ``(channels, height, width)`` float32."""
        return self.seen[image].maps[self.panel(name)].dequantised()


@dataclass(frozen=True)
class ScenePicture:
    """An image that the networks were run on.

    Attributes:
        name: of its file.
        pixels: ``(height, width, 3)`` uint8, as the network sees it.
    """

    name: str
    pixels: np.ndarray


@dataclass(frozen=True)
class Limit:
    """What was left out to keep the page small.

    Attributes:
        side: maps are averaged down (adaptive average pooling) to this height and width at most;
            None for no limit.
        channels: only so many first channels of a panel are kept; None for all.
    """

    side: int | None = None
    channels: int | None = None

    @property
    def text(self) -> str:
        """Say so in words; empty where nothing was left out."""
        parts = []
        if self.side is not None:
            parts.append(f"maps larger than {self.side} pixels are averaged down to that")
        if self.channels is not None:
            parts.append(f"only the first {self.channels} channels of a layer are shown")
        return ", and ".join(parts)


WHOLE = Limit()
"""Nothing is left out."""


@dataclass(frozen=True)
class Scene:
    """The content of a walk: networks, images and layers.

    Attributes:
        pictures: the images.
        networks: one, or two to be compared.
        limit: what was left out.
        tour: steps that the page shows one after another, or None.
    """

    pictures: tuple[ScenePicture, ...]
    networks: tuple[NetworkScene, ...]
    limit: Limit = WHOLE
    tour: Tour | None = None

    def __repr__(self) -> str:
        entries = (
            f"{x.name}: {x.architecture or 'unknown architecture'}, {len(x.panels)} panels"
            for x in self.networks
        )
        return summarise(self, entries, images=len(self.pictures), networks=len(self.networks))
