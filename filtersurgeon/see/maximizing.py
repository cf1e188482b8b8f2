"""Activation maximisation: images that excite a channel, a class, or a sum of such objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.networks import (
    Network,
    classifier,
    open_network,
    output_names,
    running,
)
from filtersurgeon.networks.devices import FittingBatches, device_of, find_device, mix
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.plots.sheet import Row
from filtersurgeon.plots.tones import photograph, stretched
from filtersurgeon.see.ascent import AscentSettings, ascend, first_images
from filtersurgeon.see.growing import first_coefficients, grow, normalise
from filtersurgeon.see.judging import Judgement, Judges, judge_images
from filtersurgeon.see.layers import choose_layers, output_of, outputs_of, read_units, units_note
from filtersurgeon.see.objectives import Objective, layers_of
from filtersurgeon.see.pictures import image_size, open_pictures, set_image_size
from filtersurgeon.see.spectral import SpectralForm

if TYPE_CHECKING:
    from torch import Tensor

_ASCENT = AscentSettings()
_SUMS = "objectives"
_COPIES = 1000
"""Beyond the numbers of the generators of a unit."""


@dataclass(frozen=True)
class Maximised:
    """The images that maximise the units of one layer, or given objectives.

    Attributes:
        layer: the module's name; ``objectives`` where these were given.
        units: ``n`` indices of channels, or of the objectives.
        images: ``(n, channels, height, width)`` float32, normalised as the network expects.
        before: ``(n,)`` mean activation of each unit on the image that its own began as.
        after: ``(n,)`` the same on its image; both measured by the network as it is.
        recognised: share of images that the network takes for their class, 0 to 1; None where
            units are no classes.
        pixels: ``(n, height, width, 3)`` uint8, the images as they are shown.
        names: of the units: of classes that have names, or the objectives; else empty.
        judged: share of images that another network takes for their class; None without one.
        saturated: share of the values of ``pixels`` that are 0 or 255.
        spectral_slope: mean slope of the spectra, see
            :func:`~filtersurgeon.see.spectral.spectral_slopes`; photographs have -2.6.
    """

    layer: str
    units: tuple[int, ...]
    images: np.ndarray
    before: np.ndarray
    after: np.ndarray
    recognised: float | None
    pixels: np.ndarray = field(repr=False)
    names: tuple[str, ...] = ()
    judged: float | None = None
    saturated: float = 0.0
    spectral_slope: float = 0.0

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
            "names": list(self.names),
            "before": self.before.tolist(),
            "after": self.after.tolist(),
            "mean": float(self.after.mean()),
            "recognised": self.recognised,
            "judged": self.judged,
            "saturated": self.saturated,
            "spectral_slope": self.spectral_slope,
        }

    def labels(self) -> list[str]:
        """Give each unit's index, or its name where it has one."""
        if self.layer == _SUMS:
            return list(self.names)
        names = self.names or ("",) * len(self.units)
        return [f"{u} {name}".strip() for u, name in zip(self.units, names, strict=True)]

    def row(self) -> Row:
        """Give the images as a row of a sheet, each with its activation."""
        pairs = zip(self.labels(), self.after, strict=True)
        title = f"{self.layer or 'output'}  unit: activation"
        return Row(title, list(self.pixels), [f"{label}: {a:.1f}" for label, a in pairs])


@dataclass(frozen=True)
class _Task:
    """The images of one layer, or of given objectives: what is asked of each."""

    layer: str
    units: list[int]
    objectives: list[Objective]
    copies: list[int]
    names: tuple[str, ...]
    classes: list[int] | None

    def part(self, chosen: slice) -> _Task:
        return replace(
            self, units=self.units[chosen], objectives=self.objectives[chosen],
            copies=self.copies[chosen], classes=self.classes[chosen] if self.classes else None,
        )  # fmt: skip

    def seeds(self, seed: int, *more: int) -> list[int]:
        """Give each image's own seed."""
        return [
            mix(seed, unit, *more, *([_COPIES + copy] if copy else []))
            for unit, copy in zip(self.units, self.copies, strict=True)
        ]


