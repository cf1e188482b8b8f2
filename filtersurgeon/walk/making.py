"""Pictures of channels made while a walk is served: decoded or maximised, one at a time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Event, Lock
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.walk.scene import WalkSettings

if TYPE_CHECKING:
    from filtersurgeon.learn.networks import Network
    from filtersurgeon.see.pictures import Picture
    from filtersurgeon.walk.walk_networks import MadeImage, WalkNetworks

WAYS = ("maximize", "decode")
MOST_SECONDS = 900.0
"""How long making one picture may take."""
MOST_KEPT = 8
"""Pictures that can be fed back in; older ones are forgotten."""


class StoppedError(BaseException):
    """Ends the making of a picture; no handler of errors on the way takes it for one of its own."""


@dataclass(frozen=True)
class Wish:
    """A picture that is wanted.

    Attributes:
        how: ``maximize`` or ``decode``.
        network: its number, from 0.
        layer: the module's name.
        unit: the channel.
    """

    how: str
    network: int
    layer: str
    unit: int


class Making:
    """A picture that is being made: how far it is, and whether it should end.

    Attributes:
        done: steps done.
        total: steps in all; 0 while that is not known.
    """

    def __init__(self, seconds: float = MOST_SECONDS) -> None:
        self.done, self.total = 0, 0
        self._stop = Event()
        self._end = monotonic() + seconds

    def stop(self) -> None:
        """Have it end at its next step."""
        self._stop.set()

    @property
    def is_late(self) -> bool:
        """Tell whether its time is over."""
        return monotonic() > self._end

    def __call__(self, done: int, total: int) -> None:
        """Take progress, see :data:`~filtersurgeon.checkpoint.progress.Progress`.

        Raises:
            StoppedError: nobody waits for the picture any more, or its time is over.
        """
        if self._stop.is_set() or self.is_late:
            raise StoppedError
        self.done, self.total = done, total


class Maker:
    """Makes pictures of channels, and keeps the last of them to be fed back in.

    Args:
        checkpoints: the networks, as the verbs open them.
        networks: what is shown of them.
        network: whose preprocessing images go through; it knows their size.
        settings: of the walk.
    """

    def __init__(
        self,
        checkpoints: Sequence[Checkpoint],
        networks: WalkNetworks,
        network: Network,
        settings: WalkSettings,
    ) -> None:
        self.checkpoints = tuple(checkpoints)
        self.network, self.settings = network, settings
        self._layers = [base.panels for base in networks.bases]
        self.able = list_able(networks)
        self._kept: OrderedDict[int, MadeImage] = OrderedDict()
        self._count = 0
        self._lock = Lock()

    def read(self, query: Mapping[str, str]) -> Wish:
        """Read what is wanted from the query of a request.

        Raises:
            OptionError: a word is missing or unknown.
            LayerError: there is no such layer or channel, or its pictures cannot be made.
        """
        how = query.get("how", "")
        if how not in WAYS:
            raise OptionError(f"a picture is not made by {how[:20]!r}{near_misses(how, WAYS)}")
        network, panel, unit = (_whole(query, key) for key in ("network", "panel", "unit"))
        if network >= len(self._layers) or panel not in self.able[network]:
            raise LayerError("the channels of this panel have no pictures; choose a layer")
        found = self._layers[network][panel]
        count = found.shape[0]
        if unit >= count:
            raise LayerError(
                f"layer {found.step.name} has no channel {unit}; its {count:,} channels are 0 to "
                f"{count - 1}"
            )
        return Wish(how, network, found.step.name, unit)

    def make(self, wish: Wish, progress: Progress) -> dict[str, Any]:
        """Make a picture.

        Args:
            wish: what.
            progress: told steps done and steps in all; may end the making by an exception.

        Returns:
            What the page's script adds to its scene.

        Raises:
            ArchitectureError: the network cannot be run so.
            LayerError: the layer does not give maps.
        """
        from filtersurgeon.walk.record import Blobs, made_record
        from filtersurgeon.walk.walk_networks import decode_images, maximize_images

        settings = self.settings
        common: dict[str, Any] = {
            "units": str(wish.unit), "device": settings.device, "progress": progress,
            "preprocess": dict(settings.preprocess), "tell": None,
        }  # fmt: skip
        checkpoint, layers = self.checkpoints[wish.network], [wish.layer]
        if wish.how == "decode":
            [image] = decode_images(checkpoint, layers, **common)
        else:
            [image] = maximize_images(checkpoint, layers, seed=settings.seed, **common)
        blobs = Blobs()
        record = made_record(image.made, blobs)
        return {"made": {**record, "id": self._keep(image)}, "blobs": blobs.texts}

    def _keep(self, image: MadeImage) -> int:
        with self._lock:
            self._count += 1
            self._kept[self._count] = image
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return self._count

    def picture(self, number: str, name: str) -> Picture:
        """Give a picture that was made as an image for the networks.

        A generated image is given as it is; a decoded filter in the middle of grey, its largest
        value the brightest or darkest colour.

        Args:
            number: its ``id``.
            name: what it is called.

        Raises:
            OptionError: it is not kept any more, or does not fit the first network.
        """
        import torch

        from filtersurgeon.plots.tones import photograph
        from filtersurgeon.see.pictures import Picture, image_size

        with self._lock:
            image = self._kept.get(int(number)) if _is_whole(number) else None
        if image is None:
            raise OptionError("this image is not kept any more; make it again")
        spec = self.network.preprocessing
        mean, std = (np.reshape(np.array(x, float), (-1, 1, 1)) for x in (spec.mean, spec.std))
        values = np.asarray(image.values, np.float64)
        if image.made.how == "decoded":
            values = (0.5 + values / (2 * (float(np.abs(values).max()) or 1.0)) - mean) / std
        size = image_size(self.network)
        if values.shape[0] != size[0]:
            raise OptionError("this image has other channels than those of the first network")
        grey = np.broadcast_to((0.5 - mean) / std, size)
        fitted = put_in_the_middle(values, grey).astype(np.float32)
        pixels = photograph(fitted, np.array(spec.mean), np.array(spec.std))
        return Picture(name, torch.from_numpy(fitted), pixels)


def list_able(networks: WalkNetworks) -> list[list[int]]:
    """List for each network the panels whose channels can be decoded or maximised."""
    return [
        _list_modules(base.panels, {name for name, _ in prepared.network.model.named_modules()})
        for base, prepared in zip(networks.bases, networks.all_prepared, strict=True)
    ]


def _list_modules(panels: Sequence[Any], names: set[str]) -> list[int]:
    """List the panels of modules; wildcards in a name would stand for several."""
    return [
        number
        for number, panel in enumerate(panels)
        if panel.step.name in names and not set(panel.step.name) & set("*?[!")
    ]


def put_in_the_middle(values: np.ndarray, canvas: np.ndarray) -> np.ndarray:
    """Put an image in the middle of another of any size; what does not fit is cut off.

    Args:
        values: ``(channels, height, width)``.
        canvas: as many channels; it is not changed.
    """
    result = np.array(canvas)
    places = []
    for own, whole in zip(values.shape[1:], canvas.shape[1:], strict=True):
        size, to, start = min(own, whole), max(0, whole - own) // 2, max(0, own - whole) // 2
        places.append((slice(to, to + size), slice(start, start + size)))
    (rows, own_rows), (columns, own_columns) = places
    result[:, rows, columns] = values[:, own_rows, own_columns]
    return result


def _is_whole(word: str) -> bool:
    return word.isascii() and word.isdecimal() and len(word) < 10


def _whole(query: Mapping[str, str], key: str) -> int:
    word = query.get(key, "")
    if not _is_whole(word):
        raise OptionError(f"{key} should be a whole number, not {word[:20]!r}")
    return int(word)
