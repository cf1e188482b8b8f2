"""Decode filters, channels and class neurons into image space by substitution; draw, save them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.atomic import check_ending, write_bytes
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.data.data import DataSpec, as_spec, open_data
from filtersurgeon.data.images import LabelledImages
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.networks import classifier, open_network, output_names, running
from filtersurgeon.networks.devices import FittingBatches
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.plots import tones
from filtersurgeon.plots.blocks import square_columns, write_blocks
from filtersurgeon.plots.sheet import Row
from filtersurgeon.see.fit import Fit, highest_responses, measure_fit
from filtersurgeon.see.layers import choose_layers, output_of, read_units, units_note
from filtersurgeon.see.linearise import Canvas, find_canvas
from filtersurgeon.see.pictures import image_size

SORTS = ("index", "response")
_SIDE_BY_SIDE = 8
_MOST = 64
_TILE, _WIDE = 96, 128
"""Heights of pictures on sheets, in pixels: without and with names below them."""
_DECODED = "decoded"
"""Label of a unit beside the images of its highest activation."""


@dataclass(frozen=True)
class Decoded:
    """The decoded units of one layer.

    Attributes:
        layer: the module's name.
        units: ``n`` indices of channels.
        filters: ``(n, channels, height, width)`` float64, in the space of the normalised images
            that the network takes.
        top_left: where the window lies on the network's input, if it does not depend on where the
            unit looks; (0, 0) otherwise.
        exact: the window holds exactly what the recursion of the paper gives; otherwise padding
            and skip connections were kept, and the unit is the one in the middle of its map.
        fit: how well the filters predict the units on images, where images were given.
        names: of the units, where these are classes that have names; else empty.
    """

    layer: str
    units: tuple[int, ...]
    filters: np.ndarray
    top_left: tuple[int, int]
    exact: bool
    fit: Fit | None = None
    names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return summarise(
            self,
            layer=self.layer,
            units=len(self.units),
            filters=self.filters.shape,
            exact=self.exact,
        )

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a decoding."""
        return {
            "layer": self.layer,
            "units": list(self.units),
            "size": list(self.filters.shape[1:]),
            "exact": self.exact,
            **({"names": list(self.names)} if self.names else {}),
            "norms": np.linalg.norm(self.filters.reshape(len(self.units), -1), axis=1).tolist(),
            **(self.fit.to_json() if self.fit else {}),
        }

    def labels(self) -> list[str]:
        """Give each unit's index with its name or, if it was measured, its highest activation."""
        units = [str(unit) for unit in self.units]
        if any(name != unit for name, unit in zip(self.names, units, strict=False)):
            return [f"{u} {name}" for u, name in zip(units, self.names, strict=True)]
        if self.fit:
            return [f"{u}: {r:.3g}" for u, r in zip(units, self.fit.responses, strict=True)]
        return units

    def thresholded(self, share: float) -> np.ndarray:
        """Zero what is smaller than a share of each filter's largest magnitude."""
        sizes = np.abs(self.filters)
        limits = share * sizes.max(axis=(1, 2, 3), keepdims=True)
        return np.where(sizes >= limits, self.filters, 0.0)


@dataclass(frozen=True)
class DecodeSettings:
    """Settings of decoding.

    Attributes:
        layers: globs on module names; None takes the classifier, whose units are the classes.
        units: which units of each layer, such as ``0,3,8-11``, or ``all``; None: the first 64.
        upsample: how pooling is undone: ``nearest``, ``bilinear`` or ``bicubic``.
        device: where to compute; ``auto`` is a GPU if there is one.
        batch_size: images at a time, where there are images.
        top: number of images with the highest activation to find, of each unit and of its filter.
        sort: order of the units: ``index``, or ``response``, the highest activation on the images
            first. Without ``units``, ``response`` also chooses: the 64 units of the highest.
    """

    layers: Iterable[str] | None = None
    units: str | None = None
    upsample: str = "nearest"
    device: str = "auto"
    batch_size: int = 64
    top: int = 0
    sort: str = "index"

    def check(self, images: bool) -> None:
        """Refuse an unknown order, and one that needs images where there are none.

        Raises:
            OptionError: either.
        """
        if self.sort not in SORTS:
            raise OptionError(f"sort {self.sort!r} is unknown{near_misses(self.sort, SORTS)}")
        if self.sort == "response" and not images:
            raise OptionError("`sort='response'` needs images: pass them with `data`")