@analyses_modules
def maximize(
    checkpoint: Checkpoint,
    settings: AscentSettings = _ASCENT,
    *,
    layers: Iterable[str] | None = None,
    units: str | None = None,
    objectives: Sequence[Objective] | None = None,
    copies: int = 1,
    images: Any = None,
    data: Any = None,
    judge: Checkpoint | None = None,
    batch_size: int = 16,
    device: str = "auto",
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Maximised]:
    """Generate images that maximise the mean activation of channels, or class scores.

    By default an image is a set of Fourier coefficients of decorrelated colours, which is
    optimised from low frequencies to high ones under random views and priors; its sources are
    those of :mod:`filtersurgeon.see.growing`. ``full``, ``weak`` and ``none`` are the ascent on
    pixels of Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, sections 4.1.5 and 5.3, Eq. 5.1.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        settings: of the ascent.
        layers: globs on module names; None takes the classifier, whose units are the classes.
        units: which units of each layer, such as ``0,3,8-11``, or ``all``; None: the first 64.
        objectives: one image for each, instead of ``layers`` and ``units``.
        copies: images of each unit, which ``settings.diversity`` makes unlike each other.
        images: image files, or images in memory, to begin with, in turn; None for noise.
        data: a data set whose images to begin with, instead of ``images``.
        judge: another network for the same classes, which says what it takes the images for.
        batch_size: units side by side; the images do not depend on it, up to rounding.
        device: where to compute; ``auto`` is a GPU if there is one.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told steps done and steps in all, each of one image.
        tell: told what was assumed.

    Raises:
        LayerError: no such layer or unit; names the near misses.
        ArchitectureError: the network cannot be built, or has no rectifier that could leak.
        OptionError: unusable settings, or a judge of other classes.
        DataError: an image to start from cannot be used.
        OutOfMemoryError: a batch does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> [found] = fs.maximize(checkpoint, fs.AscentSettings(steps=2), units="0,1")
        >>> found.images.shape, found.after.shape
        ((2, 3, 160, 160), (2,))
    """
    settings.check()
    _check(settings, layers, units, objectives, copies)
    network = set_image_size(open_network(checkpoint, preprocess), tell)
    judges = Judges.open(network, judge, find_device(device))
    network.model.to(find_device(device)).requires_grad_(False)
    with running(network.name):
        first = _starting_pictures(network, images, data, tell)
        tasks = _plan(network, layers, units, objectives, copies, tell)
        counter = _Counter(progress, settings.count * sum(len(task.units) for task in tasks))
        # The copies of a unit differ from one another, so they are made side by side.
        fitting = FittingBatches(max(1, batch_size // copies))
        return [
            _maximize(network, task, fitting, settings, first, judges, counter) for task in tasks
        ]


def _check(settings: AscentSettings, layers: Any, units: Any, objectives: Any, copies: int) -> None:
    if objectives is not None and (layers or units):
        raise OptionError("pass either `objectives`, or `layers` and `units`")
    if objectives is not None and not objectives:
        raise OptionError("`objectives` holds no objective")
    if copies < 1:
        raise OptionError(f"copies must be at least 1, not {copies}")
    if not settings.natural and (objectives is not None or copies > 1):
        name = "copies" if objectives is None else "objectives"
        raise OptionError(f"`{name}` needs `regularize='natural'`")


def _plan(
    network: Network, layers: Any, units: str | None, objectives: Sequence[Objective] | None,
    copies: int, tell: Callable[[str], None] | None,
) -> list[_Task]:  # fmt: skip
    last = classifier(network.model)[0]
    if objectives is not None:
        named = [each.on(last) for each in objectives]
        for name in layers_of(named):
            choose_layers(network.model, [name] if name else None)
        texts = tuple(map(str, objectives))
        classes = [x.terms[0].unit for x in objectives if x.is_class]
        known = [int(x) for x in classes if x is not None]
        return [
            _task(_SUMS, list(range(len(named))), named, copies, texts,
                  known if len(known) == len(named) else None)
        ]  # fmt: skip
    tasks = []
    for name in choose_layers(network.model, layers, [last]):
        count = count_units(network, name)
        chosen = read_units(units, count, name)
        note = units_note(name, len(chosen), count) if units is None else None
        if note and tell:
            tell(note)
        every = output_names(network) if name == last else ()
        names = tuple(every[unit] for unit in chosen) if len(every) == count else ()
        asked = [Objective.channel(name, unit) for unit in chosen]
        tasks.append(_task(name, chosen, asked, copies, names, chosen if name == last else None))
    return tasks


def _task(
    layer: str, units: list[int], objectives: list[Objective], copies: int,
    names: tuple[str, ...], classes: list[int] | None,
) -> _Task:  # fmt: skip
    def several(values: Sequence[Any]) -> list[Any]:
        return [value for value in values for _ in range(copies)]

    return _Task(
        layer, several(units), several(objectives), list(range(copies)) * len(units),
        tuple(several(names)), several(classes) if classes is not None else None,
    )  # fmt: skip


def _starting_pictures(
    network: Network, images: Any, data: Any, tell: Callable[[str], None] | None
) -> np.ndarray | None:
    """Open the images to begin with, ``(images, channels, height, width)``, 0 to 1."""
    if images is None and data is None:
        return None
    spec = network.preprocessing
    pictures = open_pictures(network, () if images is None else images, data, tell)
    tensors = np.stack([picture.tensor.numpy() for picture in pictures])
    mean, std = (np.reshape(x, (-1, 1, 1)) for x in (spec.mean, spec.std))
    return np.asarray(np.clip(tensors * std + mean, 0, 1))


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


def _maximize(
    network: Network, task: _Task, fitting: FittingBatches, settings: AscentSettings,
    start: np.ndarray | None, judges: Judges, counter: _Counter,
) -> Maximised:  # fmt: skip
    import torch

    before_all, copies = counter.done, max(task.copies) + 1
    rows: list[tuple[np.ndarray, ...]] = []

    def climb(groups: Tensor) -> tuple[np.ndarray, ...]:
        counter.done = before_all + len(rows) * settings.count
        chosen = slice(int(groups[0]) * copies, (int(groups[-1]) + 1) * copies)
        part = task.part(chosen)
        first = None
        if start is not None:
            first = start[np.arange(len(task.units))[chosen] % len(start)]
        noise, made = _make(network, part, settings, first, counter)
        images = made.cpu().numpy()
        return (
            images,
            _shown(network, images, settings.natural),
            _measure(network, part, noise),
            _measure(network, part, made),
        )

    for found, _ in fitting.run(climb, torch.arange(len(task.units) // copies)):
        rows += zip(*found, strict=True)
    images, pixels, before, after = (np.stack(parts) for parts in zip(*rows, strict=True))
    judged: Judgement = judge_images(judges, images, pixels, task.classes)
    return Maximised(
        task.layer, tuple(task.units), images, before, after,
        judged.recognised, pixels, task.names, judged.judged, judged.saturated, judged.slope,
    )  # fmt: skip


def _make(
    network: Network, part: _Task, settings: AscentSettings, start: np.ndarray | None,
    counter: _Counter,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Give normalised images as they began, and as they are made."""
    import torch

    seeds = part.seeds(settings.seed)
    size = image_size(network)
    if settings.natural:
        first = first_coefficients(network, size, seeds, start)
        views = part.seeds(settings.seed, 1)
        with torch.no_grad():
            noise = normalise(network, SpectralForm(size).decode(first, size[1:]))
        made = grow(network, size, part.objectives, first, settings, views, counter)
        return noise, normalise(network, made)
    noise = starting_images(network, part.units, settings.seed)
    if start is not None:
        noise = normalise(network, torch.from_numpy(start).to(noise))
    return noise, ascend(network.model, part.layer, part.units, noise, settings, counter)


def _measure(network: Network, part: _Task, images: Tensor) -> np.ndarray:
    """Give each image's own objective, by the network as it is."""
    import torch

    with torch.no_grad():
        outputs = outputs_of(network.model, layers_of(part.objectives), images)
        found = [each.value(outputs, i) for i, each in enumerate(part.objectives)]
        return np.asarray(torch.stack(found).cpu().numpy())


def _shown(network: Network, images: np.ndarray, natural: bool) -> np.ndarray:
    """Give images as a person sees them; those made on pixels have no bounds and are stretched."""
    spec = network.preprocessing
    if natural:
        mean, std = np.array(spec.mean), np.array(spec.std)
        return np.stack([photograph(image, mean, std) for image in images])
    return np.stack([stretched(image) for image in images])


def starting_images(network: Network, units: Sequence[int], seed: int) -> Any:
    """Make the noise that the images of units begin as on pixels, on the network's device."""
    spec, device = network.preprocessing, device_of(network.model)
    seeds = [mix(seed, unit) for unit in units]
    return first_images(image_size(network), spec.mean, spec.std, seeds).to(device)
