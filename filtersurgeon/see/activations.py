"""Feature maps of chosen layers for an image, the original's beside the edited network's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import LayerError
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.networks.devices import FittingBatches, find_device, move_like
from filtersurgeon.networks.opened_module import analyses_several
from filtersurgeon.plots import tones
from filtersurgeon.plots.sheet import Row
from filtersurgeon.see.gradcam import last_map, short_name
from filtersurgeon.see.layers import choose_layers, output_of, read_units
from filtersurgeon.see.pictures import Picture, open_pictures, stack_pictures

if TYPE_CHECKING:
    from torch import Tensor

Tell = Callable[[str], None]
_MOST = 24


@dataclass(frozen=True)
class LayerMaps:
    """The feature maps of one layer of several checkpoints, for several images.

    Attributes:
        layer: the module's name.
        units: ``n`` indices of channels.
        maps: per checkpoint, ``(images, n, height, width)``; the numbers of channels may differ
            where a network was pruned.
    """

    layer: str
    units: tuple[tuple[int, ...], ...]
    maps: tuple[np.ndarray, ...]

    def to_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Give statistics of each checkpoint's maps."""
        first = self.maps[0]
        return {
            "layer": self.layer,
            "checkpoints": [
                {
                    "name": short_name(name),
                    "units": list(units),
                    "size": list(maps.shape[2:]),
                    "mean": maps.mean((2, 3)).tolist(),
                    "active": (maps > 0).mean((2, 3)).tolist(),
                    "relative_difference": _relative(maps, first),
                }
                for name, units, maps in zip(names, self.units, self.maps, strict=True)
            ],
        }


def _relative(maps: np.ndarray, first: np.ndarray) -> float | None:
    """Give the length of the difference by that of the reference; None where shapes differ."""
    if maps.shape != first.shape:
        return None
    length = float(np.linalg.norm(first))
    return float(np.linalg.norm(maps - first)) / length if length else 0.0


@dataclass(frozen=True)
class Activations:
    """The feature maps of selected layers.

    Attributes:
        names: of the checkpoints; the first is the reference.
        pictures: the images.
        layers: in the natural order of their names.
    """

    names: tuple[str, ...]
    pictures: tuple[Picture, ...]
    layers: tuple[LayerMaps, ...]

    def __repr__(self) -> str:
        entries = (
            f"{x.layer}: {', '.join(str(maps.shape) for maps in x.maps)}" for x in self.layers
        )
        return summarise(
            self,
            entries,
            names=", ".join(self.names),
            images=len(self.pictures),
            layers=len(self.layers),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the statistics in their JSON schema, ``filtersurgeon.activations/1``."""
        return {
            "schema": "filtersurgeon.activations/1",
            "images": [picture.name for picture in self.pictures],
            "layers": [layer.to_json(self.names) for layer in self.layers],
        }

    def rows(self) -> list[Row]:
        """Give a row per image, layer and checkpoint; a channel has one scale in all of them."""
        rows = []
        for place, picture in enumerate(self.pictures):
            rows.append(Row(picture.name, [picture.pixels]))
            for layer in self.layers:
                bounds = _bounds(layer, place)
                for name, units, maps in zip(self.names, layer.units, layer.maps, strict=True):
                    shown = [
                        tones.activation(channel, bounds.get(unit))
                        for unit, channel in zip(units, maps[place], strict=True)
                    ]
                    title = f"{layer.layer}  {short_name(name)}"
                    rows.append(Row(title, shown, [str(unit) for unit in units]))
        return rows


def _bounds(layer: LayerMaps, place: int) -> dict[int, float]:
    """Give the largest magnitude of each channel over the checkpoints."""
    bounds: dict[int, float] = {}
    for units, maps in zip(layer.units, layer.maps, strict=True):
        for unit, channel in zip(units, maps[place], strict=True):
            bounds[unit] = max(bounds.get(unit, 0.0), float(np.abs(channel).max()))
    return bounds


@analyses_several
def activations(
    checkpoints: Sequence[Checkpoint],
    images: Sequence[str] = (),
    *,
    data: DataSpec | str | Any | None = None,
    layers: Iterable[str] | None = None,
    units: str | None = None,
    device: str = "auto",
    preprocess: Mapping[str, Any] | None = None,
    tell: Tell | None = None,
) -> Activations:
    """Compute the feature maps of chosen layers for images.

    Args:
        checkpoints: one or more, or modules in memory; all see the images as the first expects
            them.
        images: image files.
        data: a data set, or images in memory, instead.
        layers: globs on module names; None takes the last one that has a map of positions.
        units: which channels, such as ``0,3,8-11``, or ``all``; None: the first 24.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
        tell: told what was resized or assumed.

    Raises:
        LayerError: no such layer or channel, or a layer without positions.
        DataError: an image cannot be read.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> data = fs.DataSpec("dashes", subset=4)
        >>> found = fs.activations([checkpoint], data=data, units="0-2")
        >>> found.layers[0].maps[0].shape
        (4, 3, 5, 5)
    """
    networks = [open_network(checkpoint, preprocess) for checkpoint in checkpoints]
    pictures = open_pictures(networks[0], images, data, tell)
    batch = stack_pictures(pictures)
    globs = list(layers or ())
    with running(networks[0].name):
        default = [] if globs else [last_map(networks[0].model, batch[:1])]
    found = []
    for name in choose_layers(networks[0].model, globs, default):
        seen = [_maps(network, name, batch, units, device) for network in networks]
        found.append(LayerMaps(name, tuple(u for u, _ in seen), tuple(m for _, m in seen)))
    return Activations(tuple(n.name for n in networks), tuple(pictures), tuple(found))


def _maps(
    network: Network, layer: str, images: Tensor, units: str | None, device: str
) -> tuple[tuple[int, ...], np.ndarray]:
    import torch

    if layer not in dict(network.model.named_modules()):
        raise LayerError(f"{network.name} has no layer {layer}; choose another with `layers`")
    model = network.model.to(find_device(device))

    def see(batch: Tensor) -> tuple[list[int], np.ndarray]:
        output = output_of(model, layer, move_like(batch, model))
        if output.ndim != 4:
            raise LayerError(f"layer {layer} has no map of positions; choose another with `layers`")
        chosen = read_units(units, output.shape[1], layer, _MOST)
        return list(chosen), output[:, chosen].cpu().double().numpy()

    with running(network.name), torch.no_grad():
        found = [seen for seen, _ in FittingBatches(len(images)).run(see, images)]
    return tuple(found[0][0]), np.concatenate([maps for _, maps in found])