@analyses_modules
def decode(
    checkpoint: Checkpoint,
    settings: DecodeSettings = DecodeSettings(),
    *,
    data: DataSpec | str | Any | None = None,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> list[Decoded]:
    """Decode units of a network into image space by substitution, in float64.

    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, section 3; with images, Eq. 3.

    Args:
        checkpoint: the network; or a module in memory, with its ``example_inputs`` by name.
        settings: which units, and how.
        data: a data set, or images in memory, on which to measure how well the decoded filters
            predict the units.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told units and images done, and in all.
        tell: told what was assumed, and what was converted or left out of the images.

    Raises:
        LayerError: no such layer or unit; names the near misses.
        ArchitectureError: the network cannot be built, or an operator has no linear part.
        OptionError: an unknown interpolation or order, or no such device.
        DataError: the images do not fit the network.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> [decoded] = fs.decode(checkpoint, fs.DecodeSettings(units="0,1"))
        >>> decoded.filters.shape
        (2, 3, 160, 160)
    """
    settings.check(data is not None)
    network = open_network(checkpoint, preprocess)
    size = image_size(network, tell)
    last = classifier(network.model)[0]
    names = choose_layers(network.model, settings.layers, [last])
    images = None
    if data is not None:
        images = open_data(as_spec(data), network.preprocessing, network.n_classes)
    for text in images.notes if images and tell else ():
        tell(text)  # type: ignore[misc]
    found: list[Decoded] = []
    how = EvaluationSettings(settings.batch_size, device=settings.device)
    with running(network.name):
        canvases = [
            find_canvas(network.model, name, size, settings.upsample, settings.device)
            for name in names
        ]
        sorts = settings.sort == "response"
        counts = [len(read_units(settings.units, x.channels, x.layer, _MOST)) for x in canvases]
        total = sum(counts) + (1 + sorts) * len(images or ()) * len(canvases)
        done = 0
        for canvas in canvases:
            responses = None
            if sorts and images:
                responses = highest_responses(
                    network, canvas.layer, images, how, _tell(progress, done, total)
                )
                done += len(images)
            units = choose_units(settings.units, canvas, responses)
            note = units_note(canvas.layer, len(units), canvas.channels)
            if note and settings.units is None and tell:
                tell(note if responses is None else note.replace("the first", "the strongest"))
            decoded = decode_units(canvas, units, _tell(progress, done, total))
            done += len(units)
            if canvas.layer == last:
                every = output_names(network)
                decoded = replace(decoded, names=tuple(every[u] for u in units if every))
            if images:
                fit = measure_fit(
                    network, canvas, decoded, images, how, settings.top,
                    _tell(progress, done, total),
                )  # fmt: skip
                decoded, done = replace(decoded, fit=fit), done + len(images)
            found.append(decoded)
    return found


def open_images(
    checkpoint: Checkpoint, data: DataSpec, preprocess: Mapping[str, Any] | None = None
) -> LabelledImages:
    """Open images as a decoding of this checkpoint sees them, to draw those that it names.

    Raises:
        DataError: they do not fit the network.
    """
    network = open_network(checkpoint, preprocess)
    return open_data(data, network.preprocessing, network.n_classes)


def choose_units(text: str | None, canvas: Canvas, responses: np.ndarray | None) -> list[int]:
    """Choose the units of a layer that are decoded, and their order.

    Args:
        text: a list of units, ``all``, or None for 64.
        canvas: knows the layer and how many units it has.
        responses: the highest activation of each of them: by these they are sorted, and without
            a list chosen; None keeps them as they are, and takes the first.
    """
    if responses is None:
        return read_units(text, canvas.channels, canvas.layer, _MOST)
    units = read_units(text or "all", canvas.channels, canvas.layer)
    units.sort(key=lambda unit: (-responses[unit], unit))
    return units if text else units[:_MOST]


def _tell(progress: Progress | None, before: int, total: int) -> Callable[[int], None] | None:
    return progress and (lambda done: progress(before + done, total))


def decode_units(
    canvas: Canvas, units: Sequence[int], tell: Callable[[int], None] | None = None
) -> Decoded:
    """Decode some units of the layer that a canvas was found for.

    Args:
        canvas: the linear network, and the size of image that shows a unit whole.
        units: which channels.
        tell: told units done.
    """
    import torch

    def decode_some(chosen: torch.Tensor) -> np.ndarray:
        images = canvas.blank(len(chosen))
        output = output_of(canvas.network, canvas.layer, images)
        seed = torch.zeros_like(output)
        middle = tuple(length // 2 for length in output.shape[2:])
        for place, unit in enumerate(chosen.tolist()):
            seed[(place, unit, *middle)] = 1
        return torch.autograd.grad(output, images, seed)[0].cpu().numpy()

    parts: list[np.ndarray] = []
    fitting = FittingBatches(_SIDE_BY_SIDE, "units side by side")
    for part, _ in fitting.run(decode_some, torch.tensor(units, dtype=torch.long)):
        parts.append(part)
        if tell:
            tell(sum(map(len, parts)))
    filters = np.concatenate(parts)
    if not np.isfinite(filters).all():
        raise LayerError(f"layer {canvas.layer}: decoding gives numbers that are not finite")
    top_left = (0, 0)
    if not (canvas.exact or canvas.whole):
        filters, top_left = _crop(filters)
    return Decoded(canvas.layer, tuple(units), filters, top_left, canvas.exact)


def _crop(filters: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Cut off the margins that no unit sees."""
    seen = np.abs(filters).sum(axis=(0, 1)) > 0
    if not seen.any():
        return filters, (0, 0)
    rows, columns = (np.flatnonzero(seen.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    return filters[:, :, top : rows[-1] + 1, left : columns[-1] + 1], (top, left)


def check_filters_path(path: str | None, force: bool = False) -> None:
    """Refuse, before any work, a file of filters that cannot be written.

    Raises:
        OptionError: it does not end in .safetensors.
        CheckpointError: the path cannot be written.
    """
    wrong = "filters are written as tensors; end the name in .safetensors"
    check_ending(path, (".safetensors",), wrong, force)


def save_filters(found: Sequence[Decoded], path: str | Path) -> None:
    """Write one tensor ``(units, channels, height, width)`` per layer, under its name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.numpy import save

    tensors = {x.layer or "output": np.ascontiguousarray(x.filters) for x in found}
    units = {f"units:{x.layer or 'output'}": ",".join(map(str, x.units)) for x in found}
    write_bytes(Path(path), save(tensors, {"format": "filtersurgeon.decoded/1", **units}))


def draw_decoded(
    found: Sequence[Decoded],
    path: str | Path,
    *,
    threshold: float = 0.0,
    images: LabelledImages | None = None,
) -> None:
    """Draw every layer's decoded filters; with images, those of highest activation.

    Args:
        found: the layers.
        path: a .png file.
        threshold: leave out what is smaller than this share of a filter's largest magnitude.
        images: the images that the fits were measured on.

    Raises:
        CheckpointError: the file cannot be written.
    """
    rows = [row for layer in found for row in decoded_rows(layer, threshold, images)]
    ribbons = any(_DECODED in row.labels for row in rows)
    # A filter and what is left of it above the threshold stand side by side.
    across = 2 if threshold and not ribbons else None
    tile = _WIDE if any(layer.names for layer in found) else _TILE
    write_blocks(rows, path, columns=_columns, across=across, tile=tile)


def _columns(row: Row) -> int:
    """Give the width of a block: a unit and its images are one line, units are a square."""
    return len(row.pictures) if _DECODED in row.labels else square_columns(len(row.pictures))


def decoded_rows(
    layer: Decoded, threshold: float = 0.0, images: LabelledImages | None = None
) -> Iterator[Row]:
    """Yield the rows of one layer, every unit with its number, name and highest activation.

    With images, a row for each unit that shows it beside those of highest activation.
    """
    labels = layer.labels()
    height, width = layer.filters.shape[2:]
    title = f"{layer.layer or 'output'}  {height}x{width}"
    pictures = [tones.opponent(values) for values in layer.filters]
    top = layer.fit.top_network.shape[1] if layer.fit else 0
    if not (top and layer.fit and images):
        yield Row(title, pictures, labels)
    if threshold:
        strong = [tones.opponent(values) for values in layer.thresholded(threshold)]
        yield Row(f"{title}, above {threshold:.0%} of the largest", strong, labels)
    if top and layer.fit and images:
        best = zip(labels, pictures, layer.fit.top_network, layer.fit.top_decoded, strict=True)
        for label, picture, network, decoded in best:
            shown = [picture, *(_picture(images, int(i)) for i in (*network, *decoded))]
            words = [_DECODED, *["network"] * top, *["filter"] * top]
            yield Row(f"{layer.layer or 'output'} {label}", shown, words)


def _picture(images: LabelledImages, position: int) -> np.ndarray:
    """Give an image of a data set in its own size."""
    return np.asarray(images.source.image(images.indices[position]).convert("RGB"))
