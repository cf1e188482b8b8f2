"""Activation maximisation: images that excite a channel or a class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OutputError
from filtersurgeon.learn.networks import Network, classifier, open_network, running
from filtersurgeon.networks.devices import FittingBatches, device_of, find_device, mix
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.plots.sheet import Row
from filtersurgeon.plots.tones import stretched
from filtersurgeon.see.ascent import AscentSettings, ascend, first_images, objective
from filtersurgeon.see.layers import choose_layers, output_of, read_units, units_note
from filtersurgeon.see.pictures import image_size

_ASCENT = AscentSettings()


@dataclass(frozen=True)
class Maximised:
    """The images that maximise the units of one layer.

    Attributes:
        layer: the module's name.
        units: ``n`` indices of channels.
        images: ``(n, channels, height, width)`` float32, normalised as the network expects.
        before: ``(n,)`` mean activation of each unit on the noise that its image began as.
        after: ``(n,)`` the same on its image; both measured by the network as it is.
        recognised: share of images that the network takes for their class, 0 to 1; None for
            layers other than the last.
    """

    layer: str
    units: tuple[int, ...]
    images: np.ndarray
    before: np.ndarray
    after: np.ndarray
    recognised: float | None

    def __repr__(self) -> str:
        return summarise(
            self,
            layer=self.layer,
            units=len(self.units),
            images=self.images.shape,
            recognised=self.recognised,
        )

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a maximisation."""
        return {
            "layer": self.layer,
            "units": list(self.units),
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "mean": float(self.after.mean()),
            "recognised": self.recognised,
        }

    def row(self) -> Row:
        """Give the images as a row of a sheet, each with its activation."""
        labels = [f"{u}: {a:.1f}" for u, a in zip(self.units, self.after, strict=True)]
        title = f"{self.layer or 'output'}  unit: activation"
        return Row(title, [stretched(image) for image in self.images], labels)


@analyses_modules
def maximize(
    checkpoint: Checkpoint,
    settings: AscentSettings = _ASCENT,
    *,
    layers: Iterable[str] | None = None,
    units: str | None = None,
    batch_size: int = 16,
    device: str = "auto",
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Maximised]:
    """Generate images that maximise the mean activation of channels, or class scores.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 5.3 and Eq. 5.1.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        settings: of the ascent.
        layers: globs on module names; None takes the classifier, whose units are the classes.
        units: which units of each layer, such as ``0,3,8-11``, or ``all``; None: the first 64.
        batch_size: units side by side; the images do not depend on it, up to rounding.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told steps done and steps in all, each of one image.
        tell: told what was assumed.

    Raises:
        LayerError: no such layer or unit; names the near misses.
        ArchitectureError: the network cannot be built, or has no rectifier that could leak.
        OptionError: unusable settings.
        OutOfMemoryError: a batch does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> [found] = fs.maximize(checkpoint, fs.AscentSettings(steps=2), units="0,1")
        >>> found.images.shape, found.after.shape
        ((2, 3, 160, 160), (2,))
    """
    settings.check()
    network = open_network(checkpoint, preprocess)
    image_size(network, tell)
    network.model.to(find_device(device)).requires_grad_(False)
    names = choose_layers(network.model, layers, [classifier(network.model)[0]])
    with running(network.name):
        chosen = {}
        for name in names:
            count = count_units(network, name)
            chosen[name] = read_units(units, count, name)
            note = units_note(name, len(chosen[name]), count) if units is None else None
            if note and tell:
                tell(note)
        counter = _Counter(progress, sum(map(len, chosen.values())) * settings.steps)
        return [
            _maximize_layer(network, name, listed, settings, batch_size, counter)
            for name, listed in chosen.items()
        ]


def count_units(network: Network, layer: str) -> int:
    """Count the channels of a layer, by running the network once on grey."""
    import torch

    device = device_of(network.model)
    with torch.no_grad():
        images = torch.zeros((1, *image_size(network)), device=device)
        return output_of(network.model, layer, images).shape[1]


class _Counter:
    """Tells steps done, over all images."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, _step: int, images: Any) -> None:
        self.done += len(images)
        if self.progress:
            self.progress(self.done, self.total)


def _maximize_layer(
    network: Network,
    layer: str,
    units: Sequence[int],
    settings: AscentSettings,
    batch_size: int,
    counter: _Counter,
) -> Maximised:
    import torch

    model, before_all = network.model, counter.done

    def climb(numbers: torch.Tensor) -> tuple[np.ndarray, ...]:
        part = numbers.tolist()
        counter.done = before_all + len(found) * settings.steps
        noise = starting_images(network, part, settings.seed)
        made = ascend(model, layer, part, noise, settings, counter)
        with torch.no_grad():
            scores = [objective(model, layer, part, x).cpu().numpy() for x in (noise, made)]
            seen = _recognise(network, layer, part, made)
        return made.cpu().numpy(), *scores, seen

    found: list[tuple[np.ndarray, ...]] = []
    for rows, _ in FittingBatches(batch_size).run(climb, torch.tensor(units)):
        found += zip(*rows, strict=True)
    images, before, after, hits = (np.stack(parts) for parts in zip(*found, strict=True))
    recognised = None if np.isnan(hits).any() else float(hits.mean())
    return Maximised(layer, tuple(units), images, before, after, recognised)


def starting_images(network: Network, units: Sequence[int], seed: int) -> Any:
    """Make the noise that the images of units begin as, on the network's device."""
    spec, device = network.preprocessing, device_of(network.model)
    seeds = [mix(seed, unit) for unit in units]
    return first_images(image_size(network), spec.mean, spec.std, seeds).to(device)


def _recognise(network: Network, layer: str, units: Sequence[int], images: Any) -> np.ndarray:
    """Tell which images are taken for their class; not a number where units are no classes."""
    unknown = np.full(len(units), np.nan)
    if layer != classifier(network.model)[0]:
        return unknown
    try:
        taken = class_scores(network.model(images)).argmax(1).cpu().numpy()
    except OutputError:
        return unknown
    return np.asarray(taken == np.asarray(units), np.float64)
